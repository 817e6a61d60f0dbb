"""Losses of alignment: TRL's numbers and gradients on the same log-probabilities, closed forms, and what must hold."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrs.align import CPO, DPO, KTO
from lmrs.align import vector as v
from lmrs.align.cpo import contrast
from lmrs.align.dpo import LOSSES
from lmrs.align.orpo import log_odds_ratio
from lmrs.align.pairwise import Replies
from lmrs.align.vector import Vector
from lmrs.errors import InputError

TRL = json.loads((Path(__file__).parent / "fixtures" / "align" / "trl.json").read_text())
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
CHOSEN, REJECTED, CHOSEN_REFERENCE, REJECTED_REFERENCE = (
    np.array(TRL["logps"][name]) for name in ("chosen", "rejected", "ref_chosen", "ref_rejected")
)
LENGTHS = [np.array(TRL["lengths"][name], float) for name in ("chosen", "rejected")]


def replies(chosen: Any = CHOSEN, rejected: Any = REJECTED) -> Replies:
    return Replies(v.of(chosen), v.of(rejected), CHOSEN_REFERENCE, REJECTED_REFERENCE, *LENGTHS)


@pytest.mark.parametrize("case", TRL["dpo"], ids=lambda case: f"{case['loss']} {case['options'] or ''}")
def test_dpo_is_trls(case: Any) -> None:
    setting = DPO(losses=case["loss"], **case["options"])
    given = replies()
    losses = setting(given).losses
    np.testing.assert_allclose(losses.numbers, case["losses"], **CLOSE)
    for x, expected in zip((given.chosen, given.rejected), case["gradients"], strict=True):
        np.testing.assert_allclose(v.gradient(v.total(losses), x), expected, **CLOSE)


def test_every_loss_of_dpo_is_compared() -> None:
    compared = {case["loss"] for case in TRL["dpo"]}
    # These two TRL computes outside the method that the fixtures are made from; closed forms follow below.
    assert compared | {"sigmoid_norm", "sft"} == set(LOSSES)


def test_losses_without_a_fixture_by_their_definition() -> None:
    n, m = LENGTHS
    logits = CHOSEN / n - REJECTED / m - CHOSEN_REFERENCE / n + REJECTED_REFERENCE / m
    expected = np.log1p(np.exp(-0.1 * logits))
    np.testing.assert_allclose(DPO(losses="sigmoid_norm")(replies()).losses.numbers, expected, **CLOSE)
    sft = DPO(losses="sft")(replies()).losses.numbers
    np.testing.assert_allclose(sft, np.full(7, -CHOSEN.sum() / n.sum()), **CLOSE)
    both = DPO(losses={"sigmoid": 0.8, "sft": 2.0})(replies()).losses.numbers
    np.testing.assert_allclose(both, 0.8 * DPO()(replies()).losses.numbers + 2 * sft, **CLOSE)


@pytest.mark.parametrize("case", TRL["kto"], ids=lambda case: case["loss"])
def test_kto_is_trls(case: Any) -> None:
    ratios = np.concatenate([CHOSEN - CHOSEN_REFERENCE, REJECTED - REJECTED_REFERENCE])
    good = np.repeat([1.0, 0.0], len(CHOSEN))
    setting = KTO(loss=case["loss"], desirable=1.3, undesirable=0.7)
    np.testing.assert_allclose(setting(v.of(ratios), good, case["kl"]).numbers, case["losses"], **CLOSE)


@pytest.mark.parametrize("case", TRL["cpo"], ids=lambda case: f"{case['loss']} {case['label_smoothing']}")
def test_cpo_and_simpo_are_trls(case: Any) -> None:
    setting = CPO(beta=0.3, loss=case["loss"], gamma=0.5, label_smoothing=case["label_smoothing"])
    read = replies().mean() if case["loss"] in ("simpo", "ipo") else replies()
    # TRL shifts the logits by gamma / beta and then multiplies by beta, which is the same.
    np.testing.assert_allclose(contrast(read.chosen - read.rejected, setting).numbers, case["losses"], **CLOSE)


def test_orpo_is_trls() -> None:
    read = replies().mean()
    losses = 0.1 * v.log_sigmoid(log_odds_ratio(read.chosen, read.rejected))
    np.testing.assert_allclose(losses.numbers, TRL["orpo"]["losses"], **CLOSE)


def test_dpo_is_logistic_regression_on_the_log_ratio() -> None:
    given = replies()
    x = 0.1 * ((CHOSEN - CHOSEN_REFERENCE) - (REJECTED - REJECTED_REFERENCE))
    slope = v.gradient(v.total(DPO()(given).losses), given.chosen)
    np.testing.assert_allclose(slope, 0.1 * (1 / (1 + np.exp(-x)) - 1), **CLOSE)


ELEMENTWISE: dict[str, Callable[[Vector], Vector]] = {
    "exp": v.exp,
    "log": lambda x: v.log(v.square(x) + 1),
    "sigmoid": v.sigmoid,
    "softplus": v.softplus,
    "log_sigmoid": v.log_sigmoid,
    "log1mexp": lambda x: v.log1mexp(-v.square(x) - 0.1),
    "clip": lambda x: v.clip(x, -1.0, 1.0),
    "maximum": lambda x: v.maximum(x * x, 0.5 * x),
    "minimum": lambda x: v.minimum(x * x, 1 - x),
    "ordered": lambda x: v.ordered(x) * np.arange(len(x)),
    "mean": lambda x: x - v.mean(x),
    "sums": lambda x: v.square(v.sums(x, [1, len(x) - 1])),
    "division": lambda x: 1 / (v.exp(x) + 2) / (x * x + 1),
    "index": lambda x: x[np.array([0, 0, 1])] * x[1],
}


@pytest.mark.parametrize("name", ELEMENTWISE)
@given(st.lists(st.floats(-3, 3), min_size=2, max_size=6, unique_by=lambda x: round(x, 2)))
def test_derivatives_against_central_differences(name: str, values: list[float]) -> None:
    # Away from the kinks, where there is no derivative to compare.
    x = np.array([value + 1e-3 if abs(value * 4 - round(value * 4)) < 1e-3 else value for value in values])
    weight = np.cos(np.arange(64.0))

    def loss(vector: Vector) -> Vector:
        y = ELEMENTWISE[name](vector)
        return v.total(y * weight[: len(y)])

    leaf = v.of(x)
    found = v.gradient(loss(leaf), leaf)
    h = 1e-6
    for i in range(len(x)):
        step = h * (np.arange(len(x)) == i)
        up, down = (float(loss(v.of(x + sign * step)).numbers) for sign in (1, -1))
        assert found[i] == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-6)


def test_tails_stay_finite() -> None:
    far = v.of([-800.0, 800.0, -1e-300, 0.0])
    for function in (v.sigmoid, v.softplus, v.log_sigmoid):
        y = function(far)
        assert np.isfinite(y.numbers).all()
        assert np.isfinite(v.gradient(v.total(y), far)).all()
    assert v.log1mexp([-1e-12]).numbers == pytest.approx(np.log(1e-12))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: DPO(beta=0.0), "beta"),
        (lambda: DPO(label_smoothing=0.5), "label_smoothing"),
        (lambda: DPO(losses="dop"), "loss is 'dop'"),
        (lambda: DPO(divergence="kl"), "divergence"),
        (lambda: KTO(beta=float("nan")), "beta"),
        (lambda: CPO(loss="x"), "loss"),
    ],
)
def test_settings_out_of_range(make: Any, names: str) -> None:
    with pytest.raises(InputError, match=names):
        make()


def test_the_forward_kl_by_its_definition() -> None:
    """f(u) = -log u, so f'(u) = -1/u of the ratios of both replies (Wang et al. 2024, table 1)."""
    shift = 0.2 * REJECTED_REFERENCE
    given = Replies(v.of(0.2 * CHOSEN), v.of(0.2 * REJECTED), 0.2 * CHOSEN_REFERENCE, shift, *LENGTHS)
    chosen, rejected = (np.exp(0.2 * x) for x in (CHOSEN - CHOSEN_REFERENCE, REJECTED - REJECTED_REFERENCE))
    expected = np.log1p(np.exp(-0.1 * (-1 / chosen + 1 / rejected)))
    np.testing.assert_allclose(DPO(divergence="forward_kl")(given).losses.numbers, expected, rtol=1e-9)


