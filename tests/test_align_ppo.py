"""PPO's mathematics: one whole update of TRL's, and definitions written out slowly."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrs.align import vector as v
from lmrs.align.ppo import adapted, gae, kl, policy_losses, token_rewards, value_losses, whitened

TRL = json.loads((Path(__file__).parent / "fixtures" / "align" / "trl.json").read_text())["ppo"]

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
