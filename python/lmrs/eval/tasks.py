"""Tasks judged by log-probabilities: which choice, which of two sentences, which last word.

Each task is a list of items and a function from an engine and the items to an :class:`Outcome`. The metrics are those
of lm-evaluation-harness; their errors are bootstrapped over the items.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmrs.errors import InputError
from lmrs.eval.continuations import Continuation
from lmrs.eval.masked import fills_masks, pseudo_loglikelihood
from lmrs.eval.outcome import Outcome
from lmrs.eval.rows import objects

if TYPE_CHECKING:
    from lmrs.engine import Engine

BATCH = 64
"""Continuations scored in one call: enough to fill a batch, few enough to show progress."""

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


def choices(engine: "Engine", items: Sequence[Choice], *, on_done: Heard | None = None) -> Outcome:
    """Which choice is likeliest: ``acc`` by its log-probability, ``acc_norm`` by that divided by its characters.

    A choice is put after the query and a space. Of equals the first wins.
    """
    pairs = [(item.query, f" {choice}") for item in items for choice in item.choices]
    found = iter(scored(engine, pairs, on_done))
    right: dict[str, list[float]] = {"acc": [], "acc_norm": []}
    for item in items:
        sums = np.array([next(found).sum_logprob for _ in item.choices])
        lengths = np.array([len(choice) for choice in item.choices])
        right["acc"].append(float(sums.argmax() == item.gold))
        right["acc_norm"].append(float((sums / lengths).argmax() == item.gold))
    return Outcome.of(right)


def pairs(engine: "Engine", items: Sequence[Pair], *, on_done: Heard | None = None) -> Outcome:
    """How often the acceptable sentence is the likelier one: ``acc``.

    A masked model judges by the pseudo-log-likelihood ``within_word_l2r``.
    """
    texts = [text for item in items for text in (item.good, item.bad)]
    if fills_masks(engine):
        totals = _masked(engine, texts, on_done)
    else:
        totals = [one.sum_logprob for one in scored(engine, [("", text) for text in texts], on_done)]
    sums = np.array(totals).reshape(-1, 2)
    return Outcome.of({"acc": (sums[:, 0] > sums[:, 1]).tolist()})


def cloze(engine: "Engine", items: Sequence[Cloze], *, on_done: Heard | None = None) -> Outcome:
    """Whether greedy decoding writes the last word, ``acc``, and its ``perplexity`` over all items."""
    found = scored(engine, [(item.context, f" {item.continuation.strip()}") for item in items], on_done)
    sums = [continuation.sum_logprob for continuation in found]
    greedy = [float(continuation.greedy) for continuation in found]
    return Outcome.of({"acc": greedy, "nll": [-total for total in sums]}).with_perplexity()


def _masked(engine: "Engine", texts: Sequence[str], on_done: Heard | None) -> list[float]:
    found: list[float] = []
    for start in range(0, len(texts), BATCH):
        part = pseudo_loglikelihood(engine, texts[start : start + BATCH], metric="within_word_l2r")
        found += [one.sum_logprob for one in part]
        if on_done is not None:
            on_done(len(found))
    return found


def scored(engine: "Engine", wanted: Sequence[tuple[str, str]], on_done: Heard | None = None) -> list[Continuation]:
    """In batches, the longest first and continuations of one context together; given back in the order asked."""
    order = sorted(range(len(wanted)), key=lambda at: (-len(wanted[at][0]), wanted[at][0], -len(wanted[at][1])))
    found: dict[int, Continuation] = {}
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        found |= zip(part, engine.continuations([wanted[at] for at in part]), strict=True)
        if on_done is not None:
            on_done(len(found))
    return [found[at] for at in range(len(wanted))]


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

    Raises InputError naming the file, the line and the field of what is not as expected, and what
    :func:`lmrs.eval.rows.objects` raises.
    """
    kind = TASKS[task]
    items: list[Any] = []
    for where, row in islice(objects(Path(path)), limit):
        values = {}
        for name, (field, type_) in kind.fields.items():
            value = row.get(field)
            if not isinstance(value, type_) or isinstance(value, bool):
                raise InputError(f"{where}: {field} is {value!r}, expected {type_.__name__}")
            values[name] = value
        item = kind.item(**values)
        if isinstance(item, Choice) and not 0 <= item.gold < len(item.choices):
            raise InputError(f"{where}: gold is {item.gold}, expected 0 to {len(item.choices) - 1}")
        if isinstance(item, Choice) and not all(isinstance(choice, str) and choice for choice in item.choices):
            raise InputError(f"{where}: choices is {item.choices!r}, expected texts")
        items.append(item)
    return items
