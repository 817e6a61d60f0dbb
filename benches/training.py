"""`make bench-training`: steps of training in lmrs beside torch eager, torch.compile, bf16 autocast and PEFT.

Each runner has a process of its own with the same number of threads, and they take turns step by step, so that a busy
moment of the machine falls on all. A step is forward, backward and AdamW on the same 4 × 256 tokens, from the same
weights, without dropout; a float32 figure stands only if the first losses agree with torch's. Memory is what the
process grew by at most, from when its libraries were imported: weights, moments, gradients and activations.
"""

import argparse
import datetime
import importlib
import json
import multiprocessing
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import models
from run import cpu

SEQUENCES, TOKENS = 4, 256
RANK, ALPHA, RATE = 8, 16, 1e-4
LSTM_INPUT, LSTM_CELLS, LSTM_OUTPUT, LSTM_LAYERS = 512, 4096, 512, 2
HIDDEN_RATE = 0.15
IGNORED = -100
TOLERANCE = 1e-3

Turn = Callable[[float], None]


@dataclass(frozen=True)
class Job:
    """One kind of step, the runners that do it, and the one whose losses and speed the others are compared with."""

    name: str
    what: str
    runners: tuple[str, ...]

    @property
    def reference(self) -> str:
        """Torch eager in float32."""
        return self.runners[1]


TORCH = ("lmrs f32", "torch f32", "torch.compile f32", "lmrs bf16", "torch bf16 autocast")
JOBS = (
    Job("gpt2", f"GPT-2 small, full, {SEQUENCES} × {TOKENS}", TORCH),
    Job("lora", f"GPT-2 small, LoRA r = {RANK} on q, k, v", ("lmrs f32", "PEFT f32", "lmrs bf16", "PEFT bf16")),
    Job("bert", f"BERT-base, masked tokens, {SEQUENCES} × {TOKENS}", TORCH),
    Job("lstm", f"LSTM {LSTM_CELLS} → {LSTM_OUTPUT}, {LSTM_LAYERS} layers", ("lmrs f32", "torch f32")),
)


def ids() -> list[list[int]]:
    """The same tokens for every runner, one more than are read."""
    return np.random.default_rng(0).integers(1000, 20000, (SEQUENCES, TOKENS + 1)).tolist()


def masked() -> tuple[list[list[int]], list[list[int]]]:
    """Ids with some hidden, and labels."""
    rows, hidden = np.array(ids())[:, :TOKENS], np.random.default_rng(1).random((SEQUENCES, TOKENS)) < HIDDEN_RATE
    return np.where(hidden, 103, rows).tolist(), np.where(hidden, rows, IGNORED).tolist()


def lstm_weights() -> list[dict[str, np.ndarray]]:
    """A layer's weights, from a seed."""
    random = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return random.uniform(-0.05, 0.05, shape).astype(np.float32)

    widths = [LSTM_INPUT] + [LSTM_OUTPUT] * (LSTM_LAYERS - 1)
    return [
        {
            "input": draw(4 * LSTM_CELLS, width),
            "state": draw(4 * LSTM_CELLS, LSTM_OUTPUT),
            "bias": draw(4 * LSTM_CELLS),
            "projection": draw(LSTM_OUTPUT, LSTM_CELLS),
        }
        for width in widths
    ]


def lstm_input() -> np.ndarray:
    """What the LSTM reads, `[sequences, tokens, width]`."""
    return np.random.default_rng(2).standard_normal((SEQUENCES, TOKENS, LSTM_INPUT)).astype(np.float32)


def ours(job: str, dtype: Any, turn: Turn, steps: int) -> None:
    """Train with lmrs; `turn` hears the loss of every step and comes back when the next is wanted."""
    import lmrs
    from lmrs.backend import native
    from lmrs.delta import LoRA
    from lmrs.train import AdamW, clm, fit
    from lmrs.train.objective import Example

    if job == "lstm":
        return _our_lstm(native, turn, steps)
    model = lmrs.load(models.transformers("mlm" if job == "bert" else "gpt2"))
    if job == "bert":
        objective: Any = Fixed(model, [Example(read, labels) for read, labels in zip(*masked(), strict=True)])
    else:
        if job == "lora":
            model = LoRA(rank=RANK, alpha=ALPHA, targets="*.attn.{q,k,v}")(model)
        objective = clm(model, ids(), context=TOKENS)
    fit(
        objective,
        steps=steps,
        batch_tokens=SEQUENCES * TOKENS,
        optimiser=AdamW(learning_rate=RATE),
        schedule=lambda _done, _steps: 1.0,
        clip=None,
        dtype=dtype,
        on_step=lambda step: turn(step.loss),
    )
    return None


