"""Where the steps of a run are told to: functions for ``fit(on_step=…)``."""

import csv
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from lmrs import pictures
from lmrs.errors import ConfigError
from lmrs.files import replace_file
from lmrs.train.run import Step

OnStep = Callable[[Step], object]
_TOLD = ("loss", "rate", "norm", "tokens")


def each(*loggers: OnStep) -> OnStep:
    """Tell every step to all of ``loggers``, in turn."""

    def told(step: Step) -> None:
        for logger in loggers:
            logger(step)

    return told


def to_csv(path: str | os.PathLike[str]) -> OnStep:
    """A line a step in a CSV file, flushed at once, under a header with the names of :class:`~lmrs.train.Step`.

    A resumed run goes on behind the step it resumes from: later lines, of steps that were lost, are cut off.
    """
    file = Path(path)
    header = [field.name for field in fields(Step)]
    begun = False

    def told(step: Step) -> None:
        nonlocal begun
        if not begun:
            kept = _lines_before(file, step.step, header)
            replace_file(file, "".join(line + "\n" for line in kept).encode())
            begun = True
        with file.open("a", newline="", encoding="utf-8") as lines:
            csv.writer(lines, lineterminator="\n").writerow(asdict(step).values())

    return told


def _lines_before(file: Path, step: int, header: Sequence[str]) -> list[str]:
    first = ",".join(header)
    if not file.is_file():
        return [first]
    lines = file.read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines[1:] if line.split(",")[0].isdigit() and int(line.split(",")[0]) < step]
    return [first, *rows]


def to_tensorboard(directory: str | os.PathLike[str]) -> OnStep:
    """Scalars for TensorBoard. Raises ConfigError without the package tensorboard (``lmrs[loggers]``)."""
    try:
        from tensorboard.summary import Writer
    except ImportError:
        raise ConfigError("writing for TensorBoard needs it: pip install 'lmrs[loggers]'") from None
    writer = Writer(os.fspath(directory))

    def told(step: Step) -> None:
        for name in _TOLD:
            writer.add_scalar(f"train/{name}", getattr(step, name), step.step)
        writer.flush()

    return told


def to_wandb(**settings: Any) -> OnStep:
    """Scalars for Weights & Biases, in a run of ``wandb.init(**settings)``. Raises ConfigError without ``wandb``."""
    try:
        import wandb
    except ImportError:
        raise ConfigError("logging to Weights & Biases needs wandb: pip install 'lmrs[loggers]'") from None
    run = wandb.init(**settings)
    return lambda step: run.log({f"train/{name}": getattr(step, name) for name in _TOLD}, step=step.step)


def to_curve(path: str | os.PathLike[str], *, every: int = 50) -> OnStep:
    """The loss so far as a picture (PNG, SVG, PDF by the name), drawn again every so many steps, whole or not at all.

    Raises InputError without matplotlib (``lmrs[plot]``), or for another kind of file.
    """
    pictures.figure(7, 4)  # what is missing is said before the run, not in it
    losses: list[tuple[int, float]] = []

    def told(step: Step) -> None:
        losses.append((step.step, step.loss))
        if step.step % every and len(losses) > 1:
            return
        figure = pictures.figure(7, 4)
        axes = figure.add_subplot(xlabel="step", ylabel="loss, nats a token")
        axes.plot(*zip(*losses, strict=True))
        pictures.save(figure, path)

    return told
