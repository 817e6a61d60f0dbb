"""The torch interpreter: each op in a few lines of torch, differentiated by torch's autograd.

Importing it registers :class:`torch.Tensor`. It serves training on a GPU and is the second opinion on the native
kernels, so it is written to be read beside the equations of :mod:`lmrs.ops` and makes no copy of their tricks. It sees
whole sequences: a cache slot is ignored.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lmrs import ops as described
from lmrs.backend.torch import attention, dropout, lstm, ops
from lmrs.backend.torch.distributed import summed, workers
from lmrs.backend.torch.training import (
    Gradients,
    adamw,
    added,
    array,
    detached,
    fetch,
    like,
    loaded,
    norm,
    numpy,
    place,
    reusing,
    still,
    updated,
    value,
    value_and_grad,
)
from lmrs.batch import Ragged
from lmrs.errors import InputError, ShapeError
from lmrs.nn.module import Parameter

__all__ = [
    "Gradients",
    "adamw",
    "added",
    "array",
    "detached",
    "fetch",
    "like",
    "loaded",
    "norm",
    "numpy",
    "place",
    "reusing",
    "still",
    "summed",
    "updated",
    "value",
    "value_and_grad",
    "workers",
]

_OPS: dict[str, Callable[..., Tensor]] = {
    op.__name__: op
    for op in (
        ops.embed,
        ops.linear,
        ops.low_rank,
        ops.layer_norm,
        ops.rms_norm,
        ops.rope,
        attention.attention,
        ops.activation,
        ops.gated,
        ops.add,
        ops.mul,
        ops.scale,
        ops.concat,
        ops.stack,
        ops.transpose,
        ops.kron,
        ops.inverse_norm,
        ops.columns,
        ops.rows,
        ops.pool,
        lstm.lstm,
        ops.char_conv,
        dropout.dropout,
        ops.cross_entropy,
        ops.token_logprob,
        ops.sum,
    )
}


def _tensor(op: str, operand: described.Operand | None) -> Tensor | None:
    if not isinstance(operand, Parameter):
        return operand
    if not isinstance(operand.data, Tensor):
        raise InputError(f"{op}: a parameter {list(operand.shape)} is not on torch; place(model) moves it there")
    return operand.data


def apply(
    name: str,
    inputs: tuple[described.Operand | None, ...],
    attributes: described.Attributes,
    streams: tuple[Ragged, ...],
) -> Tensor:
    """Run op ``name``; torch's complaints about shapes come back as :class:`~lmrs.errors.ShapeError`."""
    operands = [_tensor(name, operand) for operand in inputs]
    try:
        return _OPS[name](*operands, *streams, **attributes)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        shapes = ", ".join("-" if o is None else str(list(o.shape)) for o in operands)
        raise ShapeError(f"{name}({shapes}): {error}") from error


described.register(Tensor, apply)
described.register_weights(Tensor, apply)
