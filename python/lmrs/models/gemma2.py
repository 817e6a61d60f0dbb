"""Gemma 2 (Riviere et al. 2024): Gemma with a norm behind each part as well, capped scores and logits, and windows.

Logits are capped by a function that the fused scoring op lacks: a model with a cap generates, and does not train.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from lmrs.batch import Batch
from lmrs.errors import ConfigError
from lmrs.models import gemma, llama
from lmrs.models.config import Fields
from lmrs.models.llama import IGNORED, copies
from lmrs.models.source import Sources, weight
from lmrs.nn.attention import RotaryAttention
from lmrs.nn.feedforward import GatedFeedForward
from lmrs.nn.layers import Embedding, Head, RMSNorm
from lmrs.nn.module import Module
from lmrs.nn.rope import Rope
from lmrs.ops import Value

__all__ = ["IGNORED", "Config", "Model", "copies", "weights"]
C = TypeVar("C", bound="Config")
_FULL, _LOCAL = "full_attention", "sliding_attention"


@dataclass(frozen=True, kw_only=True)
class Config(gemma.Config):
    """``scores_of``: scores are scaled by its inverse root; ``softcap`` of scores, ``cap`` of logits (None: none)."""

    family: ClassVar[str] = "gemma2"
    architecture: ClassVar[str] = "Gemma2ForCausalLM"
    every: ClassVar[int] = 2
    """Each so many-th layer sees everything, where a file does not say."""
    scores_of: float = 256.0
    softcap: float | None = 50.0
    cap: float | None = 30.0

    @classmethod
    def from_dict(cls: type[C], fields: Mapping[str, Any], names: Collection[str] | None = None) -> C:
        """From config.json."""
        read = Fields(fields)
        caps = {name: None if fields.get(name, 1.0) is None else read.number(name, default)
                for name, default in (("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0))}  # fmt: skip
        config = super().from_dict(fields, names)
        size, every = read.size("sliding_window", 4096), read.size("sliding_window_pattern", cls.every)
        kinds = read.get("layer_types") or [_LOCAL if (i + 1) % every else _FULL for i in range(config.layers)]
        if len(kinds) != config.layers or not {_FULL, _LOCAL}.issuperset(kinds):
            raise ConfigError(f"layer_types is {kinds!r}, expected {config.layers} of {_FULL} or {_LOCAL}")
        return replace(
            config,
            windows=tuple(size if kind == _LOCAL else None for kind in kinds),
            scores_of=read.number("query_pre_attn_scalar", 256.0),
            softcap=caps["attn_logit_softcapping"],
            cap=caps["final_logit_softcapping"],
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields transformers reads."""
        size = next((window for window in self.windows if window is not None), 4096)
        fields = super().to_dict()
        return fields | {
            "hidden_activation": fields["hidden_act"],
            "query_pre_attn_scalar": int(self.scores_of) if self.scores_of.is_integer() else self.scores_of,
            "attn_logit_softcapping": self.softcap,
            "final_logit_softcapping": self.cap,
            "sliding_window": size,
            "layer_types": [_FULL if window is None else _LOCAL for window in self.windows],
        }


class Block(Module):
    """``x + after1(attn(norm1(x)))``, then ``x + after2(ff(norm2(x)))``."""

    def __init__(self, config: Config, layer: int, rope: Rope) -> None:
        self.norm1 = RMSNorm(config.width, eps=config.eps)
        self.attn = RotaryAttention(
            config.width,
            config.heads,
            rope=rope,
            norm_eps=config.eps if config.head_norms else None,
            causal=True,
            cache=f"blocks.{layer}.attn",
            bias=config.qkv_bias,
            scale=config.scores_of**-0.5,
            window=config.windows[layer],
            softcap=config.softcap,
        )
        self.after1 = RMSNorm(config.width, eps=config.eps)
        self.norm2 = RMSNorm(config.width, eps=config.eps)
        self.ff = GatedFeedForward(config.width, config.inner, kind=config.kind)
        self.after2 = RMSNorm(config.width, eps=config.eps)

    def forward(self, x: Value, batch: Batch) -> Value:
        """``[T, width]`` to ``[T, width]``."""
        x = x + self.after1(self.attn(self.norm1(x), batch.seqs, batch.positions))
        return x + self.after2(self.ff(self.norm2(x)))


class Model(gemma.Model):
    """The causal language model."""

    config: Config

    def __init__(self, config: Config, metadata: Mapping[str, Any] | None = None) -> None:
        self.config, self.metadata = config, metadata or {}
        ropes = self.ropes()
        self.embed = Embedding(config.vocabulary, config.width)
        self.blocks: list[Module] = [Block(config, layer, rope) for layer, rope in enumerate(ropes)]
        self.norm = RMSNorm(config.width, eps=config.eps)
        tied = self.embed if config.tied else None
        self.head = Head(config.width, config.vocabulary, tied=tied, cap=config.cap)

    def ropes(self) -> list[Rope]:
        """The rotation of each layer."""
        rope = Rope(self.config.heads.dim, self.config.rope, context=self.config.context)
        return [rope] * self.config.layers


def weights(config: llama.Config, names: Collection[str] = ()) -> Sources:
    """Where each parameter is in a checkpoint with these tensor names; as transformers writes it if none are given."""
    sources = llama.weights(config, names)
    for i in range(config.layers):
        stored = sources[f"blocks.{i}.norm1.weight"].name.removesuffix("input_layernorm.weight")
        sources |= weight(f"blocks.{i}.after1", f"{stored}post_attention_layernorm")
        sources |= weight(f"blocks.{i}.norm2", f"{stored}pre_feedforward_layernorm")
        sources |= weight(f"blocks.{i}.after2", f"{stored}post_feedforward_layernorm")
    return {path: replace(s, plus=1.0) if "norm" in s.name else s for path, s in sources.items()}
