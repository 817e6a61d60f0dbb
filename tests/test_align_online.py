"""Reward models, PPO, GRPO, RLOO: definitions written out slowly, TRL's numbers, the details, and what goes wrong."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrs import align, delta, models, train
from lmrs.align import vector as v
from lmrs.align.logprobs import measured
from lmrs.align.ppo import adapted, gae, kl, policy_losses, token_rewards, value_losses, whitened
from lmrs.backend import native
from lmrs.backend import torch as torch_backend
from lmrs.errors import InputError
from lmrs.train.objective import Example

FIXTURES = Path(__file__).parent / "fixtures"
TRL = json.loads((FIXTURES / "align" / "trl.json").read_text())["ppo"]
PROMPTS = [np.random.default_rng(n).integers(3, 99, 3 + n % 4).tolist() for n in range(6)]
FAST = train.AdamW(learning_rate=1e-2, eps=1e-5)
QUICK = train.AdamW(learning_rate=5e-2, eps=1e-5)


def base(family: str = "llama") -> Any:
    return models.load(FIXTURES / "models" / family)


def lora(**options: Any) -> Any:
    return delta.LoRA(rank=4, **options)(base())


def small_ids(samples: Any) -> list[float]:
    """A reward that can be learnt: how many tokens of the reply are below 50."""
    return [float(np.mean(np.array(sample.reply) < 50)) for sample in samples]


def ppo(policy: Any, scorer: Any = small_ids, **options: Any) -> Any:
    setting = align.PPO(**{"prompts": 4, "max_tokens": 6, "epochs": 2, "minibatches": 2, **options})
    return align.ppo(policy, PROMPTS, scorer, setting=setting)


def grpo(policy: Any, scorer: Any = small_ids, **options: Any) -> Any:
    setting = align.GRPO(**{"prompts": 3, "group": 4, "max_tokens": 6, **options})
    return align.grpo(policy, PROMPTS, scorer, setting=setting)


def rloo(policy: Any, scorer: Any = small_ids, **options: Any) -> Any:
    setting = align.RLOO(**{"prompts": 3, "group": 4, "max_tokens": 6, **options})
    return align.rloo(policy, PROMPTS, scorer, setting=setting)


ALGORITHMS = {"ppo": ppo, "grpo": grpo, "rloo": rloo}


def weights(model: Any) -> dict[str, Any]:
    return {path: p.data.numpy() for path, p in model.named_parameters().items() if p.trainable}


# --- one whole update of PPO, against TRL 0.11 ---


def test_an_update_is_trls() -> None:
    x = {name: np.array(values) for name, values in TRL.items() if isinstance(values, list) and name != "gradients"}
    lengths, close = TRL["counts"], {"rtol": 1e-6, "atol": 1e-9}
    penalties = kl(x["logprobs"], x["reference"], estimator="k1")
    np.testing.assert_allclose(penalties, x["kl"], **close)
    rewards = token_rewards(x["scores"], penalties, lengths, coefficient=0.05)
    np.testing.assert_allclose(rewards, x["rewards"], **close)
    # Apart: padding that TRL whitens along becomes a reward after the end, and there is no padding here.
    np.testing.assert_allclose(whitened(rewards, shift=False), x["whitened"], **close)
    advantages = gae(rewards, x["values"], lengths, gamma=0.97, lam=0.9)
    np.testing.assert_allclose(advantages + x["values"], x["returns"], **close)
    np.testing.assert_allclose(whitened(advantages), x["advantages"], **close)
    new, values = v.of(x["new_logprobs"]), v.of(x["new_values"])
    policy = v.mean(policy_losses(new, x["logprobs"], x["advantages"], clip=0.2))
    value = v.mean(value_losses(values, x["values"], x["returns"], clip=0.2))
    assert float(policy.numbers) == pytest.approx(TRL["policy_loss"], rel=1e-6)
    assert float(value.numbers) == pytest.approx(TRL["value_loss"], rel=1e-6)
    loss = policy + 0.1 * value
    for leaf, expected in zip((new, values), TRL["gradients"], strict=True):
        np.testing.assert_allclose(v.gradient(loss, leaf), expected, **close)


def test_the_adaptive_coefficient_is_trls() -> None:
    coefficient = 0.05
    for measured_kl, expected in zip((0.1, 2.0, 0.45, 0.55), TRL["betas"], strict=True):
        coefficient = adapted(coefficient, measured_kl, 8, target=0.5, horizon=100)
        assert coefficient == pytest.approx(expected)


# --- definitions ---

RAGGED = st.lists(st.integers(1, 6), min_size=1, max_size=4)


@given(RAGGED, st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**32))
def test_gae_by_its_definition(lengths: list[int], gamma: float, lam: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    rewards, values = random.normal(size=(2, sum(lengths)))
    found = gae(rewards, values, lengths, gamma=gamma, lam=lam)
    start = 0
    for length in lengths:
        for t in range(length):
            total = 0.0
            for k in range(t, length):
                following = values[start + k + 1] if k + 1 < length else 0.0
                error = rewards[start + k] + gamma * following - values[start + k]
                total += (gamma * lam) ** (k - t) * error
            assert found[start + t] == pytest.approx(total, abs=1e-9)
        start += length


@given(RAGGED, st.integers(0, 2**32))
def test_lam_1_gives_returns_less_values(lengths: list[int], seed: int) -> None:
    rewards, values = np.random.default_rng(seed).normal(size=(2, sum(lengths)))
    found = gae(rewards, values, lengths, gamma=1.0, lam=1.0) + values
    returns = [part[::-1].cumsum()[::-1] for part in np.split(rewards, np.cumsum(lengths)[:-1])]
    np.testing.assert_allclose(found, np.concatenate(returns), atol=1e-9)


def test_estimators_of_the_kl() -> None:
    random = np.random.default_rng(0)
    p, q = random.dirichlet(np.ones(20), 2)
    draws = random.choice(20, 200_000, p=p)
    exact = float((p * np.log(p / q)).sum())
    logprobs, reference = np.log(p)[draws], np.log(q)[draws]
    assert kl(logprobs, reference, estimator="k1").mean() == pytest.approx(exact, rel=0.02)
    assert kl(logprobs, reference, estimator="k3").mean() == pytest.approx(exact, rel=0.02)
    assert (kl(logprobs, reference, estimator="k3") >= 0).all()
    assert (kl(logprobs, reference, estimator="k2") == (logprobs - reference) ** 2 / 2).all()
    assert kl(logprobs, logprobs, estimator="k3").max() == 0


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=9))
def test_whitening(values: list[float]) -> None:
    x = np.array(values)
    if x.std() < 1e-3:
        return
    y = whitened(x)
    assert y.mean() == pytest.approx(0, abs=1e-9)
    assert y.std(ddof=1) == pytest.approx(1, rel=1e-2)
    np.testing.assert_allclose(whitened(x, shift=False), y + x.mean(), atol=1e-9)


def test_the_score_is_on_the_last_token_alone() -> None:
    rewards = token_rewards(np.array([5.0, 7.0]), np.array([1.0, 2.0, 3.0]), [2, 1], coefficient=0.1)
    np.testing.assert_allclose(rewards, [-0.1, 4.8, 6.7])


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [(1.3, 1.0, False), (1.3, -1.0, True), (0.7, 1.0, True), (0.7, -1.0, False), (1.1, 1.0, True), (0.9, -1.0, True)],
)
def test_clipping_stops_where_it_should(ratio: float, advantage: float, moves: bool) -> None:  # noqa: FBT001
    x = v.of([math.log(ratio)])
    losses = policy_losses(x, np.zeros(1), np.array([advantage]), clip=0.2)
    assert bool(v.gradient(v.total(losses), x)[0]) == moves
    expected = -min(advantage * ratio, advantage * min(max(ratio, 0.8), 1.2))
    assert float(losses.numbers[0]) == pytest.approx(expected)


def test_values_are_clipped_around_their_old_ones() -> None:
    x = v.of([1.0, 0.1])
    losses = value_losses(x, np.zeros(2), np.array([2.0, 2.0]), clip=0.2)
    np.testing.assert_allclose(losses.numbers, [0.5 * 1.8**2, 0.5 * 1.9**2])
    np.testing.assert_allclose(v.gradient(v.total(losses), x), [0.0, -1.9])


@given(
    st.integers(0, 2**32), st.sampled_from(["dapo", "bnpo", "grpo", "dr_grpo"]), st.sampled_from(["token", "sequence"])
)
def test_grpo_by_its_definition(seed: int, kind: Any, importance: Any) -> None:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 5, 4).tolist()
    n = sum(lengths)
    new, old, reference = -random.gamma(2.0, 0.5, (3, n))
    scores = random.normal(size=(2, 2))
    s = align.GRPO(loss=kind, importance=importance, beta=0.04, epsilon_high=0.28, max_tokens=5)
    advantages = s.advantages(scores, np.zeros((2, 2)))
    total, start, per_reply = 0.0, 0, []
    for i, length in enumerate(lengths):
        group = scores[i // 2]
        a = (group[i % 2] - group.mean()) / (group.std(ddof=1) + 1e-4)
        reply = 0.0
        for t in range(start, start + length):
            span = slice(t, t + 1) if importance == "token" else slice(start, start + length)
            ratio = math.exp((new[span] - old[span]).mean())
            gap = reference[t] - new[t]
            reply += -min(ratio * a, min(max(ratio, 0.8), 1.28) * a) + 0.04 * (math.exp(gap) - gap - 1)
        total += reply
        per_reply.append(reply / {"grpo": length, "dr_grpo": 5}.get(kind, 1))
        start += length
    expected = np.mean(per_reply) if kind in ("grpo", "dr_grpo") else total / n
    losses = s.losses(v.of(new), old, reference, advantages.reshape(-1), lengths)
    assert losses.numbers.mean() == pytest.approx(expected, abs=1e-9)


def test_options_of_grpo() -> None:
    scores = np.array([[1.0, 0.0], [5.0, 5.0]])
    none = align.GRPO(scale="none").advantages(scores, scores)
    np.testing.assert_allclose(none, [[0.5, -0.5], [0, 0]])
    batch = align.GRPO(scale="batch").advantages(scores, scores)
    np.testing.assert_allclose(batch, none / (scores.std(ddof=1) + 1e-4))
    x, lengths = v.of([1.0, 0.2]), [1, 1]
    bounded = align.GRPO(delta=1.5).losses(x, np.zeros(2), np.zeros(2), np.array([-1.0, -1.0]), lengths)
    np.testing.assert_allclose(bounded.numbers, [1.5, math.exp(0.2)])
    cispo = align.GRPO(loss="cispo", epsilon_high=0.3).losses(x, np.zeros(2), np.zeros(2), np.ones(2), lengths)
    np.testing.assert_allclose(v.gradient(v.total(cispo), x), [-1.3, -math.exp(0.2)])


def test_rloo_leaves_itself_out() -> None:
    scores, penalties = np.array([[1.0, 2.0, 6.0]]), np.array([[0.0, 1.0, 2.0]])
    rewards = (scores - 0.5 * penalties)[0]
    expected = [r - (rewards.sum() - r) / 2 for r in rewards]
    np.testing.assert_allclose(align.RLOO(beta=0.5, group=3).advantages(scores, penalties)[0], expected)
    x = v.of([-1.0, -2.0, -0.5])
    losses = align.RLOO().losses(x, x.numbers, x.numbers, np.array([2.0, -1.0]), [2, 1])
    # At the first step it is REINFORCE: the gradient of -A·log p of the whole reply.
    np.testing.assert_allclose(v.gradient(v.total(losses), x), [-2.0, -2.0, 1.0])


# --- the loop ---


def recorded(policy: Any, make: Any, **options: Any) -> list[dict[str, float]]:
    found: list[dict[str, float]] = []
    align.learn(
        make(policy, **options), iterations=3, optimiser=FAST, on_iteration=lambda i: found.append(dict(i.metrics))
    )
    return found


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("method", [delta.LoRA(rank=4), delta.Adapter(width=4), delta.Prefix(length=3), delta.IA3()])
def test_the_first_ratio_is_exactly_1(method: Any, temperature: float) -> None:
    policy = method(base())
    options: Any = {"epochs": 1, "minibatches": 1, "temperature": temperature}
    for metrics in recorded(policy, ppo, **options):
        # The weights have moved from iteration to iteration; each starts anew at 1, to the bit.
        assert (metrics["val/ratio"], metrics["val/ratio_var"], metrics["policy/approxkl_avg"]) == (1.0, 0.0, 0.0)
        assert metrics["policy/clipfrac_avg"] == 0.0


def test_the_engine_and_the_update_agree_to_the_bit() -> None:
    policy = lora()
    align.learn(ppo(policy), iterations=1, optimiser=FAST)
    samples = ppo(policy).collect(5, seed=1).samples
    again = measured(policy, [sample.example for sample in samples], backend="native")
    for sample, logprobs in zip(samples, again, strict=True):
        np.testing.assert_array_equal(sample.logprobs, logprobs)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_reward_rises(name: str) -> None:
    policy = lora(targets="*.{q,k,v,o,gate,up,down}")
    options: Any = {"prompts": 24, "kl_coef": 0.0} if name == "ppo" else {"prompts": 6, "group": 6, "beta": 0.0}
    algorithm = ALGORITHMS[name](policy, **options)
    told = align.learn(algorithm, iterations=10, optimiser=QUICK, schedule=train.Constant())
    key = "objective/scores" if name == "ppo" else "reward"
    rewards = [iteration.metrics[key] for iteration in told]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.1


def test_metrics_have_trls_names() -> None:
    names = recorded(lora(), ppo)[0].keys()
    assert names >= {
        *("objective/kl", "objective/entropy", "objective/non_score_reward", "objective/rlhf_reward"),
        *("objective/scores", "policy/approxkl_avg", "policy/clipfrac_avg", "loss/policy_avg", "loss/value_avg"),
        *("val/clipfrac_avg", "val/ratio", "val/ratio_var", "val/num_eos_tokens", "lr"),
    }
    assert recorded(lora(), grpo)[0].keys() >= {
        *("reward", "reward_std", "frac_reward_zero_std", "kl", "entropy", "completions/mean_length"),
        *("completions/clipped_ratio", "clip_ratio/low_mean", "clip_ratio/high_mean"),
    }


def test_at_the_start_there_is_no_kl() -> None:
    metrics = recorded(lora(), ppo)
    assert metrics[0]["objective/kl"] == 0.0
    assert metrics[2]["objective/kl"] != 0.0


def test_the_coefficient_follows_its_target() -> None:
    metrics = recorded(lora(), ppo, kl_target=1e6, kl_horizon=40)
    assert [m["objective/kl_coef"] for m in metrics] == pytest.approx([0.05 * 0.98**n for n in range(3)], rel=1e-6)


def test_a_reply_that_does_not_end_is_penalised() -> None:
    plain = ppo(lora()).collect(0, seed=0)
    fined = ppo(lora(), missing_eos=1.0).collect(0, seed=0)
    ended = np.array([sample.ended for sample in plain.samples])
    np.testing.assert_allclose(plain.scores - fined.scores, 1.0 - ended)
    for sample in plain.samples:
        assert len(sample.reply) == 6 or sample.ended


def test_replies_that_did_not_end_can_be_left_out() -> None:
    batch = grpo(lora(), mask_truncated=True).collect(0, seed=0)
    truncated = [i for i, sample in enumerate(batch.samples) if not sample.ended]
    assert batch.loss(truncated, backend="native") is None


def test_the_critic_is_a_head_on_the_policy_or_a_model_of_its_own() -> None:
    policy = lora()
    shared = ppo(policy)
    assert shared.model.policy is shared.critic.model
    apart = align.ppo(
        policy, PROMPTS, small_ids, critic=align.Scored(lora(), seed=1), setting=align.PPO(prompts=2, max_tokens=4)
    )
    before = weights(apart.critic)
    align.learn(apart, iterations=1, optimiser=FAST)
    assert any(not np.array_equal(values, before[path]) for path, values in weights(apart.critic).items())


def test_native_is_torch() -> None:
    policy = lora()
    algorithm = ppo(policy)
    batch = algorithm.collect(0, seed=0)
    placed = torch_backend.place(algorithm.model)
    value, gradients = native.value_and_grad(lambda: batch.loss([0, 2], backend="native")[0], algorithm.model)
    batch.learner.policy, batch.learner.critic = placed.policy, placed.critic
    batch.learner.critic.model = placed.policy
    other, expected = torch_backend.value_and_grad(lambda: batch.loss([0, 2], backend="torch")[0], placed)
    assert value == pytest.approx(other, rel=1e-3, abs=1e-4)
    for path, gradient in gradients.items():
        np.testing.assert_allclose(gradient.numpy(), expected[path].numpy(), rtol=2e-3, atol=1e-4)


def test_learning_runs_on_torch() -> None:
    policy = torch_backend.place(lora())
    told = align.learn(ppo(policy, epochs=1, minibatches=1), iterations=2, optimiser=FAST)
    assert [i.metrics["val/ratio"] for i in told] == pytest.approx([1, 1], abs=1e-5)


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("moment", ["in a rollout", "after a save"])
def test_a_resumed_run_ends_with_the_same_bits(name: str, moment: str, tmp_path: Path) -> None:
    def run(*, kill: bool = False, **options: Any) -> Any:
        policy, calls = lora(), 0

        def scorer(samples: Any) -> list[float]:
            nonlocal calls
            calls += 1
            if kill and moment == "in a rollout" and calls == 3:
                raise Killed
            return small_ids(samples)

        def heard(iteration: align.Iteration) -> None:
            if kill and moment == "after a save" and iteration.number == 3:
                raise Killed

        extra: Any = {"kl_target": 0.01, "kl_horizon": 20} if name == "ppo" else {}
        algorithm = ALGORITHMS[name](policy, scorer, **extra)
        align.learn(algorithm, iterations=4, optimiser=FAST, on_iteration=heard, **options)
        return weights(algorithm.model)

    whole = run()
    with pytest.raises(Killed):
        run(kill=True, checkpoints=tmp_path, save_every=2 if moment == "in a rollout" else 1)
    again = run(checkpoints=tmp_path, save_every=1, resume=True)
    assert again.keys() == whole.keys()
    assert all(np.array_equal(values, whole[path]) for path, values in again.items())


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    align.learn(ppo(lora()), iterations=1, checkpoints=tmp_path)
    with pytest.raises(InputError, match="algorithm"):
        align.learn(ppo(lora(), clip=0.3), iterations=1, checkpoints=tmp_path, resume=True)


# --- what goes wrong ---


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_reward_that_is_not_finite_is_named_and_changes_nothing(name: str) -> None:
    policy = lora()
    before = weights(policy)
    algorithm = ALGORITHMS[name](policy, lambda samples: [math.nan] * len(samples))
    with pytest.raises(InputError, match=r"the reward of sample 0 \(prompt \d\) is nan"):
        align.learn(algorithm, iterations=1)
    with pytest.raises(InputError, match="numbers for"):
        align.learn(ALGORITHMS[name](policy, lambda samples: [1.0]), iterations=1)
    assert all(np.array_equal(values, before[path]) for path, values in weights(policy).items())


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_groups_that_agree_are_skipped(name: str) -> None:
    policy = lora()
    before = weights(policy)
    told = align.learn(ALGORITHMS[name](policy, lambda samples: [1.0] * len(samples), beta=0.0), iterations=2)
    assert [i.metrics["skipped"] for i in told] == [1.0, 1.0]
    assert told[0].metrics["frac_reward_zero_std"] == 1.0
    assert all(np.array_equal(values, before[path]) for path, values in weights(policy).items())


def test_rewards_without_variance_leave_ppo_finite() -> None:
    policy = lora()
    align.learn(ppo(policy, lambda samples: [0.0] * len(samples), whiten_rewards=True), iterations=2, optimiser=FAST)
    assert all(np.isfinite(values).all() for values in weights(policy).values())


def test_a_ratio_that_runs_away_is_skipped() -> None:
    policy = lora()
    batch = ppo(policy).collect(0, seed=0)
    batch.logprobs -= 900
    assert batch.loss([0, 1], backend="native") is None


def test_an_over_long_prompt_is_named() -> None:
    algorithm = align.ppo(lora(), [[5] * 60], small_ids, setting=align.PPO(prompts=1, max_tokens=8))
    with pytest.raises(InputError, match="prompt 0 has 60 tokens and 8 may follow"):
        algorithm.collect(0, seed=0)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: align.PPO(epochs=0), "epochs"),
        (lambda: align.PPO(temperature=0.0), "temperature"),
        (lambda: align.PPO(kl_coef=math.nan), "kl_coef"),
        (lambda: align.PPO(lam=1.1), "lam"),
        (lambda: align.PPO(kl_estimator="k4"), "kl_estimator"),  # type: ignore[arg-type]
        (lambda: align.GRPO(group=1), "group"),
        (lambda: align.GRPO(loss="x"), "loss"),  # type: ignore[arg-type]
        (lambda: align.RLOO(epsilon=1.0), "epsilon"),
        (lambda: align.ppo(lora(), [], small_ids), "no prompt"),
        (lambda: align.ppo(base(), PROMPTS, small_ids), "no delta"),
        (lambda: align.learn(ppo(lora()), iterations=0), "iterations"),
    ],
)
def test_settings_out_of_range(make: Any, names: str) -> None:
    with pytest.raises(InputError, match=names):
        make()


# --- reward models ---


def pairs() -> list[align.Pair]:
    random = np.random.default_rng(3)
    found = []
    for _ in range(12):
        prompt, low, high = (random.integers(a, b, 4).tolist() for a, b in ((3, 99), (3, 50), (50, 99)))
        ends = [Example([*prompt, *reply][:-1], [-100] * 6 + reply[-1:]) for reply in (low, high)]
        found.append(align.Pair(*ends, margin=0.5))
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_a_reward_model_learns(family: str, tmp_path: Path) -> None:
    pooling: Any = "mean" if family == "bert" else "last"
    model = align.Scored(delta.LoRA(rank=4)(base(family)), pooling=pooling)
    objective = align.reward(model, pairs())
    train.fit(objective, steps=30, batch_tokens=200, optimiser=FAST, schedule=train.Constant())
    assert objective.told.drain().keys() == {"min_reward", "mean_reward", "max_reward", "accuracy", "margin"}
    judged = objective.judged()
    assert judged["accuracy"] > 0.9
    assert judged["calibration"] < 0.3
    align.save_scored(model, tmp_path / "rm")
    again = align.load_scored(base(family), tmp_path / "rm", pooling=pooling)
    sequences = [[3, 4, 5], [6, 7]]
    np.testing.assert_array_equal(model.rewards(sequences), again.rewards(sequences))


def test_bradley_terry_by_its_definition() -> None:
    chosen, rejected, margins = np.random.default_rng(0).normal(size=(3, 5))
    losses = align.BradleyTerry(centering=0.01)(v.of(chosen), v.of(rejected), margins).numbers
    expected = np.log1p(np.exp(-(chosen - rejected - margins))) + 0.01 * (chosen + rejected) ** 2
    np.testing.assert_allclose(losses, expected)


def test_a_reward_model_scores_rollouts() -> None:
    critic = align.Scored(base().frozen())
    assert critic.score.bias is not None
    assert float(critic.score.bias.data.numpy()[0]) == 0.0
    told = align.learn(ppo(lora(), align.by_model(critic)), iterations=1)
    assert math.isfinite(told[0].metrics["objective/scores"])
