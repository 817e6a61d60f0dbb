"""RLOO (Ahmadian et al. 2024): REINFORCE on whole replies, each with the others of its group for a baseline."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmrs.align import vector as v
from lmrs.align.group import Learner
from lmrs.align.rollout import Scorer
from lmrs.align.vector import Floats, Vector
from lmrs.errors import InputError
from lmrs.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class RLOO:
    """The settings. Raises InputError for one outside its range.

    A reply is rewarded by its score less ``beta·(log p - log p_ref)``; its advantage is that less the mean of the other
    ``group - 1`` rewards, over the deviation of the batch if ``normalize``. Its loss is ``-min(ρ·A, clip(ρ)·A)`` with
    ``ρ`` the ratio of the probabilities of the whole reply, clipped to ``1 ± epsilon``; at the first step REINFORCE.
    """

    prompts: int = 4
    group: int = 2
    max_tokens: int = 64
    temperature: float = 1.0
    beta: float = 0.05
    epsilon: float = 0.2
    normalize: bool = False
    epochs: int = 1
    minibatches: int = 1
    mask_truncated: bool = False

    def __post_init__(self) -> None:
        for name, least in (("prompts", 1), ("group", 2), ("max_tokens", 1), ("epochs", 1), ("minibatches", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least {least}")
        if not 0 < self.temperature < math.inf or not 0 <= self.beta < math.inf:
            raise InputError(f"temperature {self.temperature} and beta {self.beta}: expected more than 0, at least 0")
        if not 0 < self.epsilon < 1:
            raise InputError(f"epsilon is {self.epsilon}, expected between 0 and 1")

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which the ratio is not clipped."""
        return 1 - self.epsilon, 1 + self.epsilon

    def advantages(self, scores: Floats, penalties: Floats) -> Floats:
        """See :class:`~lmrs.align.group.Setting`."""
        rewards = scores - self.beta * penalties
        others = (rewards.sum(1, keepdims=True) - rewards) / (self.group - 1)
        advantages: Floats = rewards - others
        if self.normalize and advantages.size > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-4)
        return advantages

    def losses(self, x: Vector, old: Floats, reference: Floats, advantages: Floats, lengths: Sequence[int]) -> Vector:
        """See :class:`~lmrs.align.group.Setting`."""
        del reference
        ratio = v.exp(v.clip(v.sums(x - old, lengths), -np.inf, 700.0))
        return v.maximum(-(ratio * advantages), -(v.clip(ratio, *self.bounds) * advantages))


_SETTING = RLOO()


def rloo(
    policy: Any,
    prompts: Sequence[Sequence[int]],
    scorer: Scorer,
    *,
    setting: RLOO = _SETTING,
    reference: Any | None = None,
    tokenizer: Tokenizer | None = None,
) -> Learner:
    """RLOO of ``policy`` on ``prompts``; arguments as for :func:`lmrs.align.grpo`."""
    return Learner(policy, prompts, scorer, setting, reference=reference, tokenizer=tokenizer)
