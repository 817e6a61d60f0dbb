"""`lmrs chat`: talk with an instruction-tuned model."""

import sys
from pathlib import Path
from typing import Unpack

import click

from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.cli.running import open_engine, show
from lmrs.engine import DType, Writing

EXAMPLES = """\b
Examples:
  lmrs chat smollm2.gguf
  lmrs chat smollm2.gguf --system 'You answer in verse.' --temperature 0.7
  echo 'What is a byte?' | lmrs chat smollm2.gguf --json
"""


@click.command(epilog=EXAMPLES)
@options.model
@click.option("--system", metavar="TEXT", help="Tell the model who it is.")
@options.generation
@options.delta
@options.dtype
@options.as_json
def chat(
    *, model: Path, system: str | None, delta: Path | None, dtype: DType | None, as_json: bool, **how: Unpack[Writing]
) -> None:
    """Talk with MODEL, a line a turn; end with Ctrl-D.

    Lines may also be piped in. With --json each answer is one Completion a line, as `lmrs generate --json` prints it.
    """
    engine = open_engine(model, delta=delta, dtype=dtype)
    messages = [{"role": "system", "content": system}] if system else []
    while line := _ask(prompt=sys.stdin.isatty()):
        if not line.strip():
            continue
        messages.append({"role": "user", "content": line.rstrip("\n")})
        if as_json:
            completion = engine.generate(messages, **how)
            print_json(completion)
        else:
            completion = show(engine.stream(messages, **how))
        messages.append({"role": "assistant", "content": completion.text})


def _ask(*, prompt: bool) -> str:
    """The next line, empty at the end of the input."""
    if prompt:
        click.echo("> ", nl=False, err=True)
    return sys.stdin.readline()
