"""Tasks judged by log-probabilities: which choice, which of two sentences, which last word.

Each task is a list of items and a function from an engine and the items to an :class:`Outcome`. The metrics are those
of lm-evaluation-harness; their errors are bootstrapped over the items.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lmrs.errors import InputError
from lmrs.eval.continuations import Continuation

if TYPE_CHECKING:
    from lmrs.engine import Engine

BATCH = 64
"""Continuations scored in one call: enough to fill a batch, few enough to show progress."""
RESAMPLES = 1000

Heard = Callable[[int], object]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A question, what may follow it, and which of these is right."""

    query: str
    choices: Sequence[str]
    gold: int


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two sentences that differ in little, of which one is acceptable (BLiMP)."""

    good: str
    bad: str


@dataclass(frozen=True, kw_only=True)
class Cloze:
    """A passage and the word that ends it (LAMBADA)."""

    context: str
    continuation: str


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A mean over items and its standard error."""

    value: float
    error: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """The ``metrics`` of a task over ``items`` items, and what each item gave: float64 ``[items]`` by metric."""

    items: int
    metrics: Mapping[str, Metric]
    each: Mapping[str, npt.NDArray[np.float64]]


def choices(engine: "Engine", items: Sequence[Choice], *, on_done: Heard | None = None) -> Outcome:
    """Which choice is likeliest: ``acc`` by its log-probability, ``acc_norm`` by that divided by its bytes.

    A choice is put after the query and a space. Of equals the first wins.
    """
    pairs = [(item.query, f" {choice}") for item in items for choice in item.choices]
    found = iter(_scored(engine, pairs, on_done))
    right: dict[str, list[float]] = {"acc": [], "acc_norm": []}
    for item in items:
        sums = np.array([next(found).sum_logprob for _ in item.choices])
        lengths = np.array([len(choice.encode()) for choice in item.choices])
        right["acc"].append(float(sums.argmax() == item.gold))
        right["acc_norm"].append(float((sums / lengths).argmax() == item.gold))
    return _outcome(right)


def pairs(engine: "Engine", items: Sequence[Pair], *, on_done: Heard | None = None) -> Outcome:
    """How often the acceptable sentence is the likelier one: ``acc``."""
    found = _scored(engine, [("", text) for item in items for text in (item.good, item.bad)], on_done)
    sums = np.array([continuation.sum_logprob for continuation in found]).reshape(-1, 2)
    return _outcome({"acc": (sums[:, 0] > sums[:, 1]).tolist()})


def cloze(engine: "Engine", items: Sequence[Cloze], *, on_done: Heard | None = None) -> Outcome:
    """Whether greedy decoding writes the last word, ``acc``, and its ``perplexity`` over all items."""
    found = _scored(engine, [(item.context, f" {item.continuation.strip()}") for item in items], on_done)
    sums = [continuation.sum_logprob for continuation in found]
    outcome = _outcome({"acc": [float(continuation.greedy) for continuation in found], "nll": [-s for s in sums]})
    nll = outcome.metrics["nll"]
    # The error of exp(x) is exp(x) times that of x, while both are small.
    perplexity = Metric(value=float(np.exp(nll.value)), error=float(np.exp(nll.value) * nll.error))
    return Outcome(items=outcome.items, metrics={**outcome.metrics, "perplexity": perplexity}, each=outcome.each)


