"""The torch interpreter: each op in a few lines of torch, differentiated by torch's autograd.

Importing it registers :class:`torch.Tensor`. It serves training on a GPU and is the second opinion on the native
kernels, so it is written to be read beside the equations of :mod:`lmrs.ops` and makes no copy of their tricks. It sees
whole sequences: a cache slot is ignored.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from lmrs import _rs, ops
from lmrs.backend import native
from lmrs.batch import Ragged
from lmrs.errors import InputError, ShapeError
from lmrs.nn.module import Module, Parameter

M = TypeVar("M", bound=Module)

_RANDOMNESS: ContextVar[tuple[int, int] | None] = ContextVar("randomness", default=None)


def array(values: npt.NDArray[Any]) -> Tensor:
    """``values`` as a tensor on the CPU."""
    return torch.from_numpy(np.ascontiguousarray(values))


def numpy(value: Tensor) -> npt.NDArray[Any]:
    """``value`` as a numpy array, off the graph and off the device."""
    return np.asarray(value.detach().cpu().numpy())


def place(model: M, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> M:
    """``model`` with its parameters as torch tensors on ``device``; the trainable ones ask for gradients.

    Raises InputError if a parameter is not loaded.
    """

    def move(parameter: Parameter) -> Parameter:
        data = parameter.data
        if isinstance(data, _rs.Tensor):
            data = data.numpy()
        if data is None:
            raise InputError(f"a parameter {list(parameter.shape)} is not loaded")
        tensor = data.detach() if isinstance(data, Tensor) else array(data)
        moved = tensor.to(device=device, dtype=dtype, copy=True)
        return replace(parameter, data=moved.requires_grad_(parameter.trainable))

    return model.map_parameters(move)


def fetch(model: M) -> M:
    """The inverse of :func:`place`: ``model`` with parameters that are native float32 tensors, to save or record it."""

    def move(parameter: Parameter) -> Parameter:
        data = parameter.data
        return (
            replace(parameter, data=native.array(numpy(data.float())).tensor) if isinstance(data, Tensor) else parameter
        )

    return model.map_parameters(move)


@contextmanager
def randomness(seed: int, step: int) -> Iterator[None]:
    """While this holds, dropout drops, as a function of (``seed``, ``step``, site); elsewhere it does nothing.

    The masks are torch's own and not those of the native backend.
    """
    token = _RANDOMNESS.set((seed, step))
    try:
        yield
    finally:
        _RANDOMNESS.reset(token)


def embed(table: Tensor, ids: Tensor) -> Tensor:
    return functional.embedding(_inside("embed", ids, len(table)), table)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return functional.linear(x, weight, bias)


def low_rank(base: Tensor, x: Tensor, a: Tensor, b: Tensor, *, scale: float) -> Tensor:
    return base + scale * (x @ a.T @ b.T)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, *, eps: float) -> Tensor:
    return functional.layer_norm(x, weight.shape, weight, bias, eps)


def rms_norm(x: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    runs = x.view(len(x), -1, len(weight))
    return (runs * torch.rsqrt(runs.square().mean(-1, keepdim=True) + eps) * weight).flatten(-2)


def rope(x: Tensor, positions: Tensor, frequencies: Tensor, *, head_dim: int, factor: float) -> Tensor:
    half = len(frequencies)
    angle = positions[:, None, None] * frequencies
    cos, sin = (factor * angle.cos()).to(x.dtype), (factor * angle.sin()).to(x.dtype)
    left, right, rest = x.view(len(x), -1, head_dim).tensor_split([half, 2 * half], -1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin, rest], -1).flatten(-2)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor | None,
    prefix_k: Tensor | None,
    prefix_v: Tensor | None,
    queries: Ragged,
    keys: Ragged,
    *,
    heads: int,
    kv_heads: int,
    scale: float,
    causal: bool,
    window: int | None,
    softcap: float | None,
    relative: dict[str, Any] | None,
    cache: str | None,
) -> Tensor:
    def split(x: Tensor, count: int) -> Tensor:
        return x.view(len(x), count, -1).transpose(0, 1).repeat_interleave(heads // count, 0)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, m, p = len(q), len(k), 0
        distance = torch.arange(m, device=q.device) - torch.arange(n, device=q.device)[:, None]
        seen = torch.ones_like(distance, dtype=torch.bool)
        if causal:
            seen = (distance <= 0) & (distance > -(window or n))
        if prefix_k is not None and prefix_v is not None:
            p, k, v = len(prefix_k), torch.cat([prefix_k, k]), torch.cat([prefix_v, v])
            seen = functional.pad(seen, (p, 0), value=True)
        score = scale * split(q, heads) @ split(k, kv_heads).mT
        if softcap is not None:
            score = softcap * torch.tanh(score / softcap)
        if table is not None and relative is not None:
            score = score + functional.pad(table[buckets(distance, **relative)].movedim(-1, 0), (p, 0))
        weight = score.masked_fill(~seen, -torch.inf).softmax(-1)
        return (weight @ split(v, kv_heads)).transpose(0, 1).flatten(1)

    spans = zip(queries.spans(), keys.spans(), strict=True)
    return torch.cat([attend(q[a:b], k[c:d], v[c:d]) for (a, b), (c, d) in spans])


def buckets(distance: Tensor, *, buckets: int, max_distance: int, bidirectional: bool) -> Tensor:
    """T5's bucket of a relative position ``key - query``: exact up to half of the buckets, then logarithmic.

    With both directions the upper half of the buckets is for keys to the right. Long as ``distance``.
    """
    first = torch.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        first = (distance > 0) * buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    return first + torch.where(distance < exact, distance, far)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": functional.relu,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def activation(x: Tensor, *, kind: str) -> Tensor:
    return _ACTIVATIONS[kind](x)


def gated(gate: Tensor, up: Tensor, *, kind: str) -> Tensor:
    return _ACTIVATIONS[kind](gate) * up


def add(x: Tensor, y: Tensor) -> Tensor:
    return x + y


def mul(x: Tensor, y: Tensor) -> Tensor:
    return x * y


def scale(x: Tensor, *, by: float) -> Tensor:
    return by * x


def concat(*values: Tensor) -> Tensor:
    return torch.cat(values, -1)


def columns(x: Tensor, *, start: int, stop: int) -> Tensor:
    return x[:, start:stop]


def rows(x: Tensor, index: Tensor) -> Tensor:
    return x[_inside("rows", index, len(x))]


_POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean(0),
    "first": lambda x: x[0],
    "last": lambda x: x[-1],
    "max": lambda x: x.amax(0),
}


def pool(x: Tensor, sequences: Ragged, *, kind: str) -> Tensor:
    return torch.stack([_POOLS[kind](x[start:stop]) for start, stop in sequences.spans()])


def dropout(x: Tensor, *, rate: float, site: str) -> Tensor:
    if _RANDOMNESS.get() is None:
        return x
    key = hashlib.blake2b(repr((_RANDOMNESS.get(), site)).encode(), digest_size=8).digest()
    generator = torch.Generator(x.device).manual_seed(int.from_bytes(key, "little", signed=True))
    kept = torch.rand(x.shape, generator=generator, device=x.device) >= rate
    return x * kept / (1 - rate)


def cross_entropy(
    x: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, *, reduction: str, ignore: int
) -> Tensor:
    counted = labels != ignore
    target = _inside("cross_entropy", labels.masked_fill(~counted, 0), len(weight))
    nll = functional.cross_entropy(functional.linear(x, weight, bias), target, reduction="none")
    total = nll.masked_fill(~counted, 0.0).sum()
    return (total / counted.sum().clamp(min=1) if reduction == "mean" else total).reshape(1, 1)


def token_logprob(x: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> Tensor:
    target = _inside("token_logprob", labels.clamp(min=0), len(weight))
    nll = functional.cross_entropy(functional.linear(x, weight, bias), target, reduction="none")
    return (-nll).masked_fill(labels < 0, 0.0)[:, None]


def sum(x: Tensor) -> Tensor:
    return x.sum().reshape(1, 1)


_OPS: dict[str, Callable[..., Tensor]] = {
    op.__name__: op
    for op in (
        embed,
        linear,
        low_rank,
        layer_norm,
        rms_norm,
        rope,
        attention,
        activation,
        gated,
        add,
        mul,
        scale,
        concat,
        columns,
        rows,
        pool,
        dropout,
        cross_entropy,
        token_logprob,
        sum,
    )
}


def _inside(op: str, index: Tensor, count: int) -> Tensor:
    if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < count):
        raise InputError(f"{op}: index in {int(index.min())} … {int(index.max())}, expected 0 … {count - 1}")
    return index.long()


def _tensor(op: str, operand: ops.Operand | None) -> Tensor | None:
    if not isinstance(operand, Parameter):
        return operand
    if not isinstance(operand.data, Tensor):
        raise InputError(f"{op}: a parameter {list(operand.shape)} is not on torch; place(model) moves it there")
    return operand.data


def apply(
    name: str, inputs: tuple[ops.Operand | None, ...], attributes: ops.Attributes, streams: tuple[Ragged, ...]
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


ops.register(Tensor, apply)
