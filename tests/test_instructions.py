"""NEFTune by its definition, and tuning on some tasks judged by tasks it never saw."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import lmrs
from lmrs import align, delta, models, train
from lmrs.align.logprobs import measured
from lmrs.backend import native
from lmrs.backend import torch as torch_backend
from lmrs.cli import main
from lmrs.errors import InputError
from lmrs.nn.module import Parameter
from lmrs.train.objective import Example

FIXTURES = Path(__file__).parent / "fixtures" / "models"
IDS = [np.random.default_rng(n).integers(3, 99, n).tolist() for n in (9, 16, 5, 30)]
EXAMPLES = [Example(ids[:-1], ids[1:]) for ids in IDS]
RATE = train.AdamW(learning_rate=1e-2)


def lora(family: str = "llama") -> Any:
    return delta.LoRA(rank=4)(models.load(FIXTURES / family))


def test_noise_is_uniform_and_scaled_by_the_length() -> None:
    objective = train.neftune(train.NextToken(lora(), EXAMPLES), alpha=5.0, seed=1)
    width = objective.model.config.width
    for index, example in enumerate(EXAMPLES):
        noise = objective.noise(index)
        bound = 5.0 / (len(example.ids) * width) ** 0.5
        assert noise.shape == (len(example.ids), width)
        # U(-b, b) has the bound b and the deviation b / √3.
        assert 0.9 * bound < np.abs(noise).max() <= bound * (1 + 1e-6)
        assert noise.std() == pytest.approx(bound / 3**0.5, rel=0.15)
    np.testing.assert_array_equal(objective.in_epoch(0).noise(2), objective.noise(2))
    assert (objective.in_epoch(1).noise(2) != objective.noise(2)).any()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_noise_is_added_to_the_embeddings(family: str) -> None:
    """The table with the noise added to it, each token with a row of its own, gives the same loss."""
    model = models.load(FIXTURES / family)
    objective = train.neftune(train.NextToken(model, EXAMPLES[:1]), alpha=50.0)
    noisy = objective.loss([0], backend="native")[0].item()
    ids = EXAMPLES[0].ids
    table = model.embed.weight.data.numpy().copy()
    rows = np.concatenate([table[list(ids)] + objective.noise(0), table])
    longer = models.load(FIXTURES / family)
    embed = longer.embed
    embed.weight = Parameter(shape=rows.shape, data=native.array(np.ascontiguousarray(rows)).tensor)
    moved = Example(list(range(len(ids))), EXAMPLES[0].labels)
    expected = train.NextToken(longer, [moved]).loss([0], backend="native")[0].item()
    plain = train.NextToken(model, EXAMPLES[:1]).loss([0], backend="native")[0].item()
    assert noisy == pytest.approx(expected, rel=1e-6)
    assert noisy != pytest.approx(plain, rel=1e-4)


def test_packing_backend_and_use_change_nothing() -> None:
    model = lora()
    objective = train.neftune(train.NextToken(model, EXAMPLES), alpha=20.0).in_epoch(3)
    together = objective.loss([0, 1, 2, 3], backend="native")[0].item()
    apart = [objective.loss([index], backend="native")[0].item() for index in range(4)]
    assert together == pytest.approx(sum(apart), rel=1e-5)
    elsewhere = torch_backend.place(models.load(FIXTURES / "llama"))
    same = train.neftune(train.NextToken(elsewhere, EXAMPLES), alpha=20.0).in_epoch(3)
    assert same.loss([1], backend="torch")[0].item() == pytest.approx(apart[1], rel=1e-5)
    # Outside of a loss there is no noise: the model judged is the model saved.
    before = measured(model, EXAMPLES, backend="native")
    for a, b in zip(before, measured(objective.model, EXAMPLES, backend="native"), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(InputError, match="alpha is 0"):
        train.neftune(train.NextToken(model, EXAMPLES), alpha=0)


def test_a_run_with_noise_resumes_to_the_bit(tmp_path: Path) -> None:
    def run(steps: list[int], directory: Path | None) -> dict[str, Any]:
        model = lora()
        for stop in steps:
            objective = train.neftune(train.NextToken(model, EXAMPLES), seed=2)

            def until(step: Any, stop: int = stop) -> None:
                if step.step == stop and stop < 6:
                    raise KeyboardInterrupt

            options: Any = {"optimiser": RATE, "on_step": until, "save_every": 1}
            if directory is not None:
                options |= {"checkpoints": directory, "resume": True}
            try:
                train.fit(objective, steps=6, batch_tokens=24, **options)
            except KeyboardInterrupt:
                model = lora()
        return {path: p.data.numpy() for path, p in model.named_parameters().items() if p.trainable}

    whole, resumed = run([6], None), run([2, 4, 6], tmp_path)
    for path, numbers in whole.items():
        np.testing.assert_array_equal(numbers, resumed[path])


# --- tasks that were never seen ---


def copying(words: list[str], count: int) -> list[list[dict[str, Any]]]:
    return [
        [
            {"role": "user", "content": f"Say {words[n % len(words)]}."},
            {"role": "assistant", "content": words[n % len(words)]},
        ]
        for n in range(count)
    ]


TASKS = {
    "say_animals": copying(["cat", "dog", "cow", "hen"], 8),
    "say_colours": copying(["red", "blue", "green", "grey"], 8),
    "sum_small": [
        [{"role": "user", "content": f"{n} + {n}"}, {"role": "assistant", "content": f"The sum is {2 * n}."}]
        for n in range(8)
    ],
}


def test_a_cluster_is_answered_before_and_after_tuning_on_the_others(smollm2_gguf: Path) -> None:
    model = lmrs.load(smollm2_gguf)
    taught: list[set[str]] = []

    def learn(tasks: Any) -> Any:
        taught.append(set(tasks))
        tuned = delta.LoRA(rank=4)(model)
        conversations = [turns for task in sorted(tasks) for turns in tasks[task][:4]]
        train.fit(
            align.completion(tuned, conversations), steps=3, batch_tokens=256, optimiser=train.AdamW(learning_rate=1e-3)
        )
        return tuned

    (found,) = align.generalisation(
        model,
        learn,
        {name: TASKS[name] for name in ("say_animals", "say_colours")},
        str,
        clusters=["say_colours"],
        limit=3,
    )
    assert taught == [{"say_animals"}]
    assert (found.cluster, found.conversations) == ("say_colours", 3)
    # To repeat a word that was asked for is learnt from animals and used on colours.
    assert found.gain.value > 2 * found.gain.error > 0
    assert found.before.value - found.after.value == pytest.approx(found.gain.value)
    nats, tokens = align.answered(model, TASKS["say_colours"][::3])
    assert found.before.value == pytest.approx(nats.sum() / tokens.sum())
    with pytest.raises(InputError, match="nothing can be held out"):
        align.generalisation(model, learn, TASKS, lambda task: "all")


def test_the_command(smollm2_gguf: Path, tmp_path: Path) -> None:
    for name, conversations in TASKS.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"messages": turns}) for turns in conversations))
    files = [str(tmp_path / f"{name}.jsonl") for name in TASKS]
    arguments = ["tune", str(smollm2_gguf), *files, "--out", str(tmp_path / "out"), "--steps", "2"]
    options = ["--instructions", "--hold-out", "say_colours", "--neftune", "5", "--batch-tokens", "128"]
    done = CliRunner().invoke(main, [*arguments, *options, "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout.splitlines()[-1])
    assert set(said["held_out"]) == {"say_colours"}
    assert said["held_out"]["say_colours"]["after"] != said["held_out"]["say_colours"]["before"] > 0
    assert (tmp_path / "out" / "adapter_config.json").exists()
    wrong = CliRunner().invoke(main, [*arguments[:3], "--hold-out", "x", "--out", str(tmp_path / "other")])
    assert wrong.exit_code == 2
    assert "belong to --instructions" in wrong.output
