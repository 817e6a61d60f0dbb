"""GPT-2 (Radford et al. 2019): learned positions, pre-norm, one bias-ful projection for q, k and v, tanh GELU.

Checkpoints store projections as ``[in, out]`` (transformers' Conv1D) with q, k and v side by side; here they are three
``[out, in]`` weights like everywhere else, and saving puts them back.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lmrs.batch import Batch, Ragged
from lmrs.errors import ConfigError
from lmrs.models.config import MOST_LAYERS, Fields
from lmrs.models.model import LanguageModel
from lmrs.models.source import Source, Sources, both, weight
from lmrs.nn.attention import Attention, Heads
from lmrs.nn.feedforward import FeedForward
from lmrs.nn.layers import Embedding, Head, LayerNorm
from lmrs.nn.module import Module
from lmrs.ops import Activation, Value

IGNORED = re.compile(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes in the words of this library; ``scale_by_layer`` divides the scores of block ``i`` by ``i + 1``."""

    family: ClassVar[str] = "gpt2"
    vocabulary: int
    width: int
    layers: int
    heads: int
    context: int
    inner: int
    kind: Activation = "gelu_tanh"
    eps: float = 1e-5
    scaled: bool = True
    scale_by_layer: bool = False
    tied: bool = True

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], names: Collection[str] | None = None) -> "Config":
        """From config.json; whether the head is tied is read off the tensor ``names`` of the file if given."""
        read = Fields(fields)
        read.expect("add_cross_attention", False)
        width, heads = read.size("n_embd"), read.size("n_head")
        if width % heads:
            raise ConfigError(f"n_embd is {width}, expected a multiple of n_head = {heads}")
        return cls(
            vocabulary=read.size("vocab_size"),
            width=width,
            layers=read.size("n_layer", most=MOST_LAYERS),
            heads=heads,
            context=read.size("n_positions"),
            inner=read.size("n_inner", 4 * width),
            kind=read.activation("activation_function", "gelu_new"),
            eps=read.number("layer_norm_epsilon", 1e-5),
            scaled=read.flag("scale_attn_weights", True),
            scale_by_layer=read.flag("scale_attn_by_inverse_layer_idx", False),
            tied=read.flag("tie_word_embeddings", True) if names is None else "lm_head.weight" not in names,
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields transformers reads."""
        return {
            "model_type": self.family,
            "architectures": ["GPT2LMHeadModel"],
            "vocab_size": self.vocabulary,
            "n_embd": self.width,
            "n_layer": self.layers,
            "n_head": self.heads,
            "n_positions": self.context,
            "n_inner": self.inner,
            "activation_function": "gelu_new" if self.kind == "gelu_tanh" else self.kind,
            "layer_norm_epsilon": self.eps,
            "scale_attn_weights": self.scaled,
            "scale_attn_by_inverse_layer_idx": self.scale_by_layer,
            "tie_word_embeddings": self.tied,
        }


class Block(Module):
    """``x + attn(norm1(x))``, then ``x + ff(norm2(x))``."""

    def __init__(self, config: Config, layer: int) -> None:
        heads = Heads(config.heads, config.heads, config.width // config.heads)
        scale = heads.dim**-0.5 if config.scaled else 1.0
        self.norm1 = LayerNorm(config.width, eps=config.eps)
        self.attn = Attention(
            config.width,
            heads,
            causal=True,
            cache=f"blocks.{layer}.attn",
            scale=scale / (layer + 1) if config.scale_by_layer else scale,
        )
        self.norm2 = LayerNorm(config.width, eps=config.eps)
        self.ff = FeedForward(config.width, config.inner, kind=config.kind)

    def forward(self, x: Value, seqs: Ragged) -> Value:
        """``[T, width]`` to ``[T, width]``."""
        x = x + self.attn(self.norm1(x), seqs)
        return x + self.ff(self.norm2(x))


class Model(LanguageModel):
    """The causal language model."""

    def __init__(self, config: Config, metadata: Mapping[str, Any] | None = None) -> None:
        self.config, self.metadata = config, metadata or {}
        self.embed = Embedding(config.vocabulary, config.width)
        self.positions = Embedding(config.context, config.width)
        self.blocks = [Block(config, layer) for layer in range(config.layers)]
        self.norm = LayerNorm(config.width, eps=config.eps)
        self.head = Head(config.width, config.vocabulary, tied=self.embed if config.tied else None)

    def hidden(self, batch: Batch) -> Value:
        """The normed output of the last block, ``[T, width]``."""
        x = self.embed(batch.ids) + self.positions(batch.positions)
        for block in self.blocks:
            x = block(x, batch.seqs)
        return self.norm(x)


def copies(_fields: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """Tensors that a file may repeat: each with the one it repeats."""
    return {"lm_head.weight": _prefix(names) + "wte.weight"}


def weights(config: Config, names: Collection[str] = ()) -> Sources:
    """Where each parameter is in a checkpoint with these tensor names; as transformers writes it if none are given."""
    start, d = _prefix(names), config.width
    sources = weight("embed", f"{start}wte") | weight("positions", f"{start}wpe") | both("norm", f"{start}ln_f")
    if not config.tied:
        sources |= weight("head", "lm_head")
    for i in range(config.layers):
        block, stored = f"blocks.{i}", f"{start}h.{i}"
        sources |= both(f"{block}.norm1", f"{stored}.ln_1") | both(f"{block}.norm2", f"{stored}.ln_2")
        fused = {f"attn.{name}": ("attn.c_attn", (n * d, (n + 1) * d)) for n, name in enumerate("qkv")}
        alone = {"attn.o": ("attn.c_proj", None), "ff.up": ("mlp.c_fc", None), "ff.down": ("mlp.c_proj", None)}
        for path, (name, rows) in (fused | alone).items():
            sources[f"{block}.{path}.weight"] = Source(f"{stored}.{name}.weight", transposed=True, rows=rows)
            sources[f"{block}.{path}.bias"] = Source(f"{stored}.{name}.bias", rows=rows)
    return sources


def _prefix(names: Collection[str]) -> str:
    return "" if "wte.weight" in names else "transformer."
