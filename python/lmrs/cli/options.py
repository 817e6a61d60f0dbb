"""The options that several commands share, so that each is spelled and explained once."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

F = TypeVar("F", bound=Callable[..., object])

model = click.argument("model", type=click.Path(path_type=Path))
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs to read.")
delta = click.option(
    "--delta", type=click.Path(path_type=Path), metavar="DIR", help="A LoRA directory (PEFT's layout) to put on MODEL."
)


def sampling(command: F) -> F:
    """How the next token is chosen."""
    for option in (
        click.option("--seed", default=0, show_default=True, help="The same seed gives the same text."),
        click.option("--repetition-penalty", default=1.0, show_default=True, help="Above 1 discourages repeats."),
        click.option("--min-p", default=0.0, show_default=True, help="Drop tokens below this × the best one's p."),
        click.option("--top-p", default=1.0, show_default=True, help="Keep the smallest set with this much p."),
        click.option("--top-k", default=0, show_default=True, help="Keep the k best tokens (0: all)."),
        click.option("--temperature", default=0.0, show_default=True, help="0 always takes the best token."),
    ):
        command = option(command)
    return command


def text_of(path: str) -> str:
    """The text of a file, of standard input if `path` is `-`."""
    if path == "-":
        return sys.stdin.read()
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{path}: not UTF-8 at byte {error.start}") from error
