"""CPO (Xu et al. 2024) and SimPO (Meng et al. 2024): contrast without a reference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lmrs.align import vector as v
from lmrs.align.pairwise import Judged, Pairwise, Replies
from lmrs.align.preferences import Pair
from lmrs.align.vector import Vector
from lmrs.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CPO:
    """A loss of ``logits = log p(chosen) - log p(rejected)``, and ``nll`` times the chosen reply's likelihood.

    ``sigmoid``: ``-log σ(beta·logits)``, with ``label_smoothing`` of the other label. ``hinge`` and ``ipo`` as for DPO.
    ``simpo``: ``-log σ(beta·logits - gamma)`` of log-probabilities a token; :func:`simpo` has its settings.
    """

    beta: float = 0.1
    loss: Literal["sigmoid", "hinge", "ipo", "simpo"] = "sigmoid"
    gamma: float = 0.5
    label_smoothing: float = 0.0
    nll: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise InputError(f"beta is {self.beta}, expected more than 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise InputError(f"label_smoothing is {self.label_smoothing}, expected 0 … 0.5 without that")
        if self.loss not in ("sigmoid", "hinge", "ipo", "simpo"):
            raise InputError(f"loss is {self.loss!r}, expected sigmoid, hinge, ipo or simpo")

    def __call__(self, replies: Replies) -> Judged:
        """The losses of some pairs, and ``beta·log p`` of each reply."""
        read = replies.mean() if self.loss in ("simpo", "ipo") else replies
        losses = contrast(read.chosen - read.rejected, self)
        if self.nll:
            losses = losses - self.nll * v.total(replies.chosen) / replies.chosen_tokens.sum()
        return Judged(losses, self.beta * read.chosen.numbers, self.beta * read.rejected.numbers)


def contrast(logits: Vector, setting: CPO) -> Vector:
    """The loss of each pair without its likelihood term."""
    beta, smoothing = setting.beta, setting.label_smoothing
    if setting.loss == "hinge":
        return v.maximum(0.0, 1 - beta * logits)
    if setting.loss == "ipo":
        return v.square(logits - 1 / (2 * beta))
    x = beta * logits - (setting.gamma if setting.loss == "simpo" else 0.0)
    return v.softplus(-x) * (1 - smoothing) + v.softplus(x) * smoothing


_CPO = CPO()
_SIMPO = CPO(beta=2.0, loss="simpo", nll=0.0)


def cpo(policy: Any, pairs: Sequence[Pair], *, setting: CPO = _CPO) -> Pairwise:
    """The objective of ``setting`` over ``pairs``, for :func:`lmrs.train.fit`."""
    return Pairwise(policy, pairs, setting)


def simpo(policy: Any, pairs: Sequence[Pair], *, setting: CPO = _SIMPO) -> Pairwise:
    """The same, with the settings of SimPO."""
    return Pairwise(policy, pairs, setting)
