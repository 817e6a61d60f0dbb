"""AdamW, and an optimiser at work on the parameters of a model, whatever backend they are on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lmrs.errors import InputError
from lmrs.nn.module import Parameter
from lmrs.train.rule import Rule, check, path_rate


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """AdamW (Loshchilov & Hutter 2019).

    With g the gradient and η the learning rate at step t, counted from 1: ``m ← β₁·m + (1-β₁)·g``, ``v ← β₂·v +
    (1-β₂)·g²``, ``θ ← θ - η·λ·θ - η·m̂ / (√v̂ + ε)``, where ``m̂ = m / (1-β₁ᵗ)`` and ``v̂ = v / (1-β₂ᵗ)``.
    ``weight_decay`` λ acts on matrices alone: norms and biases do not decay. ``rates`` multiplies η for the parameters
    whose path matches a pattern, the first that matches: ``{"*.b": 16}`` is LoRA+ (Hayou et al. 2024). Raises
    InputError for a setting outside its range.
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    rates: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self, positive=("learning_rate", "eps", "weight_decay"), below_one=("beta1", "beta2"))

    def rate(self, path: str) -> float:
        """The learning rate of the parameter at ``path``, before any schedule."""
        return path_rate(self, path)

    def names(self, _shape: tuple[int, ...]) -> tuple[str, ...]:
        """What is kept of a parameter between steps."""
        return "mean", "square"

    def update(
        self, backend: Any, parameter: Any, gradient: Any, moments: tuple[Any, ...] | None, **now: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        """See :class:`~lmrs.train.rule.Rule`."""
        settings = {"beta1": self.beta1, "beta2": self.beta2, "eps": self.eps}
        decay = self.weight_decay if len(parameter.shape) > 1 else 0.0
        found: tuple[Any, tuple[Any, ...]] = backend.adamw(
            parameter, gradient, moments, weight_decay=decay, **settings, **now
        )
        return found


@dataclass
class Optimiser:
    """A rule at work: ``moments`` is what it keeps of each parameter by path, ``steps`` how many steps were made."""

    settings: Rule
    backend: Any
    steps: int = 0
    moments: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def step(
        self, parameters: Mapping[str, Parameter], gradients: Mapping[str, Any], *, scale: float, factor: float
    ) -> None:
        """Update ``parameters`` in place by ``scale·gradients``, at ``factor`` of the learning rate."""
        self.steps += 1
        for path, gradient in gradients.items():
            parameter = parameters[path]
            now = {"step": self.steps, "scale": scale, "learning_rate": factor * self.settings.rate(path)}
            parameter.data, self.moments[path] = self.settings.update(
                self.backend, parameter.data, gradient, self.moments.get(path), **now
            )


def finite_norm(backend: Any, gradients: Mapping[str, Any]) -> float:
    """``√Σ g²`` over all gradients. Raises InputError naming the parameters whose gradient is not finite."""
    norm: float = backend.norm(list(gradients.values()))
    if math.isfinite(norm):
        return norm
    wrong = [path for path, gradient in gradients.items() if not math.isfinite(backend.norm([gradient]))]
    more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
    raise InputError(f"the gradient of {', '.join(wrong[:4])}{more} is not finite; the model is as before this step")
