"""GRPO (Shao et al. 2024), and by its settings DAPO (Yu et al. 2025), Dr. GRPO (Liu et al. 2025), GSPO, CISPO."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lmrs.align import vector as v
from lmrs.align.group import Learner, Setting
from lmrs.align.rollout import Scorer
from lmrs.align.vector import Floats, Vector
from lmrs.errors import InputError
from lmrs.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class GRPO(Setting):
    """The settings. Raises InputError for one outside its range.

    An iteration draws ``group`` replies, of at most ``max_tokens``, to each of ``prompts`` prompts at ``temperature``.
    A reply's advantage is its score less the mean of its group, divided by the deviation of the ``group``, of the
    ``batch``, or by nothing (``scale``; Dr. GRPO). A token's loss is ``-min(ρ·A, clip(ρ, 1 - epsilon, 1 + high)·A)``,
    where ``high`` is ``epsilon_high`` (DAPO) or ``epsilon``, plus ``beta`` times the k3 estimate of the KL; ``delta``
    bounds the unclipped ratio from above. ``importance="sequence"`` takes for ``ρ`` the geometric mean over the reply
    (GSPO, Zheng et al. 2025). ``loss``: ``dapo`` and ``bnpo`` are the mean over tokens of a minibatch, ``grpo`` over
    replies of the mean over their tokens, ``dr_grpo`` the sum over ``max_tokens``; ``cispo`` (MiniMax 2025) weights
    ``log p`` by the clipped ratio as a constant. ``mask_truncated`` leaves out replies that did not end.
    """

    group: int = 8
    beta: float = 0.0
    delta: float | None = None
    scale: Literal["group", "batch", "none"] = "group"
    importance: Literal["token", "sequence"] = "token"
    loss: Literal["dapo", "bnpo", "grpo", "dr_grpo", "cispo"] = "dapo"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (
            ("scale", ("group", "batch", "none")),
            ("importance", ("token", "sequence")),
            ("loss", ("dapo", "bnpo", "grpo", "dr_grpo", "cispo")),
        ):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(known)}")

    def advantages(self, scores: Floats, penalties: Floats) -> Floats:
        """See :class:`~lmrs.align.group.Setting`."""
        del penalties
        centred: Floats = scores - scores.mean(1, keepdims=True)
        if self.scale == "none":
            return centred
        deviation = scores.std(1, ddof=1, keepdims=True) if self.scale == "group" else scores.std(ddof=1)
        return np.asarray(centred / (deviation + 1e-4), np.float64)

    def losses(self, x: Vector, old: Floats, reference: Floats, advantages: Floats, lengths: Sequence[int]) -> Vector:
        """See :class:`~lmrs.align.group.Setting`."""
        counts = np.asarray(lengths, np.float64)
        each = np.repeat(advantages, lengths)
        log_ratio = x - old
        if self.importance == "sequence":
            log_ratio = (v.sums(log_ratio, lengths) / counts)[np.repeat(np.arange(len(lengths)), lengths)]
        ratio = v.exp(log_ratio)
        cut = v.clip(ratio, *self.bounds)
        if self.loss == "cispo":
            losses = -(x * (v.minimum(v.constant(ratio), self.bounds[1]).numbers * each))
        else:
            free = ratio if self.delta is None else v.minimum(ratio, self.delta)
            losses = v.maximum(-(free * each), -(cut * each))
        if self.beta:
            back = v.of(reference) - x
            losses = losses + self.beta * (v.exp(back) - back - 1)
        if self.loss == "grpo":
            return v.sums(losses, lengths) / counts
        return v.sums(losses, lengths) / float(self.max_tokens) if self.loss == "dr_grpo" else losses


_SETTING = GRPO()


def grpo(
    policy: Any,
    prompts: Sequence[Sequence[int]],
    scorer: Scorer,
    *,
    setting: GRPO = _SETTING,
    reference: Any | None = None,
    tokenizer: Tokenizer | None = None,
) -> Learner:
    """GRPO of ``policy`` on ``prompts``, token ids, rewarded by ``scorer``; :func:`lmrs.align.learn` runs it.

    ``reference`` is needed for ``beta`` alone; it is as for :func:`lmrs.align.ppo`. A minibatch all of whose groups
    have one score has nothing to say and is skipped.
    """
    return Learner(policy, prompts, scorer, setting, reference=reference, tokenizer=tokenizer)
