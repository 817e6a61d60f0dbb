"""The examples run, on little."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np

ROOT = Path(__file__).parent.parent


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_the_pipeline_of_alignment(tmp_path: Path) -> None:
    words = [f"{a}{b}" for a in ("ba", "de", "ki", "lo", "mu") for b in ("n", "r", "s", "t")]
    random = np.random.default_rng(0)

    def said(marker: str) -> str:
        return " ".join([*random.choice(words, 4), marker])

    before = ["\n\nHuman: " + said("?") + "\n\nAssistant:" for _ in range(40)]
    items = [{"chosen": f"{b} {said('yes')}", "rejected": f"{b} {said('no')}"} for b in before]
    file, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    file.write_text("\n".join(map(json.dumps, items)))
    pipeline = example("align_pipeline")
    steps = dict.fromkeys(pipeline.STEPS, 2) | {"ppo": 1}
    found = pipeline.run(file, out, steps=steps, held_out=8, seeds=1)
    assert list(found) == ["base", "sft", "ppo", "dpo"]
    assert all(set(stages) == {"harmless", "harmful"} for stages in found.values())
    assert found["dpo"]["harmless"].items == 8
    curves = json.loads((out / "curves.json").read_text())
    assert [len(curves[stage]) for stage in ("sft", "reward", "ppo 0", "dpo")] == [2, 2, 1, 2]
    assert curves["ppo 0"]["1"]["val/ratio"] > 0
    assert (out / "3h.png").stat().st_size > 1000
    assert len((ROOT / "examples" / "align_pipeline.py").read_text().splitlines()) < 100


def test_sums_with_a_reward_that_is_checked(tmp_path: Path) -> None:
    file, out = tmp_path / "sums.jsonl", tmp_path / "out"
    wanted = [(a, b) for a in range(50) for b in range(50)]
    file.write_text("\n".join(json.dumps({"question": "?", "answer": f"so <<{a}+{b}={a + b}>>"}) for a, b in wanted))
    sums = example("grpo_sums")
    assert sums.sums(file)[51] == ("1+1=", "2")
    found = sums.run(file, out, steps=2, iterations=1)
    assert found["sums"] == 2500
    assert 0 <= found["curve"][0]["reward"] <= 1
    assert json.loads((out / "sums.json").read_text())["held out before"] == found["held out before"]
