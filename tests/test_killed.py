"""A run that is killed (`kill -9`) again and again ends with the bits of one that never was.

This file imports little, because each killed process imports it, too.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmrs import delta, models, train

FIXTURES = Path(__file__).parent / "fixtures" / "models"
DOCUMENTS = [np.random.default_rng(n).integers(3, 99, n).tolist() for n in (40, 7, 25, 64, 3)]


def base() -> Any:
    return models.load(FIXTURES / "llama")


def lora() -> Any:
    return delta.LoRA(rank=4, dropout=0.1)(base())


KINDS: dict[str, Any] = {
    "full": (base, {"batch_tokens": 32}),
    "lora": (lora, {"batch_tokens": 48}),
    "accumulate": (lora, {"accumulate": 5, "batch_tokens": 16}),
}


def run(kind: str, **more: Any) -> tuple[Any, train.History]:
    make, options = KINDS[kind]
    model = make()
    objective = train.clm(model, DOCUMENTS, context=16)
    return model, train.fit(objective, **options, **more, schedule=train.Constant(), save_every=1)


def killed(kind: str, directory: Path, kills: int) -> int:
    """``kills`` kills, every other one aimed at the writing of a checkpoint, the rest at random; how many hit it."""
    script = (
        "import sys; sys.path[:0] = [sys.argv[2]]\nimport test_killed as t\nfrom lmrs.train import checkpoint as c\n"
        "real = c.Checkpoints.save\n"
        "def told(*a):\n    print('save', flush=True); real(*a); print('saved', flush=True)\n"
        "c.Checkpoints.save = told\n"
        "t.run(sys.argv[3], checkpoints=sys.argv[1], resume=True, steps=10_000)"
    )
    command = [sys.executable, "-c", script, str(directory), str(Path(__file__).parent), kind]
    draw, inside = random.Random(kind), 0
    for number in range(kills):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            # After a `save` the kill comes into a save, after a `saved` into the next step.
            aimed = number % 2 == 0
            wanted = 2 * draw.randint(1, 3) - (1 if aimed else draw.randint(0, 1))
            for count, _line in enumerate(process.stdout, 1):
                if count == wanted:
                    break
            if not aimed:
                time.sleep(draw.uniform(0, 0.003))
            process.kill()
            left = process.stdout.read().split()
            inside += (wanted + len(left)) % 2
        assert process.returncode == -9
    return inside


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_moments(kind: str, tmp_path: Path) -> None:
    """LMRS_KILLS sets how many: `make kills` has 70 of each kind, at least a fifth of them into a save."""
    kills = int(os.environ.get("LMRS_KILLS", "5"))
    inside = killed(kind, tmp_path, kills)
    print(f"{kind}: {kills} kills, {inside} of them while a checkpoint was written")
    assert inside >= max(1, kills // 5)
    made = max(int(path.name.partition("-")[2]) for path in tmp_path.glob("step-*"))

    class Enough(Exception):
        pass

    last: list[train.Step] = []

    def stop(step: train.Step) -> None:
        last.append(step)
        if step.step == made + 3:
            raise Enough

    found = []
    for more in ({"checkpoints": tmp_path, "resume": True}, {}):
        make, options = KINDS[kind]
        model = make()
        objective = train.clm(model, DOCUMENTS, context=16)
        with pytest.raises(Enough):
            train.fit(objective, **options, **more, steps=10_000, schedule=train.Constant(), save_every=1, on_step=stop)
        weights = {path: p.data.numpy() for path, p in model.named_parameters().items()}
        found.append((weights, last[-1].loss, last[-1].norm))
    (resumed, *told), (whole, *expected) = found
    assert told == expected
    assert all(np.array_equal(values, whole[path]) for path, values in resumed.items())
