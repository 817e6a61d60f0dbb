"""BERT (Devlin et al. 2018): bidirectional, post-norm, with a masked-token head and a pooler if the file has them."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lmrs import ops
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

IGNORED = re.compile(r"(bert\.)?embeddings\.(position_ids|token_type_ids)")
_DECODER = "cls.predictions.decoder.weight"


@dataclass(frozen=True, kw_only=True)
class Config:
    """``segments`` is the number of token types (0: none); the last flags say which parts there are above the encoder.

    ``labels`` is how many a head of sequence classification tells apart (0: there is none). ``offset`` is the number of
    rows of the file's position table before that of the first position.
    """

    family: ClassVar[str] = "bert"
    vocabulary: int
    width: int
    layers: int
    heads: int
    context: int
    inner: int
    segments: int = 2
    offset: int = 0
    kind: Activation = "gelu"
    eps: float = 1e-12
    tied: bool = True
    mlm: bool = True
    pooler: bool = False
    next_sentence: bool = False
    labels: int = 0

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], names: Collection[str] | None = None) -> "Config":
        """From config.json; which heads there are is read off the tensor ``names`` of the file if given."""
        read = Fields(fields)
        read.expect("position_embedding_type", "absolute")
        read.expect("is_decoder", False)
        width, heads = read.size("hidden_size"), read.size("num_attention_heads")
        if width % heads:
            raise ConfigError(f"hidden_size is {width}, expected a multiple of num_attention_heads = {heads}")
        return cls(
            vocabulary=read.size("vocab_size"),
            width=width,
            layers=read.size("num_hidden_layers", most=MOST_LAYERS),
            heads=heads,
            context=read.size("max_position_embeddings"),
            inner=read.size("intermediate_size"),
            segments=read.size("type_vocab_size", 2),
            kind=read.activation("hidden_act", "gelu"),
            eps=read.number("layer_norm_eps", 1e-12),
            tied=read.flag("tie_word_embeddings", True) if names is None else _DECODER not in names,
            mlm=names is None or "cls.predictions.bias" in names,
            pooler=names is not None and any(name.endswith("pooler.dense.weight") for name in names),
            next_sentence=names is not None and "cls.seq_relationship.weight" in names,
            labels=_labels(fields, names or ()),
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields transformers reads."""
        whole = "BertForPreTraining" if self.next_sentence else "BertForMaskedLM"
        bare = "BertForSequenceClassification" if self.labels else "BertModel"
        return {
            "model_type": self.family,
            "architectures": [whole if self.mlm else bare],
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "max_position_embeddings": self.context,
            "intermediate_size": self.inner,
            "type_vocab_size": self.segments,
            "hidden_act": written_activation(self.kind),
            "layer_norm_eps": self.eps,
            "tie_word_embeddings": self.tied,
        }


