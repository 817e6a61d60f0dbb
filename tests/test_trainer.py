"""Optimisers, schedules, averages, dropout and loggers; and saves that fail."""

import csv
import errno
import importlib
import os
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers.optimization import Adafactor as TheirAdafactor

from lmrs import models, train
from lmrs.backend import native
from lmrs.backend import torch as torch_backend
from lmrs.errors import ConfigError, FileError, InputError
from lmrs.nn.module import Parameter
from lmrs.train import loggers
from lmrs.train.mlm import Marks
from lmrs.train.optimiser import Optimiser

FIXTURES = Path(__file__).parent / "fixtures" / "models"
DOCUMENTS = [np.random.default_rng(n).integers(3, 99, n).tolist() for n in (40, 7, 25, 64, 3)]
RULES = {"lion": train.Lion(learning_rate=5e-3), "adafactor": train.Adafactor(learning_rate=3e-2)}


def base(family: str = "llama") -> Any:
    return models.load(FIXTURES / family)


def weights(model: Any) -> dict[str, Any]:
    return {path: p.data.numpy() for path, p in model.named_parameters().items() if p.trainable}


def run(model: Any, **options: Any) -> train.History:
    settings: dict[str, Any] = {"steps": 6, "batch_tokens": 32, "accumulate": 2}
    return train.fit(train.clm(model, DOCUMENTS, context=16), **{**settings, **options})


def facts(history: train.History) -> list[tuple[Any, ...]]:
    return [(s.step, s.loss, s.tokens, s.rate, s.norm) for s in history.steps]


def stepped(rule: Any, backend: Any, start: dict[str, Any], gradients: list[dict[str, Any]]) -> dict[str, Any]:
    made = (lambda v: torch.tensor(v)) if backend is torch_backend else (lambda v: native.array(v).tensor)
    ours = {name: Parameter(shape=values.shape, data=made(values)) for name, values in start.items()}
    optimiser = Optimiser(rule, backend)
    for gradient in gradients:
        optimiser.step(ours, {name: made(g) for name, g in gradient.items()}, scale=0.25, factor=0.5)
    return {name: backend.numpy(parameter.data) for name, parameter in ours.items()}


@pytest.mark.parametrize("backend", [native, torch_backend], ids=["native", "torch"])
@pytest.mark.parametrize("name", ["lion", "adafactor"])
def test_the_optimisers(name: str, backend: Any) -> None:
    draw = np.random.default_rng(0)
    start = {"matrix": draw.normal(size=(7, 33)), "vector": draw.normal(size=5)}
    gradients = [{key: draw.normal(size=value.shape) for key, value in start.items()} for _ in range(9)]
    if name == "adafactor":
        ours = stepped(train.Adafactor(learning_rate=6e-2, weight_decay=0.1), backend, start, gradients)
        theirs = {key: torch.nn.Parameter(torch.tensor(value)) for key, value in start.items()}
        groups = [{"params": [theirs["matrix"]], "weight_decay": 0.0}, {"params": [theirs["vector"]]}]
        peer = TheirAdafactor(groups, lr=3e-2, scale_parameter=True, relative_step=False, warmup_init=False)
        for gradient in gradients:
            with torch.no_grad():
                # There decay comes first, of a weight that the size of the step is then taken from.
                size = max(1e-3, float(theirs["matrix"].square().mean().sqrt()))
                shrink = 0.1 * 3e-2 * size * theirs["matrix"].clone()
            for key, parameter in theirs.items():
                parameter.grad = torch.tensor(gradient[key] / 4)
            peer.step()
            with torch.no_grad():
                theirs["matrix"] -= shrink
        expected = {key: value.detach().numpy() for key, value in theirs.items()}
    else:
        ours = stepped(train.Lion(learning_rate=6e-2, weight_decay=0.1), backend, start, gradients)
        expected = {key: value.copy() for key, value in start.items()}
        mean = {key: np.zeros_like(value) for key, value in start.items()}
        for gradient in gradients:
            for key, theta in expected.items():
                g = gradient[key] / 4
                decay = 0.1 * theta if key == "matrix" else 0.0
                expected[key] = theta - 3e-2 * (np.sign(0.9 * mean[key] + 0.1 * g) + decay)
                mean[key] = 0.99 * mean[key] + 0.01 * g
    for key, values in ours.items():
        assert np.abs(values - expected[key]).max() <= 1e-12, key


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("name", RULES)
def test_they_learn_and_resume_to_the_bit(name: str, backend: str, tmp_path: Path) -> None:
    def fresh() -> Any:
        return torch_backend.place(base()) if backend == "torch" else base()

    def kill(step: train.Step) -> None:
        if step.step == 5:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"optimiser": RULES[name], "average": 0.8, "schedule": train.WSD(warmup=2, decay=0.5)}
    whole = run(fresh(), **options)
    assert whole.losses[-1] < whole.losses[0]
    model = fresh()
    with pytest.raises(KeyboardInterrupt):
        run(fresh(), **options, checkpoints=tmp_path, save_every=2, on_step=kill)
    again = run(model, **options, checkpoints=tmp_path, save_every=2, resume=True)
    assert facts(again) == facts(whole)
    module = torch_backend if backend == "torch" else native
    for path, values in whole.average.items():
        assert np.array_equal(module.numpy(values), module.numpy(again.average[path]))


