"""What a person at a terminal sees: facts to standard output; progress, spinners and live losses to standard error."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

OUT = Console()
ERR = Console(stderr=True)

LINES_WITHOUT_TERMINAL = 10


def facts(rows: Mapping[str, object]) -> None:
    """Names and values, a line each; whole numbers with thousands separated."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    OUT.print(table)


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; all columns but the first are numbers."""
    table = Table(box=SIMPLE_HEAD)
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    OUT.print(table)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A spinner while something takes as long as it takes."""
    with ERR.status(what):
        yield


@contextmanager
def running(what: str) -> Iterator[Callable[[str], None]]:
    """A spinner for work whose end is not known: give it how far it is. Without a terminal, a plain line a minute."""
    last = time.monotonic()

    with ERR.status(what) as status:

        def told(progress: str) -> None:
            nonlocal last
            status.update(f"{what}: {progress}")
            if not ERR.is_terminal and time.monotonic() - last > 60:
                ERR.print(f"{what}: {progress}")
                last = time.monotonic()

        yield told


@contextmanager
def stages() -> Iterator[Callable[[str, int, int | None], None]]:
    """A live bar for work in stages: give it the stage's name, how much is done, and of how much if that is known."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=ERR, disable=not ERR.is_terminal) as progress:
        task = progress.add_task("")
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)


@contextmanager
def losses(what: str, steps: int, *, unit: str = "tokens") -> Iterator[Callable[[float, int], None]]:
    """A live line for a training run: give it the loss and the tokens (or what ``unit`` says) of each step.

    Where there is no terminal, ten plain lines in place of the live one.
    """
    start, done, seen = time.perf_counter(), 0, 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=ERR, disable=not ERR.is_terminal) as progress:
        task = progress.add_task(what, total=steps, loss=float("nan"), rate="")

        def step(loss: float, count: int) -> None:
            nonlocal done, seen
            done, seen = done + 1, seen + count
            speed = seen / (time.perf_counter() - start)
            rate = f"{speed:,.0f} {unit}/s" if speed >= 10 else f"{speed:.1f} {unit}/s"
            progress.update(task, advance=1, loss=loss, rate=rate)
            if not ERR.is_terminal and done % max(1, steps // LINES_WITHOUT_TERMINAL) == 0:
                ERR.print(f"{what}: step {done}/{steps}, loss {loss:.3f}, {rate}")

        yield step


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for work of ``total`` equal parts: give it the number of those done."""
    with Progress(console=ERR, disable=not ERR.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[str], None]]:
    """A live line for work in equal parts that have something to say: give it what each said.

    Where there is no terminal, ten plain lines in place of the live one.
    """
    done = 0
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    said = TextColumn("{task.fields[said]}", markup=False)
    with Progress(*columns, said, console=ERR, disable=not ERR.is_terminal) as bar:
        task = bar.add_task(what, total=total, said="")

        def part(saying: str) -> None:
            nonlocal done
            done += 1
            bar.update(task, advance=1, said=saying)
            if not ERR.is_terminal and done % max(1, total // LINES_WITHOUT_TERMINAL) == 0:
                ERR.print(f"{what}: {done}/{total}, {saying}", markup=False)

        yield part
