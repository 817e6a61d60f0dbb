"""Reward models: they learn, their loss is its definition, and they score rollouts."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmrs import align, delta, models, train
from lmrs.align import vector as v
from lmrs.errors import FormatError, MissingFileError
from lmrs.train.objective import Example

FIXTURES = Path(__file__).parent / "fixtures" / "models"
FAST = train.AdamW(learning_rate=1e-2, eps=1e-5)


def base(family: str = "llama") -> Any:
    return models.load(FIXTURES / family)


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
    again = align.load_scored(base(family), tmp_path / "rm")
    sequences = [[3, 4, 5], [6, 7]]
    np.testing.assert_array_equal(model.rewards(sequences), again.rewards(sequences))
    (tmp_path / "rm" / "score.json").write_text('{"pooling": "least"}')
    with pytest.raises(FormatError, match="pooling is 'least', expected one of"):
        align.load_scored(base(family), tmp_path / "rm")
    with pytest.raises(MissingFileError, match="score.json"):
        align.load_scored(base(family), tmp_path)


def test_bradley_terry_by_its_definition() -> None:
    chosen, rejected, margins = np.random.default_rng(0).normal(size=(3, 5))
    losses = align.BradleyTerry(centering=0.01)(v.of(chosen), v.of(rejected), margins).numbers
    expected = np.log1p(np.exp(-(chosen - rejected - margins))) + 0.01 * (chosen + rejected) ** 2
    np.testing.assert_allclose(losses, expected)


def test_a_reward_model_scores_rollouts() -> None:
    critic = align.Scored(base().frozen())
    assert critic.score.bias is not None
    assert float(critic.score.bias.data.numpy()[0]) == 0.0
    prompts = [np.random.default_rng(n).integers(3, 99, 3 + n % 4).tolist() for n in range(6)]
    setting = align.PPO(prompts=4, max_tokens=6, epochs=1)
    learner = align.ppo(delta.LoRA(rank=4)(base()), prompts, align.by_model(critic), setting=setting)
    told = align.learn(learner, iterations=1)
    assert math.isfinite(told[0].metrics["objective/scores"])
