"""GRPO and RLOO: TRL's numbers and gradients on the same log-probabilities and rewards."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
