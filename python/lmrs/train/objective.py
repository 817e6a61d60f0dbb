"""What can be minimised: a model, examples, and the loss of some of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lmrs import ops
from lmrs.batch import Backend, Batch
from lmrs.errors import ConfigError, InputError
from lmrs.nn.module import Module
from lmrs.ops import Value

IGNORED = -100


class Objective(Protocol):
    """What :func:`lmrs.train.fit` minimises: the mean of a loss over all its terms in the examples of a step."""

    @property
    def model(self) -> Module:
        """The model, whose trainable parameters are trained in place."""

    def __len__(self) -> int:
        """How many examples there are."""

    def tokens(self, index: int) -> int:
        """How many tokens example ``index`` puts into a batch."""

    def loss(self, indices: Sequence[int], *, backend: Backend) -> tuple[Value, int]:
        """The loss ``[1, 1]`` of these examples, summed over its terms, and how many terms there are."""


@runtime_checkable
class Dynamic(Objective, Protocol):
    """An objective whose examples are drawn anew each epoch: those of an epoch are an objective of their own.

    A draw is a function of (``settings``, epoch, index), so a run resumes to the same examples. ``settings`` describe
    how they are drawn; a run with others is another run.
    """

    @property
    def settings(self) -> str:
        """How examples are drawn, the seed among it."""

    def in_epoch(self, epoch: int) -> Objective:
        """The examples of ``epoch``."""


@runtime_checkable
class Remembering(Objective, Protocol):
    """An objective whose loss goes on from numbers of earlier batches, which a checkpoint keeps.

    Of several processes each has its own, and a checkpoint those of the first.
    """

    memory: dict[str, float]


@dataclass(frozen=True)
class Example:
    """One sequence: token ``ids``, for each row the token it should predict (-100: none), and BERT's token types."""

    ids: Sequence[int]
    labels: Sequence[int]
    segments: Sequence[int] | None = None


def attends(model: Any, *, causally: bool) -> None:
    """Raises ConfigError if the model is not what an objective needs: one that sees, or does not see, later tokens."""
    for path, module in model.named_modules():
        causal = getattr(module, "causal", causally)
        if causal is not causally and causally:
            raise ConfigError(f"{path} attends to later tokens: a model that sees its labels learns nothing")
        if causal is not causally:
            raise ConfigError(f"{path} does not attend to later tokens: a hidden one is guessed from both sides")


def packed(chosen: Sequence[Example], *, backend: Backend) -> tuple[Batch, Value, int]:
    """Examples as one batch that selects the rows with a label, those labels ``[N]``, and how many there are."""
    labels = np.concatenate([np.asarray(example.labels, np.int32) for example in chosen])
    counted = np.flatnonzero(labels != IGNORED)
    segments = [example.segments or [0] * len(example.ids) for example in chosen]
    # Rows that predict nothing do not go through the head.
    select = counted.tolist() if len(counted) < len(labels) else None
    batch = Batch.of([example.ids for example in chosen], backend=backend, select=select, segments=segments)
    return batch, import_module(f"lmrs.backend.{backend}").array(labels[counted]), len(counted)


def selected(batch: Batch, x: Value) -> Value:
    """The rows of ``x [T, d]`` that ``batch`` selects."""
    return x if batch.select is None else ops.rows(x, batch.select)


class NextToken:
    """The negative log-likelihood in nats of the labels of ``examples`` under a causal ``model``.

    Examples are packed: each sees only itself, so the loss of a batch is the sum of the losses of its examples.
    Raises ConfigError if ``model`` is not causal, InputError if there is no example.
    """

    def __init__(self, model: Any, examples: Sequence[Example]) -> None:
        attends(model, causally=True)
        if not examples:
            raise InputError("there is nothing to train on: no text is longer than one token")
        self.model, self.examples = model, examples

    def __len__(self) -> int:
        return len(self.examples)

    def tokens(self, index: int) -> int:
        """See :class:`Objective`."""
        return len(self.examples[index].ids)

    def loss(self, indices: Sequence[int], *, backend: Backend) -> tuple[Value, int]:
        """See :class:`Objective`."""
        batch, labels, terms = packed([self.examples[index] for index in indices], backend=backend)
        hidden = selected(batch, self.model.hidden(batch))
        return self.model.head.loss(hidden, labels, reduction="sum"), terms
