"""The order of examples as a function, so that nothing has to be stored or replayed to resume in the middle of it."""

from dataclasses import dataclass

import numpy as np

_ROUNDS = 6
_WORD = 2**64 - 1


@dataclass(frozen=True)
class Shuffled:
    """A permutation of ``0 … count-1`` that depends on ``seed`` and ``epoch`` alone; any place costs the same.

    A Feistel network (Luby & Rackoff 1988) permutes the smallest square of a power of two that holds ``count``; a value
    outside is permuted again until it is inside (Black & Rogaway 2002), which takes less than four turns on average.
    """

    count: int
    seed: int
    epoch: int

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.count:
            raise IndexError(index)
        half = max(1, ((self.count - 1).bit_length() + 1) // 2)
        value = self._turned(index, half)
        while value >= self.count:
            value = self._turned(value, half)
        return value

    def _turned(self, value: int, half: int) -> int:
        low = (1 << half) - 1
        left, right = value >> half, value & low
        for turn in range(_ROUNDS):
            key = _mixed(_mixed(_mixed(self.seed) ^ self.epoch) ^ turn)
            left, right = right, left ^ (_mixed(right ^ key) & low)
        return left << half | right


def generator(seed: int, *place: int) -> np.random.Generator:
    """Draws that are a function of (``seed``, ``place``), such as (epoch, index), and of nothing drawn before."""
    key = _mixed(seed & _WORD)
    for number in place:
        key = _mixed(key ^ _mixed(number))
    return np.random.Generator(np.random.Philox(key=[key, _mixed(key)]))


def _mixed(x: int) -> int:
    """SplitMix64's finaliser (Steele et al. 2014): every bit of the result depends on every bit of ``x``."""
    x = (x + 0x9E3779B97F4A7C15) & _WORD
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & _WORD
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & _WORD
    return x ^ x >> 31
