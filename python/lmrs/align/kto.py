"""KTO (Ethayarajh et al. 2024): replies that are good or bad by themselves, no pairs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lmrs.align import vector as v
from lmrs.align.logprobs import backend_of, measured, reference_of, sequence_logprobs, through, token_logprobs
from lmrs.align.pairwise import Told
from lmrs.align.preferences import Pair
from lmrs.align.vector import Floats, Vector
from lmrs.batch import Backend
from lmrs.errors import InputError
from lmrs.ops import Value
from lmrs.train.objective import IGNORED, Example


@dataclass(frozen=True, kw_only=True)
class KTO:
    """``1 - σ(beta·(r - z))`` of a good reply and ``1 - σ(beta·(z - r))`` of a bad one, each with its weight.

    ``r`` is the log-ratio to the reference and ``z = max(0, mean of r over replies to other prompts)``, a constant.
    ``apo_zero_unpaired`` (D'Oosterlinck et al. 2024) has ``z = 0``.
    """

    beta: float = 0.1
    loss: Literal["kto", "apo_zero_unpaired"] = "kto"
    desirable: float = 1.0
    undesirable: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise InputError(f"beta is {self.beta}, expected more than 0")
        if self.loss not in ("kto", "apo_zero_unpaired"):
            raise InputError(f"loss is {self.loss!r}, expected kto or apo_zero_unpaired")

    def __call__(self, ratios: Vector, good: Floats, z: float) -> Vector:
        """The loss of each reply; ``good`` is 1 or 0 for each."""
        sign = 2 * good - 1
        shift = z if self.loss == "kto" else 0.0
        weight = np.where(good > 0, self.desirable, self.undesirable)
        return v.sigmoid(-((ratios - shift) * (self.beta * sign))) * weight


_SETTING = KTO()


class Unpaired:
    """The mean of ``setting`` over replies, an :class:`~lmrs.train.objective.Objective`; ``told`` has TRL's metrics.

    The reply to one prompt is also read after the next prompt, for ``z``. Raises InputError if there are fewer than two
    replies, or one cannot be read after the next prompt.
    """

    def __init__(self, model: Any, replies: Sequence[tuple[Example, bool]], setting: KTO, *, reference: Any) -> None:
        if len(replies) < 2:
            raise InputError(f"there are {len(replies)} replies, expected at least 2")
        self.model, self.setting, self.told = model, setting, Told()
        self.examples = [example for example, _ in replies]
        self.good = np.array([good for _, good in replies], np.float64)
        self.elsewhere: list[Example] = []
        backend = backend_of(reference)
        self._reference = sequence_logprobs(reference, self.examples, backend=backend)
        if setting.loss == "kto":
            following = [*self.examples[1:], self.examples[0]]
            context = model.config.context
            self.elsewhere = [_after(a, b, context) for a, b in zip(self.examples, following, strict=True)]
            self._reference_elsewhere = sequence_logprobs(reference, self.elsewhere, backend=backend)

    def __len__(self) -> int:
        return len(self.examples)

    def tokens(self, index: int) -> int:
        """See :class:`~lmrs.train.objective.Objective`."""
        return len(self.examples[index].ids)

    def loss(self, indices: Sequence[int], *, backend: Backend) -> tuple[Value, int]:
        """See :class:`~lmrs.train.objective.Objective`."""
        chosen, z = list(indices), 0.0
        if self.elsewhere:
            parts = measured(self.model, [self.elsewhere[index] for index in chosen], backend=backend)
            ratios = np.array([part.sum() for part in parts]) - self._reference_elsewhere[chosen]
            z = max(0.0, float(ratios.mean()))
        values, counts = token_logprobs(self.model, [self.examples[index] for index in chosen], backend=backend)

        def of(logprobs: Vector) -> Vector:
            totals = v.sums(logprobs, counts)
            ratios = totals - self._reference[chosen]
            self._tell(self.setting.beta * ratios.numbers, totals.numbers, self.good[chosen] > 0, z)
            return v.total(self.setting(ratios, self.good[chosen], z))

        return through(values, of, backend=backend), len(chosen)

    def _tell(self, rewards: Floats, logps: Floats, good: Any, z: float) -> None:
        self.told.add(
            rewards__chosen=rewards[good],
            rewards__rejected=rewards[~good],
            logps__chosen=logps[good],
            logps__rejected=logps[~good],
            kl=np.array(z),
        )


def _after(prompted: Example, answered: Example, context: int | None) -> Example:
    """The reply of ``answered`` after the prompt of ``prompted``, of which the start is lost if it must be."""
    prompt = [i for i, label in zip(prompted.ids, prompted.labels, strict=True) if label == IGNORED]
    prompt.append(prompted.ids[len(prompt)])
    reply = [label for label in answered.labels if label != IGNORED]
    room = len(prompt) if context is None else context + 1 - len(reply)
    if room < 1:
        raise InputError(f"a reply of {len(reply)} tokens leaves no room for another prompt, the model takes {context}")
    prompt = prompt[-room:]
    whole = prompt + reply
    return Example(whole[:-1], [IGNORED] * (len(prompt) - 1) + reply)


def kto(
    policy: Any, replies: Sequence[tuple[Example, bool]], *, setting: KTO = _SETTING, reference: Any | None = None
) -> Unpaired:
    """The objective of ``setting`` over ``replies``, each with whether it is good, for :func:`lmrs.train.fit`.

    The reference is as for :func:`lmrs.align.dpo`. :func:`unpaired` makes replies of pairs.
    """
    return Unpaired(policy, replies, setting, reference=reference_of(policy) if reference is None else reference)


def unpaired(pairs: Sequence[Pair]) -> list[tuple[Example, bool]]:
    """The chosen replies of ``pairs`` as good ones and the rejected as bad ones."""
    return [reply for pair in pairs for reply in ((pair.chosen, True), (pair.rejected, False))]
