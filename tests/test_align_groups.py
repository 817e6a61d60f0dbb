"""GRPO and RLOO: TRL's numbers and gradients on the same log-probabilities and rewards, and their definitions."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrs import align
from lmrs.align import GRPO, RLOO
from lmrs.align import vector as v

TRL = json.loads((Path(__file__).parent / "fixtures" / "align" / "trl_groups.json").read_text())
OLD, REFERENCE, NEW, REWARDS = (np.array(TRL[name]) for name in ("old", "reference", "new", "rewards"))
COUNTS, CLOSE = TRL["counts"], {"rtol": 1e-6, "atol": 1e-9}
PENALTIES = np.add.reduceat(OLD - REFERENCE, np.cumsum([0, *COUNTS])[:-1])


def grouped(x: Any) -> Any:
    return x.reshape(-1, TRL["group"])


@pytest.mark.parametrize("case", TRL["grpo"], ids=lambda case: " ".join(map(str, case["setting"].values())))
def test_grpo_is_trls(case: Any) -> None:
    setting = GRPO(**case["setting"], group=TRL["group"], epsilon_high=0.28, max_tokens=TRL["max_tokens"])
    advantages = setting.advantages(grouped(REWARDS), grouped(PENALTIES)).reshape(-1)
    np.testing.assert_allclose(advantages, case["advantages"], **CLOSE)
    new = v.of(NEW)
    loss = v.mean(setting.losses(new, OLD, REFERENCE, advantages, COUNTS))
    assert float(loss.numbers) == pytest.approx(case["loss"], rel=1e-6)
    np.testing.assert_allclose(v.gradient(loss, new), case["gradient"], **CLOSE)


@pytest.mark.parametrize("case", TRL["rloo"], ids=lambda case: f"normalize={case['normalize']}")
def test_rloo_is_trls(case: Any) -> None:
    setting = RLOO(group=TRL["group"], normalize=case["normalize"], beta=0.05, epsilon_high=0.28)
    advantages = setting.advantages(grouped(REWARDS), grouped(PENALTIES)).reshape(-1)
    np.testing.assert_allclose(advantages, case["advantages"], **CLOSE)
    new = v.of(NEW)
    loss = v.mean(setting.losses(new, OLD, REFERENCE, advantages, COUNTS))
    assert float(loss.numbers) == pytest.approx(case["loss"], rel=1e-6)
    np.testing.assert_allclose(v.gradient(loss, new), case["gradient"], **CLOSE)


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
