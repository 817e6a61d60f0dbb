"""`--json`: the library's results under their own field names."""

import dataclasses
import json
from pathlib import Path

import click
import numpy as np


def print_json(value: object) -> None:
    """One JSON object on one line; dataclasses by their field names, arrays as lists."""
    click.echo(json.dumps(value, default=_plain, ensure_ascii=False, allow_nan=False))


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a {type(value).__name__} has no JSON form")
