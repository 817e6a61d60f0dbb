"""Two processes under torchrun make the steps of one; and bfloat16 on torch.

This file imports little, because each process imports it, too.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmrs import models, train
from lmrs.backend import torch as torch_backend
from lmrs.train.mlm import Marks

FIXTURES = Path(__file__).parent / "fixtures" / "models"
DOCUMENTS = [np.random.default_rng(n).integers(3, 80, n).tolist() for n in (40, 7, 25, 64, 3, 33, 18, 50)]
STEPS = 12


def run(family: str, **options: Any) -> tuple[Any, train.History]:
    model = torch_backend.place(models.load(FIXTURES / family))
    if family == "bert":
        objective: Any = train.mlm(model, DOCUMENTS, context=24, marks=Marks(mask=2, cls=0, sep=1))
    else:
        objective = train.clm(model, DOCUMENTS, context=16)
    rule = train.AdamW(learning_rate=3e-3)
    settings: dict[str, Any] = {"steps": STEPS, "batch_tokens": 64, "accumulate": 2, "optimiser": rule, "save_every": 5}
    return model, train.fit(objective, **settings | options)


def torchrun(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def facts(history: train.History) -> list[list[float]]:
    return [[s.loss, s.norm, s.tokens] for s in history.steps]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert"])
def test_two_processes_make_the_steps_of_one(family: str, tmp_path: Path) -> None:
    """Losses and norms within 1e-5; interrupted and gone on with, by two processes or by one, they are the same."""
    _, alone = run(family)
    torchrun(family, tmp_path / "whole", STEPS)
    found = [json.loads((tmp_path / f"whole.{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1]
    expected = np.array(facts(alone))
    assert np.abs(np.array(found[0]["facts"]) - expected).max() <= 1e-5 * np.abs(expected).max()
    torchrun(family, tmp_path / "part", 7)
    torchrun(family, tmp_path / "part", STEPS)
    resumed = json.loads((tmp_path / "part.1.json").read_text())
    assert resumed == found[0]
    assert len(list((tmp_path / "part").glob("step-*"))) == 2


def test_bfloat16_rounds_products_and_nothing_else() -> None:
    kinds: dict[str, torch.dtype] = {}

    def watched(model: Any) -> Any:
        def loss() -> Any:
            hidden = model.hidden(batch)
            kinds["hidden"] = model.blocks[0].ff.up(hidden).dtype
            value = model.head.loss(hidden, batch.labels)
            kinds["loss"] = value.dtype
            return value

        return loss

    from lmrs.batch import Batch

    model = torch_backend.place(models.load(FIXTURES / "gpt2"))
    batch = Batch.of([[5, 6, 7, 8]], labels=[[6, 7, 8, 9]], backend="torch")
    wide, _ = torch_backend.value_and_grad(watched(model), model)
    assert kinds == {"hidden": torch.float32, "loss": torch.float32}
    narrow, gradients = torch_backend.value_and_grad(watched(model), model, dtype="bf16")
    assert kinds == {"hidden": torch.bfloat16, "loss": torch.float32}
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
    assert narrow != wide
    assert narrow == pytest.approx(wide, rel=1e-2)
    _, ours = run("gpt2", steps=40)
    _, rounded = run("gpt2", steps=40, dtype="bf16")
    assert rounded.losses == pytest.approx(ours.losses, rel=0.03)
    assert np.mean(rounded.losses[-5:]) < np.mean(rounded.losses[:5]) - 0.3


class Enough(Exception):
    pass


def worker(family: str, directory: Path, stop: int) -> None:
    """One process of two: train to ``stop``, keep checkpoints, and say what came of it."""

    def told(step: train.Step) -> None:
        if step.step == stop < STEPS:
            raise Enough

    rank, _ = torch_backend.workers()
    try:
        model, history = run(family, checkpoints=directory, resume=True, on_step=told)
    except Enough:
        return
    weights = {path: p.data.detach().numpy().tolist() for path, p in model.named_parameters().items()}
    directory.with_name(f"{directory.name}.{rank}.json").write_text(
        json.dumps({"facts": facts(history), "weights": weights})
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    worker(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    torch.distributed.destroy_process_group()
