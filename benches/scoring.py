"""`make bench-scoring`: log-probabilities of running text and of choices, and the memory they take.

Beside transformers (from its logits), lm-evaluation-harness with it, and llama.cpp (its decoder and a log-sum-exp of
its logits, which is what llama-perplexity does). Speed: each runner in a process of its own with the same number of
threads, by turns, a window of 1024 tokens a turn; 98 rounds are 100,000 tokens. Memory: the peak above what was
resident after a first short text, each in a process of its own.
"""

import argparse
import json
import multiprocessing
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from rich.console import Console
from rich.table import Table

import run
import work

MODELS = (
    work.Model("smollm2", "SmolLM2-135M", (work.WINDOWS, work.CHOICES)),
    work.Model("gpt2", "GPT-2 small (random)", (work.WINDOWS,)),
)
RUNNERS = ("ours", "huggingface", "llamacpp")
SHAPES = ("smollm2", "gpt2 50257", "gpt2 150000", "gpt2 250000")
SHORT = 16


def speed(
    model: work.Model, dtype: str, threads: int, rounds: int, runners: list[str], jobs: list[str]
) -> list[dict[str, object]]:
    """A row for each runner and job."""
    chosen = [run.Runner(module, dtype) for module in runners]
    if "huggingface" in runners and dtype not in ("f32", "bf16"):
        chosen.append(run.Runner(*run.REFERENCE))
    rows = []
    with run.started(chosen, model.name, threads) as found:
        print(f"{model.what}, {dtype}: {', '.join(one.title for one in found)} are ready", file=sys.stderr, flush=True)
        for job in model.jobs:
            if job.name not in jobs:
                continue
            pipes = {runner: pipe for runner, (pipe, jobs, _) in found.items() if job.name in jobs}
            for row in run.measure(job, pipes, rounds):
                title = row.pop("runner").title
                rows.append({"model": model.what, "job": job.what, "unit": job.unit, "runner": title, **row})
                print(f"{title}: {job.what}: {row['rate']:.1f} {job.unit}", file=sys.stderr, flush=True)
    return rows


def status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024


def taken(pipe: Connection, runner: str, shape: str, dtype: str) -> None:
    """Resident bytes after a first short text, and the peak above them while a window of 1024 is scored."""
    import numpy as np

    name, _, vocabulary = shape.partition(" ")
    if runner == "lmrs":
        import lmrs
        import models
        from lmrs import _rs
        from lmrs.initialise import initialise
        from lmrs.models import gpt2

        if name == "gpt2":
            small = {"n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": int(vocabulary)}
            model = initialise(gpt2.Model(gpt2.Config.from_dict(small)), seed=0)
        else:
            model = lmrs.load(models.smollm2())
        size = model.config.vocabulary
        engine = lmrs.Engine(model, dtype=dtype)
        plan = engine.planned(lambda batch: model.head.logprob(model.hidden(batch), batch.labels))

        def score(ids: list[int]) -> None:
            _rs.score(plan, [(ids[:-1], ids[1:])], vocabulary=size, context=model.config.context)

    else:
        import torch
        import transformers

        import models

        precision = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
        if name == "gpt2":
            config = transformers.GPT2Config(vocab_size=int(vocabulary))
            peer = transformers.AutoModelForCausalLM.from_config(config, dtype=precision).eval()
        else:
            path = models.transformers("smollm2")
            peer = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=precision).eval()
        size = peer.config.vocab_size

        @torch.inference_mode()
        def score(ids: list[int]) -> None:
            logits = peer(torch.tensor([ids])).logits[0, :-1]
            torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]))

    ids = np.random.default_rng(0).integers(0, size, work.WINDOW).tolist()
    score(ids[:SHORT])
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    score(ids)
    pipe.send((before, status("VmHWM") - before))


def memory(dtype: str, threads: int, shapes: list[str]) -> list[dict[str, object]]:
    """A row for each shape and runner."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LMRS_NUM_THREADS"):
        os.environ[name] = str(threads)
    context, rows = multiprocessing.get_context("spawn"), []
    for shape in shapes:
        for runner in ("lmrs", "transformers"):
            if runner == "transformers" and dtype not in ("f32", "bf16"):
                continue
            ours, theirs = context.Pipe()
            process = context.Process(target=taken, args=(theirs, runner, shape, dtype))
            process.start()
            theirs.close()
            before, added = ours.recv()
            process.join()
            rows.append({"model": shape, "runner": f"{runner} {dtype}", "resident": before, "added": added})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=98, help="windows of 1024 tokens, after one to warm up")
    parser.add_argument("--dtypes", nargs="+", default=["f32", "bf16", "int8"])
    parser.add_argument("--models", nargs="+", choices=[model.name for model in MODELS])
    parser.add_argument("--runners", nargs="+", choices=RUNNERS, default=list(RUNNERS))
    parser.add_argument("--jobs", nargs="+", default=["windows", "choices"])
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES), help="for memory; none: no memory")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    console = Console()
    report: dict[str, object] = {"threads": given.threads, "rounds": given.rounds, "cpu": run.cpu()}
    rows = [
        row
        for model in MODELS
        for dtype in given.dtypes
        if given.rounds and (not given.models or model.name in given.models)
        for row in speed(model, dtype, given.threads, given.rounds, given.runners, given.jobs)
    ]
    taken_rows = [row for dtype in given.dtypes for row in memory(dtype, given.threads, given.shapes)]
    if given.json:
        print(json.dumps({**report, "speed": rows, "memory": taken_rows}))
        return
    table = Table("model", "job", "runner", "rate", title=str(report))
    for row in rows:
        table.add_row(row["model"], row["job"], row["runner"], f"{row['rate']:,.1f} {row['unit']}")
    console.print(table)
    table = Table("model", "runner", "resident, MiB", f"added by {work.WINDOW} tokens, MiB")
    for row in taken_rows:
        table.add_row(row["model"], row["runner"], f"{row['resident'] / 2**20:,.0f}", f"{row['added'] / 2**20:,.1f}")
    console.print(table)


if __name__ == "__main__":
    main()
