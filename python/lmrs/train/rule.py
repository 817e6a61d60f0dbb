"""What an optimiser is: how a parameter follows its gradient."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from lmrs.errors import InputError
from lmrs.nn.module import matcher


class Rule(Protocol):
    """The settings of an optimiser, frozen, and its equation."""

    @property
    def learning_rate(self) -> float:
        """The peak rate; a schedule says which part of it a step has."""

    def rate(self, path: str) -> float:
        """The learning rate of the parameter at ``path``, before any schedule."""

    def names(self, shape: tuple[int, ...]) -> tuple[str, ...]:
        """What is kept of a parameter of this shape between steps."""

    def update(
        self, backend: Any, parameter: Any, gradient: Any, moments: tuple[Any, ...] | None, **now: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        """The parameter after a step, and what is kept; ``moments`` are None before the first.

        ``now`` has ``step``, counted from 1; ``scale``, what the gradient is multiplied by; ``learning_rate``.
        """


def path_rate(rule: Any, path: str) -> float:
    """``learning_rate`` times the factor of the first pattern in ``rates`` that matches ``path``."""
    factors = (factor for pattern, factor in rule.rates.items() if matcher(pattern)(path))
    rate: float = rule.learning_rate * next(factors, 1.0)
    return rate


def check(rule: Any, *, positive: Sequence[str] = (), below_one: Sequence[str] = ()) -> None:
    """Raises InputError naming a setting that is not a number of at least 0, or not in [0, 1)."""
    for name in positive:
        if not 0 <= getattr(rule, name) < math.inf:
            raise InputError(f"{name} is {getattr(rule, name)}, expected a number of at least 0")
    for name in below_one:
        if not 0 <= getattr(rule, name) < 1:
            raise InputError(f"{name} is {getattr(rule, name)}, expected 0 <= {name} < 1")
    rates: Mapping[str, float] = rule.rates
    for pattern, factor in rates.items():
        if not 0 <= factor < math.inf:
            raise InputError(f"rates[{pattern!r}] is {factor}, expected a number of at least 0")
