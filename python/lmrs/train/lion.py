"""Lion: the sign of a mean of gradients, with one moment where AdamW has two (Chen et al. 2023)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lmrs.train.rule import check, path_rate


@dataclass(frozen=True, kw_only=True)
class Lion:
    """``θ ← θ - η·(sign(β₁·m + (1-β₁)·g) + λ·θ)``, then ``m ← β₂·m + (1-β₂)·g``.

    λ acts on matrices alone; ``rates`` are as for :class:`~lmrs.train.AdamW`. Raises InputError for a setting outside
    its range.
    """

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0
    rates: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self, positive=("learning_rate", "weight_decay"), below_one=("beta1", "beta2"))

    def rate(self, path: str) -> float:
        """The learning rate of the parameter at ``path``, before any schedule."""
        return path_rate(self, path)

    def names(self, _shape: tuple[int, ...]) -> tuple[str, ...]:
        """What is kept of a parameter between steps."""
        return ("mean",)

    def update(
        self, backend: Any, parameter: Any, gradient: Any, moments: tuple[Any, ...] | None, **now: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        """See :class:`~lmrs.train.rule.Rule`."""

        def step(theta: Any, g: Any, mean: Any = 0.0) -> Any:
            g, rate = g * now["scale"], now["learning_rate"]
            way = self.beta1 * mean + (1 - self.beta1) * g
            decay = self.weight_decay if theta.ndim > 1 else 0.0
            # The sign of a number that is not 0; a sign function has another name in each library.
            sign = way / (abs(way) + (way == 0))
            return theta - rate * (sign + decay * theta), (self.beta2 * mean + (1 - self.beta2) * g,)

        found: tuple[Any, tuple[Any, ...]] = backend.updated(step, parameter, gradient, moments)
        return found
