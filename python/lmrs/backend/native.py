"""The native interpreter: each op runs its Rust kernel at once, and a tape, if one is open, takes note of it."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lmrs import _rs, ops
from lmrs.batch import Dtype, Ragged
from lmrs.errors import InputError, ShapeError
from lmrs.nn.module import Module, Parameter

Tensor: TypeAlias = _rs.Tensor
Gradients = dict[str, _rs.Tensor]

_TAPE: ContextVar[_rs.Tape | None] = ContextVar("tape", default=None)
_SPARES: ContextVar[_rs.Spares | None] = ContextVar("spares", default=None)
_COMPUTE: ContextVar[Dtype] = ContextVar("compute", default="f32")


class Array:
    """A value of the native interpreter: an immutable array of float32, float64 or int32."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: _rs.Tensor) -> None:
        self.tensor = tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents, rows first."""
        return tuple(self.tensor.shape)

    def numpy(self) -> npt.NDArray[Any]:
        """The elements as a new numpy array."""
        return self.tensor.numpy()

    def item(self) -> float:
        """The one element of a scalar. Raises InputError if there are more."""
        values = self.numpy()
        if values.size != 1:
            raise InputError(f"item() of an array of shape {self.shape}, expected one element")
        return float(values.reshape(()))

    def __add__(self, other: "Array | Parameter") -> "Array":
        return ops.add(self, other)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"Array({self.numpy()!r})"


def array(values: npt.ArrayLike) -> Array:
    """A value holding a copy of ``values``; their dtype must be float64, float32 or int32."""
    return Array(_rs.Tensor.from_numpy(np.asarray(values)))


def _tensor(operand: Any) -> _rs.Tensor | None:
    if operand is None:
        return None
    if isinstance(operand, Array):
        return operand.tensor
    if isinstance(operand, Parameter) and isinstance(operand.data, _rs.Tensor):
        return operand.data
    given = type(operand).__name__
    raise InputError(f"the native backend was given a {given}, expected an Array or a loaded Parameter")


def tensor(parameter: Parameter) -> _rs.Tensor:
    """The numbers of ``parameter``. Raises InputError if it is not loaded, or is on another backend."""
    if not isinstance(parameter.data, _rs.Tensor):
        where = "not loaded" if parameter.data is None else f"a {type(parameter.data).__name__}, not a native tensor"
        raise InputError(f"a parameter {list(parameter.shape)} is {where}")
    return parameter.data


def _apply(name: str, inputs: tuple[Any, ...], attributes: dict[str, Any], streams: tuple[Ragged, ...]) -> Array:
    tensors = [_tensor(operand) for operand in inputs]
    starts = [(stream.name, stream.starts.tolist()) for stream in streams if stream.starts is not None]
    tape = _TAPE.get()
    if tape is not None:
        return Array(tape.apply(name, json.dumps(attributes), tensors, starts))
    return Array(_rs.apply(name, json.dumps(attributes), tensors, starts, compute=_COMPUTE.get()))


ops.register(Array, _apply)
ops.register_weights(_rs.Tensor, _apply)


@contextmanager
def _taping(tape: _rs.Tape, dtype: Dtype) -> Iterator[None]:
    token, computed = _TAPE.set(tape), _COMPUTE.set(dtype)
    try:
        yield
    finally:
        _TAPE.reset(token)
        _COMPUTE.reset(computed)


@contextmanager
def still() -> Iterator[None]:
    """While this holds, no tape takes note of what is computed: it is a constant to a gradient around it."""
    token = _TAPE.set(None)
    try:
        yield
    finally:
        _TAPE.reset(token)


@contextmanager
def reusing(spares: _rs.Spares | None = None) -> Iterator[None]:
    """While this holds, gradients and updates take their memory from ``spares``, and leave it there for the next."""
    token = _SPARES.set(_rs.Spares() if spares is None else spares)
    try:
        yield
    finally:
        _SPARES.reset(token)


def differentiate(
    loss: Callable[[], Array],
    of: Sequence[Array],
    *,
    randomness: tuple[int, int] | None = None,
    dtype: Dtype = "f32",
) -> tuple[Array, list[Array | None]]:
    """The scalar ``loss()`` and its gradient with respect to each value in ``of``; None where there is none.

    ``randomness`` is ``(seed, step)`` for dropout; without it dropout does nothing. ``dtype`` is that of products, see
    :func:`value_and_grad`. Raises ShapeError if the loss is not a scalar, InputError for ``bf16`` with 64-bit arrays.
    """
    tape = _rs.Tape([value.tensor for value in of], randomness=randomness, compute=dtype, spares=_SPARES.get())
    with _taping(tape, dtype):
        value = loss()
    grads = tape.backward(value.tensor, [value.tensor for value in of])
    return value, [None if grad is None else Array(grad) for grad in grads]


def value(loss: Callable[[], Array], _model: Module) -> float:
    """``loss()``, of which no gradient will be asked."""
    return loss().item()


def workers() -> tuple[int, int]:
    """``(rank, count)`` of the processes that follow one gradient: here one, whose threads share its work."""
    return 0, 1


def value_and_grad(
    loss: Callable[[], Array],
    model: Module,
    *,
    randomness: tuple[int, int] | None = None,
    dtype: Dtype = "f32",
) -> tuple[float, Gradients]:
    """The value of ``loss()`` and its gradient with respect to each trainable parameter of ``model``.

    ``loss`` calls the model and returns a scalar ``[1, 1]``. The gradients have the parameters' shapes and dtypes and
    come by path; a parameter the loss does not depend on is left out. ``randomness`` and errors are those of
    :func:`differentiate`; InputError if a parameter is not loaded.

    With ``dtype`` ``bf16`` the products of ``linear``, ``low_rank``, ``cross_entropy`` and ``token_logprob``, forward
    and on the way back, take operands rounded to bfloat16 (to nearest, ties to even) and sum in float32 in a fixed
    order, so each is within 2⁻⁷ of the sum of its terms' magnitudes. Nothing else is rounded: weights, values between
    ops, gradients, norms, attention, recurrences, softmax and losses are float32. The bits depend on the instruction
    set, since AVX512-BF16 adds two terms at a time and takes subnormal numbers as 0, and on nothing else: neither on
    threads nor, for a row of a product, on the rows beside it.
    """
    trainable = {path: p for path, p in model.named_parameters().items() if p.trainable}
    tensors = [tensor for p in trainable.values() if (tensor := _tensor(p)) is not None]
    value, grads = differentiate(loss, [Array(tensor) for tensor in tensors], randomness=randomness, dtype=dtype)
    return value.item(), {path: grad.tensor for path, grad in zip(trainable, grads, strict=True) if grad is not None}


def added(x: _rs.Tensor, y: _rs.Tensor) -> _rs.Tensor:
    """``x + y``, of one shape."""
    flat = [tensor.reshape([1, math.prod(x.shape)]) for tensor in (x, y)]
    return _rs.apply("add", "{}", flat, []).reshape(x.shape)


def norm(gradients: Sequence[_rs.Tensor]) -> float:
    """``√Σ g²`` over all elements of ``gradients``, summed in float64; not finite if one of them is not."""
    return _rs.norm(gradients)


def adamw(
    parameter: _rs.Tensor,
    gradient: _rs.Tensor,
    moments: tuple[_rs.Moment, _rs.Moment] | tuple[_rs.Tensor, _rs.Tensor] | None,
    *,
    step: int,
    scale: float,
    **settings: float,
) -> tuple[_rs.Tensor, tuple[_rs.Moment, _rs.Moment]]:
    """The parameter and its moments after the ``step``-th step, counted from 1, by ``scale·gradient``.

    ``settings`` are those of :class:`lmrs.train.AdamW`; ``moments`` are None before the first step and tensors after a
    checkpoint was read. Those that come back are written over by the next step.
    """
    kept: Any
    if moments is None:
        kept = _rs.Moment.zeros(parameter), _rs.Moment.zeros(parameter)
    else:
        kept = tuple(_rs.Moment(moment) if isinstance(moment, _rs.Tensor) else moment for moment in moments)
    return _rs.AdamW(**settings).step(step, parameter, gradient, scale, kept, _SPARES.get()), kept


def numpy(tensor: _rs.Tensor | _rs.Moment) -> npt.NDArray[Any]:
    """``tensor`` as a numpy array."""
    return tensor.numpy()


def updated(
    step: Callable[..., tuple[Any, tuple[Any, ...]]],
    parameter: _rs.Tensor,
    gradient: _rs.Tensor,
    moments: tuple[_rs.Tensor, ...] | None,
) -> tuple[_rs.Tensor, tuple[_rs.Tensor, ...]]:
    """``step(parameter, gradient, *moments)`` on arrays of numpy: the new parameter, and what is kept of it."""
    dtype = parameter.numpy().dtype
    new, kept = step(*(tensor.numpy() for tensor in (parameter, gradient, *(moments or ()))))
    return (
        _rs.Tensor.from_numpy(np.ascontiguousarray(new, dtype)),
        tuple(_rs.Tensor.from_numpy(np.ascontiguousarray(moment, dtype)) for moment in kept),
    )


def loaded(_tensor: _rs.Tensor, values: npt.NDArray[Any]) -> _rs.Tensor:
    """``values``, of any shape, where ``tensor`` is."""
    return _rs.Tensor.from_numpy(values)


def detached(value: Array) -> npt.NDArray[Any]:
    """The numbers of ``value``, which no gradient goes through."""
    return value.numpy()


def like(tensor: _rs.Tensor, values: npt.NDArray[Any]) -> _rs.Tensor:
    """``values`` in place of ``tensor``. Raises ShapeError if they have another shape or dtype."""
    if list(values.shape) != tensor.shape or values.dtype != tensor.dtype:
        raise ShapeError(f"{values.dtype} {list(values.shape)}, expected {tensor.dtype} {tensor.shape}")
    return _rs.Tensor.from_numpy(values)
