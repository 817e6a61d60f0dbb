"""Attention modules: how queries, keys and values are made; the softmax itself is :func:`lmrs.ops.attention`."""

from dataclasses import dataclass
from typing import Any

from lmrs import ops
from lmrs.batch import Ragged
from lmrs.nn.layers import Linear, RMSNorm
from lmrs.nn.module import Module, Parameter
from lmrs.nn.rope import Rope
from lmrs.ops import Value


@dataclass(frozen=True)
class Heads:
    """``queries`` query heads share ``keys`` key and value heads, all of width ``dim``."""

    queries: int
    keys: int
    dim: int


class Attention(Module):
    """Self-attention: ``o(attention(q(x), k(x), v(x)))``.

    ``cache`` names the slot in which the engine keeps keys and values (None: nothing is kept), ``scale`` multiplies the
    scores (``dim**-0.5`` by default), ``softcap`` bounds them, ``window`` limits how far a query sees.
    ``bias`` is that of all four projections unless ``o_bias`` says otherwise for the last. ``prefix``, if a delta gives
    one, is called with the keys and values and returns others ``[p, keys·dim]`` that every query sees, too.
    ``dropout``, a rate and the name of the place, leaves out weights in training.
    """

    def __init__(
        self,
        width: int,
        heads: Heads,
        *,
        causal: bool,
        cache: str | None = None,
        bias: bool = True,
        o_bias: bool | None = None,
        scale: float | None = None,
        window: int | None = None,
        softcap: float | None = None,
    ) -> None:
        self.q = Linear(width, heads.queries * heads.dim, bias=bias)
        self.k = Linear(width, heads.keys * heads.dim, bias=bias)
        self.v = Linear(width, heads.keys * heads.dim, bias=bias)
        self.o = Linear(heads.queries * heads.dim, width, bias=bias if o_bias is None else o_bias, init="residual")
        self.heads, self.causal, self.cache, self.window = heads, causal, cache, window
        self.prefix: Module | None = None
        self.scale = heads.dim**-0.5 if scale is None else scale
        self.softcap = softcap
        self.dropout: tuple[float, str] = (0.0, "")

    def forward(self, x: Value, seqs: Ragged) -> Value:
        """``x [T, width]`` to ``[T, width]``."""
        return self.o(self.mix(self.q(x), self.k(x), self.v(x), seqs, seqs))

    def mix(
        self,
        q: Value,
        k: Value,
        v: Value,
        queries: Ragged,
        keys: Ragged,
        table: Parameter | None = None,
        relative: dict[str, Any] | None = None,
    ) -> Value:
        """The softmax-weighted values ``[T, queries·dim]``, before ``o``."""
        prefix_k, prefix_v = (None, None) if self.prefix is None else self.prefix(k, v)
        return ops.attention(
            q,
            k,
            v,
            table,
            prefix_k,
            prefix_v,
            queries=queries,
            keys=keys,
            heads=self.heads.queries,
            kv_heads=self.heads.keys,
            scale=self.scale,
            causal=self.causal,
            window=self.window,
            softcap=self.softcap,
            relative=relative,
            cache=self.cache,
            dropout=self.dropout[0],
            site=self.dropout[1],
        )


class RotaryAttention(Attention):
    """Self-attention with queries and keys rotated by position, each head normed before if ``norm_eps`` is given."""

    def __init__(self, width: int, heads: Heads, *, rope: Rope, norm_eps: float | None = None, **options: Any) -> None:
        super().__init__(width, heads, **options)
        self.q_norm = None if norm_eps is None else RMSNorm(heads.dim, eps=norm_eps)
        self.k_norm = None if norm_eps is None else RMSNorm(heads.dim, eps=norm_eps)
        self.rope = rope

    def forward(self, x: Value, seqs: Ragged, positions: Value) -> Value:  # type: ignore[override]
        """``x [T, width]`` at ``positions [T]`` to ``[T, width]``."""
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return self.o(self.mix(self.rope(q, positions), self.rope(k, positions), v, seqs, seqs))


class RelativeAttention(Attention):
    """Self-attention whose scores get a learned bias by bucket of distance, from a table that all blocks share."""

    def __init__(self, width: int, heads: Heads, *, relative: dict[str, Any], **options: Any) -> None:
        super().__init__(width, heads, **options)
        self.relative = relative

    def forward(self, x: Value, seqs: Ragged, table: Parameter) -> Value:  # type: ignore[override]
        """``x [T, width]`` with ``table [buckets, heads]`` to ``[T, width]``."""
        return self.o(self.mix(self.q(x), self.k(x), self.v(x), seqs, seqs, table, self.relative))


class CrossAttention(Attention):
    """Queries from one stream, keys and values from another: ``o(attention(q(x), k(memory), v(memory)))``."""

    def forward(self, x: Value, seqs: Ragged, memory: Value, memory_seqs: Ragged) -> Value:  # type: ignore[override]
        """``x [T, width]``, ``memory [S, width]`` to ``[T, width]``."""
        return self.o(self.mix(self.q(x), self.k(memory), self.v(memory), seqs, memory_seqs))
