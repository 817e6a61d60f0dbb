"""What GRPO and RLOO share: several replies to each prompt, judged against each other, and no critic."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmrs.align import vector as v
from lmrs.align.logprobs import backend_of, measured, reference_of, through, token_logprobs
from lmrs.align.pairwise import Told
from lmrs.align.rollout import Sample, Scorer, expect_bounded, rollout, scored
from lmrs.align.vector import Floats, Vector
from lmrs.batch import Backend
from lmrs.errors import InputError
from lmrs.ops import Value
from lmrs.tokenizer import Tokenizer
from lmrs.train.order import Shuffled


@dataclass(frozen=True, kw_only=True)
class Setting(ABC):
    """What the group methods share, and the two functions that set them apart. Raises InputError for a bad setting."""

    prompts: int = 4
    group: int
    max_tokens: int = 64
    temperature: float = 1.0
    beta: float
    epsilon: float = 0.2
    epsilon_high: float | None = None
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
        """Between which the ratio is not clipped; ``epsilon_high`` (DAPO) is ``epsilon`` if it is not given."""
        return 1 - self.epsilon, 1 + (self.epsilon if self.epsilon_high is None else self.epsilon_high)

    @abstractmethod
    def advantages(self, scores: Floats, penalties: Floats) -> Floats:
        """Of replies ``[prompts, group]``, from their scores and KLs; the same shape."""

    @abstractmethod
    def losses(self, x: Vector, old: Floats, reference: Floats, advantages: Floats, lengths: Sequence[int]) -> Vector:
        """The terms of the loss: of each token, or of each reply."""


class Learner:
    """A group method for ``policy``, for :func:`lmrs.align.learn`."""

    def __init__(
        self,
        policy: Any,
        prompts: Sequence[Sequence[int]],
        scorer: Scorer,
        setting: Setting,
        *,
        reference: Any | None,
        tokenizer: Tokenizer | None,
    ) -> None:
        if not prompts:
            raise InputError("there is no prompt")
        self.model, self.prompts, self.scorer, self.setting = policy, prompts, scorer, setting
        self.tokenizer, self.control = tokenizer, 0.0
        self.reference = reference_of(policy) if reference is None else reference
        if setting.beta and self.reference is policy:
            raise InputError("the policy has no delta to switch off: pass reference=, or beta=0")
        self.epochs, self.minibatches = setting.epochs, setting.minibatches

    def settings(self) -> str:
        """See :class:`~lmrs.align.online.Algorithm`."""
        return f"{self.setting} over {len(self.prompts)} prompts"

    def collect(self, iteration: int, *, seed: int) -> "Groups":
        """See :class:`~lmrs.align.online.Algorithm`."""
        s, count = self.setting, len(self.prompts)
        places = range(iteration * s.prompts, (iteration + 1) * s.prompts)
        chosen = [Shuffled(count, seed, place // count)[place % count] for place in places]
        samples = rollout(
            *(self.model, self.prompts, [number for number in chosen for _ in range(s.group)]),
            max_tokens=s.max_tokens,
            temperature=s.temperature,
            seed=seed,
            iteration=iteration,
            tokenizer=self.tokenizer,
        )
        return Groups(self, samples, scored(self.scorer, samples))


class Groups:
    """The samples of one iteration, a group a prompt."""

    def __init__(self, learner: Learner, samples: Sequence[Sample], scores: Floats) -> None:
        s = learner.setting
        self.learner, self.samples, self.told = learner, samples, Told()
        self.scores = scores.reshape(-1, s.group)
        self.lengths = [len(sample.reply) for sample in samples]
        self.starts = np.cumsum([0, *self.lengths])
        self.old = np.concatenate([sample.logprobs for sample in samples])
        self.reference = self.old
        if s.beta:
            examples, backend = [sample.example for sample in samples], backend_of(learner.model)
            parts = measured(learner.reference, examples, backend=backend, temperature=s.temperature)
            self.reference = np.concatenate(parts)
        penalties = np.add.reduceat(self.old - self.reference, self.starts[:-1]).reshape(self.scores.shape)
        expect_bounded(penalties.reshape(-1), samples)
        self.kl = penalties
        self.advantages = s.advantages(self.scores, penalties).reshape(-1)

    def loss(self, indices: Sequence[int], *, backend: Backend) -> tuple[Value, int] | None:
        """See :class:`~lmrs.align.online.Batchful`."""
        s = self.learner.setting
        used = [i for i in indices if self.samples[i].ended or not s.mask_truncated]
        if not used or not (self.advantages[used].any() or s.beta):
            return None
        at = np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in used])
        lengths, advantages = [self.lengths[i] for i in used], self.advantages[used]
        examples = [self.samples[i].example for i in used]
        logprobs, _ = token_logprobs(self.learner.model, examples, backend=backend, temperature=s.temperature)
        terms = 0

        def of(x: Vector) -> Vector:
            nonlocal terms
            losses = s.losses(x, self.old[at], self.reference[at], advantages, lengths)
            terms = len(losses)
            ratio = np.exp(np.minimum(x.numbers - self.old[at], 700))
            sign = np.repeat(advantages, lengths)
            low, high = s.bounds
            self.told.add(
                loss=losses.numbers,
                ratio=ratio,
                clip_ratio__low_mean=np.asarray((ratio < low) & (sign < 0), np.float64),
                clip_ratio__high_mean=np.asarray((ratio > high) & (sign > 0), np.float64),
            )
            return v.total(losses)

        return through(logprobs, of, backend=backend), terms

    def metrics(self) -> dict[str, float]:
        """See :class:`~lmrs.align.online.Batchful`."""
        lengths, ended = np.array(self.lengths), np.array([sample.ended for sample in self.samples])
        deviations = self.scores.std(1, ddof=1)
        return {
            "reward": float(self.scores.mean()),
            "reward_std": float(deviations.mean()),
            "frac_reward_zero_std": float((deviations == 0).mean()),
            "kl": float(self.kl.mean()),
            "entropy": float(-self.old.mean()),
            "completions/mean_length": float(lengths.mean()),
            "completions/min_length": float(lengths.min()),
            "completions/max_length": float(lengths.max()),
            "completions/clipped_ratio": float(1 - ended.mean()),
            **self.told.drain(),
        }
