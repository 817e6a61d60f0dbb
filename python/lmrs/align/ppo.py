"""Proximal policy optimisation of a language model (Schulman et al. 2017; Ziegler et al. 2019; Huang et al. 2024).

An iteration draws replies, rewards each token, estimates advantages and follows the clipped objective for a few epochs.
Notable: the reference is the policy with its deltas off, so there is no second copy of the weights; the log-probability
of a rollout is that of the update to the bit, so the first ratio is 1; everything between the model's outputs and its
gradient is float64 on ragged replies, no padding to mask.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lmrs import ops
from lmrs.align import vector as v
from lmrs.align.logprobs import backend_of, measured, predicted, reference_of, states, through
from lmrs.align.pairwise import Told
from lmrs.align.reward import Scored
from lmrs.align.rollout import Sample, Scorer, expect_bounded, rollout, scored
from lmrs.align.values import token_values, values_of
from lmrs.align.vector import Floats, Vector
from lmrs.batch import Backend
from lmrs.errors import InputError
from lmrs.nn.module import Module
from lmrs.ops import Value
from lmrs.tokenizer import Tokenizer
from lmrs.train.order import Shuffled

Estimator = Literal["k1", "k2", "k3"]


@dataclass(frozen=True, kw_only=True)
class PPO:
    """The settings. Raises InputError for one outside its range.

    Rollouts: ``prompts`` of them an iteration, at most ``max_tokens`` each, at ``temperature``, by which the update
    divides the logits, too. Rewards: ``-kl_coef·KL`` a token by ``kl_estimator`` (Schulman 2020: k1 ``log p - log q``,
    k2 half its square, k3 ``q/p - 1 - log q/p``), and at the last token the score, less ``missing_eos`` if the reply
    did not end; ``whiten_rewards`` divides them by their deviation, without shifting. With ``kl_target`` the
    coefficient follows it over a ``kl_horizon`` of samples. Update: ``epochs`` over ``minibatches``, ``gamma`` and
    ``lam`` of GAE, ``clip`` of the ratio, ``clip_value`` of the value around its old one, ``value_coef``. A minibatch
    with a mean ratio above ``ratio_limit`` is skipped.
    """

    prompts: int = 8
    max_tokens: int = 53
    temperature: float = 1.0
    kl_coef: float = 0.05
    kl_estimator: Estimator = "k1"
    kl_target: float | None = None
    kl_horizon: int = 10_000
    missing_eos: float | None = None
    whiten_rewards: bool = False
    epochs: int = 4
    minibatches: int = 1
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    clip_value: float = 0.2
    value_coef: float = 0.1
    ratio_limit: float = 10.0

    def __post_init__(self) -> None:
        for name in ("prompts", "max_tokens", "epochs", "minibatches", "kl_horizon"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("temperature", "clip", "clip_value", "ratio_limit"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}, expected more than 0")
        for name in ("kl_coef", "value_coef"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least 0")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 0 … 1")
        if self.kl_estimator not in ("k1", "k2", "k3"):
            raise InputError(f"kl_estimator is {self.kl_estimator!r}, expected k1, k2 or k3")


# --- the mathematics: flat arrays of tokens, `lengths` says whose they are ---


def kl(logprobs: Floats, reference: Floats, *, estimator: Estimator) -> Floats:
    """An estimate of ``KL(p ‖ q)`` from each token drawn from p (Schulman 2020)."""
    ratio: Floats = logprobs - reference
    if estimator == "k1":
        return ratio
    estimate: Floats = ratio**2 / 2 if estimator == "k2" else np.expm1(-ratio) + ratio
    return estimate


def token_rewards(scores: Floats, penalties: Floats, lengths: Sequence[int], *, coefficient: float) -> Floats:
    """``-coefficient·penalty`` of each token, and the score of a reply on its last."""
    rewards = -coefficient * penalties
    rewards[np.cumsum(lengths) - 1] += scores
    return rewards


def gae(rewards: Floats, values: Floats, lengths: Sequence[int], *, gamma: float, lam: float) -> Floats:
    """``A_t = Σ_k (gamma·lam)ᵏ·δ_{t+k}``, ``δ_t = r_t + gamma·V_{t+1} - V_t``, ``V`` 0 after the last token."""
    advantages = np.zeros_like(rewards)
    for stop, length in zip(np.cumsum(lengths), lengths, strict=True):
        following, carried = 0.0, 0.0
        for t in range(stop - 1, stop - length - 1, -1):
            carried = rewards[t] + gamma * following - values[t] + gamma * lam * carried
            advantages[t], following = carried, values[t]
    return advantages


def whitened(x: Floats, *, shift: bool = True) -> Floats:
    """``(x - mean) / deviation`` over all tokens, the mean put back unless ``shift``."""
    if len(x) < 2:
        return x - x if shift else x
    mean = x.mean()
    y: Floats = (x - mean) / math.sqrt(x.var(ddof=1) + 1e-8)
    return y if shift else y + mean


def policy_losses(logprobs: Vector, old: Floats, advantages: Floats, *, clip: float) -> Vector:
    """``max(-A·ρ, -A·clip(ρ, 1 ± clip))`` of each token, ``ρ = p / p_old``."""
    ratio = v.exp(logprobs - old)
    return v.maximum(-(ratio * advantages), -(v.clip(ratio, 1 - clip, 1 + clip) * advantages))


def value_losses(values: Vector, old: Floats, returns: Floats, *, clip: float) -> Vector:
    """``½·max((V - R)², (clip(V, V_old ± clip) - R)²)`` of each token."""
    cut = v.clip(values, old - clip, old + clip)
    return 0.5 * v.maximum(v.square(values - returns), v.square(cut - returns))


def adapted(coefficient: float, measured_kl: float, samples: int, *, target: float, horizon: int) -> float:
    """The next coefficient (Ziegler et al. 2019, §2.2): up where the KL is above its target, by at most a fifth."""
    error = min(max(measured_kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * samples / horizon)


# --- the algorithm ---


class ActorCritic(Module):
    """The policy and its critic, trained together; a critic on the policy itself is a value head."""

    def __init__(self, policy: Any, critic: Scored) -> None:
        self.policy, self.critic = policy, critic


class Learner:
    """PPO of ``policy``, for :func:`lmrs.align.learn`; see :func:`ppo`."""

    def __init__(
        self,
        policy: Any,
        prompts: Sequence[Sequence[int]],
        scorer: Scorer,
        critic: Scored,
        setting: PPO,
        *,
        reference: Any,
        tokenizer: Tokenizer | None,
    ) -> None:
        if not prompts:
            raise InputError("there is no prompt")
        self.policy, self.critic, self.setting = policy, critic, setting
        self.prompts, self.scorer, self.reference, self.tokenizer = prompts, scorer, reference, tokenizer
        self.model = ActorCritic(policy, critic)
        self.control = setting.kl_coef
        self.epochs, self.minibatches = setting.epochs, setting.minibatches

    def settings(self) -> str:
        """See :class:`~lmrs.align.online.Algorithm`."""
        return f"{self.setting} over {len(self.prompts)} prompts"

    def collect(self, iteration: int, *, seed: int) -> "Batch":
        """See :class:`~lmrs.align.online.Algorithm`."""
        s, count, backend = self.setting, len(self.prompts), backend_of(self.policy)
        places = range(iteration * s.prompts, (iteration + 1) * s.prompts)
        numbers = [Shuffled(count, seed, place // count)[place % count] for place in places]
        samples = rollout(
            *(self.policy, self.prompts, numbers),
            max_tokens=s.max_tokens,
            temperature=s.temperature,
            seed=seed,
            iteration=iteration,
            tokenizer=self.tokenizer,
        )
        scores = scored(self.scorer, samples, missing_eos=s.missing_eos)
        examples, lengths = [sample.example for sample in samples], [len(sample.reply) for sample in samples]
        logprobs = np.concatenate([sample.logprobs for sample in samples])
        reference = np.concatenate(measured(self.reference, examples, backend=backend, temperature=s.temperature))
        values = values_of(self.critic, examples, backend=backend)
        with np.errstate(over="ignore"):
            penalties = kl(logprobs, reference, estimator=s.kl_estimator)
        expect_bounded(np.add.reduceat(penalties, np.cumsum([0, *lengths])[:-1]), samples)
        rewards = token_rewards(scores, penalties, lengths, coefficient=self.control)
        rewards = whitened(rewards, shift=False) if s.whiten_rewards else rewards
        advantages = gae(rewards, values, lengths, gamma=s.gamma, lam=s.lam)
        batch = Batch(self, samples, scores, lengths, logprobs, reference, values, advantages)
        self.control = batch.next_coefficient()
        return batch


class Batch:
    """The samples of one iteration and what is known of each of their tokens."""

    def __init__(
        self,
        learner: Learner,
        samples: Sequence[Sample],
        scores: Floats,
        lengths: Sequence[int],
        logprobs: Floats,
        reference: Floats,
        values: Floats,
        advantages: Floats,
    ) -> None:
        self.learner, self.samples, self.scores, self.lengths = learner, samples, scores, lengths
        self.logprobs, self.values, self.returns = logprobs, values, advantages + values
        self.advantages = whitened(advantages)
        self.coefficient, self.told = learner.control, Told()
        self.starts = np.cumsum([0, *lengths])
        penalties = kl(logprobs, reference, estimator=learner.setting.kl_estimator)
        self.kl = np.add.reduceat(penalties, self.starts[:-1])

    def next_coefficient(self) -> float:
        """The KL coefficient of the next iteration."""
        s = self.learner.setting
        if s.kl_target is None:
            return self.coefficient
        mean = float(self.kl.mean())
        return adapted(self.coefficient, mean, len(self.samples), target=s.kl_target, horizon=s.kl_horizon)

    def loss(self, indices: Sequence[int], *, backend: Backend) -> tuple[Value, int] | None:
        """See :class:`~lmrs.align.online.Batchful`."""
        s, learner = self.learner.setting, self.learner
        at = np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in indices])
        examples = [self.samples[i].example for i in indices]
        hidden, labels = states(learner.policy, examples, backend=backend)
        logprobs = predicted(learner.policy, hidden, labels, temperature=s.temperature)
        shared = learner.critic.model is learner.policy
        values = learner.critic.score(hidden) if shared else token_values(learner.critic, examples, backend=backend)
        runaway = False

        def policy_loss(x: Vector) -> Vector:
            nonlocal runaway
            ratio = np.exp(np.minimum(x.numbers - self.logprobs[at], 700))
            if runaway := not ratio.mean() <= s.ratio_limit:
                return v.total(x * 0.0)
            losses = policy_losses(x, self.logprobs[at], self.advantages[at], clip=s.clip)
            cut = losses.numbers > -ratio * self.advantages[at]
            self.told.add(
                loss__policy_avg=losses.numbers,
                policy__clipfrac_avg=np.asarray(cut, np.float64),
                policy__approxkl_avg=(x.numbers - self.logprobs[at]) ** 2 / 2,
                val__ratio=ratio,
                val__ratio_var=np.asarray(ratio.var()),
            )
            return v.total(losses)

        def value_loss(x: Vector) -> Vector:
            losses = value_losses(x, self.values[at], self.returns[at], clip=s.clip_value)
            cut = np.abs(x.numbers - self.values[at]) > s.clip_value
            self.told.add(loss__value_avg=losses.numbers, val__clipfrac_avg=np.asarray(cut, np.float64))
            return v.total(losses) * s.value_coef

        total = through(logprobs, policy_loss, backend=backend)
        if runaway:
            return None
        return ops.add(total, through(values, value_loss, backend=backend)), len(at)

    def metrics(self) -> dict[str, float]:
        """See :class:`~lmrs.align.online.Batchful`."""
        penalty = float(-self.coefficient * self.kl.mean())
        spread = self.returns.var()
        return {
            "objective/kl": float(self.kl.mean()),
            "objective/kl_coef": self.coefficient,
            "objective/entropy": float(-np.add.reduceat(self.logprobs, self.starts[:-1]).mean()),
            "objective/non_score_reward": penalty,
            "objective/rlhf_reward": penalty + float(self.scores.mean()),
            "objective/scores": float(self.scores.mean()),
            "val/num_eos_tokens": float(sum(sample.ended for sample in self.samples)),
            "val/explained_variance": float(1 - (self.returns - self.values).var() / spread) if spread else 0.0,
            "tokens/mean": float(np.mean(self.lengths)),
            **self.told.drain(),
        }


_SETTING = PPO()


def ppo(
    policy: Any,
    prompts: Sequence[Sequence[int]],
    scorer: Scorer,
    *,
    critic: Scored | None = None,
    setting: PPO = _SETTING,
    reference: Any | None = None,
    tokenizer: Tokenizer | None = None,
) -> Learner:
    """PPO of ``policy`` on ``prompts``, token ids, rewarded by ``scorer``; :func:`lmrs.align.learn` runs it.

    ``critic`` is by default a value head on the policy; a :class:`~lmrs.align.reward.Scored` of another model, such as
    a reward model's, is a separate one. ``reference`` is by default ``policy`` with its deltas off; a policy without a
    delta needs one. ``tokenizer`` writes the text of samples, by default the one beside the checkpoint. Raises
    InputError if there is no prompt or no reference.
    """
    held_to = reference_of(policy) if reference is None else reference
    if held_to is policy:
        raise InputError("the policy has no delta to switch off: pass reference=, a model of the starting weights")
    critic = Scored(policy) if critic is None else critic
    return Learner(policy, prompts, scorer, critic, setting, reference=held_to, tokenizer=tokenizer)
