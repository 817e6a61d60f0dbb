"""The n-grams of a trie file of KenLM: bit-packed records, an order after another.

A record is the number of its word, its log-probability and back-off weight, and where its own successors begin in
the next order. Two things may be packed further. Quantised values (``-q``, ``-b``) are the numbers of entries in a
table for each order. Of pointers kept as an array (``-a``) a record has the low bits only: as they never decrease, the
high ones are counted by a list of the records at which they grow (Raj and Whittaker 2003).
"""

import bisect
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmrs.errors import FormatError
from lmrs.eval.ngram.model import Entry

_QUANTISED, _ARRAYS = 2, 0
"""The versions of the two that KenLM writes."""


class Trie:
    """What begins at byte ``start`` of a file with ``counts`` n-grams of each order. Raises FormatError."""

    def __init__(
        self, path: Path, data: mmap.mmap, start: int, counts: Sequence[int], *, quantised: bool, arrays: bool
    ) -> None:
        self.data, self.count = data, counts[0]
        stored = int.from_bytes(data[start : start + 8], "little")
        self.hashes = _Longs(data, start + 8, min(stored, counts[0]))
        at = start + 8 + 8 * counts[0]
        tables: list[tuple[_Table, _Table] | None] = [None] * (len(counts) - 1)
        if quantised:
            version, probs, weights = _bytes(path, data, at, 3)
            if version != _QUANTISED or not (0 < probs <= 25 and 0 < weights <= 25):
                said = f"quantisation {version} of {probs} and {weights} bits"
                raise FormatError(f"{path}: {said}, expected {_QUANTISED} of 1 to 25 bits")
            at += 8
            for n in range(len(tables)):
                tables[n] = _Table(at, probs), _Table(at + (4 << probs), weights if n < len(tables) - 1 else 0)
                at += (4 << probs) + (4 << weights if n < len(tables) - 1 else 0)
        self.unigrams = at
        at += 16 * (counts[0] + 2)
        most = 0
        if arrays and len(counts) > 2:
            version, most = _bytes(path, data, at, 2)
            if version != _ARRAYS:
                raise FormatError(f"{path}: arrays of pointers of version {version}, expected {_ARRAYS}")
        self.levels = []
        for n, count in enumerate(counts[1:-1], start=1):
            growth = None
            pointer = counts[n + 1].bit_length()
            if arrays:
                chopped = _chopped(count + 1, counts[n + 1], most)
                pointer -= chopped
                size = (counts[n + 1] >> pointer) + 1
                growth = _Longs(data, (at + 7) // 8 * 8 + 8, size)
                at += 8 * (1 + size) + 7
            level = _Level(data, at, counts[0].bit_length(), tables[n - 1], pointer, growth)
            self.levels.append(level)
            at = level.end(count)
        last = _Level(data, at, counts[0].bit_length(), tables[-1], None, None)
        self.levels.append(last)
        self.end = last.end(counts[-1])

    def word(self, key: int) -> int:
        """The number of the word whose hash is ``key``; 0: unknown."""
        at = bisect.bisect_left(self.hashes, key)
        return at + 1 if at < len(self.hashes) and self.hashes[at] == key else 0

    def find(self, words: tuple[int, ...]) -> Entry | None:
        """See :class:`~lmrs.eval.ngram.model.NGrams`."""
        if words[-1] > self.count:
            return None
        at = self.unigrams + 16 * words[-1]
        prob, weight, begin = struct.unpack_from("<2fQ", self.data, at)
        end = int.from_bytes(self.data[at + 24 : at + 32], "little")
        for word, level in zip(words[-2::-1], self.levels, strict=False):
            index = bisect.bisect_left(level, word, begin, end)
            if index >= end or level[index] != word:
                return None
            prob, weight = level.values(index)
            begin, end = level.successor(index), level.successor(index + 1)
        return prob, weight


@dataclass(frozen=True, slots=True)
class _Table:
    """``2^bits`` floats of a file."""

    start: int
    bits: int


class _Level:
    """The records of an order; as a sequence, their words.

    ``pointer`` bits of each say where its successors begin; None in the last order, which has none.
    """

    def __init__(
        self,
        data: mmap.mmap,
        start: int,
        word: int,
        tables: "tuple[_Table, _Table] | None",
        pointer: int | None,
        growth: "_Longs | None",
    ) -> None:
        self.data, self.start, self.word, self.tables = data, start, word, tables
        self.pointer, self.growth = pointer, growth
        # Of floats, a sign that is always minus is not kept.
        plain = 31 if pointer is None else 31 + 32
        self.before = word + (sum(table.bits for table in tables) if tables else plain)
        self.width = self.before + (pointer or 0)

    def end(self, count: int) -> int:
        """The byte after ``count`` records, one that only ends the last, and room to read a word from any byte."""
        return self.start + ((1 + count) * self.width + 7) // 8 + 8

    def __len__(self) -> int:
        return (len(self.data) - self.start) * 8 // self.width

    def __getitem__(self, at: int) -> int:
        return self._bits(at * self.width, self.word)

    def values(self, index: int) -> Entry:
        """The log-probability and the back-off weight of a record."""
        at = index * self.width + self.word
        if not self.tables:
            bits = self._bits(at, 31) | 1 << 31, self._bits(at + 31, 32) if self.pointer is not None else 0
            prob, weight = struct.unpack("<2f", struct.pack("<2I", *bits))
            return prob, weight
        probs, weights = self.tables
        weight = self._entry(weights, self._bits(at, weights.bits)) if weights.bits else 0.0
        return self._entry(probs, self._bits(at + weights.bits, probs.bits)), weight

    def successor(self, index: int) -> int:
        """Where the successors of a record begin."""
        low = self._bits(index * self.width + self.before, self.pointer or 0)
        if self.growth is None:
            return low
        return bisect.bisect_right(self.growth, index) - 1 << (self.pointer or 0) | low

    def _entry(self, table: _Table, at: int) -> float:
        (value,) = struct.unpack_from("<f", self.data, table.start + 4 * at)
        return float(value)

    def _bits(self, offset: int, count: int) -> int:
        at = self.start + (offset >> 3)
        return int.from_bytes(self.data[at : at + 8], "little") >> (offset & 7) & ((1 << count) - 1)


class _Longs:
    """64-bit integers of a file."""

    def __init__(self, data: mmap.mmap, start: int, size: int) -> None:
        self.data, self.start, self.size = data, start, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, at: int) -> int:
        return int.from_bytes(self.data[self.start + 8 * at : self.start + 8 * at + 8], "little")


def _bytes(path: Path, data: mmap.mmap, at: int, count: int) -> bytes:
    found = data[at : at + count]
    if len(found) < count:
        raise FormatError(f"{path}: {len(data)} bytes, expected at least {at + count}")
    return found


def _chopped(records: int, largest: int, most: int) -> int:
    """How many high bits of pointers up to ``largest`` an array takes from ``records`` records, at most ``most``.

    As many as make the file smallest, and of equals the fewest.
    """
    bits = largest.bit_length()

    def change(chopped: int) -> int:
        return (largest >> (bits - chopped)) * 64 - records * chopped

    return min(range(min(bits, most) + 1), key=change)
