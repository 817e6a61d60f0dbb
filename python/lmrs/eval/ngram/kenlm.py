"""KenLM's binary files, probing and tries, looked up in the mapped file.

Their layout (Heafield 2011, and version 5 of its code): a header with test values and counts, the hashes of the words,
then the n-grams in reverse order, the last word first. In a probing file each order is a hash table of 64-bit keys with
linear probing; tries are in :mod:`lmrs.eval.ngram.trie`.
"""

import mmap
import struct
from collections.abc import Sequence
from pathlib import Path

from lmrs.errors import FileError, FormatError, MissingFileError
from lmrs.eval.ngram.model import UNKNOWN, Entry
from lmrs.eval.ngram.trie import Trie

MAGIC = b"mmap lm http://kheafield.com/code format version "
_SANITY = struct.pack("<3f3IQ", 0.0, 1.0, -0.5, 1, 2**32 - 1, 0, 1)
_HEAD = 56
"""Bytes of the magic, padded."""
_FIXED = struct.Struct("<B3xfiB3xI")
_PROBING, _REST, _TRIES = 0, 1, range(2, 6)
"""Of tries, one more has quantised values, two more have arrays of pointers."""
_64 = 2**64 - 1


class KenLM:
    """The n-grams of a binary file of KenLM, probing or trie. The file stays mapped.

    Raises MissingFileError, FileError; FormatError for another kind of file or one that is cut short.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise MissingFileError(f"{path}: no such file")
        try:
            with path.open("rb") as file:
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise FileError(f"{path}: {error}") from None
        data = self.data
        if not data[:_HEAD].startswith(MAGIC) or len(data) < _HEAD + len(_SANITY) + _FIXED.size:
            raise FormatError(f"{path}: not a binary file of KenLM")
        if data[len(MAGIC) : len(MAGIC) + 2] != b"5\n" or data[_HEAD : _HEAD + len(_SANITY)] != _SANITY:
            raise FormatError(f"{path}: of another version or machine, expected version 5, little-endian")
        at = _HEAD + len(_SANITY)
        self.order, multiplier, kind, _, _ = _FIXED.unpack_from(data, at)
        if kind != _PROBING and kind not in _TRIES:
            said = "a probing file with rest costs" if kind == _REST else f"kind {kind}"
            raise FormatError(f"{path}: {said}, expected probing or trie")
        if not 2 <= self.order <= 32 or not 1.0 <= multiplier <= 100.0:
            raise FormatError(f"{path}: order {self.order} and multiplier {multiplier}, expected 2 to 32 and 1 to 100")
        at += _FIXED.size
        end = at + 8 * self.order
        if len(data) < end:
            raise FormatError(f"{path}: ends in its header")
        counts = struct.unpack_from(f"<{self.order}Q", data, at)
        start = (end + 7) // 8 * 8
        self.search: _Probing | Trie
        if kind == _PROBING:
            self.search = _Probing(data, start, counts, multiplier)
        else:
            packed = kind - _TRIES.start
            self.search = Trie(path, data, start, counts, quantised=bool(packed & 1), arrays=bool(packed & 2))
        if len(data) < self.search.end:
            raise FormatError(f"{path}: {len(data)} bytes, expected at least {self.search.end}")

    def id(self, word: str) -> int:
        """See :class:`~lmrs.eval.ngram.model.NGrams`."""
        return 0 if word in (UNKNOWN, "<UNK>") else self.search.word(murmur(word.encode()))

    def find(self, words: tuple[int, ...]) -> Entry | None:
        """See :class:`~lmrs.eval.ngram.model.NGrams`."""
        return self.search.find(words)


class _Probing:
    def __init__(self, data: mmap.mmap, start: int, counts: Sequence[int], multiplier: float) -> None:
        self.data, self.words, self.count = data, start + 8, counts[0]
        self.word_buckets = _buckets(counts[0], multiplier)
        self.unigrams = self.words + 12 * self.word_buckets
        self.tables = []
        at = self.unigrams + 8 * (counts[0] + 1)
        for n, count in enumerate(counts[1:], start=2):
            size = 16 if n < len(counts) else 12
            buckets = _buckets(count, multiplier)
            self.tables.append((at, buckets, size))
            at += size * buckets
        self.end = at

    def word(self, key: int) -> int:
        at = self._probe(self.words, self.word_buckets, 12, key)
        return 0 if at is None else int.from_bytes(self.data[at + 8 : at + 12], "little")

    def find(self, words: tuple[int, ...]) -> Entry | None:
        key = words[-1]
        if len(words) == 1:
            if key > self.count:
                return None
            prob, weight = struct.unpack_from("<2f", self.data, self.unigrams + 8 * key)
            return -abs(prob), weight
        for word in words[-2::-1]:
            key = (key * 8978948897894561157 & _64) ^ ((1 + word) * 17894857484156487943 & _64)
        start, buckets, size = self.tables[len(words) - 2]
        at = self._probe(start, buckets, size, key)
        if at is None:
            return None
        (prob,) = struct.unpack_from("<f", self.data, at + 8)
        (weight,) = struct.unpack_from("<f", self.data, at + 12) if size == 16 else (0.0,)
        # The sign says whether a longer n-gram ends so; log p is never positive.
        return -abs(prob), weight

    def _probe(self, start: int, buckets: int, size: int, key: int) -> int | None:
        bucket = key % buckets
        for _ in range(buckets):
            at = start + size * bucket
            found = int.from_bytes(self.data[at : at + 8], "little")
            if found == key:
                return at
            if not found:
                return None
            bucket = (bucket + 1) % buckets
        return None


def _buckets(entries: int, multiplier: float) -> int:
    """As KenLM computes it: the product in float32."""
    single = struct.unpack("<f", struct.pack("<f", entries))[0]
    product = struct.unpack("<f", struct.pack("<f", multiplier * single))[0]
    return max(entries + 1, int(product))


def murmur(key: bytes) -> int:
    """MurmurHash64A of Appleby, seed 0."""
    mix = 0xC6A4A7935BD1E995
    found = len(key) * mix & _64
    whole = len(key) // 8 * 8
    for at in range(0, whole, 8):
        word = int.from_bytes(key[at : at + 8], "little") * mix & _64
        found = (found ^ (word ^ word >> 47) * mix & _64) * mix & _64
    if whole < len(key):
        found = (found ^ int.from_bytes(key[whole:], "little")) * mix & _64
    found = (found ^ found >> 47) * mix & _64
    return found ^ found >> 47