@dataclass
class Fixed:
    """Masked tokens that are the same in every epoch."""

    model: Any
    examples: list[Any]

    def __len__(self) -> int:
        return len(self.examples)

    def tokens(self, index: int) -> int:
        """See lmrs.train.Objective."""
        return len(self.examples[index].ids)

    def loss(self, indices: Any, *, backend: Any) -> Any:
        """See lmrs.train.Objective."""
        from lmrs.train.objective import packed, selected

        batch, labels, terms = packed([self.examples[index] for index in indices], backend=backend)
        return self.model.head.loss(selected(batch, self.model.hidden(batch)), labels, reduction="sum"), terms


def _our_lstm(native: Any, turn: Turn, steps: int) -> None:
    from lmrs import ops
    from lmrs.batch import Ragged

    layers = [{name: native.array(w) for name, w in layer.items()} for layer in lstm_weights()]
    x = native.array(lstm_input().reshape(-1, LSTM_INPUT))
    seqs = Ragged.of("tokens", [TOKENS] * SEQUENCES)

    def loss() -> Any:
        y = x
        for w in layers:
            y = ops.lstm(y, w["input"], w["state"], seqs, bias=w["bias"], projection=w["projection"])
        return ops.sum(ops.mul(y, y))

    with native.reusing():
        for _ in range(steps):
            value, _grads = native.differentiate(loss, [w for layer in layers for w in layer.values()])
            turn(value.item())


def theirs(job: str, kind: str, turn: Turn, steps: int) -> None:
    """Train with torch."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if job == "lstm":
        return _their_lstm(torch, turn, steps)
    model, inputs = _their_model(torch, job, bf16=kind == "PEFT bf16")
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    forward = torch.compile(model) if kind.startswith("torch.compile") else model
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=kind.endswith("autocast")):
            loss = forward(**inputs).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        turn(loss.item())
    return None


def _their_model(torch: Any, job: str, *, bf16: bool) -> tuple[Any, dict[str, Any]]:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, logging

    logging.disable_progress_bar()
    if job == "bert":
        rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        model = AutoModelForMaskedLM.from_pretrained(models.transformers("mlm"), **rates).train()
        read, labels = masked()
        return model, {"input_ids": torch.tensor(read), "labels": torch.tensor(labels)}
    rates = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False}
    dtype = torch.bfloat16 if bf16 else torch.float32
    model = AutoModelForCausalLM.from_pretrained(models.transformers("gpt2"), dtype=dtype, **rates).train()
    if job == "lora":
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=["c_attn"], fan_in_fan_out=True)
        model = get_peft_model(model, config)
    whole = torch.tensor(ids())
    # As lmrs reads them: each row's last token is only predicted.
    return model, {"input_ids": whole[:, :-1], "shift_labels": whole[:, 1:].contiguous(), "labels": whole[:, 1:]}


def _their_lstm(torch: Any, turn: Turn, steps: int) -> None:
    net = torch.nn.LSTM(LSTM_INPUT, LSTM_CELLS, LSTM_LAYERS, proj_size=LSTM_OUTPUT, batch_first=True)
    with torch.no_grad():
        for n, layer in enumerate(lstm_weights()):
            for ours, theirs in {"input": "weight_ih", "state": "weight_hh", "projection": "weight_hr"}.items():
                getattr(net, f"{theirs}_l{n}").copy_(torch.from_numpy(layer[ours]))
            getattr(net, f"bias_ih_l{n}").copy_(torch.from_numpy(layer["bias"]))
            getattr(net, f"bias_hh_l{n}").zero_()
    x = torch.from_numpy(lstm_input())
    for _ in range(steps):
        y, _ = net(x)
        loss = (y * y).sum()
        loss.backward()
        net.zero_grad()
        turn(loss.item())


def memory(field: str) -> int:
    """MB of this process: `VmRSS` as it is, `VmHWM` the most it was."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(field))


