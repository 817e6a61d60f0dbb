"""The texts of a corpus, one after another, whatever holds them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmrs.data.dataset import on_disk, opened, texts_of
from lmrs.errors import FileError, FormatError, InputError, MissingFileError
from lmrs.files import lines

KINDS = ".txt, .jsonl or .parquet (the first two also .gz), or a saved dataset"


def texts(path: Path, *, column: str = "text") -> Iterator[str]:
    """The texts of a file, a few in memory at a time: lines of ``.txt``, the ``column`` of others.

    The first two may be gzipped. A Parquet file needs pyarrow (``pip install lmrs[arrow]``), a directory that the
    ``save_to_disk`` of Hugging Face's ``datasets`` wrote needs that (``lmrs[datasets]``). Raises MissingFileError,
    FileError; FormatError naming file and line for what is not UTF-8 or not JSON; InputError for a missing column, a
    value that is no text, or another kind of file.
    """
    if on_disk(path):
        yield from texts_of(opened(path), column=column)
        return
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file")
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if kind == ".parquet" and path.suffix != ".gz":
        yield from _parquet(path, column)
    elif kind == ".jsonl":
        for where, row in objects(path):
            if column not in row:
                raise InputError(f"{where}: no field {column!r}; it has {', '.join(list(row)[:8])}")
            if not isinstance(row[column], str):
                raise InputError(f"{where}: {column} is {row[column]!r}, expected a text")
            yield row[column]
    elif kind == ".txt":
        for _, line in lines(path):
            yield line
    else:
        raise InputError(f"{path}: expected {KINDS}")


def objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON-lines file, which may be gzipped, each with where it is: ``path:line``.

    Empty lines are passed over. Raises MissingFileError, FileError, and FormatError naming the line that is not UTF-8
    or not an object in JSON.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file")
    for number, line in lines(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{where}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise FormatError(f"{where}: is {type(row).__name__}, expected a JSON object")
        yield where, row


def _parquet(path: Path, column: str) -> Iterator[str]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise InputError(f"{path}: reading Parquet needs pyarrow: pip install lmrs[arrow]") from None
    try:
        with parquet.ParquetFile(path) as file:
            if column not in file.schema_arrow.names:
                raise InputError(f"{path}: no column {column!r}; it has {', '.join(file.schema_arrow.names[:8])}")
            row = 0
            for batch in file.iter_batches(batch_size=256, columns=[column]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    if not isinstance(value, str):
                        raise InputError(f"{path} row {row}: {column} is {value!r}, expected a text")
                    yield value
    except (pyarrow.ArrowInvalid, OSError) as error:
        if isinstance(error, FileError):
            raise
        raise FormatError(f"{path}: not a Parquet file: {error}") from None
