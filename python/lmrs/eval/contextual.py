"""One word, two senses: does its vector depend on what stands around it, and on the sense most of all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmrs.errors import InputError

Vectors = npt.NDArray[np.float32]
Represent = Callable[[Sequence[Sequence[str]]], Sequence[Vectors]]
"""From sentences of words to an array ``[words, d]`` for each."""


@dataclass(frozen=True, eq=False)
class Senses:
    """How far apart the occurrences of a word are: cosine distances, ``1 - cos``, in 0 … 2.

    ``distances [n, n]`` between all occurrences, whose sense is ``labels[i]``; ``within`` is the mean over pairs of one
    sense, ``across`` over pairs of different senses. Vectors without context give 0 for both; those that tell senses
    apart ``across > within``. ``nearest`` is the share of occurrences whose nearest other one has their sense; ties are
    taken to be wrong, so without context it is 0.
    """

    word: str
    labels: list[str]
    distances: Vectors
    within: float
    across: float
    nearest: float


def senses(represent: Represent, word: str, sentences: Mapping[str, Sequence[Sequence[str]]]) -> Senses:
    """Compare the vectors of ``word`` in ``sentences`` (of words, by sense), as ``represent`` gives them.

    Of several occurrences in a sentence the first is taken. Raises InputError if a sentence lacks the word or there are
    not two senses with two sentences each.
    """
    if len(sentences) < 2 or min(map(len, sentences.values())) < 2:
        raise InputError("expected at least two senses with two sentences each")
    labels = [sense for sense, group in sentences.items() for _ in group]
    given = [sentence for group in sentences.values() for sentence in group]
    for index, sentence in enumerate(given):
        if word not in sentence:
            raise InputError(f"sentence {index} does not hold {word!r}: {' '.join(sentence)}")
    arrays = represent(given)
    vectors = np.stack([array[sentence.index(word)] for array, sentence in zip(arrays, given, strict=True)])
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True)
    distances = np.maximum(0.0, 1 - unit @ unit.T)
    same = np.array(labels)[:, None] == np.array(labels)
    others = ~np.eye(len(labels), dtype=bool)
    apart = np.where(others, distances, np.inf)
    best_same = np.where(same, apart, np.inf).min(1)
    best_other = np.where(same, np.inf, apart).min(1)
    return Senses(
        word=word,
        labels=labels,
        distances=distances.astype(np.float32),
        within=float(distances[same & others].mean()),
        across=float(distances[~same].mean()),
        # Rounding must not decide between vectors that are the same.
        nearest=float((best_same < best_other - 1e-6).mean()),
    )
