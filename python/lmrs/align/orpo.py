"""ORPO (Hong et al. 2024): likelihood of the chosen reply and an odds ratio, without a reference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmrs.align import vector as v
from lmrs.align.pairwise import Judged, Pairwise, Replies
from lmrs.align.preferences import Pair
from lmrs.align.vector import Vector
from lmrs.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ORPO:
    """``-log p̄(chosen) - beta·log σ(log odds(chosen) - log odds(rejected))``, ``odds = p̄ / (1 - p̄)``.

    ``p̄`` is the geometric mean of the probability of a token; the first term is a token of the batch, as in TRL.
    """

    beta: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.beta < math.inf:
            raise InputError(f"beta is {self.beta}, expected at least 0")

    def __call__(self, replies: Replies) -> Judged:
        """The losses of some pairs, and ``beta·log p̄``."""
        a_token = replies.mean()
        nll = -v.total(replies.chosen) / replies.chosen_tokens.sum()
        losses = nll - self.beta * v.log_sigmoid(log_odds_ratio(a_token.chosen, a_token.rejected))
        return Judged(losses, self.beta * a_token.chosen.numbers, self.beta * a_token.rejected.numbers)


def log_odds_ratio(chosen: Vector, rejected: Vector) -> Vector:
    """``log (p̄/(1-p̄))`` of ``chosen`` less that of ``rejected``, both ``log p̄ < 0``."""
    return (chosen - rejected) - (v.log1mexp(chosen) - v.log1mexp(rejected))


_SETTING = ORPO()


def orpo(policy: Any, pairs: Sequence[Pair], *, setting: ORPO = _SETTING) -> Pairwise:
    """The objective of ``setting`` over ``pairs``, for :func:`lmrs.train.fit`."""
    return Pairwise(policy, pairs, setting)
