"""Adafactor: a second moment kept as its rows' and columns' means, and steps relative to a weight's size."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lmrs.train.rule import check, path_rate


@dataclass(frozen=True, kw_only=True)
class Adafactor:
    """Adafactor without momentum (Shazeer & Stern 2018, algorithm 4), T5's optimiser.

    With ``β = 1 - t^-decay`` and ``s = g² + ε₁``: of a matrix ``r ← β·r + (1-β)·mean_columns(s)`` and ``c ← β·c +
    (1-β)·mean_rows(s)``, ``v = r·c / mean(r)``; of a vector ``v ← β·v + (1-β)·s``. With ``u = g / √v``, divided by
    ``max(1, rms(u) / threshold)``: ``θ ← θ - η·max(ε₂, rms(θ))·(u + λ·θ)``. λ acts on matrices alone. Raises
    InputError for a setting outside its range.
    """

    learning_rate: float = 1e-2
    decay: float = 0.8
    eps1: float = 1e-30
    eps2: float = 1e-3
    threshold: float = 1.0
    weight_decay: float = 0.0
    rates: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self, positive=("learning_rate", "weight_decay", "decay", "eps1", "eps2", "threshold"))

    def rate(self, path: str) -> float:
        """The learning rate of the parameter at ``path``, before any schedule."""
        return path_rate(self, path)

    def names(self, shape: tuple[int, ...]) -> tuple[str, ...]:
        """What is kept of a parameter between steps."""
        return ("rows", "columns") if len(shape) > 1 else ("square",)

    def update(
        self, backend: Any, parameter: Any, gradient: Any, moments: tuple[Any, ...] | None, **now: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        """See :class:`~lmrs.train.rule.Rule`."""
        beta = 1 - now["step"] ** -self.decay

        def step(theta: Any, g: Any, *kept: Any) -> Any:
            g = g * now["scale"]
            s = g * g + self.eps1
            fresh = (s.mean(-1), s.mean(-2)) if theta.ndim > 1 else (s,)
            kept = tuple(beta * old + (1 - beta) * new for old, new in zip(kept or fresh, fresh, strict=True))
            if theta.ndim > 1:
                rows, columns = kept
                u = g / ((rows / rows.mean()) ** 0.5)[:, None] / (columns**0.5)[None]
            else:
                u = g / kept[0] ** 0.5
            size = float((u * u).mean()) ** 0.5
            u = u / max(1.0, size / self.threshold)
            rate = now["learning_rate"] * max(self.eps2, float((theta * theta).mean()) ** 0.5)
            decay = self.weight_decay if theta.ndim > 1 else 0.0
            return theta - rate * (u + decay * theta), kept

        found: tuple[Any, tuple[Any, ...]] = backend.updated(step, parameter, gradient, moments)
        return found