class Block(Module):
    """``norm1(x + attn(x))``, then ``norm2(x + ff(x))``."""

    def __init__(self, config: Config) -> None:
        heads = Heads(config.heads, config.heads, config.width // config.heads)
        self.attn = Attention(config.width, heads, causal=False)
        self.norm1 = LayerNorm(config.width, eps=config.eps)
        self.ff = FeedForward(config.width, config.inner, kind=config.kind)
        self.norm2 = LayerNorm(config.width, eps=config.eps)

    def forward(self, x: Value, seqs: Ragged) -> Value:
        """``[T, width]`` to ``[T, width]``."""
        x = self.norm1(x + self.attn(x, seqs))
        return self.norm2(x + self.ff(x))


class Model(LanguageModel):
    """The encoder, and above it what the file has: ``head`` if ``config.mlm``, ``pooler`` if ``config.pooler``."""

    config: Config

    def __init__(self, config: Config, metadata: Mapping[str, Any] | None = None) -> None:
        self.config, self.metadata = config, metadata or {}
        self.embed = Embedding(config.vocabulary, config.width)
        self.positions = Embedding(config.context, config.width)
        if config.offset:
            self.unread = Embedding(config.offset, config.width)
        if config.segments:
            self.segments = Embedding(config.segments, config.width)
        self.embed_norm = LayerNorm(config.width, eps=config.eps)
        self.blocks = [Block(config) for _ in range(config.layers)]
        if config.pooler:
            self.pooler = Linear(config.width, config.width)
        if config.next_sentence:
            self.next_sentence = Linear(config.width, 2)
        if config.labels:
            self.classifier = Linear(config.width, config.labels)
        if config.mlm:
            self.transform = Linear(config.width, config.width)
            self.transform_norm = LayerNorm(config.width, eps=config.eps)
            tied = self.embed if config.tied else None
            self.head = Head(config.width, config.vocabulary, tied=tied, bias=True)

    def states(self, batch: Batch) -> Value:
        """The output of the last block, ``[T, width]``: what sentence embeddings are pooled from."""
        x = self.embed(batch.ids)
        if self.config.segments:
            x = x + self.segments(batch.segments)
        x = self.embed_norm(x + self.positions(batch.positions))
        for block in self.blocks:
            x = block(x, batch.seqs)
        return x

    def pooled(self, batch: Batch) -> Value:
        """``tanh`` of a projection of each sequence's first state, ``[sequences, width]``; not a sentence embedding.

        Raises ConfigError if the file had no pooler.
        """
        return self.pooled_of(self.states(batch), batch.seqs)

    def classify(self, batch: Batch) -> Value:
        """The logits of each sequence's labels, ``[sequences, labels]``. Raises ConfigError without such a head."""
        if not self.config.labels:
            raise ConfigError(f"this {self.config.family} has no head of sequence classification: its file holds none")
        return self.classifier(self.pooled(batch))

    def hidden(self, batch: Batch) -> Value:
        """``norm(act(dense(states)))``, what goes into the masked-token head. Raises ConfigError if there is none."""
        return self.transformed(self.states(batch))

    def pooled_of(self, states: Value, seqs: Ragged) -> Value:
        """:meth:`pooled` of ``states [T, width]``."""
        if not self.config.pooler:
            raise ConfigError(f"this {self.config.family} has no pooler: its file holds no pooler.dense.weight")
        return ops.activation(self.pooler(ops.pool(states, seqs, kind="first")), kind="tanh")

    def transformed(self, states: Value) -> Value:
        """:meth:`hidden` of ``states [T, width]``."""
        if not self.config.mlm:
            raise ConfigError(f"this {self.config.family} has no masked-token head: its file holds none")
        return self.transform_norm(ops.activation(self.transform(states), kind=self.config.kind))

    @property
    def pair_head(self) -> Linear | None:
        """What tells of a pooled state whether a second sentence follows the first, if the file had it."""
        return self.next_sentence if self.config.next_sentence else None


def copies(_fields: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """Tensors that a file may repeat: each with the one it repeats."""
    words = _stored("embeddings.word_embeddings.weight", names)
    return {_DECODER: words, "cls.predictions.decoder.bias": "cls.predictions.bias"}


def weights(config: Config, names: Collection[str] = ()) -> Sources:
    """Where each parameter is in a checkpoint with these tensor names; as transformers writes it if none are given."""
    start = "" if not names and not config.mlm and not config.labels else "bert."
    sources: Sources = {}
    for path, name in (("embed", "word"), ("positions", "position"), ("segments", "token_type")):
        sources |= weight(path, f"{start}embeddings.{name}_embeddings")
    sources |= both("embed_norm", f"{start}embeddings.LayerNorm")
    sources |= blocks(config, f"{start}encoder.layer")
    if config.pooler:
        sources |= both("pooler", f"{start}pooler.dense")
    if config.next_sentence:
        sources |= both("next_sentence", "cls.seq_relationship")
    if config.labels:
        sources |= both("classifier", "classifier")
    if config.mlm:
        sources |= both("transform", "cls.predictions.transform.dense")
        sources |= both("transform_norm", "cls.predictions.transform.LayerNorm")
        sources["head.bias"] = Source("cls.predictions.bias")
        if not config.tied:
            sources["head.weight"] = Source(_DECODER)
    return {path: Source(_stored(source.name, names)) for path, source in sources.items()} if names else sources


def _labels(fields: Mapping[str, Any], names: Collection[str]) -> int:
    """The labels of a whole sequence; a head without a pooler is of tokens."""
    if not {"classifier.weight", "bert.pooler.dense.weight"} <= set(names):
        return 0
    named = fields.get("id2label")
    return len(named) if isinstance(named, Mapping) and named else 2


def blocks(config: Config, stored: str) -> Sources:
    """The sources of all blocks, stored as BERT's under ``stored``."""
    paths = [
        (f"blocks.{i}.{path}", f"{stored}.{i}.{name}") for i in range(config.layers) for path, name in _BLOCK.items()
    ]
    return {path: source for pair in paths for path, source in both(*pair).items()}


_BLOCK = {
    "attn.q": "attention.self.query",
    "attn.k": "attention.self.key",
    "attn.v": "attention.self.value",
    "attn.o": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "ff.up": "intermediate.dense",
    "ff.down": "output.dense",
    "norm2": "output.LayerNorm",
}


def _stored(name: str, names: Collection[str]) -> str:
    """``name`` as this file spells it: a bare encoder has no prefix, old files say gamma and beta."""
    old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    spellings = (name, name.removeprefix("bert."), old, old.removeprefix("bert."), f"bert.{name}")
    return next((spelling for spelling in spellings if spelling in names), name)
