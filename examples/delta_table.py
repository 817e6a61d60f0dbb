"""A table of ways of tuning: score, parameters, time and memory on real classification tasks, from one command.

    python examples/delta_table.py all-MiniLM-L6-v2 DATA --out table.md

DATA holds `classification/` (the UCI spam messages and llm-foundry's `enterprise_pii_classification`) and
`blimp/blimp.tar.xz`. A linear layer over the mean of a text's states tells the classes apart; it is trained with every
method, and is not counted among what the method trains. Every run is a process of its own, so that its peak memory is
its own. A run that is already in `--runs` (one JSON object a line) is not repeated.
"""

import argparse
import dataclasses
import gzip
import json
import multiprocessing
import resource
import statistics
import tarfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import lmrs
from lmrs import delta, initialise, ops, train
from lmrs.backend import native
from lmrs.batch import Backend, Batch
from lmrs.nn.layers import Linear
from lmrs.nn.module import Module
from lmrs.ops import Value


@dataclass(frozen=True)
class Example:
    text: str
    label: int


def spam(data: Path) -> list[Example]:
    """SMS messages, as many of either kind."""
    with gzip.open(data / "classification/SMSSpamCollection.gz", "rt", encoding="utf-8") as file:
        lines = [line.partition("\t") for line in file.read().splitlines()]
    ham = [Example(text, 0) for kind, _, text in lines if kind == "ham"]
    bad = [Example(text, 1) for kind, _, text in lines if kind == "spam"]
    return [example for pair in zip(ham, bad, strict=False) for example in pair]