@dataclass(frozen=True, kw_only=True)
class Verbalizer:
    """How a class is put into words: ``template`` with ``{text}`` in it, and for each class the ``words`` for it.

    Raises InputError for a template without ``{text}``, fewer than two classes, or a class without words.
    """

    template: str
    words: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        if "{text}" not in self.template:
            raise InputError(f"the template {self.template!r} has no {{text}} in it")
        if len(self.words) < 2 or not all(of_class and all(of_class) for of_class in self.words):
            raise InputError(f"words is {self.words!r}, expected some for each of at least two classes")


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A text and the number of its class."""

    text: str
    label: int


def classify(
    engine: "Engine", items: Sequence[Labelled], verbalizer: Verbalizer, *, on_done: Heard | None = None
) -> Outcome:
    """Which class is likeliest after the template: ``acc``, and ``nll`` of the right class in nats.

    A class is as likely as its words together, each put after a space: ``log Σ_w p(w)`` (Schick & Schütze 2021 with
    several words). Of equals the first wins. Raises InputError for a label that is no class.
    """
    classes = len(verbalizer.words)
    for number, item in enumerate(items):
        if not 0 <= item.label < classes:
            raise InputError(f"item {number} has label {item.label}, expected 0 to {classes - 1}")
    prompts = [verbalizer.template.replace("{text}", item.text) for item in items]
    wanted = [(prompt, f" {word}") for prompt in prompts for of_class in verbalizer.words for word in of_class]
    if not items:
        raise InputError("there is no item to judge by")
    sums = np.array([one.sum_logprob for one in _scored(engine, wanted, on_done)]).reshape(len(items), -1)
    ends = np.cumsum([len(of_class) for of_class in verbalizer.words])[:-1]
    found = np.stack([np.logaddexp.reduce(part, axis=1) for part in np.split(sums, ends, axis=1)], 1)
    labels = np.array([item.label for item in items], int)
    nll = np.logaddexp.reduce(found, axis=1) - found[np.arange(len(items)), labels]
    return _outcome({"acc": (found.argmax(1) == labels).astype(float).tolist(), "nll": nll.tolist()})


def _scored(engine: "Engine", wanted: Sequence[tuple[str, str]], on_done: Heard | None) -> list[Continuation]:
    """In batches of nearly the same length, the longest first; given back in the order asked."""
    order = sorted(range(len(wanted)), key=lambda at: -len(wanted[at][0]) - len(wanted[at][1]))
    found: dict[int, Continuation] = {}
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        found |= zip(part, engine.continuations([wanted[at] for at in part]), strict=True)
        if on_done is not None:
            on_done(len(found))
    return [found[at] for at in range(len(wanted))]


def _outcome(each: Mapping[str, Sequence[float]]) -> Outcome:
    arrays = {name: np.asarray(values, np.float64) for name, values in each.items()}
    items = len(next(iter(arrays.values())))
    if not items:
        raise InputError("there is no item to judge by")
    draws = np.random.default_rng(0).integers(0, items, (RESAMPLES, items))
    metrics = {
        name: Metric(value=float(values.mean()), error=float(values[draws].mean(1).std(ddof=1)))
        for name, values in arrays.items()
    }
    return Outcome(items=items, metrics=metrics, each=arrays)


@dataclass(frozen=True)
class Task:
    """How the items of a task are read, from fields of JSON lines, and judged."""

    item: Callable[..., Any]
    fields: Mapping[str, tuple[str, type]]
    judge: Callable[..., Outcome]
    continuations: Callable[[Any], int]


TASKS: Mapping[str, Task] = {
    "choices": Task(
        Choice,
        {"query": ("query", str), "choices": ("choices", list), "gold": ("gold", int)},
        choices,
        lambda item: len(item.choices),
    ),
    "pairs": Task(Pair, {"good": ("sentence_good", str), "bad": ("sentence_bad", str)}, pairs, lambda item: 2),
    "cloze": Task(Cloze, {"context": ("context", str), "continuation": ("continuation", str)}, cloze, lambda item: 1),
}


def read(task: str, path: str | os.PathLike[str], *, limit: int | None = None) -> list[Any]:
    """The first ``limit`` items of a JSON-lines file, in whose fields ``TASKS`` says what is where.

    Raises InputError naming the file, the line and the field of what is not as expected.
    """
    kind = TASKS[task]
    items: list[Any] = []
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if limit is not None and len(items) >= limit:
                break
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}:{number}: not JSON: {error}") from None
            values = {}
            for name, (field, type_) in kind.fields.items():
                value = row.get(field) if isinstance(row, dict) else None
                if not isinstance(value, type_) or isinstance(value, bool):
                    raise InputError(f"{path}:{number}: {field} is {value!r}, expected {type_.__name__}")
                values[name] = value
            item = kind.item(**values)
            if isinstance(item, Choice) and not 0 <= item.gold < len(item.choices):
                raise InputError(f"{path}:{number}: gold is {item.gold}, expected 0 to {len(item.choices) - 1}")
            if isinstance(item, Choice) and not all(isinstance(choice, str) and choice for choice in item.choices):
                raise InputError(f"{path}:{number}: choices is {item.choices!r}, expected texts")
            items.append(item)
    return items
