"""T5 (Raffel et al. 2020), v1.0 and v1.1 (Flan): encoder and decoder, relative position buckets, RMSNorm, no biases.

Attention scores are not scaled. The table of relative biases belongs to a whole stack, though files keep it in block 0.
The final decoder states are multiplied by ``width**-0.5`` exactly in the original tied model.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from lmrs import ops
from lmrs.batch import Batch, Ragged
from lmrs.errors import ConfigError
from lmrs.models.config import MOST_LAYERS, Fields, activation
from lmrs.models.model import LanguageModel
from lmrs.models.source import Source, Sources, weight
from lmrs.nn.attention import CrossAttention, Heads, RelativeAttention
from lmrs.nn.feedforward import FeedForward, GatedFeedForward
from lmrs.nn.layers import Embedding, Head, RMSNorm
from lmrs.nn.module import Module, Parameter
from lmrs.ops import Activation, Value

IGNORED = re.compile(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight")
C = TypeVar("C", bound="Config")


@dataclass(frozen=True, kw_only=True)
class Config:
    """``inner`` is d_ff, ``heads.dim`` d_kv; ``scaled``: hidden states shrink by ``width**-0.5`` before the head."""

    family: ClassVar[str] = "t5"
    context: ClassVar[int | None] = None
    own_biases: ClassVar[bool] = False
    """Whether each block has a table of relative biases of its own."""
    vocabulary: int
    width: int
    layers: int
    decoder_layers: int
    heads: Heads
    inner: int
    kind: Activation = "relu"
    gated: bool = False
    buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6
    tied: bool = True
    scaled: bool = True
    start: int = 0

    @classmethod
    def from_dict(cls: type[C], fields: Mapping[str, Any], names: Collection[str] | None = None) -> C:
        """From config.json; whether the head is tied is read off the tensor ``names`` of the file if given."""
        read = Fields(fields)
        said = read.get("feed_forward_proj") or "relu"
        gate, _, kind = str(said).rpartition("-")
        if gate not in ("", "gated"):
            raise ConfigError(f"feed_forward_proj is {said!r}, expected an activation, or gated- and an activation")
        count, layers = read.size("num_heads"), read.size("num_layers", most=MOST_LAYERS)
        scaled = read.flag("scale_decoder_outputs", read.flag("tie_word_embeddings", True))
        start = read.get("decoder_start_token_id")
        start = (read.get("pad_token_id") or 0) if start is None else start
        if not isinstance(start, int) or not 0 <= start < read.size("vocab_size"):
            raise ConfigError(f"decoder_start_token_id is {start!r}, expected a token id")
        return cls(
            vocabulary=read.size("vocab_size"),
            width=read.size("d_model"),
            layers=layers,
            decoder_layers=read.size("num_decoder_layers", layers, most=MOST_LAYERS),
            heads=Heads(count, count, read.size("d_kv")),
            inner=read.size("d_ff"),
            # What T5 v1.1 calls gelu is the tanh form.
            kind="gelu_tanh" if said == "gated-gelu" else activation("feed_forward_proj", kind),
            gated=gate == "gated",
            buckets=read.size("relative_attention_num_buckets", 32),
            max_distance=read.size("relative_attention_max_distance", 128),
            eps=read.number("layer_norm_epsilon", 1e-6),
            tied=scaled if names is None else "lm_head.weight" not in names or _table(names) == "lm_head.weight",
            scaled=scaled,
            start=start,
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields transformers reads; it ties by the file; older files say ``tie_word_embeddings`` for scaled."""
        kind = {"gelu_tanh": "gelu" if self.gated else "gelu_new"}.get(self.kind, self.kind)
        return {
            "model_type": self.family,
            "architectures": ["T5ForConditionalGeneration"],
            "is_encoder_decoder": True,
            "vocab_size": self.vocabulary,
            "d_model": self.width,
            "num_layers": self.layers,
            "num_decoder_layers": self.decoder_layers,
            "num_heads": self.heads.queries,
            "d_kv": self.heads.dim,
            "d_ff": self.inner,
            "feed_forward_proj": f"gated-{kind}" if self.gated else kind,
            "relative_attention_num_buckets": self.buckets,
            "relative_attention_max_distance": self.max_distance,
            "layer_norm_epsilon": self.eps,
            "tie_word_embeddings": self.scaled,
            "scale_decoder_outputs": self.scaled,
            "decoder_start_token_id": self.start,
        }


def _feedforward(config: Config) -> Module:
    network = GatedFeedForward if config.gated else FeedForward
    return network(config.width, config.inner, kind=config.kind, bias=False)


def _attention(config: Config, *, causal: bool, cache: str | None) -> RelativeAttention:
    relative = {"buckets": config.buckets, "max_distance": config.max_distance, "bidirectional": not causal}
    options = {"causal": causal, "cache": cache, "bias": False, "scale": 1.0}
    return RelativeAttention(config.width, config.heads, relative=relative, **options)


def _biases(config: Config) -> Parameter:
    return Parameter(shape=(config.buckets, config.heads.queries))


class EncoderBlock(Module):
    """``x + attn(norm1(x))``, then ``x + ff(norm2(x))``."""

    def __init__(self, config: Config) -> None:
        self.relative = _biases(config) if config.own_biases else None
        self.norm1 = RMSNorm(config.width, eps=config.eps)
        self.attn = _attention(config, causal=False, cache=None)
        self.norm2 = RMSNorm(config.width, eps=config.eps)
        self.ff = _feedforward(config)

    def forward(self, x: Value, seqs: Ragged, table: Parameter | None) -> Value:
        """``[T, width]`` to ``[T, width]``."""
        x = x + self.attn(self.norm1(x), seqs, self.relative or table)
        return x + self.ff(self.norm2(x))


