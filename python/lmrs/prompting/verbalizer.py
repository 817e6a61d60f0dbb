"""Verbalizers: the words that stand for a class (Schick & Schütze 2021)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmrs.errors import InputError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Verbalizer:
    """``words`` of each class, as they follow the template (with their space).

    The probability of a class is the mean of those of its words. Raises InputError if there are fewer than two classes,
    one has no word, or two share one.
    """

    words: Mapping[str, Sequence[str]]

    def __post_init__(self) -> None:
        if len(self.words) < 2:
            raise InputError(f"there are {len(self.words)} classes, expected at least 2")
        for name, words in self.words.items():
            if not words or "" in words:
                raise InputError(f"the class {name!r} has no word")
        every = self.every
        if len(set(every)) < len(every):
            raise InputError(f"two classes share the word {next(w for w in every if every.count(w) > 1)!r}")

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return list(self.words)

    @property
    def every(self) -> list[str]:
        """The words of all classes, one after another."""
        return [word for words in self.words.values() for word in words]

    def probabilities(self, logprobs: Floats) -> Floats:
        """Of the classes, ``[n, classes]``, from ``log p`` of every word, ``[n, words]``."""
        starts = np.cumsum([0, *(len(words) for words in self.words.values())])[:-1]
        shifted = np.exp(logprobs - logprobs.max(1, keepdims=True))
        counts = np.array([len(words) for words in self.words.values()])
        means = np.add.reduceat(shifted, starts, axis=1) / counts
        normalised: Floats = means / means.sum(1, keepdims=True)
        return normalised
