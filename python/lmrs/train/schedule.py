"""How the learning rate changes over a run: a factor of its peak for each step.

All rise linearly over the first ``warmup`` steps, from ``1 / (warmup + 1)`` of the peak, and end at ``floor`` of it.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from lmrs.errors import InputError


class Schedule(Protocol):
    """A function of the step."""

    def __call__(self, step: int, steps: int) -> float:
        """The factor of the peak rate at ``step``, counted from 0, of ``steps``."""


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The peak, after warming up."""

    warmup: int = 0

    def __call__(self, step: int, steps: int) -> float:
        """See :class:`Schedule`."""
        return min(1.0, (step + 1) / (self.warmup + 1))


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Down a straight line from the peak to ``floor`` of it."""

    warmup: int = 0
    floor: float = 0.0

    def __call__(self, step: int, steps: int) -> float:
        """See :class:`Schedule`."""
        rising = (step + 1) / (self.warmup + 1)
        return rising if rising < 1 else 1 - (1 - self.floor) * _progress(step, steps, self.warmup)


@dataclass(frozen=True, kw_only=True)
class WSD:
    """Warm up, stay at the peak, and go down a straight line to ``floor`` over the last ``decay`` of the steps.

    Hu et al. (2024), MiniCPM: any point of the stay can be gone on from, with a decay of its own.
    """

    warmup: int = 0
    decay: float = 0.2
    floor: float = 0.0

    def __call__(self, step: int, steps: int) -> float:
        """See :class:`Schedule`. Raises InputError unless ``0 < decay <= 1``."""
        if not 0 < self.decay <= 1:
            raise InputError(f"decay is {self.decay}, expected 0 < decay <= 1")
        rising = (step + 1) / (self.warmup + 1)
        if rising < 1:
            return rising
        _progress(step, steps, self.warmup)
        falling = max(0.0, (step - (1 - self.decay) * steps) / (self.decay * steps))
        return 1 - (1 - self.floor) * falling


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Down half a cosine from the peak to ``floor`` of it (Loshchilov & Hutter 2017)."""

    warmup: int = 0
    floor: float = 0.0

    def __call__(self, step: int, steps: int) -> float:
        """See :class:`Schedule`."""
        rising = (step + 1) / (self.warmup + 1)
        if rising < 1:
            return rising
        fall = (1 - math.cos(math.pi * _progress(step, steps, self.warmup))) / 2
        return 1 - (1 - self.floor) * fall


def _progress(step: int, steps: int, warmup: int) -> float:
    """0 at the first step after warming up, 1 after the last."""
    if warmup >= steps:
        raise InputError(f"warmup is {warmup} steps of {steps}, expected fewer")
    return (step - warmup) / (steps - warmup)
