"""Rotary position embedding and the ways its frequencies are stretched to longer contexts."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lmrs import ops
from lmrs.errors import ConfigError
from lmrs.nn.module import Constant, Module
from lmrs.ops import Value

Frequencies = npt.NDArray[np.float32]


class Rope(Module):
    """Rotates each head of queries and keys by its position (see :func:`lmrs.ops.rope`).

    ``parameters`` are those of a checkpoint's config: ``rope_theta``, ``rope_type`` and what that type needs;
    ``context`` is ``max_position_embeddings``. Types: ``default``; ``linear`` (Chen et al. 2023); ``llama3`` (Llama
    3.1); ``yarn`` (Peng et al. 2023); ``dynamic``, which differs from ``default`` only beyond ``context``, where models
    refuse text anyway. Raises ConfigError for another type or a missing field.
    """

    def __init__(self, head_dim: int, parameters: Mapping[str, Any], *, context: int) -> None:
        kind = parameters.get("rope_type", "default")
        if kind not in _STRETCHES:
            raise ConfigError(f"rope_type is {kind!r}, expected one of {', '.join(_STRETCHES)}")
        try:
            with np.errstate(all="ignore"):
                frequencies, self.factor = _STRETCHES[kind](_plain(head_dim, parameters), parameters, context)
        except KeyError as missing:
            raise ConfigError(f"rope_type {kind!r} needs the field {missing}") from None
        except (ArithmeticError, TypeError, ValueError) as error:
            raise ConfigError(f"rope_parameters is {dict(parameters)!r}: {error}") from None
        if not (np.isfinite(frequencies).all() and math.isfinite(self.factor)):
            raise ConfigError(f"rope_parameters is {dict(parameters)!r}, which gives frequencies that are not finite")
        self.head_dim = head_dim
        values = np.ascontiguousarray(frequencies, np.float32)
        self.frequencies = Constant(shape=values.shape, trainable=False, data=values)

    def forward(self, x: Value, positions: Value) -> Value:
        """``x [T, heads·head_dim]`` turned by ``positions [T]``."""
        return ops.rope(x, positions, self.frequencies, head_dim=self.head_dim, factor=self.factor)


def _plain(head_dim: int, parameters: Mapping[str, Any]) -> Frequencies:
    """``theta**(-2j / rotary)``, in float32 as the models were trained: rounding a float64 result turns otherwise."""
    rotary = int(head_dim * parameters.get("partial_rotary_factor", 1.0))
    if not 2 <= rotary <= head_dim or rotary % 2:
        raise ValueError(f"{rotary} columns of {head_dim} would be rotated, expected an even number of them")
    theta = np.float32(parameters["rope_theta"])
    return np.asarray(1 / theta ** (np.arange(0, rotary, 2, dtype=np.float32) / np.float32(rotary)), np.float32)


def _default(plain: Frequencies, _parameters: Mapping[str, Any], _context: int) -> tuple[Frequencies, float]:
    return plain, 1.0


def _linear(plain: Frequencies, parameters: Mapping[str, Any], _context: int) -> tuple[Frequencies, float]:
    return plain / np.float32(parameters["factor"]), 1.0


def _llama3(plain: Frequencies, parameters: Mapping[str, Any], context: int) -> tuple[Frequencies, float]:
    factor, old = parameters["factor"], parameters.get("original_max_position_embeddings", context)
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    turns = old * plain / np.float32(2 * math.pi)
    # 1 keeps a frequency (many turns in the old context), 0 divides it by the factor, between is a blend.
    keep = np.clip((turns - low) / (high - low), 0, 1).astype(np.float32)
    return keep * plain + (1 - keep) * plain / np.float32(factor), 1.0


def _yarn(plain: Frequencies, parameters: Mapping[str, Any], context: int) -> tuple[Frequencies, float]:
    old = parameters.get("original_max_position_embeddings", context)
    factor = parameters.get("factor") or context / old
    dim, theta = 2 * len(plain), parameters["rope_theta"]

    def pair_that_turns(times: float) -> float:
        return dim * math.log(old / (times * 2 * math.pi)) / (2 * math.log(theta))

    first = pair_that_turns(parameters.get("beta_fast") or 32)
    last = pair_that_turns(parameters.get("beta_slow") or 1)
    if parameters.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    ramp = (np.arange(len(plain), dtype=np.float32) - first) / max(last - first, 1e-3)
    stretched = np.clip(ramp, 0, 1).astype(np.float32)
    frequencies = plain / np.float32(factor) * stretched + plain * (1 - stretched)

    def temperature(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

    given = parameters.get("attention_factor")
    scale, everywhere = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if given is not None:
        return frequencies, float(given)
    return frequencies, temperature(scale) / temperature(everywhere) if scale and everywhere else temperature(1)


_STRETCHES: dict[str, Callable[[Frequencies, Mapping[str, Any], int], tuple[Frequencies, float]]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _default,
    "llama3": _llama3,
    "yarn": _yarn,
}
