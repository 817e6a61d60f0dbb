"""What can be minimised: a model, examples, and the loss of some of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

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


@dataclass(frozen=True)
class Example:
    """One sequence: token ``ids``, and for each row the token it should predict (-100: none)."""

    ids: Sequence[int]
    labels: Sequence[int]


class NextToken:
    """The negative log-likelihood in nats of the labels of ``examples`` under a causal ``model``.

    Examples are packed: each sees only itself, so the loss of a batch is the sum of the losses of its examples.
    Raises ConfigError if ``model`` is not causal, InputError if there is no example or one has no label.
    """

    def __init__(self, model: Any, examples: Sequence[Example]) -> None:
        for path, module in model.named_modules():
            if getattr(module, "causal", True) is False:
                raise ConfigError(f"{path} attends to later tokens: a model that sees its labels learns nothing")
        if not examples:
            raise InputError("there is nothing to train on: no text is longer than one token")
        for index, example in enumerate(examples):
            if all(label == IGNORED for label in example.labels):
                raise InputError(f"example {index} has no token to predict")
        self.model, self.examples = model, examples

    def __len__(self) -> int:
        return len(self.examples)

    def tokens(self, index: int) -> int:
        """See :class:`Objective`."""
        return len(self.examples[index].ids)

    def loss(self, indices: Sequence[int], *, backend: Backend) -> tuple[Value, int]:
        """See :class:`Objective`."""
        chosen = [self.examples[index] for index in indices]
        labels = [label for example in chosen for label in example.labels]
        counted = [row for row, label in enumerate(labels) if label != IGNORED]
        # Rows that predict nothing do not go through the head.
        select = counted if len(counted) < len(labels) else None
        batch = Batch.of([example.ids for example in chosen], backend=backend, select=select)
        hidden = self.model.hidden(batch)
        if batch.select is not None:
            hidden = ops.rows(hidden, batch.select)
        wanted = import_module(f"lmrs.backend.{backend}").array(np.array([labels[row] for row in counted], np.int32))
        return self.model.head.loss(hidden, wanted, reduction="sum"), len(counted)