def test_the_average_of_the_weights() -> None:
    model, seen = base(), []
    history = run(model, average=0.75, on_step=lambda _: seen.append(weights(model)))
    expected = seen[0]
    for now in seen[1:]:
        expected = {path: 0.75 * mean + 0.25 * now[path] for path, mean in expected.items()}
    averaged = history.averaged(model)
    for path, values in weights(averaged).items():
        assert np.abs(values - expected[path]).max() <= 1e-6, path
    assert all(np.array_equal(values, seen[-1][path]) for path, values in weights(model).items())
    with pytest.raises(InputError, match="kept no average"):
        run(base(), steps=1).averaged(model)


def test_warm_up_stay_decay() -> None:
    factors = [train.WSD(warmup=4, decay=0.25, floor=0.1)(step, 40) for step in range(40)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert factors[5:31] == [1.0] * 26
    assert factors[30:] == pytest.approx([1 - 0.9 * (step - 30) / 10 for step in range(30, 40)])
    with pytest.raises(InputError, match="decay is 0"):
        train.WSD(decay=0.0)(0, 4)


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5", "albert", "gpt_neox"])
def test_dropout_of_a_family(family: str) -> None:
    """Without randomness it does nothing; in training it drops as a function of (seed, step), on both backends."""
    model = base(family)
    dropped = train.dropout(model, 0.2)

    def objective(tree: Any) -> Any:
        if family == "t5":
            return train.seq2seq(tree, list(zip(DOCUMENTS, DOCUMENTS[1:], strict=False)))
        if family in ("bert", "albert"):
            return train.mlm(tree, DOCUMENTS, context=20, marks=Marks(mask=2, cls=0, sep=1))
        return train.clm(tree, DOCUMENTS, context=16)

    def value(tree: Any, randomness: tuple[int, int] | None) -> float:
        placed = isinstance(next(iter(tree.named_parameters().values())).data, torch.Tensor)
        backend: Any = torch_backend if placed else native
        name: Any = "torch" if placed else "native"
        found: float = backend.value_and_grad(
            lambda: objective(tree).loss([0, 1], backend=name)[0], tree, randomness=randomness
        )[0]
        return found

    still = value(model, None)
    assert value(dropped, None) == still
    assert value(dropped, (0, 1)) == value(dropped, (0, 1))
    assert len({value(dropped, key) for key in ((0, 1), (0, 2), (1, 1))} | {still}) == 4
    assert value(torch_backend.place(dropped), (0, 1)) == pytest.approx(value(dropped, (0, 1)), rel=1e-4)
    # Attention's weights are a place of their own.
    within = [train.dropout(model, rate, attention=share) for rate, share in ((0.2, 0.0), (0.0, 0.2), (0.2, 0.3))]
    assert len({value(tree, (0, 1)) for tree in (dropped, *within)} | {still}) == 5
    assert value(torch_backend.place(within[1]), (0, 1)) == pytest.approx(value(within[1], (0, 1)), rel=1e-4)
    assert train.dropout(model, 0.0) is model
    before = weights(model)
    train.fit(objective(dropped), steps=1, batch_tokens=64)
    assert any(not np.array_equal(values, before[path]) for path, values in weights(model).items())
    with pytest.raises(InputError, match=r"rate is 1\.0"):
        train.dropout(model, 1.0)
    with pytest.raises(InputError, match=r"attention is 1\.5"):
        train.dropout(model, 0.1, attention=1.5)


def test_loggers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, curve = tmp_path / "steps.csv", tmp_path / "curve.png"
    told = loggers.each(
        loggers.to_csv(file), loggers.to_tensorboard(tmp_path / "board"), loggers.to_curve(curve, every=2)
    )
    history = run(base(), on_step=told)
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(int(row["step"]), float(row["loss"]), int(row["tokens"])) for row in rows] == [
        (step.step, step.loss, step.tokens) for step in history.steps
    ]
    assert curve.read_bytes()[:4] == b"\x89PNG"
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    assert [event.step for event in board.Tensors("train/loss")] == list(range(1, 7))
    # A run that resumes at step 4 writes the lines from there on again.
    resumed = loggers.to_csv(file)
    for step in history.steps[3:]:
        resumed(step)
    assert [row.split(",")[0] for row in file.read_text().splitlines()[1:]] == list("123456")
    for module, make in (("tensorboard.summary", loggers.to_tensorboard), ("wandb", loggers.to_wandb)):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ConfigError, match=r"lmrs\[loggers\]"):
            make(*([tmp_path] if module != "wandb" else []))


