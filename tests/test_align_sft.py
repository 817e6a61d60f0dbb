"""Instruction data of every shape, mixing and clusters, and the command line of alignment."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

import lmrs
from lmrs import align, train
from lmrs.cli import main
from lmrs.cli.align import _scorer
from lmrs.errors import FormatError, InputError

ASKED = [{"role": "user", "content": "Add 1 and 2."}, {"role": "assistant", "content": "3"}]
SHAPES: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    ({"messages": ASKED}, ASKED),
    ({"conversations": [{"from": "human", "value": "Add 1 and 2."}, {"from": "gpt", "value": "3"}]}, ASKED),
    ({"instruction": "Add 1 and 2.", "input": "", "output": "3"}, ASKED),
    ({"instruction": "Add 1 and 2.", "context": "", "response": "3", "category": "x"}, ASKED),
    ({"prompt": "Add 1 and 2.", "completion": "3"}, ASKED),
    ({"question": "Add 1 and 2.", "answer": "3"}, ASKED),
    ({"instruction": "Add 1 and 2.", "instances": [{"input": "", "output": "3"}]}, ASKED),
    ({"instruction": "Add.", "input": "1 2", "output": "3"}, [{"role": "user", "content": "Add.\n\n1 2"}, ASKED[1]]),
]


def written(tmp_path: Path, *items: Any) -> Path:
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(map(json.dumps, items)))
    return file


@pytest.mark.parametrize(
    ("item", "expected"), SHAPES, ids=lambda value: ",".join(value) if isinstance(value, dict) else ""
)
def test_shapes(item: Any, expected: Any, tmp_path: Path) -> None:
    assert align.instructions(written(tmp_path, item)) == [expected]


@pytest.mark.parametrize(
    ("item", "names"),
    [
        ({"text": "a"}, "item 0: has text"),
        ({"instruction": "a", "output": 3}, "expected texts"),
        ({"instruction": "a", "output": " "}, "does not end"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "expected turns"),
        ({"messages": [{"role": "user", "content": "x"}]}, "does not end"),
    ],
)
def test_bad_items_are_named(item: Any, names: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=names):
        align.instructions(written(tmp_path, item))


def tasks(**sizes: int) -> dict[str, Any]:
    return {
        name: [[{"role": "user", "content": f"{name} {i}"}, ASKED[1]] for i in range(n)] for name, n in sizes.items()
    }


def test_mixing_follows_capped_sizes_and_temperature() -> None:
    mixture = tasks(large=1000, small=10, tiny=1)
    for cap, temperature in ((10**9, 1.0), (100, 1.0), (100, 2.0)):
        shares = {name: min(len(items), cap) ** (1 / temperature) for name, items in mixture.items()}
        drawn = align.mixed(mixture, count=4000, cap=cap, temperature=temperature, seed=3)
        counts = Counter(name for name, _ in drawn)
        for name, share in shares.items():
            p = share / sum(shares.values())
            assert counts[name] / 4000 == pytest.approx(p, abs=4 * (p / 4000) ** 0.5 + 1e-3)
        assert drawn == align.mixed(mixture, count=4000, cap=cap, temperature=temperature, seed=3)
    seen = Counter(turns[0]["content"] for name, turns in drawn if name == "small")
    assert max(seen.values()) - min(seen.values()) <= 1
    with pytest.raises(InputError, match="empty is empty"):
        align.mixed(tasks(empty=0, full=1), count=1)
    with pytest.raises(InputError, match="temperature 0"):
        align.mixed(mixture, count=1, temperature=0.0)


def test_clusters_are_held_out_whole() -> None:
    mixture = tasks(nli_a=2, nli_b=3, qa_a=4)
    rest, kept = align.held_out(mixture, lambda name: name.split("_")[0], clusters=["nli"])
    assert (set(rest), set(kept)) == ({"qa_a"}, {"nli_a", "nli_b"})
    with pytest.raises(InputError, match="cluster x"):
        align.held_out(mixture, lambda name: name.split("_")[0], clusters=["x"])
    with pytest.raises(InputError, match="nothing to learn"):
        align.held_out(mixture, lambda name: name.split("_")[0], clusters=["nli", "qa"])


def test_only_what_the_assistant_says_is_learnt(smollm2_gguf: Path) -> None:
    model = lmrs.load(smollm2_gguf)
    tokenizer = lmrs.Tokenizer.load(smollm2_gguf)
    turns = [*ASKED, {"role": "user", "content": "And 4?"}, {"role": "assistant", "content": "It is 7."}]

    def learnt(**options: Any) -> list[str]:
        objective = align.completion(model, [turns], tokenizer=tokenizer, **options)
        return [tokenizer.decode([i for i in e.labels if i >= 0]) for e in objective.examples]

    assert learnt() == ["It is 7.<|im_end|>"]
    assert learnt(every_turn=True) == ["3<|im_end|>", "It is 7.<|im_end|>"]
    assert learnt(every_turn=True, longest=45) == ["3<|im_end|>"]
    with pytest.raises(InputError, match="none of 1"):
        learnt(longest=5)
    objective = align.completion(model, [turns, ASKED], tokenizer=tokenizer, every_turn=True)
    together = objective.loss([0, 1, 2], backend="native")[0].item()
    apart = sum(objective.loss([index], backend="native")[0].item() for index in range(3))
    assert together == pytest.approx(apart, rel=1e-6)
    assert isinstance(objective, train.NextToken)


def lmrs_align(*arguments: Any) -> Any:
    return CliRunner().invoke(main, ["align", *map(str, arguments), "--json"])


PAIR = {"prompt": "Say hi.", "chosen": " Hello!", "rejected": " No."}


@pytest.mark.parametrize(
    ("algorithm", "item", "metric"),
    [
        ("sft", SHAPES[2][0], "loss"),
        ("dpo", PAIR, "rewards/margins"),
        ("reward", PAIR, "accuracy"),
        ("grpo", {"prompt": "1+1=", "answer": "2"}, "reward"),
    ],
)
def test_the_command(algorithm: str, item: Any, metric: str, smollm2_gguf: Path, tmp_path: Path) -> None:
    file, out = written(tmp_path, item, item), tmp_path / "out"
    options = ["--max-tokens", 2, "--prompts", 1, "--group", 2] if algorithm == "grpo" else []
    found = lmrs_align(algorithm, smollm2_gguf, file, "--out", out, "--steps", 1, "--held-out", file, *options)
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout.splitlines()[-1])
    assert said["algorithm"] == algorithm
    assert metric in said["metrics"][0]
    assert metric.replace("rewards/margins", "loss") in said["held_out"]["before"]
    if algorithm != "grpo":
        # What is held out here was learnt.
        assert said["held_out"]["after"]["loss"] < said["held_out"]["before"]["loss"]
    assert (out / "delta").is_dir() if algorithm == "reward" else any(out.glob("*.safetensors"))


def test_a_verified_answer_is_a_word() -> None:
    def scores(text: str) -> list[float]:
        return _scorer(None, ["5", "a.b"], None, Path())([SimpleNamespace(number=i, text=text) for i in (0, 1)])

    assert scores("It is 5.") == [1, 0]
    assert scores("So 5, or a.b") == [1, 1]
    for text in ("15", "5.2", "-5", "5,000", "3.5", "x5"):
        assert scores(text)[0] == 0


@pytest.mark.parametrize(
    ("algorithm", "item", "names"),
    [
        ("dpo", {"chosen": "a"}, "there is no pair"),
        ("dpo", {"prompt": "a", "chosen": "b", "rejected": "b"}, "dropped: {'identical': 1}"),
        ("ppo", {"prompt": "a"}, "--reward"),
        ("grpo", {"prompt": 3}, "expected a prompt"),
        ("sft", {"text": "a"}, "has text"),
    ],
)
def test_the_command_says_what_is_wrong(
    algorithm: str, item: Any, names: str, smollm2_gguf: Path, tmp_path: Path
) -> None:
    found = lmrs_align(algorithm, smollm2_gguf, written(tmp_path, item), "--out", tmp_path / "out")
    assert found.exit_code == 1
    assert names in " ".join(found.output.split())
    assert not (tmp_path / "out").exists()
