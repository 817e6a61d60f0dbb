"""`lmrs eval`: judge a model by tasks."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

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


class _Tasks(click.Command):
    """`3h` judges by several files at once, so it is a command of its own, with options of its own."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args[:1] == ["3h"]:
            return threeh.make_context(f"{info_name} 3h", args[1:], parent=parent, **extra)
        return super().make_context(info_name, args, parent=parent, **extra)


@click.command(cls=_Tasks, epilog=EXAMPLES)
@click.argument("task", type=click.Choice([*TASKS, "classes"]))
@options.model
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--limit", type=click.IntRange(min=1), help="Judge by the first items of each file only.")
@click.option("--template", help="For classes: a text with a slot {field} for each field of an item that it shows.")
@click.option(
    "--word", "words", multiple=True, metavar="CLASS=TEXT", help="For classes: what follows the template; repeatable."
)
@click.option("--label", default="label", show_default=True, help="For classes: the field with the class.")
@click.option("--calibrated", is_flag=True, help="For classes: divide by what inputs that say nothing give.")
@options.plot
@options.delta
@options.dtype
@options.as_json
def eval(
    *,
    task: str,
    model: Path,
    files: tuple[Path, ...],
    limit: int | None,
    template: str | None,
    words: tuple[str, ...],
    label: str,
    calibrated: bool,
    plot: Path | None,
    delta: Path | None,
    dtype: DType | None,
    as_json: bool,
) -> None:
    """Judge MODEL by the items in each FILE, one JSON object a line (.gz too).

    TASK says what they are: "choices" have query, choices and gold (the number of the right one); "pairs" have
    sentence_good and sentence_bad, and a masked model is judged by pseudo-log-likelihood; "cloze" items have context
    and continuation, the last word; "classes" have what --template shows, and their class. Metrics are those of
    lm-evaluation-harness, each with its bootstrapped standard error.

    `lmrs eval 3h` judges the stages of alignment; `lmrs eval 3h --help` says by what.

    With --json: {FILE: {"items", "metrics": {name: {"value", "error"}}, "each": {name: [...]}}}, with several files
    also "all", their items together.
    """
    if (task == "classes") != bool(template and words):
        raise click.UsageError('--template and --word belong to the task "classes", which needs both')
    if task == "classes":
        said = _asked(template or "", words)
        wanted = [_classes(said, file, limit=limit, label=label, calibrated=calibrated) for file in files]
    else:
        wanted = [_items(task, file, limit=limit) for file in files]
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
