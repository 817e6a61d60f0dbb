"""The ops that are a line or two of torch each."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from lmrs.batch import Ragged
from lmrs.errors import InputError


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


def stack(*values: Tensor) -> Tensor:
    return torch.cat(values)


def transpose(x: Tensor) -> Tensor:
    return x.T


def kron(a: Tensor, b: Tensor) -> Tensor:
    return torch.kron(a, b)


def inverse_norm(weight: Tensor, *, constant: bool) -> Tensor:
    return (weight.detach() if constant else weight).square().sum(1).rsqrt()[None]


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


def char_conv(x: Tensor, weight: Tensor, bias: Tensor | None, sequences: Ragged) -> Tensor:
    width = weight.shape[1] // x.shape[1]
    words = []
    for start, stop in sequences.spans():
        word = functional.pad(x[start:stop], (0, 0, 0, max(width - (stop - start), 0)))
        windows = word.unfold(0, width, 1).transpose(1, 2).flatten(1)
        words.append(functional.linear(windows, weight, bias).amax(0))
    return torch.stack(words)


def cross_entropy(
    x: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    *,
    reduction: str,
    ignore: int,
    softcap: float | None = None,
) -> Tensor:
    counted = labels != ignore
    target = _inside("cross_entropy", labels.masked_fill(~counted, 0), len(weight))
    nll = functional.cross_entropy(_logits(x, weight, bias, softcap), target, reduction="none")
    total = nll.masked_fill(~counted, 0.0).sum()
    return (total / counted.sum().clamp(min=1) if reduction == "mean" else total).reshape(1, 1)


def token_logprob(
    x: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    *,
    top_k: int | None,
    softcap: float | None = None,
) -> Tensor:
    target = _inside("token_logprob", labels.clamp(min=0), len(weight))[:, None]
    logits, ignored = _logits(x, weight, bias, softcap), labels[:, None] < 0
    if top_k is None:
        return logits.log_softmax(-1).gather(1, target).masked_fill(ignored, 0.0)
    logprobs, total = logits.log_softmax(-1), logits.logsumexp(-1, keepdim=True)
    order = logits.sort(dim=-1, descending=True, stable=True).indices
    rank = (order == target).int().argmax(-1, keepdim=True) + 1
    entropy = -(logprobs.exp() * logprobs).sum(-1, keepdim=True)
    ids = order[:, :top_k]
    parts = [logprobs.gather(1, target), total, entropy, rank.to(x.dtype)]
    parts = [part.masked_fill(ignored, 0.0) for part in parts]
    named = [ids.to(x.dtype).masked_fill(ignored, -1.0), logprobs.gather(1, ids).masked_fill(ignored, 0.0)]
    return torch.cat(parts + named, -1).detach()


def _logits(x: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    logits = functional.linear(x, weight, bias)
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def sum(x: Tensor) -> Tensor:
    return x.sum().reshape(1, 1)


def _inside(op: str, index: Tensor, count: int) -> Tensor:
    if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < count):
        raise InputError(f"{op}: index in {int(index.min())} … {int(index.max())}, expected 0 … {count - 1}")
    return index.long()
