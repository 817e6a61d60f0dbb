"""From what the command line names to an engine, and from an engine's stream to the terminal."""

from collections.abc import Generator
from pathlib import Path

import click

import lmrs
from lmrs.engine import CACHE_BYTES, Completion, DType, Engine
from lmrs.terminal import waiting


def open_engine(
    model: Path,
    *,
    delta: Path | None = None,
    dtype: DType | None = None,
    cache: Path | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> Engine:
    """The engine of a checkpoint, with the delta in the directory `delta` on it, its weights held as `dtype`."""
    with waiting(f"loading {model.name}"):
        tree = lmrs.load(model)
        tuned = tree if delta is None else lmrs.delta.load(tree, delta)
        return Engine(tuned, dtype=dtype, cache=cache, cache_bytes=cache_bytes)


def show(stream: Generator[str, None, Completion], *, after: str = "") -> Completion:
    """Print the pieces of a stream as they come, the first one behind `after`, and return what they became."""
    while True:
        try:
            piece = next(stream)
        except StopIteration as end:
            click.echo(after)
            completion: Completion = end.value
            return completion
        click.echo(after + piece, nl=False)
        after = ""