def sensitive(data: Path) -> list[Example]:
    """Passages with and without personal data."""
    with gzip.open(data / "classification/llm-foundry.enterprise_pii_classification.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    return [Example(row["query"].split("'''")[1].strip(), row["gold"]) for row in rows]


def agreement(data: Path) -> list[Example]:
    """English sentences in which determiner and noun agree in number, or do not (BLiMP, eight paradigms)."""
    found = []
    with tarfile.open(data / "blimp/blimp.tar.xz") as archive:
        for name in sorted(archive.getnames()):
            if name.startswith("data/determiner_noun_agreement") and (file := archive.extractfile(name)):
                for row in map(json.loads, file):
                    found += [Example(row["sentence_good"], 1), Example(row["sentence_bad"], 0)]
    return found


TASKS = {"spam": spam, "sensitive": sensitive, "agreement": agreement}
# Each with the learning rate of its kind.
METHODS: dict[str, tuple[delta.Method, float]] = {
    "full": (delta.Subset(parameters="*"), 2e-4),
    "last 2 layers": (delta.LastLayers(count=2), 3e-4),
    "LoRA": (delta.LoRA(rank=8), 2e-3),
    "DoRA": (delta.DoRA(rank=8), 2e-3),
    "adapter": (delta.Adapter(width=16), 2e-3),
    "Compacter": (delta.Compacter(reduction=16, division=4), 5e-3),
    "BitFit": (delta.BitFit(), 3e-3),
    "norms": (delta.NormTuning(), 3e-3),
    "(IA)³": (delta.IA3(), 1e-2),
    "prefix": (delta.Prefix(length=8), 1e-2),
    "prompt": (delta.Prompt(length=8, start="vocabulary"), 1e-2),
    "ladder": (delta.Ladder(reduction=4), 2e-3),
}


class Classifier(Module):
    """Class logits from the mean of the states of ``body``."""

    def __init__(self, body: Any, classes: int) -> None:
        self.body = body
        self.classes = Linear(body.config.width, classes, init="zeros")

    def forward(self, batch: Batch) -> Value:
        """``[sequences, classes]``."""
        return self.classes(self.features(batch))

    def features(self, batch: Batch) -> Value:
        """``[sequences, width]``."""
        return ops.pool(self.body.states(batch), batch.seqs, kind="mean")


class Classes:
    """The cross-entropy of labelled texts: an :class:`lmrs.train.Objective`."""

    def __init__(self, model: Classifier, texts: Sequence[Sequence[int]], labels: Sequence[int]) -> None:
        self.model, self.texts, self.labels = model, texts, labels

    def __len__(self) -> int:
        return len(self.texts)

    def tokens(self, index: int) -> int:
        return len(self.texts[index])

    def loss(self, indices: Sequence[int], *, backend: Backend) -> tuple[Value, int]:
        features = self.model.features(Batch.of([self.texts[index] for index in indices], backend=backend))
        labels = native.array(np.array([self.labels[index] for index in indices], np.int32))
        head = self.model.classes
        return ops.cross_entropy(features, head.weight, labels, head.bias, reduction="sum"), len(indices)


def accuracy(objective: Classes, *, batch: int = 16) -> float:
    """The share of texts put into their own class."""
    right = 0
    for start in range(0, len(objective), batch):
        logits = objective.model(Batch.of(objective.texts[start : start + batch])).numpy()
        right += int((logits.argmax(1) == objective.labels[start : start + batch]).sum())
    return right / len(objective)


def run(settings: dict[str, Any]) -> dict[str, Any]:
    """One run, in a process of its own."""
    path, count = Path(settings["model"]), settings["examples"] + settings["judged"]
    examples = TASKS[settings["task"]](Path(settings["data"]))
    # Every method and seed learns from the same texts and is judged by the same others.
    chosen = [examples[i] for i in np.random.default_rng(0).permutation(len(examples))[:count]]
    tokenizer = lmrs.Tokenizer.load(path)
    ids = [tokenizer.encode(example.text, max_length=settings["longest"]).ids for example in chosen]
    labels = [example.label for example in chosen]
    method, rate = METHODS[settings["method"]]
    tuned = dataclasses.replace(method, seed=settings["seed"])(lmrs.load(path))
    found = delta.summary(tuned)
    model = initialise.initialise(Classifier(tuned, max(labels) + 1), seed=settings["seed"])
    objective = Classes(model, ids[: settings["examples"]], labels[: settings["examples"]])
    start = time.perf_counter()
    history = train.fit(
        objective,
        steps=settings["steps"],
        batch_tokens=settings["batch_tokens"],
        optimiser=train.AdamW(learning_rate=rate),
        schedule=train.Cosine(warmup=settings["steps"] // 10),
        seed=settings["seed"],
    )
    seconds = (time.perf_counter() - start) / settings["steps"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    judged = Classes(model, ids[settings["examples"] :], labels[settings["examples"] :])
    measured = {"score": accuracy(judged), "percent": found.percent, "loss": history.losses[-1]}
    return settings | measured | {"step_seconds": seconds, "peak_mib": peak}


def table(runs: list[dict[str, Any]]) -> str:
    """Means and spreads over seeds, a method a row."""
    groups: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in runs:
        groups[row["method"]][row["task"]].append(row)
    tasks = [task for task in TASKS if any(task in group for group in groups.values())]
    lines = [f"| method | {' | '.join(tasks)} | % trained | s a step | peak MiB |", "|---" * (len(tasks) + 4) + "|"]
    for method in (name for name in METHODS if name in groups):
        cells = []
        for task in tasks:
            scores = [100 * row["score"] for row in groups[method][task]]
            spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
            cells.append(f"{statistics.mean(scores):.1f} ± {spread:.1f}" if scores else "")
        rows = [row for found in groups[method].values() for row in found]
        cells.append(f"{rows[0]['percent']:.3f}")
        cells.append(f"{statistics.median(row['step_seconds'] for row in rows):.2f}")
        cells.append(f"{max(row['peak_mib'] for row in rows):.0f}")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-tokens", type=int, default=512)
    parser.add_argument("--longest", type=int, default=64, help="tokens of a text that are read")
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--judged", type=int, default=500)
    parser.add_argument("--runs", type=Path, default=Path("delta-runs.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("delta-table.md"))
    given = parser.parse_args()
    done = [json.loads(line) for line in given.runs.read_text().splitlines()] if given.runs.is_file() else []
    sizes = {name: getattr(given, name) for name in ("steps", "batch_tokens", "longest", "examples", "judged")}
    # Seed by seed, so that a run that was cut short has all methods.
    for seed in range(given.seeds):
        for task in given.tasks.split(","):
            for method in given.methods.split(","):
                settings = {"task": task, "method": method, "seed": seed, **sizes}
                settings |= {"model": str(given.model), "data": str(given.data)}
                if any(settings.items() <= row.items() for row in done):
                    continue
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    (row,) = pool.map(run, [settings])
                done.append(row)
                with given.runs.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
                print(f"{task} {method} {seed}: {row['score']:.3f}, {row['step_seconds']:.2f} s a step", flush=True)
    given.out.write_text(table(done), encoding="utf-8")
    print(table(done))


if __name__ == "__main__":
    main()