class Fault:
    """Stands for the system: lets ``after`` writing calls pass, then refuses every one."""

    def __init__(self, after: int, number: int) -> None:
        self.left, self.number, self.calls = after, number, 0

    def __call__(self, real: Any) -> Any:
        def called(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            self.left -= 1
            if self.left < 0:
                raise OSError(self.number, os.strerror(self.number))
            return real(*args, **kwargs)

        return called


@pytest.mark.parametrize("number", [28, 5], ids=["ENOSPC", "EIO"])
def test_a_write_that_fails_anywhere_leaves_the_checkpoint_before(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call of a save that writes, from the first to the last, fails once; the run resumes to the same bits."""
    whole = run(base())
    spots = ["lmrs.train.checkpoint.write_safetensors", "lmrs.train.checkpoint.write_json", "lmrs.files._sync"]
    spots += ["pathlib.Path.replace", "pathlib.Path.mkdir"]
    after = 0
    while True:
        directory, fault = tmp_path / str(after), Fault(after, number)

        def break_it(step: train.Step, fault: Fault = fault) -> None:
            if step.step == 2:
                for spot in spots:
                    owner, name = spot.rsplit(".", 1)
                    real = _resolve(owner)
                    monkeypatch.setattr(spot, fault(getattr(real, name)))

        failure = ""
        try:
            run(base(), checkpoints=directory, save_every=2, steps=6, on_step=break_it)
        except FileError as error:
            failure = str(error)
        monkeypatch.undo()
        found = sorted(path.name for path in directory.iterdir())
        assert all(name.startswith("step-") for name in found), found
        assert len(found) >= 1
        again = run(base(), checkpoints=directory, save_every=2, steps=6, resume=True)
        assert facts(again) == facts(whole)
        if not failure:
            break
        assert os.strerror(number) in failure
        after += 1
    assert after >= 10


def test_a_short_write_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """The system takes part of what is written and refuses the rest: wherever a file stops, the one before is whole."""
    whole = run(base())
    run(base(), checkpoints=tmp_path / "size", steps=4, save_every=4)
    files = {path.name: path.stat().st_size for path in (tmp_path / "size" / "step-00000004").iterdir()}
    largest, smallest = max(files.values()), min(files.values())
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    for most in (1, 7, smallest // 2, smallest - 1, smallest + 1, largest // 3, largest - 1):
        directory = tmp_path / str(most)

        def limit(step: train.Step, most: int = most) -> None:
            if step.step == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, unlimited[1]))

        try:
            with pytest.raises(FileError, match=os.strerror(errno.EFBIG)):
                run(base(), checkpoints=directory, save_every=2, steps=6, on_step=limit)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        assert [path.name for path in directory.iterdir()] == ["step-00000002"]
        again = run(base(), checkpoints=directory, save_every=2, steps=6, resume=True)
        assert facts(again) == facts(whole)


def _resolve(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        owner, attribute = name.rsplit(".", 1)
        return getattr(importlib.import_module(owner), attribute)


def test_batches_are_made_beside_the_model() -> None:
    assert torch_backend.array(np.zeros(2, np.int32)).device.type == "cpu"
    made = []

    def loss() -> Any:
        made.append(torch_backend.array(np.zeros(2, np.int32)))
        return torch.zeros((1, 1))

    model = torch_backend.place(base(), device="meta")
    with pytest.raises(RuntimeError, match="meta"):
        torch_backend.value_and_grad(loss, model)
    assert made[0].device.type == "meta"