class DecoderBlock(Module):
    """``x + attn(norm1(x))``, ``x + cross(norm2(x), memory)``, then ``x + ff(norm3(x))``."""

    def __init__(self, config: Config, layer: int) -> None:
        slot = f"decoder.blocks.{layer}"
        self.relative = _biases(config) if config.own_biases else None
        self.norm1 = RMSNorm(config.width, eps=config.eps)
        self.attn = _attention(config, causal=True, cache=f"{slot}.attn")
        self.norm2 = RMSNorm(config.width, eps=config.eps)
        self.cross = CrossAttention(
            config.width, config.heads, causal=False, cache=f"{slot}.cross", bias=False, scale=1.0
        )
        self.norm3 = RMSNorm(config.width, eps=config.eps)
        self.ff = _feedforward(config)

    def forward(self, x: Value, seqs: Ragged, table: Parameter | None, memory: Value, memory_seqs: Ragged) -> Value:
        """``x [T, width]``, ``memory [S, width]`` to ``[T, width]``."""
        x = x + self.attn(self.norm1(x), seqs, self.relative or table)
        x = x + self.cross(self.norm2(x), seqs, memory, memory_seqs)
        return x + self.ff(self.norm3(x))


class Stack(Module):
    """Blocks and a final norm; unless each has its own, they share relative biases ``relative [buckets, heads]``."""

    def __init__(self, config: Config, blocks: list[Module]) -> None:
        self.relative = None if config.own_biases else _biases(config)
        self.blocks = blocks
        self.norm = RMSNorm(config.width, eps=config.eps)

    def forward(self, x: Value, seqs: Ragged, *memory: Any) -> Value:
        """``[T, width]`` to ``[T, width]``."""
        for block in self.blocks:
            x = block(x, seqs, self.relative, *memory)
        return self.norm(x)


class Model(LanguageModel):
    """The encoder-decoder. A decoder's input starts with token ``config.start``."""

    config: Config

    def __init__(self, config: Config, metadata: Mapping[str, Any] | None = None) -> None:
        self.config, self.metadata = config, metadata or {}
        self.embed = Embedding(config.vocabulary, config.width)
        self.encoder = Stack(config, [EncoderBlock(config) for _ in range(config.layers)])
        self.decoder = Stack(config, [DecoderBlock(config, layer) for layer in range(config.decoder_layers)])
        self.head = Head(config.width, config.vocabulary, tied=self.embed if config.tied else None)

    def encode(self, batch: Batch) -> Value:
        """The memory ``[S, width]`` of the input texts."""
        return self.encoder(self.embed(batch.ids), batch.seqs)

    def states(self, batch: Batch) -> Value:
        """What embeddings are pooled from: the encoder's output, ``[T, width]``."""
        return self.encode(batch)

    def hidden(self, batch: Batch, memory: Value, memory_seqs: Ragged) -> Value:  # type: ignore[override]
        """What goes into the head, ``[T, width]``, for decoder inputs ``batch`` and ``memory [S, width]``."""
        x = self.decoder(self.embed(batch.ids), batch.seqs, memory, memory_seqs)
        return ops.scale(x, by=self.config.width**-0.5) if self.config.scaled else x


def copies(_fields: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """Tensors that a file may repeat: each with the one it repeats."""
    shared = _table(names)
    tables = {"shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"} - {shared}
    return dict.fromkeys(tables | {"lm_head.weight"} - {shared}, shared)


def weights(config: Config, names: Collection[str] = ()) -> Sources:
    """Where each parameter is in a checkpoint with these tensor names; as transformers writes it if none are given."""
    sources: Sources = {"embed.weight": Source(_table(names))}
    if not config.tied:
        sources |= weight("head", "lm_head")
    ff = {"gate": "wi_0", "up": "wi_1", "down": "wo"} if config.gated else {"up": "wi", "down": "wo"}
    encoder = ("encoder", config.layers, {"attn": "SelfAttention"})
    decoder = ("decoder", config.decoder_layers, {"attn": "SelfAttention", "cross": "EncDecAttention"})
    for stack, layers, attentions in (encoder, decoder):
        sources |= weight(f"{stack}.norm", f"{stack}.final_layer_norm")
        biases = "0.SelfAttention.relative_attention_bias.weight"
        if not config.own_biases:
            sources[f"{stack}.relative"] = Source(f"{stack}.block.0.layer.{biases}")
        for i in range(layers):
            block, stored = f"{stack}.blocks.{i}", f"{stack}.block.{i}.layer"
            if config.own_biases:
                sources[f"{block}.relative"] = Source(f"{stored}.{biases}")
            for n, (path, name) in enumerate(attentions.items()):
                for letter in "qkvo":
                    sources |= weight(f"{block}.{path}.{letter}", f"{stored}.{n}.{name}.{letter}")
            last = len(attentions)
            for n in range(last + 1):
                sources |= weight(f"{block}.norm{n + 1}", f"{stored}.{n}.layer_norm")
            for path, name in ff.items():
                sources |= weight(f"{block}.ff.{path}", f"{stored}.{last}.DenseReluDense.{name}")
    return sources


def _table(names: Collection[str]) -> str:
    """The tensor that holds the embedding table: files keep one or more of these, equal."""
    spellings = ("shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head")
    return next((f"{name}.weight" for name in spellings if f"{name}.weight" in names), "shared.weight")
