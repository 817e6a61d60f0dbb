"""`lmrs demo`: the whole story in two minutes."""

from pathlib import Path

import click

import lmrs.demo
from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.demo.report import Table
from lmrs.terminal import columns

EXAMPLES = """\b
Examples:
  lmrs demo
  lmrs demo --model smollm2.gguf --report smollm2.html
"""


@click.command(epilog=EXAMPLES)
@click.option("--model", type=click.Path(path_type=Path), help="Tune this checkpoint in place of a model of its own.")
@click.option(
    "--report", type=click.Path(path_type=Path), default="report.html", show_default=True, help="The page to write."
)
@click.option("--steps", type=click.IntRange(min=1), help="Steps of each training [default: about two minutes in all]")
@options.as_json
def demo(*, model: Path | None, report: Path, steps: int | None, as_json: bool) -> None:
    """Live through a language model's life: train, judge, tune, prefer, write.

    Trains a small GPT from scratch on Shakespeare, measures its perplexity, tunes it with LoRA to the inaugural
    addresses of presidents, teaches it by DPO to prefer what was written to what it writes, lets all write, and puts
    curves, tables and texts on one HTML page. The texts ship with the package; nothing is fetched. With --json:
    {"report", "seconds", "tables"}.
    """
    outcome = lmrs.demo.run(report, model=model, steps=steps)
    tables = [item for section in outcome.sections for item in section.items if isinstance(item, Table)]
    if as_json:
        print_json({"report": outcome.report, "seconds": outcome.seconds, "tables": tables})
        return
    for table in tables:
        columns(table.header, table.rows)
    click.echo(f"{outcome.report}: open it in a browser ({outcome.seconds:.0f} seconds)")
