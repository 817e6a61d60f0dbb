"""LoRA: a low-rank update beside frozen projections (Hu et al. 2021)."""

import copy
import math
from dataclasses import dataclass, replace

import numpy as np

from lmrs import ops
from lmrs.backend import native
from lmrs.delta.tree import Delta, M
from lmrs.errors import ConfigError, InputError
from lmrs.initialise import initialise
from lmrs.nn.layers import Linear
from lmrs.nn.module import Module, Parameter
from lmrs.ops import Value


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """``LoRA(rank=8)(model)``: the frozen ``model`` with a trainable update of low rank on each projection it targets.

    ``W·x`` becomes ``W·x + s·B·(A·x)`` with ``A [rank, inputs]`` drawn from U(-1/√inputs, 1/√inputs) and
    ``B [outputs, rank]`` zero, so that the tuned model starts as the base. ``s = alpha / rank``, or ``alpha / √rank``
    with ``rslora`` (Kalajdzievski 2023). ``targets`` is a pattern of canonical paths (see
    :meth:`lmrs.nn.module.Module.replace`). ``dropout`` acts on the input of ``A`` in training. The draw of an ``A`` is
    a function of ``seed`` and its path alone.

    Raises InputError for an impossible option, ConfigError if ``targets`` matches nothing or something that is not a
    projection; the head is none, because its logits are never stored.
    """

    rank: int = 8
    alpha: float = 16
    targets: str = "*.attn.{q,v}"
    dropout: float = 0.0
    rslora: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"rank is {self.rank}, expected at least 1")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}, expected 0 <= dropout < 1")
        if not math.isfinite(self.alpha):
            raise InputError(f"alpha is {self.alpha}, expected a finite number")

    def __call__(self, model: M) -> M:
        """The tuned model. ``model`` itself is unchanged and its weights are shared."""
        tuned = model.frozen().replace(self.targets, lambda path, module: LowRank(module, self, site=path))
        return initialise(tuned, seed=self.seed)


class LowRank(Delta):
    """``y = base(x) + s·(dropout(x)·Aᵀ)·Bᵀ``, with weights ``a [rank, inputs]``, ``b [outputs, rank]``.

    ``site`` names the place for dropout. Raises ConfigError if ``base`` is not a projection.
    """

    def __init__(self, base: Module, lora: LoRA, *, site: str) -> None:
        if not isinstance(base, Linear | LowRank):
            raise ConfigError(f"LoRA cannot target {site}, a {type(base).__name__}: expected a Linear")
        outputs, inputs = base.shape if isinstance(base, LowRank) else base.weight.shape
        self.base: Linear | LowRank = base
        self.a = Parameter(shape=(lora.rank, inputs), init="uniform")
        self.b = Parameter(shape=(outputs, lora.rank), init="zeros")
        self.lora, self.site = lora, site

    @property
    def shape(self) -> tuple[int, ...]:
        """``(outputs, inputs)``."""
        return self.b.shape[0], self.a.shape[1]

    @property
    def scale(self) -> float:
        """What the update is multiplied by."""
        rank = self.lora.rank
        return self.lora.alpha / (math.sqrt(rank) if self.lora.rslora else rank)

    def forward(self, x: Value) -> Value:
        """``[T, inputs]`` to ``[T, outputs]``."""
        seen = ops.dropout(x, rate=self.lora.dropout, site=self.site) if self.lora.dropout else x
        return ops.low_rank(self.base(x), seen, self.a, self.b, scale=self.scale)

    def merged(self) -> Linear:
        """The projection with the weight ``W + s·B·A``, summed in float64."""
        base = self.base.merged() if isinstance(self.base, LowRank) else self.base
        weight, b, a = (native.tensor(p).numpy().astype(np.float64) for p in (base.weight, self.b, self.a))
        merged = (weight + self.scale * (b @ a)).astype(native.tensor(base.weight).dtype)
        plain = copy.copy(base)
        plain.weight = replace(base.weight, data=native.array(merged).tensor)
        return plain
