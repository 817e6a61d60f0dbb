"""`lmrs eval`: judge a model by tasks."""

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import click

from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.cli.running import open_engine
from lmrs.cli.threeh import threeh
from lmrs.engine import DType, Engine
from lmrs.errors import InputError
from lmrs.eval import plot as pictures
from lmrs.eval.outcome import Outcome, pooled
from lmrs.eval.rows import objects
from lmrs.eval.tasks import TASKS, Heard, read
from lmrs.prompting import Task, Template, Verbalizer
from lmrs.terminal import columns, counting

Judge = Callable[[Engine, Heard], Outcome]
EXAMPLES = """\b
Examples:
  lmrs eval choices smollm2.gguf arc_easy.jsonl --limit 200
  lmrs eval pairs gpt2 blimp/*.jsonl --plot blimp.png
  lmrs eval cloze smollm2.gguf lambada.jsonl.gz --delta my-adapter --json
  lmrs eval classes smollm2.gguf reviews.jsonl --template "{text} It was" --word "good= great" --word "bad= awful"
"""


F = TypeVar("F", bound=Callable[..., object])


def _judging(command: F) -> F:
    """What every task but `3h` is given: the parameters of `_judge`."""
    for parameter in reversed(
        (
            options.model,
            click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path)),
            click.option("--limit", type=click.IntRange(min=1), help="Judge by the first items of each file only."),
            options.plot,
            options.delta,
            options.dtype,
            options.as_json,
        )
    ):
        command = parameter(command)
    return command


@click.group(epilog=EXAMPLES)
def eval() -> None:
    """Judge a model by items, one JSON object a line (.gz too).

    Metrics are those of lm-evaluation-harness, each with its bootstrapped standard error. With --json: {FILE:
    {"items", "metrics": {name: {"value", "error"}}, "each": {name: [...]}}}, with several files also "all", their items
    together.
    """


eval.add_command(threeh)


@eval.command()
@_judging
def choices(**given: Any) -> None:
    """Judge MODEL by questions: each has a query, choices, and gold, the number of the right one."""
    _judge_by("choices", **given)


@eval.command()
@_judging
def pairs(**given: Any) -> None:
    """Judge MODEL by minimal pairs: sentence_good and sentence_bad.

    A masked model is judged by pseudo-log-likelihood.
    """
    _judge_by("pairs", **given)


@eval.command()
@_judging
def cloze(**given: Any) -> None:
    """Judge MODEL by last words: each item has a context and a continuation."""
    _judge_by("cloze", **given)


def _judge_by(task: str, *, files: tuple[Path, ...], limit: int | None, **given: Any) -> None:
    _judge(task, files, [_items(task, file, limit=limit) for file in files], **given)


@eval.command()
@_judging
@click.option("--template", required=True, help="A text with a slot {field} for each field of an item that it shows.")
@click.option(
    "--word", "words", required=True, multiple=True, metavar="CLASS=TEXT", help="What follows the template; repeatable."
)
@click.option("--label", default="label", show_default=True, help="The field with the class.")
@click.option("--calibrated", is_flag=True, help="Divide by what inputs that say nothing give.")
def classes(
    *,
    files: tuple[Path, ...],
    limit: int | None,
    template: str,
    words: tuple[str, ...],
    label: str,
    calibrated: bool,
    **given: Any,
) -> None:
    """Judge MODEL by which words it expects after each item, one for each class."""
    said = _asked(template, words)
    _judge(
        "classes",
        files,
        [_classes(said, file, limit=limit, label=label, calibrated=calibrated) for file in files],
        **given,
    )


def _judge(
    task: str,
    files: Sequence[Path],
    wanted: Sequence[tuple[int, Judge]],
    *,
    model: Path,
    plot: Path | None,
    delta: Path | None,
    dtype: DType,
    as_json: bool,
) -> None:
    engine = open_engine(model, delta=delta, dtype=dtype)
    outcomes: dict[str, Outcome] = {}
    for file, (total, judge) in zip(files, wanted, strict=True):
        with counting(f"{task} of {file.name}", total) as told:
            outcomes[str(file) if file.name in outcomes else file.name] = judge(engine, told)
    if len(files) > 1:
        outcomes["all"] = pooled(list(outcomes.values()))
    if plot is not None:
        pictures.outcomes(plot, outcomes)
    if as_json:
        print_json(outcomes)
        return
    metrics = list(next(iter(outcomes.values())).metrics)
    rows = [
        [name, f"{outcome.items:,}", *(_shown(outcome, metric) for metric in metrics)]
        for name, outcome in outcomes.items()
    ]
    columns(["", "items", *metrics], rows)


def _shown(outcome: Outcome, metric: str) -> str:
    found = outcome.metrics[metric]
    return f"{found.value:.4f} ± {found.error:.4f}"


def _items(task: str, file: Path, *, limit: int | None) -> tuple[int, Judge]:
    """How many continuations the items of ``file`` have, and how they are judged."""
    items, kind = read(task, file, limit=limit), TASKS[task]
    return sum(map(kind.continuations, items)), lambda engine, told: kind.judge(engine, items, on_done=told)


def _classes(task: Task, file: Path, *, limit: int | None, label: str, calibrated: bool) -> tuple[int, Judge]:
    rows = list(islice(objects(file), limit))
    for where, row in rows:
        if label not in row:
            raise InputError(f"{where}: no field {label!r}; it has {', '.join(list(row)[:8])}")
        try:
            task.template.fill(row)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    labels = [str(row[label]) for _, row in rows]
    examples = [row for _, row in rows]

    def judge(engine: Engine, told: Heard) -> Outcome:
        return task.judge(engine, examples, labels, calibrated=calibrated, on_done=told)

    words = 0 if task.verbalizer is None else len(task.verbalizer.every)
    return len(rows) * words, judge


def _asked(template: str, words: tuple[str, ...]) -> Task:
    said: dict[str, list[str]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise click.UsageError(f'--word is {word!r}, expected CLASS=TEXT, such as "good= great"')
        said.setdefault(name, []).append(text)
    return Task(Template(template), Verbalizer(said))
