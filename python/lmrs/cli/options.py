"""The options that several commands share, so that each is spelled and explained once."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, get_args

import click

from lmrs.batch import Dtype
from lmrs.engine import DType

F = TypeVar("F", bound=Callable[..., object])

model = click.argument("model", type=click.Path(path_type=Path))
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs to read.")
delta = click.option(
    "--delta", type=click.Path(path_type=Path), metavar="DIR", help="A delta directory (PEFT's layout) to put on MODEL."
)

plot = click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE", help="Also a picture: .png, .svg or .pdf (lmrs[plot])."
)

dtype = click.option(
    "--dtype",
    type=click.Choice(get_args(DType)),
    default=None,
    show_default="f32, or what lmrs quantize chose",
    help="How the weights of linear layers are held; fewer bits are faster and less exact.",
)

products = click.option(
    "--dtype",
    type=click.Choice(get_args(Dtype)),
    default="f32",
    show_default=True,
    help="What products are computed in while training; weights stay f32.",
)


def out(what: str) -> Callable[[F], F]:
    """Where a command writes."""
    return click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help=what)


def generation(command: F) -> F:
    """How a completion is made: the options of `lmrs.engine.Writing`."""
    for option in reversed(
        (
            click.option("--max-tokens", default=128, show_default=True, help="Stop after this many."),
            click.option("--temperature", default=0.0, show_default=True, help="0 always takes the likeliest token."),
            click.option("--top-k", default=0, show_default=True, help="Keep the k likeliest tokens (0: all)."),
            click.option("--top-p", default=1.0, show_default=True, help="Keep the fewest tokens with this much p."),
            click.option("--min-p", default=0.0, show_default=True, help="Drop tokens below this part of the best p."),
            click.option("--repetition-penalty", default=1.0, show_default=True, help="Above 1 discourages repeats."),
            click.option("--seed", default=0, show_default=True, help="The same seed gives the same text."),
            click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; repeatable."),
        )
    ):
        command = option(command)
    return command


def text_of(path: str) -> str:
    """The text of a file, of standard input if `path` is `-`."""
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return data.decode()
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{path}: not UTF-8 at byte {error.start}") from error
