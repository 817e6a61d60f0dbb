"""From what the command line names to an engine, with a word on standard error while it loads."""

from pathlib import Path

import lmrs
from lmrs.engine import Engine
from lmrs.terminal import waiting


def open_engine(model: Path, *, dtype: str = "f32", delta: Path | None = None) -> Engine:
    """The engine of a checkpoint, with the delta in the directory `delta` on it."""
    with waiting(f"loading {model.name}"):
        tree = lmrs.load(model)
        return Engine(tree if delta is None else lmrs.delta.load(tree, delta), dtype=dtype)
