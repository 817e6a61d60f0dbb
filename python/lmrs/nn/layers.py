"""The leaves of a model: projections, tables, norms and the head."""

from lmrs import ops
from lmrs.nn.module import Init, Module, Parameter
from lmrs.ops import Reduction, Value


class Linear(Module):
    """``y = x·Wᵀ + b``; ``weight [outputs, inputs]``, ``bias [outputs]`` or None."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, init: Init = "normal") -> None:
        self.weight = Parameter(shape=(outputs, inputs), init=init)
        self.bias = Parameter(shape=(outputs,), init="zeros") if bias else None

    def forward(self, x: Value) -> Value:
        """``[T, inputs]`` to ``[T, outputs]``."""
        return ops.linear(x, self.weight, self.bias)


class Embedding(Module):
    """A table of ``count`` rows of ``width``; ``weight [count, width]``."""

    def __init__(self, count: int, width: int) -> None:
        self.weight = Parameter(shape=(count, width))

    def forward(self, ids: Value) -> Value:
        """``[T]`` int32 to ``[T, width]``."""
        return ops.embed(self.weight, ids)


class LayerNorm(Module):
    """Layer normalisation over ``width``; ``weight [width]``, ``bias [width]`` or None."""

    def __init__(self, width: int, *, eps: float, bias: bool = True) -> None:
        self.weight = Parameter(shape=(width,), init="ones")
        self.bias = Parameter(shape=(width,), init="zeros") if bias else None
        self.eps = eps

    def forward(self, x: Value) -> Value:
        """``[T, width]`` to ``[T, width]``."""
        return ops.layer_norm(x, self.weight, self.bias, eps=self.eps)


class RMSNorm(Module):
    """Root-mean-square normalisation of each run of ``width`` columns; ``weight [width]``."""

    def __init__(self, width: int, *, eps: float) -> None:
        self.weight = Parameter(shape=(width,), init="ones")
        self.eps = eps

    def forward(self, x: Value) -> Value:
        """``[T, n·width]`` to ``[T, n·width]``."""
        return ops.rms_norm(x, self.weight, eps=self.eps)


class Head(Module):
    """From hidden states to the vocabulary. ``tied`` is the embedding whose table it shares, or None.

    With ``cap`` the logits are ``cap·tanh(x·Wᵀ / cap)`` (Gemma 2).
    """

    def __init__(
        self,
        width: int,
        vocabulary: int,
        *,
        tied: Embedding | None = None,
        bias: bool = False,
        cap: float | None = None,
    ) -> None:
        self.weight = tied.weight if tied else Parameter(shape=(vocabulary, width))
        self.bias = Parameter(shape=(vocabulary,), init="zeros") if bias else None
        self.cap = cap

    def forward(self, x: Value) -> Value:
        """The logits ``[T, V]`` of ``x [T, d]``."""
        logits = ops.linear(x, self.weight, self.bias)
        if self.cap is None:
            return logits
        return ops.scale(ops.activation(ops.scale(logits, by=1 / self.cap), kind="tanh"), by=self.cap)

    def loss(self, x: Value, labels: Value, *, reduction: Reduction = "mean") -> Value:
        """The cross-entropy ``[1, 1]`` in nats of ``labels [T]`` (-100: not counted), without storing logits."""
        with self.entered():
            return ops.cross_entropy(x, self.weight, labels, self.bias, reduction=reduction, softcap=self.cap)

    def logprob(self, x: Value, labels: Value, *, top_k: int | None = None) -> Value:
        """``log p(label)`` of each row in nats, ``[T, 1]``; 0 where the label is negative; with ``top_k`` more columns.

        See :func:`lmrs.ops.token_logprob`.
        """
        with self.entered():
            return ops.token_logprob(x, self.weight, labels, self.bias, top_k=top_k, softcap=self.cap)
