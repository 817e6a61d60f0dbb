"""How parameters start when no checkpoint gives them."""

import hashlib
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from lmrs.backend import native
from lmrs.errors import InputError
from lmrs.nn.module import Constant, Module, Parameter

M = TypeVar("M", bound=Module)


def initialise(model: M, *, seed: int) -> M:
    """Give every parameter of ``model`` that has no numbers its starting ones, float32, and return the model.

    A draw is a function of (``seed``, path), so it depends on no order and on no other parameter. Rules of
    ``Parameter.init``: ``normal`` N(0, 0.02²); ``residual`` N(0, 0.02² / n) for the n projections that add to the
    residual stream, which keeps its variance (Radford et al. 2019, §2.3); ``uniform`` U(-1/√inputs, 1/√inputs);
    ``zeros``; ``ones``; ``forget`` 1 for the second quarter, the forget gate of an LSTM, else 0. Raises InputError if
    ``seed`` is not in 0 … 2⁶⁴-1.
    """
    if not 0 <= seed < 2**64:
        raise InputError(f"seed is {seed}, expected 0 … 2⁶⁴-1")
    parameters = model.named_parameters()
    residuals = sum(parameter.init == "residual" for parameter in parameters.values())
    for path, parameter in parameters.items():
        if parameter.data is None:
            parameter.data = native.array(_draw(parameter, _generator(seed, path), residuals)).tensor
    place_constants(model)
    return model


def place_constants(model: Module, *, dtype: str = "float32") -> None:
    """Give the constants of ``model``, which are built in numpy, to the native backend."""
    for leaf in model.named_leaves().values():
        if isinstance(leaf, Constant) and isinstance(leaf.data, np.ndarray):
            leaf.data = native.array(leaf.data.astype(dtype)).tensor


def _generator(seed: int, path: str) -> np.random.Generator:
    key = hashlib.blake2b(path.encode(), digest_size=16, key=seed.to_bytes(8, "little")).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def _draw(parameter: Parameter, random: np.random.Generator, residuals: int) -> npt.NDArray[np.float32]:
    match parameter.init:
        case "normal":
            values = random.normal(0.0, 0.02, parameter.shape)
        case "residual":
            values = random.normal(0.0, 0.02 / np.sqrt(residuals), parameter.shape)
        case "uniform":
            bound = 1 / np.sqrt(parameter.shape[-1])
            values = random.uniform(-bound, bound, parameter.shape)
        case "zeros":
            values = np.zeros(parameter.shape)
        case "ones":
            values = np.ones(parameter.shape)
        case "forget":
            values = np.zeros(parameter.shape)
            values[len(values) // 4 : len(values) // 2] = 1
    return values.astype(np.float32)
