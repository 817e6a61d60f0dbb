"""Direct preference optimisation (Rafailov et al. 2023) and its kin: one loss a function of log-probabilities."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from lmrs.align import vector as v
from lmrs.align.logprobs import reference_of
from lmrs.align.pairwise import Judged, Pairwise, Replies
from lmrs.align.preferences import Pair
from lmrs.align.vector import Vector
from lmrs.errors import InputError

Divergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]


@dataclass(frozen=True, kw_only=True)
class DPO:
    """What is minimised: ``losses``, each a name in :data:`LOSSES` with its weight.

    With ``r = log p(reply) - log p_ref(reply)`` and ``logits = r_chosen - r_rejected``, the default is
    ``-log σ(beta·logits)``. ``label_smoothing`` ε mixes in the flipped preference (cDPO, robust, EXO, AOT).
    ``reference_free`` takes ``p_ref`` for uniform. ``divergence`` replaces the reverse KL (Wang et al. 2024) by the
    forward KL, the Jensen-Shannon or, with ``alpha``, an α-divergence. ``weighted`` multiplies the losses of a pair by
    how likely both replies are under the policy, as a constant (WPO, Zhou et al. 2024): the geometric mean over tokens
    of ``p / Σ p²``, the sum over the vocabulary (its sampled alignment), at most 1. ``tau`` is DiscoPOP's. Raises
    InputError for a setting outside its range.
    """

    beta: float = 0.1
    losses: Mapping[str, float] | str = "sigmoid"
    label_smoothing: float = 0.0
    reference_free: bool = False
    divergence: Divergence = "reverse_kl"
    alpha: float = 1.0
    tau: float = 0.05
    weighted: bool = False

    def __post_init__(self) -> None:
        for name in ("beta", "alpha", "tau"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}, expected more than 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise InputError(f"label_smoothing is {self.label_smoothing}, expected 0 … 0.5 without that")
        if self.divergence not in get_args(Divergence):
            raise InputError(f"divergence is {self.divergence!r}, expected one of {', '.join(get_args(Divergence))}")
        for name in self.weights:
            if name not in LOSSES:
                raise InputError(f"loss is {name!r}, expected one of {', '.join(LOSSES)}")

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each loss."""
        return {self.losses: 1.0} if isinstance(self.losses, str) else self.losses

    def __call__(self, replies: Replies) -> Judged:
        """The losses of some pairs, and the rewards ``beta·r``."""
        if self.reference_free:
            zero = 0 * replies.chosen_tokens
            replies = replace(replies, chosen_reference=zero, rejected_reference=zero)
        losses: Vector = v.of(0.0)
        for name, weight in self.weights.items():
            ratios = _ratios(replies.mean() if name in A_TOKEN else replies)
            losses = losses + weight * LOSSES[name](ratios, self)
        if self.weighted:
            if replies.certainty is None:
                raise InputError("the losses are weighted by certainty, which these replies lack")
            losses = losses * np.exp(np.minimum(replies.certainty, 0.0))
        ratios = _ratios(replies)
        return Judged(losses, self.beta * ratios.chosen.numbers, self.beta * ratios.rejected.numbers)


@dataclass(frozen=True, eq=False)
class Ratios:
    """The log-ratios ``r`` of both replies, ``[pairs]``, and what they were made of."""

    chosen: Vector
    rejected: Vector
    of: Replies

    def logits(self, setting: DPO) -> Vector:
        """The difference of the replies' implicit rewards a beta, by the divergence asked for."""
        if setting.divergence in ("alpha", "forward_kl"):
            # (1 - u⁻ᵅ)/α of each, the forward KL being α = 1; the exponent is cut where float64 ends.
            alpha = setting.alpha if setting.divergence == "alpha" else 1.0
            up, down = (v.exp(v.clip(-alpha * r, -700, 700)) for r in (self.rejected, self.chosen))
            return (up - down) / alpha
        logits = self.chosen - self.rejected
        if setting.divergence == "js":
            logits = logits - (v.softplus(self.chosen) - v.softplus(self.rejected))
        return logits


def _ratios(replies: Replies) -> Ratios:
    return Ratios(replies.chosen - replies.chosen_reference, replies.rejected - replies.rejected_reference, replies)


def _smoothed(x: Vector, by: float) -> Vector:
    """``-log σ(x)``, the other label with probability ``by``."""
    return v.softplus(-x) * (1 - by) + v.softplus(x) * by


def _sigmoid(r: Ratios, s: DPO) -> Vector:
    return _smoothed(s.beta * r.logits(s), s.label_smoothing)


def _hinge(r: Ratios, s: DPO) -> Vector:
    """SLiC (Zhao et al. 2023)."""
    return v.maximum(0.0, 1 - s.beta * r.logits(s))


def _ipo(r: Ratios, s: DPO) -> Vector:
    """Azar et al. 2023, eq. 17, of log-ratios a token."""
    return v.square(r.logits(s) - 1 / (2 * s.beta))


