"""OPT (Zhang et al. 2022): GPT-2's shape with ReLU, positions from row 2 on, and in one size norms behind each part."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lmrs.batch import Batch, Ragged
from lmrs.errors import ConfigError
from lmrs.models.config import MOST_LAYERS, Fields, written_activation
from lmrs.models.model import LanguageModel
from lmrs.models.source import Source, Sources, both, weight
from lmrs.nn.attention import Attention, Heads
from lmrs.nn.feedforward import FeedForward
from lmrs.nn.layers import Embedding, Head, LayerNorm, Linear
from lmrs.nn.module import Module
from lmrs.ops import Activation, Value

IGNORED = re.compile(r"(?!)")
OFFSET = 2
EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class Config:
    """``table_width`` is that of the embeddings; ``pre_norm``: norms come before attention and network."""

    family: ClassVar[str] = "opt"
    vocabulary: int
    width: int
    table_width: int
    layers: int
    heads: int
    context: int
    inner: int
    kind: Activation = "relu"
    pre_norm: bool = True
    final_norm: bool = True
    bias: bool = True
    tied: bool = True

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], names: Collection[str] | None = None) -> "Config":
        """From config.json; whether the head is tied is read off the tensor ``names`` of the file if given."""
        read = Fields(fields)
        read.expect("layer_norm_elementwise_affine", True)
        width, heads = read.size("hidden_size"), read.size("num_attention_heads")
        if width % heads:
            raise ConfigError(f"hidden_size is {width}, expected a multiple of num_attention_heads = {heads}")
        pre_norm = read.flag("do_layer_norm_before", True)
        return cls(
            vocabulary=read.size("vocab_size"),
            width=width,
            table_width=read.size("word_embed_proj_dim", width),
            layers=read.size("num_hidden_layers", most=MOST_LAYERS),
            heads=heads,
            context=read.size("max_position_embeddings"),
            inner=read.size("ffn_dim"),
            kind=read.activation("activation_function", "relu"),
            pre_norm=pre_norm,
            final_norm=pre_norm and not read.flag("_remove_final_layer_norm", False),
            bias=read.flag("enable_bias", True),
            tied=read.flag("tie_word_embeddings", True) if names is None else "lm_head.weight" not in names,
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields transformers reads."""
        return {
            "model_type": self.family,
            "architectures": ["OPTForCausalLM"],
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "word_embed_proj_dim": self.table_width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "max_position_embeddings": self.context,
            "ffn_dim": self.inner,
            "activation_function": written_activation(self.kind),
            "do_layer_norm_before": self.pre_norm,
            "_remove_final_layer_norm": self.pre_norm and not self.final_norm,
            "enable_bias": self.bias,
            "tie_word_embeddings": self.tied,
        }


class Block(Module):
    """GPT-2's block, or with ``pre_norm`` off BERT's: ``norm1(x + attn(x))``, then ``norm2(x + ff(x))``."""

    def __init__(self, config: Config, layer: int) -> None:
        heads = Heads(config.heads, config.heads, config.width // config.heads)
        self.norm1 = LayerNorm(config.width, eps=EPS)
        self.attn = Attention(config.width, heads, causal=True, cache=f"blocks.{layer}.attn", bias=config.bias)
        self.norm2 = LayerNorm(config.width, eps=EPS)
        self.ff = FeedForward(config.width, config.inner, kind=config.kind, bias=config.bias)
        self.pre_norm = config.pre_norm

    def forward(self, x: Value, seqs: Ragged) -> Value:
        """``[T, width]`` to ``[T, width]``."""
        if self.pre_norm:
            x = x + self.attn(self.norm1(x), seqs)
            return x + self.ff(self.norm2(x))
        x = self.norm1(x + self.attn(x, seqs))
        return self.norm2(x + self.ff(x))


class Model(LanguageModel):
    """The causal language model."""

    config: Config

    def __init__(self, config: Config, metadata: Mapping[str, Any] | None = None) -> None:
        self.config, self.metadata = config, metadata or {}
        self.embed = Embedding(config.vocabulary, config.table_width)
        self.positions = Embedding(config.context, config.width)
        self.unread = Embedding(OFFSET, config.width)
        if config.table_width != config.width:
            self.widen = Linear(config.table_width, config.width, bias=False)
            self.narrow = Linear(config.width, config.table_width, bias=False)
        self.blocks = [Block(config, layer) for layer in range(config.layers)]
        if config.final_norm:
            self.norm = LayerNorm(config.width, eps=EPS)
        self.head = Head(config.table_width, config.vocabulary, tied=self.embed if config.tied else None)

    def hidden(self, batch: Batch) -> Value:
        """What goes into the head, ``[T, table_width]``."""
        x = self.embed(batch.ids)
        if self.config.table_width != self.config.width:
            x = self.widen(x)
        x = x + self.positions(batch.positions)
        for block in self.blocks:
            x = block(x, batch.seqs)
        if self.config.final_norm:
            x = self.norm(x)
        return x if self.config.table_width == self.config.width else self.narrow(x)


def copies(_fields: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """Tensors that a file may repeat: each with the one it repeats."""
    return {"lm_head.weight": f"{_prefix(names)}embed_tokens.weight"}


def weights(config: Config, names: Collection[str] = ()) -> Sources:
    """Where each parameter is in a checkpoint with these tensor names; as transformers writes it if none are given."""
    start = _prefix(names)
    table = f"{start}embed_positions.weight"
    sources = weight("embed", f"{start}embed_tokens")
    sources |= {
        "positions.weight": Source(table, rows=(OFFSET, OFFSET + config.context)),
        "unread.weight": Source(table, rows=(0, OFFSET)),
    }
    if config.table_width != config.width:
        sources |= weight("widen", f"{start}project_in") | weight("narrow", f"{start}project_out")
    if config.final_norm:
        sources |= both("norm", f"{start}final_layer_norm")
    if not config.tied:
        sources |= weight("head", "lm_head")
    linear = both if config.bias else weight
    for i in range(config.layers):
        block, stored = f"blocks.{i}", f"{start}layers.{i}"
        for letter, name in zip("qkvo", ("q_proj", "k_proj", "v_proj", "out_proj"), strict=True):
            sources |= linear(f"{block}.attn.{letter}", f"{stored}.self_attn.{name}")
        sources |= linear(f"{block}.ff.up", f"{stored}.fc1") | linear(f"{block}.ff.down", f"{stored}.fc2")
        sources |= both(f"{block}.norm1", f"{stored}.self_attn_layer_norm")
        sources |= both(f"{block}.norm2", f"{stored}.final_layer_norm")
    return sources


def _prefix(names: Collection[str]) -> str:
    spellings = ("model.decoder.", "decoder.", "")
    return next((start for start in spellings if f"{start}embed_tokens.weight" in names), "model.decoder.")
