"""GPT-NeoX and Pythia (Black et al. 2022; Biderman et al. 2023): part of each head rotated, two branches side by side.

Attention and network read the same input. Files keep q, k and v head by head in one tensor.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lmrs.batch import Batch
from lmrs.errors import ConfigError
from lmrs.models.config import MOST_LAYERS, Fields, written_activation
from lmrs.models.llama import rope_parameters
from lmrs.models.model import LanguageModel
from lmrs.models.source import Piece, Source, Sources, both, weight
from lmrs.nn.attention import Heads, RotaryAttention
from lmrs.nn.feedforward import FeedForward
from lmrs.nn.layers import Embedding, Head, LayerNorm
from lmrs.nn.module import Module
from lmrs.nn.rope import Rope
from lmrs.ops import Activation, Value

IGNORED = re.compile(r"(gpt_neox\.)?layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)")


@dataclass(frozen=True, kw_only=True)
class Config:
    """``parallel``: a block adds attention and network of the same input; else one after the other."""

    family: ClassVar[str] = "gpt_neox"
    vocabulary: int
    width: int
    layers: int
    heads: int
    context: int
    inner: int
    rope: Mapping[str, Any] = field(
        default_factory=lambda: {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}
    )
    kind: Activation = "gelu"
    eps: float = 1e-5
    parallel: bool = True
    bias: bool = True
    tied: bool = False

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], names: Collection[str] | None = None) -> "Config":
        """From config.json; whether the head is tied is read off the tensor ``names`` of the file if given."""
        read = Fields(fields)
        width, heads = read.size("hidden_size"), read.size("num_attention_heads")
        if width % heads:
            raise ConfigError(f"hidden_size is {width}, expected a multiple of num_attention_heads = {heads}")
        old = {"rope_theta": fields.get("rotary_emb_base"), "partial_rotary_factor": fields.get("rotary_pct", 0.25)}
        rope = rope_parameters({name: value for name, value in old.items() if value is not None} | dict(fields))
        return cls(
            vocabulary=read.size("vocab_size"),
            width=width,
            layers=read.size("num_hidden_layers", most=MOST_LAYERS),
            heads=heads,
            context=read.size("max_position_embeddings", 2048),
            inner=read.size("intermediate_size"),
            rope=rope,
            kind=read.activation("hidden_act", "gelu"),
            eps=read.number("layer_norm_eps", 1e-5),
            parallel=read.flag("use_parallel_residual", True),
            bias=read.flag("attention_bias", True),
            tied=read.flag("tie_word_embeddings", False) if names is None else "embed_out.weight" not in names,
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields transformers reads."""
        return {
            "model_type": self.family,
            "architectures": ["GPTNeoXForCausalLM"],
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "max_position_embeddings": self.context,
            "intermediate_size": self.inner,
            "rope_parameters": dict(self.rope),
            "hidden_act": written_activation(self.kind),
            "layer_norm_eps": self.eps,
            "use_parallel_residual": self.parallel,
            "attention_bias": self.bias,
            "tie_word_embeddings": self.tied,
        }


class Block(Module):
    """``x + attn(norm1(x)) + ff(norm2(x))``, or with ``parallel`` off as in GPT-2."""

    def __init__(self, config: Config, layer: int, rope: Rope) -> None:
        heads = Heads(config.heads, config.heads, config.width // config.heads)
        self.norm1 = LayerNorm(config.width, eps=config.eps)
        self.attn = RotaryAttention(
            config.width, heads, rope=rope, causal=True, cache=f"blocks.{layer}.attn", bias=config.bias
        )
        self.norm2 = LayerNorm(config.width, eps=config.eps)
        self.ff = FeedForward(config.width, config.inner, kind=config.kind)
        self.parallel = config.parallel

    def forward(self, x: Value, batch: Batch) -> Value:
        """``[T, width]`` to ``[T, width]``."""
        attended = x + self.attn(self.norm1(x), batch.seqs, batch.positions)
        return attended + self.ff(self.norm2(x if self.parallel else attended))


class Model(LanguageModel):
    """The causal language model."""

    config: Config

    def __init__(self, config: Config, metadata: Mapping[str, Any] | None = None) -> None:
        self.config, self.metadata = config, metadata or {}
        rope = Rope(config.width // config.heads, config.rope, context=config.context)
        self.embed = Embedding(config.vocabulary, config.width)
        self.blocks = [Block(config, layer, rope) for layer in range(config.layers)]
        self.norm = LayerNorm(config.width, eps=config.eps)
        self.head = Head(config.width, config.vocabulary, tied=self.embed if config.tied else None)

    def hidden(self, batch: Batch) -> Value:
        """The normed output of the last block, ``[T, width]``."""
        x = self.embed(batch.ids)
        for block in self.blocks:
            x = block(x, batch)
        return self.norm(x)


def copies(_fields: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """Tensors that a file may repeat: each with the one it repeats."""
    return {"embed_out.weight": f"{_prefix(names)}embed_in.weight"}


def weights(config: Config, names: Collection[str] = ()) -> Sources:
    """Where each parameter is in a checkpoint with these tensor names; as transformers writes it if none are given."""
    start = _prefix(names)
    sources = weight("embed", f"{start}embed_in") | both("norm", f"{start}final_layer_norm")
    if not config.tied:
        sources |= weight("head", "embed_out")
    attention = both if config.bias else weight
    for i in range(config.layers):
        block, stored = f"blocks.{i}", f"{start}layers.{i}"
        sources |= both(f"{block}.norm1", f"{stored}.input_layernorm")
        sources |= both(f"{block}.norm2", f"{stored}.post_attention_layernorm")
        for which, letter in enumerate("qkv"):
            fused = attention(f"{block}.attn.{letter}", f"{stored}.attention.query_key_value")
            sources |= {path: Source(s.name, piece=Piece(config.heads, 3, which)) for path, s in fused.items()}
        sources |= attention(f"{block}.attn.o", f"{stored}.attention.dense")
        sources |= both(f"{block}.ff.up", f"{stored}.mlp.dense_h_to_4h")
        sources |= both(f"{block}.ff.down", f"{stored}.mlp.dense_4h_to_h")
    return sources


def _prefix(names: Collection[str]) -> str:
    return "" if "embed_in.weight" in names else "gpt_neox."
