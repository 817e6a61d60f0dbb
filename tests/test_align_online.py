"""PPO, GRPO and RLOO as they run: the first ratio is 1, runs resume to the bit, and what goes wrong is named."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmrs import align, delta, models, train
from lmrs.align.logprobs import measured
from lmrs.backend import native
from lmrs.backend import torch as torch_backend
from lmrs.errors import InputError

FIXTURES = Path(__file__).parent / "fixtures"
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


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_a_ratio_that_overflows_changes_no_weight(name: str) -> None:
    policy = lora()
    before = weights(policy)
    batch = ALGORITHMS[name](policy).collect(0, seed=0)
    batch.old -= 900
    batch.advantages[:] = -1.0
    with pytest.raises(InputError, match="the loss is"):
        native.value_and_grad(lambda: batch.loss([0, 1], backend="native")[0], policy)
    assert all(np.array_equal(values, before[path]) for path, values in weights(policy).items())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_kl_that_overflows_is_named(name: str) -> None:
    """A reference to which a reply of the policy is impossible."""
    policy = lora()
    algorithm = ALGORITHMS[name](policy, beta=0.1) if name != "ppo" else ppo(policy, kl_estimator="k3")
    far = base()
    far.head = models.load(FIXTURES / "models" / "llama").head
    scaled = native.array(far.head.weight.data.numpy() * np.float32(1e6))
    far.head.weight = dataclasses.replace(far.head.weight, data=scaled.tensor)
    algorithm.reference = far
    before = weights(policy)
    with pytest.raises(InputError, match=r"the KL of sample \d \(prompt \d\) is"):
        align.learn(algorithm, iterations=1)
    assert all(np.array_equal(values, before[path]) for path, values in weights(policy).items())


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