def _robust(r: Ratios, s: DPO) -> Vector:
    """Chowdhury et al. 2024: unbiased when a share ε of the labels is flipped."""
    x, e = s.beta * r.logits(s), s.label_smoothing
    return (v.softplus(-x) * (1 - e) - v.softplus(x) * e) / (1 - 2 * e)


def _exo(r: Ratios, s: DPO) -> Vector:
    """Ji et al. 2024, eq. 16; ε is 1e-3 if it is not given, since its logarithm is taken."""
    x, e = s.beta * r.logits(s), s.label_smoothing or 1e-3
    return v.sigmoid(x) * (v.log_sigmoid(x) - math.log(1 - e)) + v.sigmoid(-x) * (v.log_sigmoid(-x) - math.log(e))


def _nca(r: Ratios, s: DPO) -> Vector:
    """Chen et al. 2024."""
    x, y = s.beta * r.chosen, s.beta * r.rejected
    return v.softplus(-x) + 0.5 * v.softplus(x) + 0.5 * v.softplus(y)


def _bco(r: Ratios, s: DPO) -> Vector:
    """Jung et al. 2024, the shift being the mean reward of all batches so far."""
    x, y = s.beta * r.chosen, s.beta * r.rejected
    memory, rewards = r.of.memory, np.concatenate([x.numbers, y.numbers])
    seen = memory.get("rewards", 0.0) + len(rewards)
    shift = memory.get("mean_reward", 0.0)
    shift += float((rewards - shift).sum()) / seen
    memory["rewards"], memory["mean_reward"] = seen, shift
    return v.softplus(-(x - shift)) + v.softplus(y - shift)


def _sppo(r: Ratios, s: DPO) -> Vector:
    """Wu et al. 2024, eq. 4.7, the winner winning always."""
    return v.square(r.chosen - 0.5 / s.beta) + v.square(r.rejected + 0.5 / s.beta)


def _apo_zero(r: Ratios, s: DPO) -> Vector:
    """D'Oosterlinck et al. 2024, eq. 7: for replies better than the model's."""
    return v.sigmoid(-(s.beta * r.chosen)) + v.sigmoid(s.beta * r.rejected)


def _apo_down(r: Ratios, s: DPO) -> Vector:
    """D'Oosterlinck et al. 2024, eq. 8: for replies worse than the model's."""
    return v.sigmoid(s.beta * r.chosen) + v.sigmoid(-(s.beta * (r.chosen - r.rejected)))


def _discopop(r: Ratios, s: DPO) -> Vector:
    """Lu et al. 2024, eq. 5."""
    x = s.beta * (r.chosen - r.rejected)
    share = v.sigmoid(x / s.tau)
    return v.softplus(-x) * (1 - share) + v.exp(-x) * share


def _aot(r: Ratios, s: DPO) -> Vector:
    """Melnyk et al. 2024, paired: the margins of the policy against those of the reference, by rank."""
    policy = v.ordered(r.of.chosen - r.of.rejected)
    reference = v.ordered(r.of.chosen_reference - r.of.rejected_reference)
    return _smoothed(s.beta * (policy - reference), s.label_smoothing)


def _aot_unpaired(r: Ratios, s: DPO) -> Vector:
    """Melnyk et al. 2024, unpaired: chosen log-ratios against rejected ones, by rank."""
    return _smoothed(s.beta * (v.ordered(r.chosen) - v.ordered(r.rejected)), s.label_smoothing)


def _sft(r: Ratios, s: DPO) -> Vector:
    """The chosen reply's negative log-likelihood a token of the batch, the same for every pair."""
    del s
    n = r.of.chosen_tokens
    a_token: Vector = -v.total(r.of.chosen) / float(n.sum())
    return a_token + np.zeros_like(n)


LOSSES: Mapping[str, Callable[[Ratios, DPO], Vector]] = {
    "sigmoid": _sigmoid,
    "sigmoid_norm": _sigmoid,
    "hinge": _hinge,
    "ipo": _ipo,
    "robust": _robust,
    "exo_pair": _exo,
    "nca_pair": _nca,
    "bco_pair": _bco,
    "sppo_hard": _sppo,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
    "discopop": _discopop,
    "aot": _aot,
    "aot_unpaired": _aot_unpaired,
    "sft": _sft,
}
"""The losses by TRL's names."""

A_TOKEN = {"ipo", "sigmoid_norm"}
"""Losses of the mean log-probability a token."""


_SETTING = DPO()


def dpo(policy: Any, pairs: Sequence[Pair], *, setting: DPO = _SETTING, reference: Any | None = None) -> Pairwise:
    """The objective of ``setting`` over ``pairs`` for ``policy``, for :func:`lmrs.train.fit`.

    The reference is by default ``policy`` with its deltas off, or as it is now if it has none.
    """
    held_to = None if setting.reference_free else reference_of(policy) if reference is None else reference
    return Pairwise(policy, pairs, setting, reference=held_to, certain=setting.weighted)
