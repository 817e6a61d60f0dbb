"""`lmrs chat`: talk with an instruction-tuned model."""

import sys
from pathlib import Path

import click

from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.cli.opening import open_engine
from lmrs.data.chat import ChatTemplate, Message
from lmrs.errors import InputError

EXAMPLES = """\b
Examples:
  lmrs chat smollm2.gguf
  lmrs chat smollm2.gguf --system 'You answer in verse.' --temperature 0.7
  echo 'What is a byte?' | lmrs chat smollm2.gguf --json
"""


@click.command(epilog=EXAMPLES)
@options.model
@click.option("--system", metavar="TEXT", help="Tell the model who it is.")
@click.option("--max-tokens", default=256, show_default=True, help="Longest answer.")
@options.sampling
@options.delta
@options.as_json
def chat(
    *,
    model: Path,
    system: str | None,
    max_tokens: int,
    delta: Path | None,
    as_json: bool,
    **sampling: float,
) -> None:
    """Talk with MODEL, a line a turn; end with Ctrl-D.

    Lines may also be piped in. With --json each answer is one Completion a line, as `lmrs generate --json` prints it.
    """
    engine = open_engine(model, delta=delta)
    template = ChatTemplate.load(model)
    if template is None:
        raise InputError(f"{model} has no chat template: use `lmrs generate`")
    messages = [Message("system", system)] if system else []
    interactive = sys.stdin.isatty() and not as_json
    while (line := _ask(interactive=interactive)) is not None:
        if not line.strip():
            continue
        messages.append(Message("user", line))
        prompt = template.render(messages)
        if as_json:
            completion = engine.generate(prompt, max_tokens=max_tokens, special=False, **sampling)
            print_json(completion)
            answer = completion.text
        else:
            answer = ""
            for piece in engine.stream(prompt, max_tokens=max_tokens, special=False, **sampling):
                click.echo(piece, nl=False)
                answer += piece
            click.echo()
        messages.append(Message("assistant", answer))


def _ask(*, interactive: bool) -> str | None:
    """The next line; None at the end of the input."""
    if interactive:
        click.echo("> ", nl=False, err=True)
    return sys.stdin.readline() or None
