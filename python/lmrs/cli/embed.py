"""`lmrs embed`: texts to vectors."""

from pathlib import Path
from typing import get_args

import click
import numpy as np

from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.cli.running import open_engine
from lmrs.engine import DType
from lmrs.errors import InputError
from lmrs.ops import Pooling

EXAMPLES = """\b
Examples:
  lmrs embed all-MiniLM-L6-v2 'A cat sat.' 'A dog ran.'
  lmrs embed all-MiniLM-L6-v2 - --json < one-sentence-a-line.txt
"""


@click.command(epilog=EXAMPLES)
@options.model
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@click.option(
    "--pooling",
    type=click.Choice(get_args(Pooling)),
    help="How token vectors become one [default: as the checkpoint says, else mean]",
)
@click.option("--truncate", is_flag=True, help="Cut texts that are longer than the model takes.")
@options.dtype
@options.as_json
def embed(
    *, model: Path, texts: tuple[str, ...], pooling: Pooling | None, truncate: bool, dtype: DType | None, as_json: bool
) -> None:
    """One vector a TEXT (- reads one text a line from standard input).

    Shows how alike the texts are (cosine); with --json: {"embeddings": [[...], ...]}.
    """
    lines = [line for line in options.text_of("-").splitlines() if line] if texts == ("-",) else list(texts)
    if not lines:
        raise InputError("there is no text to embed: standard input holds no line")
    embeddings = open_engine(model, dtype=dtype).embed(lines, pooling=pooling, truncate=truncate)
    if as_json:
        print_json({"embeddings": embeddings})
        return
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    click.echo(f"{len(lines)} vectors of {embeddings.shape[1]}; cosine of each pair:")
    for line, cosines in zip(lines, unit @ unit.T, strict=True):
        click.echo(" ".join(f"{cosine:6.3f}" for cosine in cosines) + f"  {line[:60]}")