def serve(pipe: Connection, job: str, runner: str, steps: int) -> None:
    """Do a step whenever asked to, and answer with its seconds, its loss and the growth of memory."""
    try:
        for library in ("lmrs.train",) if runner.startswith("lmrs") else ("transformers", "peft"):
            importlib.import_module(library)
    except ModuleNotFoundError as error:
        pipe.send(f"{error.name} is not installed")
        return
    before = memory("VmRSS")
    pipe.send("ready")
    pipe.recv()
    start = time.perf_counter(), time.process_time()

    def turn(loss: float) -> None:
        nonlocal start
        seconds, busy = time.perf_counter() - start[0], time.process_time() - start[1]
        pipe.send((seconds, busy, loss, memory("VmHWM") - before))
        pipe.recv()
        start = time.perf_counter(), time.process_time()

    try:
        if runner.startswith("lmrs"):
            ours(job, runner.removeprefix("lmrs "), turn, steps)
        else:
            theirs(job, runner, turn, steps)
    except Exception:
        traceback.print_exc()
        pipe.send(None)


def measure(job: Job, runners: list[str], rounds: int, threads: int) -> list[dict[str, Any]]:
    """A row for each runner: the median of `rounds` steps by turns, after two that are not counted."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LMRS_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for runner in runners:
        pipe, there = context.Pipe()
        arguments = (there, job.name, runner, rounds + 2)
        context.Process(target=serve, args=arguments, daemon=True).start()
        if (answer := pipe.recv()) == "ready":
            pipes[runner] = pipe
        else:
            print(f"{runner}: {answer}", file=sys.stderr)
    steps: dict[str, list[tuple[float, float, float, int]]] = {runner: [] for runner in pipes}
    for _ in range(rounds + 2):
        for runner in list(pipes):
            pipes[runner].send("step")
            if (step := pipes[runner].recv()) is None:
                del pipes[runner]
            else:
                steps[runner].append(step)
    for pipe in pipes.values():
        pipe.send("end")
    first = {runner: steps[runner][0][2] for runner in pipes}
    rows = []
    for runner in pipes:
        off = abs(first[runner] / first.get(job.reference, first[runner]) - 1)
        if runner.endswith("f32") and off > TOLERANCE:
            print(f"{runner}, {job.what}: first loss {first[runner]}, not {first[job.reference]}", file=sys.stderr)
            continue
        seconds, busy, _, grown = zip(*steps[runner][2:], strict=True)
        rows.append({"runner": runner, "seconds": seconds, "cpu": busy, "memory": grown[-1], "loss": first[runner]})
    return rows


def show(console: Console, job: Job, rows: list[dict[str, Any]]) -> None:
    """One table: a row for each runner, and how lmrs in the same numbers stands to it."""
    table = Table(title=job.what, title_justify="left", expand=False)
    table.add_column("runner", no_wrap=True)
    for column in ("ms a step", "CPU ms", "tokens/s", "MB", "lmrs is faster by", "in CPU time", "takes of its MB"):
        table.add_column(column, justify="right")
    for row in rows:
        dtype = "bf16" if "bf16" in row["runner"] else "f32"
        mine = next((other for other in rows if other["runner"] == f"lmrs {dtype}"), None)
        seconds, busy = statistics.median(row["seconds"]), statistics.median(row["cpu"])
        cells = [
            f"{1e3 * seconds:,.0f}",
            f"{1e3 * busy:,.0f}",
            f"{SEQUENCES * TOKENS / seconds:,.0f}",
            f"{row['memory']:,}",
        ]
        if mine is not None and row is not mine:
            ratios = (seconds / statistics.median(mine["seconds"]), busy / statistics.median(mine["cpu"]))
            cells += [f"{ratio:.2f}×" for ratio in (*ratios, mine["memory"] / row["memory"])]
        table.add_row(row["runner"], *cells)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the tables")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="for every runner")
    parser.add_argument("--rounds", type=int, default=5, help="measured steps of each runner")
    parser.add_argument("--jobs", nargs="+", choices=[job.name for job in JOBS], help="only these")
    parser.add_argument("--runners", nargs="+", help="only those whose names begin so")
    options = parser.parse_args()
    console, report = Console(), []
    for job in JOBS:
        if options.jobs and job.name not in options.jobs:
            continue
        wanted = tuple(options.runners or ("",))
        rows = measure(job, [r for r in job.runners if r.startswith(wanted)], options.rounds, options.threads)
        if not options.json:
            show(console, job, rows)
        report += [{**row, "job": job.what} for row in rows]
    facts = {"date": datetime.date.today().isoformat(), "cpu": cpu(), "threads": options.threads}
    if options.json:
        json.dump({**facts, "rounds": options.rounds, "rows": report}, sys.stdout, indent=2)
    else:
        console.print("; ".join(f"{name}: {value}" for name, value in {**facts, "rounds": options.rounds}.items()))


if __name__ == "__main__":
    main()
