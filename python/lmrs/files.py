"""Directories and files written whole or not at all, and what is read of JSON files and of texts by the line."""

import gzip
import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

from lmrs.errors import FileError, FormatError, InputError, MissingFileError


@contextmanager
def replaced_directory(path: Path, *, names: Collection[str]) -> Iterator[Path]:
    """An empty directory to write into, which takes the place of ``path`` once the block ends without an error.

    Until then what is at ``path`` stays. Files are synced to the disk before the exchange. Raises InputError if there
    is a directory that holds anything but files called ``names``, so that a mistaken path loses nothing, and FileError
    if the system refuses.
    """
    path = path.absolute()
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, expected a directory or nothing")
    if path.exists() and (strange := sorted({entry.name for entry in path.iterdir()} - set(names))):
        raise InputError(f"{path} holds {', '.join(strange[:4])} and is not replaced; choose a new directory")
    fresh = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = _beside(path)
        fresh.mkdir()
        yield fresh
        for entry in (*fresh.iterdir(), fresh):
            _sync(entry)
        if path.exists():
            old = _beside(path)
            path.replace(old)
            fresh.replace(path)
            shutil.rmtree(old)
        else:
            fresh.replace(path)
        _sync(path.parent)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        if fresh is not None:
            shutil.rmtree(fresh, ignore_errors=True)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: what is at ``path`` stays until ``data`` is on the disk.

    Raises FileError if the system refuses.
    """
    path = path.absolute()
    fresh = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(data)
        _sync(fresh)
        fresh.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        fresh.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    """A hidden name in the same directory that nothing has."""
    return path.with_name(f".{path.name}.{token_hex(8)}")


def write_json(path: Path, fields: dict[str, Any]) -> None:
    """Write ``fields``, sorted."""
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file at ``path``. Raises MissingFileError, FileError, FormatError."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file") from None
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise FormatError(f"{path}: is {type(value).__name__}, expected a JSON object")
    return value


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 text, gzipped if it ends in ``.gz``, without their ends, each with its number from 1.

    One at a time is in memory. Raises FileError, and FormatError naming the line that is not UTF-8.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield number, line.decode().rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise FormatError(f"{path}:{number}: not UTF-8 at byte {error.start} of the line") from None
    except (EOFError, OSError) as error:
        raise FileError(f"{path}: {error}") from None
