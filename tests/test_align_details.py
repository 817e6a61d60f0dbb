"""The details of PPO (Huang et al. 2022, 2024) as lmrs has them, each a test.

Those that are mathematics are compared with TRL or with a definition in test_align_ppo.py; what holds while a run goes
on is in test_align_online.py.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lmrs
from lmrs import align, delta, models, train
from lmrs.align import online
from lmrs.align.values import values_of
from lmrs.backend import native
from lmrs.initialise import initialise
from lmrs.models import gpt2

FIXTURES = Path(__file__).parent / "fixtures" / "models"
PROMPTS = [np.random.default_rng(n).integers(3, 99, 3 + n % 4).tolist() for n in range(6)]
FAST = train.AdamW(learning_rate=1e-2, eps=1e-5)


def base() -> Any:
    return models.load(FIXTURES / "llama")


def scorer(samples: Any) -> list[float]:
    return [float(np.mean(np.array(sample.reply) < 50)) for sample in samples]


def ppo(policy: Any = None, *, critic: Any = None, **options: Any) -> Any:
    setting = align.PPO(**{"prompts": 4, "max_tokens": 6, "epochs": 2, "minibatches": 2, **options})
    policy = delta.LoRA(rank=4)(base()) if policy is None else policy
    return align.ppo(policy, PROMPTS, scorer, setting=setting, critic=critic)


def test_heads_start_from_a_deviation_of_one_over_the_root_of_width_and_one_and_no_bias() -> None:
    drawn = [align.Scored(base(), seed=seed).score for seed in range(200)]
    weights = np.concatenate([head.weight.data.numpy().ravel() for head in drawn])
    width = base().config.width
    assert weights.std() == pytest.approx((width + 1) ** -0.5, rel=0.03)
    assert abs(weights.mean()) < 4 * (width + 1) ** -0.5 / len(weights) ** 0.5
    assert all(float(head.bias.data.numpy()[0]) == 0.0 for head in drawn)


def test_a_critic_made_of_a_reward_model_starts_as_its_rewards() -> None:
    """The value before a token is drawn is the reward of what stands there."""
    judge = align.Scored(delta.LoRA(rank=4)(base()), seed=3)
    algorithm = ppo(critic=judge)
    batch = algorithm.collect(0, seed=0)
    prefixes = [s.prompt + s.reply[:t] for s in batch.samples for t in range(len(s.reply))]
    np.testing.assert_allclose(batch.values, judge.rewards(prefixes), rtol=1e-4, atol=1e-5)


def test_values_and_rewards_do_not_depend_on_their_company() -> None:
    """There is no padding to mask and none to whiten along."""
    algorithm = ppo()
    batch = algorithm.collect(0, seed=0)
    alone = [values_of(algorithm.critic, [sample.example], backend="native") for sample in batch.samples]
    np.testing.assert_array_equal(batch.values, np.concatenate(alone))


def test_nothing_follows_the_token_that_ends_a_reply() -> None:
    tokenizer = lmrs.Tokenizer.train(["bytes"], vocab_size=257)
    config = gpt2.Config(vocabulary=257, width=32, layers=1, heads=2, context=64, inner=32)
    policy = delta.LoRA(rank=4)(initialise(gpt2.Model(config), seed=0))
    setting = align.PPO(prompts=40, max_tokens=60, missing_eos=1.0)
    learner = align.ppo(policy, [[65]], lambda samples: [0.5] * len(samples), setting=setting, tokenizer=tokenizer)
    batch = learner.collect(0, seed=0)
    ended = [sample for sample in batch.samples if sample.ended]
    assert 0 < len(ended) < 40
    for sample, score in zip(batch.samples, batch.scores, strict=True):
        assert sample.reply.count(tokenizer.eos_id) == (1 if sample.ended else 0)
        assert (sample.reply[-1] == tokenizer.eos_id) is sample.ended
        assert len(sample.reply) == len(sample.logprobs) <= 60
        assert score == (0.5 if sample.ended else -0.5)


def test_dropout_does_nothing() -> None:
    options: Any = {"epochs": 1, "minibatches": 1}
    told = align.learn(ppo(delta.LoRA(rank=4, dropout=0.5)(base()), **options), iterations=2, optimiser=FAST)
    assert [(i.metrics["val/ratio"], i.metrics["val/ratio_var"]) for i in told] == [(1.0, 0.0), (1.0, 0.0)]


def test_the_rate_falls_in_a_line_and_adams_epsilon_is_1e_5() -> None:
    assert online._OPTIMISER.eps == 1e-5
    told = align.learn(ppo(), iterations=4)
    rates = [i.metrics["lr"] for i in told]
    assert rates == pytest.approx([1e-5 * (4 - n) / 4 for n in range(4)])


def test_an_epoch_goes_once_through_all_samples_in_an_order_of_its_own() -> None:
    algorithm = ppo(prompts=6, epochs=3, minibatches=3)
    collect, orders = algorithm.collect, []

    def watched(*given: Any, **named: Any) -> Any:
        batch = collect(*given, **named)
        loss = batch.loss

        def noted(indices: Any, **more: Any) -> Any:
            orders.append(list(indices))
            return loss(indices, **more)

        batch.loss = noted
        return batch

    algorithm.collect = watched
    align.learn(algorithm, iterations=1, optimiser=FAST)
    assert [len(part) for part in orders] == [2] * 9
    epochs = [sum(orders[at : at + 3], []) for at in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_every_prompt_comes_once_before_any_comes_again() -> None:
    algorithm = ppo(prompts=4)
    numbers = [s.number for iteration in range(3) for s in algorithm.collect(iteration, seed=0).samples]
    assert set(Counter(numbers).values()) == {2}
    assert sorted(numbers[:6]) == sorted(numbers[6:]) == list(range(6))
    assert numbers[:6] != numbers[6:]


def test_metrics_by_their_definitions() -> None:
    """KL and entropy a reply, explained variance, the approximate KL, and what is clipped."""
    algorithm = ppo(epochs=1, minibatches=1)
    align.learn(algorithm, iterations=1, optimiser=FAST)
    batch = algorithm.collect(7, seed=0)
    batch.logprobs = batch.logprobs + np.linspace(-0.5, 0.5, len(batch.logprobs))
    batch.loss(range(len(batch.samples)), backend="native")
    told = batch.metrics()
    shift = -np.linspace(-0.5, 0.5, len(batch.logprobs))
    assert told["policy/approxkl_avg"] == pytest.approx((shift**2).mean() / 2, rel=1e-6)
    assert told["val/ratio"] == pytest.approx(np.exp(shift).mean(), rel=1e-6)
    outside = (batch.advantages > 0) & (np.exp(shift) > 1.2) | (batch.advantages < 0) & (np.exp(shift) < 0.8)
    assert told["policy/clipfrac_avg"] == pytest.approx(outside.mean())
    spread = 1 - np.var(batch.returns - batch.values) / np.var(batch.returns)
    assert told["val/explained_variance"] == pytest.approx(spread)
    parts = np.split(batch.logprobs, batch.starts[1:-1])
    assert told["objective/entropy"] == pytest.approx(np.mean([-part.sum() for part in parts]))
    assert told["objective/non_score_reward"] == pytest.approx(-batch.coefficient * batch.kl.mean())
    assert told["objective/rlhf_reward"] == pytest.approx(told["objective/non_score_reward"] + batch.scores.mean())


def test_the_penalty_is_of_the_policy_that_drew() -> None:
    """The KL in the rewards is a constant of the iteration: it does not move with the epochs."""
    policy = delta.LoRA(rank=4)(base())
    algorithm = ppo(policy)
    align.learn(algorithm, iterations=1, optimiser=FAST)
    batch = algorithm.collect(3, seed=0)
    before, returns = batch.kl.copy(), batch.returns.copy()
    for path, parameter in policy.named_parameters().items():
        if parameter.trainable and path.endswith(".b"):
            parameter.data = native.array(parameter.data.numpy() + 0.05).tensor
    batch.loss([0, 1], backend="native")
    np.testing.assert_array_equal(batch.kl, before)
    np.testing.assert_array_equal(batch.returns, returns)


def test_the_norm_of_the_gradient_is_clipped_over_policy_and_critic_together() -> None:
    def moved(clip: float | None) -> float:
        algorithm = ppo(epochs=1, minibatches=1)
        before = {path: p.data.numpy() for path, p in algorithm.model.named_parameters().items() if p.trainable}
        # With an epsilon far above the gradients a step of Adam is in proportion to them.
        align.learn(algorithm, iterations=1, clip=clip, optimiser=train.AdamW(learning_rate=1.0, eps=1e4))
        after = algorithm.model.named_parameters()
        return float(sum(((after[path].data.numpy() - old) ** 2).sum() for path, old in before.items()) ** 0.5)

    norm = align.learn(ppo(epochs=1, minibatches=1), iterations=1)[0].metrics["grad_norm"]
    assert norm > 1e-3
    assert moved(norm / 10) == pytest.approx(moved(None) / 10, rel=0.02)


def test_the_value_loss_has_its_weight() -> None:
    """Where the critic is a model of its own, its gradient is in proportion to the weight of its loss."""

    def gradients(weight: float) -> Any:
        critic = align.Scored(delta.LoRA(rank=4, seed=9)(base()), seed=3)
        algorithm = ppo(critic=critic, value_coef=weight)
        batch = algorithm.collect(0, seed=0)
        return native.value_and_grad(lambda: batch.loss([0, 1, 2], backend="native")[0], algorithm.model)[1]

    one, three = gradients(0.1), gradients(0.3)
    for path, gradient in one.items():
        factor = 3.0 if path.startswith("critic") else 1.0
        np.testing.assert_allclose(three[path].numpy(), factor * gradient.numpy(), rtol=1e-3, atol=1e-6)
