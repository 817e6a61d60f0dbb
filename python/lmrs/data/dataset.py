"""The texts of a dataset of Hugging Face's library, which this one does not import unless it is to open one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmrs.errors import FormatError, InputError

_ON_DISK = ("dataset_info.json", "dataset_dict.json")


def is_dataset(value: Any) -> bool:
    """Whether ``value`` is a ``Dataset``, an ``IterableDataset`` or a dictionary of such: what knows its columns."""
    return hasattr(value, "column_names") and hasattr(value, "features") or _splits(value) is not None


def texts_of(dataset: Any, *, column: str = "text") -> Iterator[str]:
    """The texts in ``column`` of a ``datasets.Dataset`` or ``IterableDataset``, some at a time, in its order.

    Raises InputError for a dictionary of splits (choose one), a column that is not there, or a value that is no text.
    """
    if (splits := _splits(dataset)) is not None:
        raise InputError(f"the dataset has the splits {', '.join(splits)}: give one of them")
    # A dataset that streams may not know its columns before its first row.
    names = dataset.column_names
    if names is not None and column not in names:
        raise InputError(f"the dataset has no column {column!r}; it has {', '.join(names[:8])}")
    chosen = dataset if names is None else dataset.select_columns([column])
    for number, row in enumerate(chosen):
        if not isinstance(row.get(column), str):
            raise InputError(f"row {number} of the dataset: {column} is {row.get(column)!r}, expected a text")
        yield row[column]


def on_disk(path: Path) -> bool:
    """Whether ``path`` is a directory that ``save_to_disk`` wrote."""
    return any((path / name).is_file() for name in _ON_DISK)


def opened(path: Path) -> Any:
    """The dataset, or dictionary of splits, that ``save_to_disk`` wrote to ``path``; its rows stay in their files.

    Raises InputError if ``datasets`` is not installed, FormatError if it cannot read it.
    """
    try:
        from datasets import load_from_disk
    except ModuleNotFoundError:
        raise InputError(f"{path}: reading a dataset needs datasets: pip install lmrs[datasets]") from None
    try:
        return load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: not a dataset: {error}") from None


def _splits(value: Any) -> list[str] | None:
    """The names in a ``DatasetDict``."""
    if not isinstance(value, dict) or not value or not all(hasattr(part, "column_names") for part in value.values()):
        return None
    return [str(name) for name in value]