def test_weights_are_how_certain_the_policy_is_of_the_pair() -> None:
    certainty = np.linspace(-3, 0.5, 7)
    given = replace(replies(), certainty=certainty)
    plain, weighted = DPO()(replies()).losses.numbers, DPO(weighted=True)(given).losses
    weights = np.minimum(np.exp(certainty), 1)
    np.testing.assert_allclose(weighted.numbers, weights * plain, **CLOSE)
    # They are constants: the gradient is that of the plain loss, weighted.
    unweighted = replies()
    expected = v.gradient(v.total(DPO()(unweighted).losses), unweighted.chosen)
    np.testing.assert_allclose(v.gradient(v.total(weighted), given.chosen), weights * expected, **CLOSE)
    with pytest.raises(InputError, match="lack"):
        DPO(weighted=True)(replies())


def test_the_shift_of_bco_is_the_mean_of_all_rewards_so_far() -> None:
    memory: dict[str, float] = {}
    chosen, rejected = 0.1 * (CHOSEN - CHOSEN_REFERENCE), 0.1 * (REJECTED - REJECTED_REFERENCE)
    for size in (3, 5, 7):
        moved = [0.1 * size + part[:size] for part in (CHOSEN, REJECTED)]
        given = Replies(
            *(v.of(part) for part in moved),
            *(part[:size] for part in (CHOSEN_REFERENCE, REJECTED_REFERENCE, *LENGTHS)),
            memory=memory,
        )
        losses = DPO(losses="bco_pair")(given).losses.numbers
        seen = [x[:n] + 0.01 * n for n in (3, 5, 7) if n <= size for x in (chosen, rejected)]
        shift = np.concatenate(seen).mean()
        x, y = seen[-2] - shift, seen[-1] - shift
        np.testing.assert_allclose(losses, np.log1p(np.exp(-x)) + np.log1p(np.exp(y)), **CLOSE)
