"""Checkpoints as families see them: transformers' config and tensor names, whatever the file is.

A checkpoint is a directory with ``config.json`` and safetensors (one file, or shards and their index), or a GGUF file,
which carries its config. Files are mapped and tensors read one by one. Pickles are refused: reading one can run code.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lmrs import _rs, hub
from lmrs.errors import ConfigError, InputError
from lmrs.files import read_json
from lmrs.gguf import Translation, translate

_NO_METADATA: Mapping[str, str] = MappingProxyType({})


class Checkpoint:
    """The tensors of a checkpoint by transformers' names, and its config.

    ``config`` is config.json, or what a GGUF file's metadata amounts to; ``metadata`` is ``__metadata__`` of the
    safetensors file, or all of the GGUF file's pairs; ``dtypes`` and ``shapes`` are those in the file, by name.
    """

    path: Path
    config: dict[str, Any]
    metadata: dict[str, Any]
    dtypes: dict[str, str]
    shapes: dict[str, tuple[int, ...]]

    def __init__(self, path: Path, file: _rs.Checkpoint, config: dict[str, Any], gguf: Translation | None) -> None:
        self.path = path
        self.config = config
        self.metadata = file.metadata
        self._file = file
        self._gguf = gguf
        stored = {name: (dtype, tuple(shape)) for name, dtype, shape in file.tensors}
        if gguf is not None:
            stored = {ours: stored[theirs] for ours, theirs in gguf.names.items()}
        self.dtypes = {name: dtype for name, (dtype, _) in stored.items()}
        self.shapes = {name: shape for name, (_, shape) in stored.items()}
        if gguf is not None:
            self.shapes |= {name: self.shapes[name][::-1] for name in gguf.transposed}

    @property
    def names(self) -> list[str]:
        """The names of the tensors, in file order."""
        return list(self.dtypes)

    @property
    def files(self) -> list[Path]:
        """The files that hold the tensors."""
        return self._file.files

    def tensor(self, name: str) -> _rs.Tensor:
        """The tensor in float32, mapped: what is stored otherwise is converted or dequantised where it is used.

        Raises InputError if there is none of that name and FormatError if its encoding cannot be read.
        """
        if name not in self.dtypes:
            raise InputError(f"tensor is {name!r}, expected one of the {len(self.dtypes)} tensors of {self.path}")
        if self._gguf is None:
            return self._file.tensor(name)
        tensor = self._file.tensor(self._gguf.names[name])
        if name in self._gguf.transposed:
            return tensor.transposed()
        if (heads := self._gguf.interleaved.get(name)) is None:
            return tensor
        if (rows := tensor.shape[0]) % (2 * heads):
            raise ConfigError(f"{self.path}: {name} has {rows} rows, expected a multiple of twice its {heads} heads")
        return tensor.unpaired(heads)


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint at ``path``: a directory, a safetensors file with config.json beside it, or a GGUF file.

    Or else what :mod:`lmrs.hub` finds under that name. Raises MissingFileError if a file is not there, FormatError if
    one is not what it claims to be (a pickle is never read), ConfigError for a GGUF file of an architecture or with a
    setting that lmrs does not know.
    """
    path = hub.local(path, hub.MODEL)
    file = _rs.Checkpoint.open(path)
    if not file.is_gguf:
        return Checkpoint(path, file, read_json(_beside(path) / "config.json"), None)
    shapes = {name: shape for name, _, shape in file.tensors}
    try:
        translation = translate(file.metadata, shapes)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return Checkpoint(path, file, translation.config, translation)


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, _rs.Tensor]:
    """Every tensor of a safetensors file (or shard index), in the dtype it is stored in.

    Raises MissingFileError, FormatError.
    """
    file = _rs.Checkpoint.open(path)
    return {name: file.stored(name) for name, *_ in file.tensors}


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, _rs.Tensor], *, metadata: Mapping[str, str] = _NO_METADATA
) -> None:
    """Write ``tensors`` to a safetensors file, each in its own dtype.

    The file appears whole or not at all: the bytes go to a temporary file beside it, reach the disk, and then take its
    name. Tensors may come from the file that is replaced. Raises FileError if it cannot be written.
    """
    _rs.save_safetensors(path, dict(tensors), dict(metadata))


def _beside(path: Path) -> Path:
    return path if path.is_dir() else path.parent
