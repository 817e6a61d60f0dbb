"""Verbalizers: the words that stand for a class (Schick & Schütze 2021), chosen by hand or weighted by examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmrs.errors import InputError

Floats = npt.NDArray[np.float64]
STEPS, TOLERANCE = 100, 1e-10


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


@dataclass(frozen=True, eq=False)
class Learned(Verbalizer):
    """A verbalizer whose classes weigh every word: ``p(class) = softmax(weights·x + bias)``.

    ``x`` are the log-probabilities of all words less their mean, so how likely the words are together says nothing.
    ``weights [classes, words]``, ``bias [classes]``; :func:`learned` finds them.
    """

    weights: Floats
    bias: Floats

    def probabilities(self, logprobs: Floats) -> Floats:
        """See :class:`Verbalizer`."""
        return _softmax(_features(logprobs) @ self.weights.T + self.bias)


def learned(verbalizer: Verbalizer, logprobs: Floats, labels: Sequence[str], *, decay: float = 1.0) -> Learned:
    """``verbalizer`` with weights from examples: multinomial logistic regression on ``log p`` of its words.

    Minimises ``-Σ log p(label) + decay/2·‖weights - start‖²``, which is convex, by Newton's method; ``start`` gives
    each word of a class ``1 / words`` and those of others nothing, the geometric mean: with few examples it stays near
    the words that were chosen by hand. ``logprobs [n, words]`` are those of :meth:`Verbalizer.every`. Raises InputError
    for a label that is no class, shapes that do not fit, or a ``decay`` that is not more than 0.
    """
    classes, words = len(verbalizer.classes), len(verbalizer.every)
    if logprobs.shape != (len(labels), words) or not labels or not decay > 0:
        raise InputError(
            f"log-probabilities are {list(logprobs.shape)} of {len(labels)} labels and {words} words, decay {decay}:"
            " expected a row a label, and a decay above 0"
        )
    for label in labels:
        if label not in verbalizer.words:
            raise InputError(f"a label is {label!r}, expected one of {', '.join(verbalizer.classes)}")
    x = np.concatenate([_features(logprobs), np.ones((len(labels), 1))], 1)
    target = np.eye(classes)[[verbalizer.classes.index(label) for label in labels]]
    owner = np.repeat(np.arange(classes), [len(w) for w in verbalizer.words.values()])
    start = np.zeros((classes, words + 1))
    start[owner, np.arange(words)] = 1 / np.bincount(owner)[owner]
    # The bias is held a little, too: only differences of biases matter.
    held = np.append(np.full(words, decay), 1e-3 * decay)

    def cost(theta: Floats) -> float:
        scores = x @ theta.T
        fit = np.logaddexp.reduce(scores, axis=1).sum() - (scores * target).sum()
        return float(fit + (held * (theta - start) ** 2).sum() / 2)

    theta = start.copy()
    for _ in range(STEPS):
        p = _softmax(x @ theta.T)
        gradient = (p - target).T @ x + held * (theta - start)
        curved = np.einsum("nc,cd,ni,nj->cidj", p, np.eye(classes), x, x) - np.einsum("nc,nd,ni,nj->cidj", p, p, x, x)
        curved = curved.reshape(theta.size, theta.size) + np.diag(np.tile(held, classes))
        step = np.linalg.solve(curved, gradient.reshape(-1)).reshape(theta.shape)
        length, before = 1.0, cost(theta)
        while cost(theta - length * step) > before - 1e-4 * length * (gradient * step).sum() and length > 1e-8:
            length /= 2
        theta = theta - length * step
        if np.abs(gradient).max() < TOLERANCE * len(labels):
            break
    return Learned(verbalizer.words, theta[:, :-1], theta[:, -1])


def _features(logprobs: Floats) -> Floats:
    centred: Floats = logprobs - logprobs.mean(1, keepdims=True)
    return centred


def _softmax(scores: Floats) -> Floats:
    shifted = np.exp(scores - scores.max(1, keepdims=True))
    normalised: Floats = shifted / shifted.sum(1, keepdims=True)
    return normalised
