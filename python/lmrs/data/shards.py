"""Documents as token ids in a directory of shards, written once and memory-mapped.

A directory has ``tokens-00000.bin``, the ids of documents one after another, ``ends-00000.bin``, int64, where each
ends, more such pairs, the tokenizer's files, and ``shards.json``, written last, which says how many shards there are
and of which type. A shard holds whole documents. Which of them a step of training sees is not in the files:
:class:`lmrs.train.order.Shuffled` makes it a function of (seed, epoch, index).
"""

import copy
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from lmrs.data.dataset import is_dataset, texts_of
from lmrs.errors import FormatError, InputError
from lmrs.files import read_json, replaced_directory, write_json
from lmrs.tokenizer import Tokenizer

Ids = npt.NDArray[Any]
_FORMAT, _MANIFEST = "lmrs shards 1", "shards.json"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
_TEXTS_AT_ONCE = 256


class Shards(Sequence[Ids]):
    """The documents of a directory that :func:`pack` wrote: document ``i`` is a mapped array of ids, uint16 or uint32.

    ``tokens`` is how many there are in all, ``special`` whether documents have special tokens around them. A slice is
    the same files with fewer documents. Raises MissingFileError, and FormatError if a file is not what the manifest
    says.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        manifest = read_json(self.directory / _MANIFEST)
        if manifest.get("format") != _FORMAT or manifest.get("dtype") not in ("uint16", "uint32"):
            raise FormatError(f"{self.directory / _MANIFEST} is not a {_FORMAT!r}")
        self.vocabulary: int = manifest["vocabulary"]
        self.tokens: int = manifest["tokens"]
        self.special: bool = manifest.get("special", True)
        self._parts: list[tuple[Ids, Ids]] = []
        for number in range(manifest["shards"]):
            paths = [self.directory / f"{kind}-{number:05}.bin" for kind in ("tokens", "ends")]
            for path in paths:
                if not path.is_file():
                    raise FormatError(f"{self.directory / _MANIFEST} names {path.name}, which is not there")
            tokens = np.memmap(paths[0], manifest["dtype"], "r")
            ends = np.memmap(paths[1], np.int64, "r")
            if ends[-1] != len(tokens) or (np.diff(ends, prepend=0) < 1).any():
                raise FormatError(f"{paths[1]}: documents do not end where {paths[0].name} does")
            self._parts.append((tokens, ends))
        self._firsts = np.cumsum([0, *(len(ends) for _, ends in self._parts)]).tolist()
        if sum(len(tokens) for tokens, _ in self._parts) != self.tokens:
            raise FormatError(f"{self.directory} does not hold the {self.tokens} tokens that {_MANIFEST} says")
        self._shown = range(self._firsts[-1])

    def __len__(self) -> int:
        return len(self._shown)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """How many tokens each document has."""
        whole = np.concatenate([np.diff(ends, prepend=0) for _, ends in self._parts])
        return whole[self._shown.start : self._shown.stop]

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the documents were packed with."""
        return Tokenizer.load(self.directory)

    @overload
    def __getitem__(self, index: int) -> Ids: ...
    @overload
    def __getitem__(self, index: slice) -> "Shards": ...
    def __getitem__(self, index: int | slice) -> "Ids | Shards":
        """Document ``index``, a view of the file. Raises InputError for a slice with a step."""
        if isinstance(index, slice):
            if index.step not in (None, 1):
                raise InputError(f"a slice of shards has no step, got {index.step}")
            part = copy.copy(self)
            part._shown = self._shown[index]
            part.tokens = int(part.lengths.sum())
            return part
        at = self._shown[index]
        number = bisect_right(self._firsts, at) - 1
        tokens, ends = self._parts[number]
        place = at - self._firsts[number]
        return tokens[ends[place - 1] if place else 0 : ends[place]]


def pack(
    texts: Any,
    directory: str | os.PathLike[str],
    *,
    tokenizer: Tokenizer,
    special: bool = True,
    shard_tokens: int = 1 << 26,
    progress: Callable[[int, int], None] | None = None,
) -> Shards:
    """Encode ``texts``, a few hundred at a time on all cores, and write them; those without tokens are left out.

    With ``special`` a text has its special tokens around it and its end-of-text token behind it, as causal language
    modelling wants it; masked tokens and cut-out spans put their own. Memory holds a shard, which ends with the first
    document that fills ``shard_tokens``. ``texts`` may be a dataset, see :func:`lmrs.data.texts_of`. The directory
    appears whole or not at all. ``progress`` hears of the texts and tokens so far. Raises InputError if there is no
    text or ``shard_tokens`` is less than 1; FileError.
    """
    if shard_tokens < 1:
        raise InputError(f"shard_tokens is {shard_tokens}, expected at least 1")
    path, dtype = Path(directory), np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32
    end = [tokenizer.eos_id] if special and tokenizer.eos_id is not None else []
    whole, shards, read = 0, 0, 0
    source: Iterator[str] = texts_of(texts) if is_dataset(texts) else iter(texts)
    names = {_MANIFEST, *_TOKENIZER}
    if (path / _MANIFEST).is_file():
        count = read_json(path / _MANIFEST).get("shards", 0)
        names |= {f"{kind}-{number:05}.bin" for kind in ("tokens", "ends") for number in range(count)}
    with replaced_directory(path, names=names) as fresh:
        held: list[Ids] = []

        def write() -> None:
            nonlocal shards
            np.concatenate(held).tofile(fresh / f"tokens-{shards:05}.bin")
            np.cumsum([len(ids) for ids in held], dtype=np.int64).tofile(fresh / f"ends-{shards:05}.bin")
            shards += 1
            held.clear()

        room = shard_tokens
        while batch := list(islice(source, _TEXTS_AT_ONCE)):
            for encoding in tokenizer.encode(batch, add_special_tokens=special):
                ids = np.array([*encoding.ids, *end] if encoding.ids else [], dtype)
                if not len(ids):
                    continue
                held.append(ids)
                whole, room = whole + len(ids), room - len(ids)
                if room <= 0:
                    write()
                    room = shard_tokens
            read += len(batch)
            if progress is not None:
                progress(read, whole)
        if held:
            write()
        if not shards:
            raise InputError("there is nothing to pack: no text has a token")
        tokenizer.save(fresh)
        manifest = {"format": _FORMAT, "dtype": np.dtype(dtype).name, "vocabulary": len(tokenizer), "special": special}
        write_json(fresh / _MANIFEST, manifest | {"tokens": whole, "shards": shards})
    return Shards(path)
