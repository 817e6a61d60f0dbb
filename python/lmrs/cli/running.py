"""From what the command line names to an engine, and from an engine's stream to the terminal."""

from collections.abc import Generator
from pathlib import Path

import click

import lmrs
from lmrs.engine import Completion, Engine
from lmrs.terminal import waiting


def open_engine(model: Path, *, delta: Path | None = None) -> Engine:
    """The engine of a checkpoint, with the delta in the directory `delta` on it."""
    with waiting(f"loading {model.name}"):
        tree = lmrs.load(model)
        return Engine(tree if delta is None else lmrs.delta.load(tree, delta))


def show(stream: Generator[str, None, Completion]) -> Completion:
    """Print the pieces of a stream as they come, and return what they became."""
    while True:
        try:
            click.echo(next(stream), nl=False)
        except StopIteration as end:
            click.echo()
            completion: Completion = end.value
            return completion
