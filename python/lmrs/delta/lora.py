"""LoRA: a low-rank update beside frozen projections (Hu et al. 2021)."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from lmrs import ops
from lmrs.backend import native
from lmrs.delta.tree import Delta, Method, checked_positive, replaced, with_trained
from lmrs.errors import ConfigError, InputError
from lmrs.nn.layers import Embedding, Head, Linear
from lmrs.nn.module import Module, Parameter, matcher
from lmrs.ops import Reduction, Value

Biases = Literal["none", "all", "lora_only"]


@dataclass(frozen=True, kw_only=True)
class LoRA(Method):
    """``LoRA(rank=8)(model)``: the frozen ``model`` with a trainable update of low rank on each projection it targets.

    ``W·x`` becomes ``W·x + s·B·(A·x)`` with ``A [rank, inputs]`` drawn from U(-1/√inputs, 1/√inputs) and
    ``B [outputs, rank]`` zero, so that the tuned model starts as the base. ``s = alpha / rank``, or ``alpha / √rank``
    with ``rslora`` (Kalajdzievski 2023). ``targets`` is a pattern of canonical paths (see
    :meth:`lmrs.nn.module.Module.replace`) of projections, of ``embed`` (there ``A [vocabulary, rank]`` is zero and
    ``B`` is drawn) or of ``head``. ``ranks`` and ``alphas`` give other values to the paths that match their patterns,
    the first that matches. ``bias``: which biases of the base are trained, too: of no module, all, or those targeted.
    ``dropout`` acts on the input of ``A`` in training. LoRA+ (Hayou et al. 2024) is ``AdamW(rates={"*.b": 16})``.

    Raises InputError for an impossible option, ConfigError if ``targets`` matches nothing or something else.
    """

    rank: int = 8
    alpha: float = 16
    targets: str = "*.attn.{q,v}"
    dropout: float = 0.0
    rslora: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    bias: Biases = "none"

    def __post_init__(self) -> None:
        checked_positive(rank=self.rank, **{f"ranks[{name!r}]": rank for name, rank in self.ranks.items()})
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}, expected 0 <= dropout < 1")
        for alpha in (self.alpha, *self.alphas.values()):
            if not math.isfinite(alpha):
                raise InputError(f"alpha is {alpha}, expected a finite number")
        if self.bias not in ("none", "all", "lora_only"):
            raise InputError(f"bias is {self.bias!r}, expected none, all or lora_only")

    def at(self, path: str) -> "LoRA":
        """The LoRA of one module: ``ranks`` and ``alphas`` resolved."""
        rank = next((rank for pattern, rank in self.ranks.items() if matcher(pattern)(path)), self.rank)
        alpha = next((alpha for pattern, alpha in self.alphas.items() if matcher(pattern)(path)), self.alpha)
        return replace(self, rank=rank, alpha=alpha, ranks={}, alphas={})

    def apply(self, model: Any) -> Any:
        """See :class:`~lmrs.delta.tree.Method`."""
        if self.bias != "none":
            matches = matcher("*" if self.bias == "all" else self.targets)
            model = with_trained(
                model, lambda path: path.endswith(".bias") and bool(matches(path.removesuffix(".bias")))
            )
        return replaced(model, self.targets, lambda path, module: low_rank(module, self.at(path), site=path))


def low_rank(base: Module, lora: LoRA, *, site: str) -> "LowRank | LowRankEmbedding | LowRankHead":
    """The update of ``base``, whichever kind of module it is. Raises ConfigError if there is none for it."""
    if isinstance(base, Head):
        return LowRankHead(base, lora)
    if isinstance(base, Embedding | LowRankEmbedding):
        return LowRankEmbedding(base, lora)
    return LowRank(base, lora, site=site)


def linear_shape(base: Module, what: str, site: str) -> tuple[int, int]:
    """``(outputs, inputs)`` of a projection or of a delta on one. Raises ConfigError if ``base`` is neither."""
    inner: Any = base
    while isinstance(inner, Delta):
        inner = inner.base
    if not isinstance(inner, Linear):
        raise ConfigError(f"{what} cannot target {site}, a {type(inner).__name__}: expected a Linear")
    outputs, inputs = inner.weight.shape
    return outputs, inputs


class Update(Delta):
    """A projection with a changed weight: what :meth:`merged` needs is :meth:`change`."""

    site: str

    def change(self) -> Any:
        """``ΔW [outputs, inputs]``, float64."""
        raise NotImplementedError

    def merged(self) -> Linear:
        """The projection with the weight ``W + ΔW``, summed in float64."""
        base = self.base.merged() if isinstance(self.base, Delta) else self.base
        weight = native.tensor(base.weight)
        changed = (weight.numpy().astype(np.float64) + self.change()).astype(weight.dtype)
        plain = copy.copy(base)
        plain.weight = replace(base.weight, data=native.array(changed).tensor)
        return plain  # type: ignore[no-any-return]


class LowRank(Update):
    """``y = base(x) + s·(dropout(x)·Aᵀ)·Bᵀ``, with weights ``a [rank, inputs]``, ``b [outputs, rank]``.

    ``site`` names the place for dropout. Raises ConfigError if ``base`` is not a projection.
    """

    def __init__(self, base: Module, lora: LoRA, *, site: str) -> None:
        outputs, inputs = linear_shape(base, "LoRA", site)
        self.base = base
        self.a = Parameter(shape=(lora.rank, inputs), init="uniform")
        self.b = Parameter(shape=(outputs, lora.rank), init="zeros")
        self.lora, self.site = lora, site

    @property
    def scale(self) -> float:
        """What the update is multiplied by."""
        return _scale(self.lora)

    def forward(self, x: Value) -> Value:
        """``[T, inputs]`` to ``[T, outputs]``."""
        return ops.low_rank(self.base(x), dropped(x, self.lora.dropout, self.site), self.a, self.b, scale=self.scale)

    def change(self) -> Any:
        """``s·B·A``."""
        a, b = (native.tensor(p).numpy().astype(np.float64) for p in (self.a, self.b))
        return self.scale * (b @ a)


class LowRankEmbedding(Delta):
    """``y[t] = base(ids)[t] + s·B·A[ids[t]]``, with weights ``a [vocabulary, rank]``, ``b [width, rank]``."""

    def __init__(self, base: Embedding | Delta, lora: LoRA) -> None:
        inner = base
        while isinstance(inner, Delta):
            inner = inner.base
        count, width = inner.weight.shape
        self.base = base
        self.a = Parameter(shape=(count, lora.rank), init="zeros")
        self.b = Parameter(shape=(width, lora.rank), init="uniform")
        self.lora = lora

    @property
    def scale(self) -> float:
        """What the update is multiplied by."""
        return _scale(self.lora)

    @property
    def weight(self) -> Parameter:
        """The base's table, of which a tied head reads."""
        return self.base.weight  # type: ignore[no-any-return]

    def forward(self, ids: Value) -> Value:
        """``[T]`` int32 to ``[T, width]``."""
        update = ops.scale(ops.linear(ops.embed(self.a, ids), self.b), by=self.scale)
        return ops.add(self.base(ids), update)

    def merged(self) -> Embedding:
        """The table ``W + s·A·Bᵀ``, summed in float64; a tied head keeps the table it had."""
        base = self.base.merged() if isinstance(self.base, Delta) else self.base
        weight, a, b = (native.tensor(p).numpy().astype(np.float64) for p in (base.weight, self.a, self.b))
        plain = copy.copy(base)
        changed = (weight + self.scale * (a @ b.T)).astype(native.tensor(base.weight).dtype)
        plain.weight = replace(base.weight, data=native.array(changed).tensor)
        return plain  # type: ignore[no-any-return]


