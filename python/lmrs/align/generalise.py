"""Cross-task generalisation: what tuning on some tasks does to clusters it never saw (Wei et al. 2022)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmrs.align.logprobs import backend_of, measured
from lmrs.align.sft import Conversation, completion, held_out
from lmrs.align.vector import Floats
from lmrs.errors import InputError
from lmrs.eval.outcome import Metric, ratio
from lmrs.tokenizer import Tokenizer
from lmrs.train.objective import Example

Tasks = Mapping[str, Sequence[Conversation]]


@dataclass(frozen=True, kw_only=True)
class Carried:
    """A cluster that was kept whole: nats a token of its answers ``before`` and ``after``, over ``conversations``.

    ``gain`` is the fall between them, its error bootstrapped over conversations: both models answer the same ones.
    """

    cluster: str
    conversations: int
    before: Metric
    after: Metric
    gain: Metric


def answered(
    model: Any, conversations: Sequence[Conversation], *, tokenizer: Tokenizer | None = None, longest: int | None = None
) -> tuple[Floats, Floats]:
    """The nats of the last answer of each conversation, and its tokens; those too long are left out."""
    examples: Sequence[Example] = completion(model, conversations, tokenizer=tokenizer, longest=longest).examples
    parts = measured(model, examples, backend=backend_of(model))
    return np.array([-part.sum() for part in parts]), np.array([float(len(part)) for part in parts])


def generalisation(
    model: Any,
    learn: Callable[[Tasks], Any],
    tasks: Tasks,
    cluster: Callable[[str], str],
    *,
    clusters: Sequence[str] | None = None,
    tokenizer: Tokenizer | None = None,
    longest: int | None = None,
    limit: int = 200,
) -> list[Carried]:
    """Each of ``clusters`` (by default all) held out whole in its turn: how ``model`` answers it before and after.

    ``learn`` gets the tasks of the other clusters and returns a tuned model; it is called once a cluster, on ``model``
    as it is, so it should put a delta on it. ``cluster`` names that of a task. At most ``limit`` conversations of a
    cluster are answered, spread evenly over it. Raises InputError if there are fewer than two clusters or one of those
    named has no task.
    """
    known = sorted({cluster(task) for task in tasks})
    if len(known) < 2:
        raise InputError(f"there is one cluster of tasks, {known[0] if known else 'none'}: nothing can be held out")
    found = []
    for name in known if clusters is None else clusters:
        rest, kept = held_out(tasks, cluster, clusters=[name])
        conversations = [turns for task in sorted(kept) for turns in kept[task]]
        conversations = conversations[:: -(-len(conversations) // limit)]
        before, tokens = answered(model, conversations, tokenizer=tokenizer, longest=longest)
        after, _ = answered(learn(rest), conversations, tokenizer=tokenizer, longest=longest)
        found.append(
            Carried(
                cluster=name,
                conversations=len(tokens),
                before=ratio(before, tokens),
                after=ratio(after, tokens),
                gain=ratio(before - after, tokens),
            )
        )
    return found
