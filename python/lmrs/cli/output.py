"""What commands print: results to standard output, progress to standard error."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

ERRORS = Console(stderr=True)


def print_json(value: object) -> None:
    """One JSON object on one line; dataclasses by their field names, arrays as lists."""
    click.echo(json.dumps(value, default=_plain, ensure_ascii=False))


def print_facts(facts: dict[str, object]) -> None:
    """Names and values, a line each."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))
    Console().print(table)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A spinner on standard error while something takes as long as it takes."""
    with ERRORS.status(what):
        yield


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a {type(value).__name__} has no JSON form")
