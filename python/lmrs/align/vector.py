"""Vectors of a few numbers that know how they were made: what alignment losses are written in.

A loss of log-probabilities acts on a number a sequence or a token, after the model and before its gradient. It is
computed here, in float64 and with its derivative, on whatever backend the model is: :func:`lmrs.align.logprobs.through`
hands the derivative on to it. So no op is needed for it, and it is one function on arrays, to be held beside a paper.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Like: TypeAlias = "Vector | npt.ArrayLike"


@dataclass(frozen=True, eq=False)
class Vector:
    """Numbers, float64 of rank 0 or 1, and the vectors they came from, each with its pull-back of a gradient."""

    numbers: Floats
    sources: tuple[tuple["Vector", Callable[[Floats], Floats]], ...] = ()

    # numpy leaves a binary operation with an array on its left to the methods below.
    __array_ufunc__ = None

    def __add__(self, other: Like) -> "Vector":
        y = of(other)
        return Vector(self.numbers + y.numbers, ((self, lambda g: g), (y, lambda g: g)))

    def __neg__(self) -> "Vector":
        return Vector(-self.numbers, ((self, lambda g: -g),))

    def __sub__(self, other: Like) -> "Vector":
        return self + -of(other)

    def __mul__(self, other: Like) -> "Vector":
        y = of(other)
        return Vector(self.numbers * y.numbers, ((self, lambda g: g * y.numbers), (y, lambda g: g * self.numbers)))

    def __truediv__(self, other: Like) -> "Vector":
        y = of(other)
        quotient = self.numbers / y.numbers
        return Vector(quotient, ((self, lambda g: g / y.numbers), (y, lambda g: -g * quotient / y.numbers)))

    def __radd__(self, other: Like) -> "Vector":
        return of(other) + self

    def __rsub__(self, other: Like) -> "Vector":
        return of(other) - self

    def __rmul__(self, other: Like) -> "Vector":
        return of(other) * self

    def __rtruediv__(self, other: Like) -> "Vector":
        return of(other) / self

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> "Vector":
        """The entries at ``index``, whatever numpy takes for one."""

        def back(g: Floats) -> Floats:
            full = np.zeros_like(self.numbers)
            np.add.at(full, index, g)
            return full

        return Vector(self.numbers[index], ((self, back),))


def of(values: Like) -> Vector:
    """``values`` as a Vector; a Vector is itself."""
    return values if isinstance(values, Vector) else Vector(np.asarray(values, np.float64))


def constant(x: Like) -> Vector:
    """``x`` as numbers that nothing is differentiated through."""
    return Vector(of(x).numbers)


def gradient(loss: Vector, x: Vector) -> Floats:
    """The derivative of the one number ``loss`` with respect to each entry of ``x``."""
    order: list[Vector] = []
    seen: set[int] = set()
    stack = [(loss, False)]
    while stack:
        vector, after = stack.pop()
        if after:
            order.append(vector)
        elif id(vector) not in seen:
            seen.add(id(vector))
            stack.append((vector, True))
            stack += [(source, False) for source, _ in vector.sources]
    found: dict[int, Floats] = {id(loss): np.ones_like(loss.numbers)}
    for vector in reversed(order):
        arriving = found.get(id(vector))
        if arriving is None:
            continue
        for source, back in vector.sources:
            pulled = back(arriving)
            if source.numbers.ndim == 0:
                pulled = np.asarray(pulled.sum())
            found[id(source)] = found[id(source)] + pulled if id(source) in found else pulled
    return found.get(id(x), np.zeros_like(x.numbers))


def _elementwise(x: Like, numbers: Floats, slope: Floats) -> Vector:
    return Vector(numbers, ((of(x), lambda g: g * slope),))


def exp(x: Like) -> Vector:
    """``eˣ``."""
    y = np.exp(of(x).numbers)
    return _elementwise(x, y, y)


def log(x: Like) -> Vector:
    """The natural logarithm."""
    numbers = of(x).numbers
    return _elementwise(x, np.log(numbers), 1 / numbers)


def sigmoid(x: Like) -> Vector:
    """``1 / (1 + e⁻ˣ)``, exact in both tails."""
    y = _sigmoid(of(x).numbers)
    return _elementwise(x, y, y * _sigmoid(-of(x).numbers))


def softplus(x: Like) -> Vector:
    """``log(1 + eˣ)``."""
    numbers = of(x).numbers
    return _elementwise(x, np.logaddexp(0, numbers), _sigmoid(numbers))


def log_sigmoid(x: Like) -> Vector:
    """``log σ(x)``."""
    return -softplus(-of(x))


def log1mexp(x: Like) -> Vector:
    """``log(1 - eˣ)`` for ``x < 0``, exact near 0 and far from it (Mächler 2012)."""
    numbers = of(x).numbers
    near = np.log(-np.expm1(np.maximum(numbers, -0.5)))
    far = np.log1p(-np.exp(np.minimum(numbers, -0.5)))
    return _elementwise(x, np.where(numbers > -0.5, near, far), 1 / -np.expm1(-numbers))


def square(x: Like) -> Vector:
    """``x²``."""
    return of(x) * of(x)


def maximum(x: Like, y: Like) -> Vector:
    """The larger of each two; of equals, ``x`` has the gradient."""
    a, b = of(x), of(y)
    first = np.asarray(a.numbers >= b.numbers, np.float64)
    return Vector(np.maximum(a.numbers, b.numbers), ((a, lambda g: g * first), (b, lambda g: g * (1 - first))))


def minimum(x: Like, y: Like) -> Vector:
    """The smaller of each two."""
    return -maximum(-of(x), -of(y))


def clip(x: Like, low: float | Floats, high: float | Floats) -> Vector:
    """``x`` cut to ``low … high``; what is cut has no gradient."""
    numbers = of(x).numbers
    inside = np.asarray((numbers >= low) & (numbers <= high), np.float64)
    return _elementwise(x, np.clip(numbers, low, high), inside)


def ordered(x: Like) -> Vector:
    """The entries in ascending order."""
    x = of(x)
    return x[np.argsort(x.numbers, kind="stable")]


def total(x: Like) -> Vector:
    """The sum of all entries, of rank 0."""
    x = of(x)
    return Vector(np.asarray(x.numbers.sum()), ((x, lambda g: np.full_like(x.numbers, g)),))


def mean(x: Like) -> Vector:
    """The mean of all entries, of rank 0."""
    x = of(x)
    return total(x) / x.numbers.size


def sums(x: Like, lengths: npt.ArrayLike) -> Vector:
    """The sum of each run of ``lengths`` entries: of the tokens of each sequence, say."""
    x, counts = of(x), np.asarray(lengths, np.int64)
    owner = np.repeat(np.arange(len(counts)), counts)
    numbers = np.bincount(owner, weights=x.numbers, minlength=len(counts)).astype(np.float64)
    return Vector(numbers, ((x, lambda g: g[owner]),))


def _sigmoid(x: Floats) -> Floats:
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1, small) / (1 + small), np.float64)
