"""Llama (Touvron et al. 2023) and SmolLM2: RMSNorm, rotary positions, grouped queries, SwiGLU.

Mistral, Qwen2 and Qwen3 are the same model with other settings; their pages say which.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from lmrs.batch import Batch
from lmrs.errors import ConfigError
from lmrs.models.config import MOST_LAYERS, Fields, written_activation
from lmrs.models.model import LanguageModel
from lmrs.models.source import Sources, both, weight
from lmrs.nn.attention import Heads, RotaryAttention
from lmrs.nn.feedforward import GatedFeedForward
from lmrs.nn.layers import Embedding, Head, RMSNorm
from lmrs.nn.module import Module
from lmrs.nn.rope import Rope
from lmrs.ops import Activation, Value

IGNORED = re.compile(r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
C = TypeVar("C", bound="Config")


@dataclass(frozen=True, kw_only=True)
class Config:
    """``head_norms``: each head of q and k is normed; ``windows``: how many keys each layer sees (None: all)."""

    family: ClassVar[str] = "llama"
    architecture: ClassVar[str] = "LlamaForCausalLM"
    vocabulary: int
    width: int
    layers: int
    heads: Heads
    context: int
    inner: int
    kind: Activation = "silu"
    eps: float = 1e-6
    rope: Mapping[str, Any] = field(default_factory=lambda: {"rope_type": "default", "rope_theta": 10000.0})
    qkv_bias: bool = False
    o_bias: bool = False
    ff_bias: bool = False
    head_norms: bool = False
    windows: tuple[int | None, ...] = ()
    tied: bool = False

    @classmethod
    def from_dict(cls: type[C], fields: Mapping[str, Any], names: Collection[str] | None = None) -> C:
        """From config.json; whether the head is tied is read off the tensor ``names`` of the file if given."""
        read = Fields(fields)
        width, queries = read.size("hidden_size"), read.size("num_attention_heads")
        layers = read.size("num_hidden_layers", most=MOST_LAYERS)
        dim = read.size("head_dim", width // queries, most=2**16)
        heads = Heads(queries, read.size("num_key_value_heads", queries), dim)
        if queries % heads.keys:
            shared = f"a multiple of num_key_value_heads = {heads.keys}"
            raise ConfigError(f"num_attention_heads is {queries}, expected {shared}")
        if heads.dim % 2:
            raise ConfigError(f"head_dim is {heads.dim}, expected an even number")
        bias = read.flag("attention_bias", False)
        return cls(
            vocabulary=read.size("vocab_size"),
            width=width,
            layers=layers,
            heads=heads,
            context=read.size("max_position_embeddings", 2048),
            inner=read.size("intermediate_size"),
            kind=read.activation("hidden_act", "silu"),
            eps=read.number("rms_norm_eps", 1e-6),
            rope=rope_parameters(fields),
            qkv_bias=bias,
            o_bias=bias,
            ff_bias=read.flag("mlp_bias", False),
            windows=(None,) * layers,
            tied=read.flag("tie_word_embeddings", False) if names is None else _tied(names),
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields transformers reads."""
        return {
            "model_type": self.family,
            "architectures": [self.architecture],
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads.queries,
            "num_key_value_heads": self.heads.keys,
            "head_dim": self.heads.dim,
            "max_position_embeddings": self.context,
            "intermediate_size": self.inner,
            "hidden_act": written_activation(self.kind),
            "rms_norm_eps": self.eps,
            "rope_parameters": dict(self.rope),
            "attention_bias": self.o_bias,
            "mlp_bias": self.ff_bias,
            "tie_word_embeddings": self.tied,
        }


def rope_parameters(fields: Mapping[str, Any]) -> dict[str, Any]:
    """``rope_parameters`` of a config, or what older files say in ``rope_theta`` and ``rope_scaling``."""
    given = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if not isinstance(given, Mapping) or any(isinstance(value, Mapping) for value in given.values()):
        raise ConfigError(f"rope_parameters is {given!r}, expected one flat object for all layers")
    above = {name: fields[name] for name in ("rope_theta", "partial_rotary_factor") if fields.get(name) is not None}
    kind = given.get("rope_type", given.get("type", "default"))
    rest = {name: value for name, value in given.items() if name != "type" and value is not None}
    return {"rope_theta": 10000.0, **above, **rest, "rope_type": kind}


class Block(Module):
    """``x + attn(norm1(x))``, then ``x + ff(norm2(x))``."""

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
            o_bias=config.o_bias,
            window=config.windows[layer] if config.windows else None,
        )
        self.norm2 = RMSNorm(config.width, eps=config.eps)
        self.ff = GatedFeedForward(config.width, config.inner, kind=config.kind, bias=config.ff_bias)

    def forward(self, x: Value, batch: Batch) -> Value:
        """``[T, width]`` to ``[T, width]``."""
        x = x + self.attn(self.norm1(x), batch.seqs, batch.positions)
        return x + self.ff(self.norm2(x))


class Model(LanguageModel):
    """The causal language model."""

    def __init__(self, config: Config, metadata: Mapping[str, Any] | None = None) -> None:
        self.config, self.metadata = config, metadata or {}
        rope = Rope(config.heads.dim, config.rope, context=config.context)
        self.embed = Embedding(config.vocabulary, config.width)
        self.blocks: list[Module] = [Block(config, layer, rope) for layer in range(config.layers)]
        self.norm = RMSNorm(config.width, eps=config.eps)
        self.head = Head(config.width, config.vocabulary, tied=self.embed if config.tied else None)

    def hidden(self, batch: Batch) -> Value:
        """The normed output of the last block, ``[T, width]``."""
        x = self.embed(batch.ids)
        for block in self.blocks:
            x = block(x, batch)
        return self.norm(x)


def copies(_fields: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """Tensors that a file may repeat: each with the one it repeats."""
    return {"lm_head.weight": f"{_prefix(names)}embed_tokens.weight"}


def weights(config: Config, names: Collection[str] = ()) -> Sources:
    """Where each parameter is in a checkpoint with these tensor names; as transformers writes it if none are given."""
    start = _prefix(names)
    embed = f"{start}embed_tokens"
    # A tied model may be stored under the name of its head alone.
    sources = weight("embed", "lm_head" if names and f"{embed}.weight" not in names else embed)
    sources |= weight("norm", f"{start}norm")
    if not config.tied:
        sources |= weight("head", "lm_head")
    for i in range(config.layers):
        block, stored = f"blocks.{i}", f"{start}layers.{i}"
        sources |= weight(f"{block}.norm1", f"{stored}.input_layernorm")
        sources |= weight(f"{block}.norm2", f"{stored}.post_attention_layernorm")
        for name in "qkvo":
            biased = config.o_bias if name == "o" else config.qkv_bias
            sources |= (both if biased else weight)(f"{block}.attn.{name}", f"{stored}.self_attn.{name}_proj")
        for name in ("q_norm", "k_norm") if config.head_norms else ():
            sources |= weight(f"{block}.attn.{name}", f"{stored}.self_attn.{name}")
        for name in ("gate", "up", "down"):
            sources |= (both if config.ff_bias else weight)(f"{block}.ff.{name}", f"{stored}.mlp.{name}_proj")
    return sources


def _prefix(names: Collection[str]) -> str:
    return "" if "norm.weight" in names else "model."


def _tied(names: Collection[str]) -> bool:
    return not {"lm_head.weight", f"{_prefix(names)}embed_tokens.weight"} <= set(names)