class LowRankHead(Delta):
    """Logits ``x·Wᵀ + s·(x·Aᵀ)·Bᵀ + bias``, as one product: ``[x, s·x·Aᵀ]`` with the weight ``[W, B]``.

    So the loss never stores logits here either. ``a [rank, width]``, ``b [vocabulary, rank]``.
    """

    def __init__(self, base: Head, lora: LoRA) -> None:
        vocabulary, width = base.weight.shape
        self.base = base
        self.a = Parameter(shape=(lora.rank, width), init="uniform")
        self.b = Parameter(shape=(vocabulary, lora.rank), init="zeros")
        self.lora = lora

    @property
    def scale(self) -> float:
        """What the update is multiplied by."""
        return _scale(self.lora)

    def _wide(self, x: Value) -> tuple[Value, Head]:
        """The operands of the one product."""
        head = copy.copy(self.base)
        head.weight = ops.concat(self.base.weight, self.b)
        return ops.concat(x, ops.scale(ops.linear(x, self.a), by=self.scale)), head

    def forward(self, x: Value) -> Value:
        """The logits ``[T, V]`` of ``x [T, d]``."""
        wide, head = self._wide(x)
        return head(wide)

    def loss(self, x: Value, labels: Value, *, reduction: Reduction = "mean") -> Value:
        """See :meth:`lmrs.nn.layers.Head.loss`."""
        wide, head = self._wide(x)
        return head.loss(wide, labels, reduction=reduction)

    def logprob(self, x: Value, labels: Value, *, top_k: int | None = None) -> Value:
        """See :meth:`lmrs.nn.layers.Head.logprob`."""
        wide, head = self._wide(x)
        return head.logprob(wide, labels, top_k=top_k)

    def merged(self) -> Head:
        """The head with the weight ``W + s·B·A``, its own from here on."""
        weight, a, b = (native.tensor(p).numpy().astype(np.float64) for p in (self.base.weight, self.a, self.b))
        plain = copy.copy(self.base)
        changed = (weight + self.scale * (b @ a)).astype(native.tensor(self.base.weight).dtype)
        plain.weight = replace(self.base.weight, data=native.array(changed).tensor)
        return plain  # type: ignore[no-any-return]


def dropped(x: Value, rate: float, site: str) -> Value:
    """``x``, with dropout if there is a rate."""
    return ops.dropout(x, rate=rate, site=site) if rate else x


def _scale(lora: LoRA) -> float:
    return lora.alpha / (math.sqrt(lora.rank) if lora.rslora else lora.rank)
