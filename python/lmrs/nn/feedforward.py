"""The position-wise networks."""

from lmrs import ops
from lmrs.nn.layers import Linear
from lmrs.nn.module import Module
from lmrs.ops import Activation, Value


class FeedForward(Module):
    """``down(kind(up(x)))``."""

    def __init__(self, width: int, inner: int, *, kind: Activation, bias: bool = True) -> None:
        self.up = Linear(width, inner, bias=bias)
        self.down = Linear(inner, width, bias=bias, init="residual")
        self.kind: Activation = kind

    def forward(self, x: Value) -> Value:
        """``[T, width]`` to ``[T, width]``."""
        return self.down(ops.activation(self.up(x), kind=self.kind))


class GatedFeedForward(Module):
    """``down(kind(gate(x))·up(x))`` (Shazeer 2020)."""

    def __init__(self, width: int, inner: int, *, kind: Activation, bias: bool = False) -> None:
        self.gate = Linear(width, inner, bias=bias)
        self.up = Linear(width, inner, bias=bias)
        self.down = Linear(inner, width, bias=bias, init="residual")
        self.kind: Activation = kind

    def forward(self, x: Value) -> Value:
        """``[T, width]`` to ``[T, width]``."""
        return self.down(ops.gated(self.gate(x), self.up(x), kind=self.kind))
