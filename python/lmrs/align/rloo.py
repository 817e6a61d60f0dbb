"""RLOO (Ahmadian et al. 2024): REINFORCE on whole replies, each with the others of its group for a baseline."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmrs.align import vector as v
from lmrs.align.group import Learner, Setting
from lmrs.align.rollout import Scorer
from lmrs.align.vector import Floats, Vector
from lmrs.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class RLOO(Setting):
    """The settings. Raises InputError for one outside its range.

    A reply is rewarded by its score less ``beta·(log p - log p_ref)``; its advantage is that less the mean of the other
    ``group - 1`` rewards, over the deviation of the batch if ``normalize``. Its loss is ``-min(ρ·A, clip(ρ)·A)`` with
    ``ρ`` the ratio of the probabilities of the whole reply, clipped to ``1 - epsilon … 1 + epsilon_high``; at the first
    step REINFORCE.
    """

    group: int = 2
    beta: float = 0.05
    normalize: bool = False

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
