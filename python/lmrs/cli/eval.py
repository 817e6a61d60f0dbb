"""`lmrs eval`: judge a model by a task."""

from pathlib import Path
from typing import Any

import click

from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.cli.running import open_engine
from lmrs.cli.threeh import threeh
from lmrs.eval.tasks import TASKS, read
from lmrs.terminal import columns, counting

EXAMPLES = """\b
Examples:
  lmrs eval choices smollm2.gguf arc_easy.jsonl --limit 200
  lmrs eval pairs gpt2 blimp/adjunct_island.jsonl --json
  lmrs eval cloze smollm2.gguf lambada.jsonl --delta my-adapter
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
@click.argument("task", type=click.Choice(list(TASKS)))
@options.model
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--limit", type=click.IntRange(min=1), help="Judge by the first items only.")
@options.delta
@options.as_json
def eval(*, task: str, model: Path, file: Path, limit: int | None, delta: Path | None, as_json: bool) -> None:
    """Judge MODEL by the items in FILE, one JSON object a line.

    TASK says what they are: "choices" have query, choices and gold (the number of the right one); "pairs" have
    sentence_good and sentence_bad; "cloze" items have context and continuation, the last word. Metrics are those of
    lm-evaluation-harness, with bootstrapped standard errors.

    `lmrs eval 3h` judges the stages of alignment; `lmrs eval 3h --help` says by what.

    With --json: {"items", "metrics": {name: {"value", "error"}}, "each": {name: [...]}}.
    """
    items = read(task, file, limit=limit)
    kind = TASKS[task]
    engine = open_engine(model, delta=delta)
    with counting(f"{task} of {file.name}", sum(map(kind.continuations, items))) as told:
        outcome = kind.judge(engine, items, on_done=told)
    if as_json:
        print_json({"items": outcome.items, "metrics": dict(outcome.metrics), "each": dict(outcome.each)})
        return
    rows = [[name, f"{metric.value:.4f}", f"± {metric.error:.4f}"] for name, metric in outcome.metrics.items()]
    columns([f"{file.name}, {outcome.items} items", "", ""], rows)
