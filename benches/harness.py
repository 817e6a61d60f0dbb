"""lm-evaluation-harness on five tasks, with lmrs and with its own transformers backend, compared example by example.

    python benches/harness.py DATA --limit 20

DATA is a directory that holds `blimp.tar.xz`, `llm-foundry.arc_easy.jsonl.gz`, `llm-foundry.lambada_openai.jsonl.gz`,
`gsm8k.test.jsonl.gz` and `wikitext-2.test.txt.gz` at any depth, so nothing is fetched. The model is SmolLM2-135M in
float32, from the same dequantised checkpoint for both. Fails if two log-probabilities of an example are apart by more
than 1e-4 of the larger (1e-4 nats below 1), if a choice or a generated text differs, or a metric does.
"""

import argparse
import gzip
import io
import json
import os
import re
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import models

BOUND = 1e-4
CHOICES = {"output_type": "multiple_choice", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]}
TASKS: dict[str, dict[str, Any]] = {
    "lambada": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{' ' + continuation}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "arc_easy": {**CHOICES, "doc_to_text": "{{query}}\nAnswer:", "doc_to_target": "gold", "doc_to_choice": "choices"},
    "blimp": {
        **CHOICES,
        "doc_to_text": "",
        "doc_to_target": 0,
        "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
        "target_delimiter": "",
    },
    "wikitext": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{page}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "gsm8k": {
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["Question:", "\n\n"], "do_sample": False, "max_gen_toks": 48},
        "metric_list": [{"metric": "exact_match"}],
    },
}


def rows(task: str, data: Path) -> Iterator[dict[str, Any]]:
    """The examples of a task."""

    def found(name: str) -> Path:
        return next(iter(data.rglob(name)))

    if task == "blimp":
        with tarfile.open(found("blimp.tar.xz")) as archive:
            for member in archive:
                # Paradigms have a thousand pairs; the first two of each.
                if member.name.endswith(".jsonl") and (file := archive.extractfile(member)):
                    yield from map(json.loads, islice(file, 2))
    elif task == "wikitext":
        text = gzip.decompress(found("wikitext-2.test.txt.gz").read_bytes()).decode()
        for page in re.split(r"\n(?= = [^=])", text):
            if len(page) > 400:
                yield {"page": page[:4000]}
    else:
        name = (
            "gsm8k.test.jsonl.gz"
            if task == "gsm8k"
            else f"llm-foundry.{task.replace('lambada', 'lambada_openai')}.jsonl.gz"
        )
        with gzip.open(found(name)) as file:
            yield from map(json.loads, io.TextIOWrapper(file, encoding="utf-8"))


def evaluated(model: Any, tasks: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    from lm_eval import simple_evaluate

    found: dict[str, Any] = simple_evaluate(model=model, tasks=tasks, limit=limit, log_samples=True, bootstrap_iters=0)
    return found


def numbers(responses: Any) -> list[float]:
    """The log-probabilities among an example's responses."""
    if isinstance(responses, list | tuple):
        return [number for part in responses for number in numbers(part)]
    return [responses] if isinstance(responses, float) else []


def rest(responses: Any) -> list[Any]:
    """What is no log-probability: texts, and whether greedy decoding writes a continuation."""
    if isinstance(responses, list | tuple):
        return [value for part in responses for value in rest(part)]
    return [] if isinstance(responses, float) else [responses]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--limit", type=int, default=20, help="examples of each task")
    parser.add_argument("--task", action="append", choices=TASKS, help="only these")
    given = parser.parse_args()
    from lm_eval.models.huggingface import HFLM

    from lmrs.eval.harness import Harness

    path, wrong = str(models.transformers("smollm2")), 0
    with tempfile.TemporaryDirectory() as directory:
        os.environ["HF_DATASETS_CACHE"] = directory
        tasks = []
        for name in given.task or TASKS:
            file = Path(directory) / f"{name}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in islice(rows(name, given.data), given.limit)))
            where = {
                "dataset_path": "json",
                "dataset_kwargs": {"data_files": {"test": str(file)}},
                "test_split": "test",
            }
            tasks.append({"task": name, **where, **TASKS[name], "num_fewshot": 0})
        for task in tasks:
            found, seconds = [], []
            for backend in (lambda: Harness(path), lambda: HFLM(path, dtype="float32", batch_size=1, device="cpu")):
                model = backend()
                start = time.perf_counter()
                found.append(evaluated(model, [dict(task)], given.limit))
                seconds.append(time.perf_counter() - start)
            name = task["task"]
            ours, theirs = ([sample["resps"] for sample in one["samples"][name]] for one in found)
            pairs = list(zip(numbers(ours), numbers(theirs), strict=True))
            apart = max((abs(a - b) / max(1.0, abs(b)) for a, b in pairs), default=0.0)
            same = rest(ours) == rest(theirs)
            metrics = [
                {key: value for key, value in one["results"][name].items() if isinstance(value, float)} for one in found
            ]
            close = all(
                abs(metrics[0][key] - value) <= BOUND * max(1.0, abs(value)) for key, value in metrics[1].items()
            )
            good = apart <= BOUND and same and close
            wrong += not good
            shown = ", ".join(f"{key.split(',')[0]} {value:.6g}" for key, value in metrics[0].items())
            print(
                f"{name:10} {len(ours):4} examples, {len(pairs):4} log-probabilities at most {apart:.1e} apart, "
                f"{len(rest(ours)):4} choices and texts {'equal' if same else 'DIFFER'}; {shown}; "
                f"{seconds[0]:.0f} s against {seconds[1]:.0f} s{'' if good else '  WRONG'}",
                flush=True,
            )
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
