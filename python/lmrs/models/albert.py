"""ALBERT (Lan et al. 2020): BERT whose blocks share weights and whose table is narrower than they are."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lmrs import ops
from lmrs.batch import Batch, Ragged
from lmrs.errors import ConfigError
from lmrs.models import bert
from lmrs.models.config import Fields
from lmrs.models.source import Source, Sources, both, weight
from lmrs.nn.layers import Embedding, Head, LayerNorm, Linear
from lmrs.ops import Value

IGNORED = re.compile(r"(albert\.)?embeddings\.(position_ids|token_type_ids)")


@dataclass(frozen=True, kw_only=True)
class Config(bert.Config):
    """``table_width`` is that of the embeddings; block ``i`` is number ``i·groups // layers`` of ``groups``."""

    family: ClassVar[str] = "albert"
    table_width: int
    groups: int = 1
    sentence_order: bool = False

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], names: Collection[str] | None = None) -> "Config":
        """From config.json; which heads there are is read off the tensor ``names`` of the file if given."""
        read = Fields({"hidden_act": "gelu_new"} | dict(fields))
        read.expect("inner_group_num", 1)
        base = bert.Config.from_dict({"hidden_act": "gelu_new"} | dict(fields), names)
        groups = read.size("num_hidden_groups", 1)
        if groups > base.layers:
            raise ConfigError(f"num_hidden_groups is {groups}, expected at most num_hidden_layers = {base.layers}")
        tied = read.flag("tie_word_embeddings", True) if names is None else "predictions.decoder.weight" not in names
        parts = {
            "mlm": names is None or "predictions.dense.weight" in names,
            "pooler": names is not None and f"{_prefix(names)}pooler.weight" in names,
            "next_sentence": False,
            "tied": tied,
        }
        return cls(
            **(vars(base) | parts),
            table_width=read.size("embedding_size", 128),
            groups=groups,
            sentence_order=names is not None and "sop_classifier.classifier.weight" in names,
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields transformers reads."""
        whole = "AlbertForPreTraining" if self.sentence_order else "AlbertForMaskedLM"
        return super().to_dict() | {
            "architectures": [whole if self.mlm else "AlbertModel"],
            "embedding_size": self.table_width,
            "num_hidden_groups": self.groups,
            "inner_group_num": 1,
        }


class Model(bert.Model):
    """The encoder, and above it what the file has."""

    config: Config

    def __init__(self, config: Config, metadata: Mapping[str, Any] | None = None) -> None:
        self.config, self.metadata = config, metadata or {}
        self.embed = Embedding(config.vocabulary, config.table_width)
        self.positions = Embedding(config.context, config.table_width)
        self.segments = Embedding(config.segments, config.table_width)
        self.embed_norm = LayerNorm(config.table_width, eps=config.eps)
        self.widen = Linear(config.table_width, config.width)
        groups = [bert.Block(config) for _ in range(config.groups)]
        self.blocks = [groups[layer] for layer in _groups(config)]
        if config.pooler:
            self.pooler = Linear(config.width, config.width)
        if config.sentence_order:
            self.sentence_order = Linear(config.width, 2)
        if config.mlm:
            self.transform = Linear(config.width, config.table_width)
            self.transform_norm = LayerNorm(config.table_width, eps=config.eps)
            tied = self.embed if config.tied else None
            self.head = Head(config.table_width, config.vocabulary, tied=tied, bias=True)

    def states(self, batch: Batch) -> Value:
        """The output of the last block, ``[T, width]``."""
        x = self.embed(batch.ids) + self.segments(batch.segments)
        x = self.widen(self.embed_norm(x + self.positions(batch.positions)))
        for block in self.blocks:
            x = block(x, batch.seqs)
        return x

    def pooled_of(self, states: Value, seqs: Ragged) -> Value:
        """``tanh`` of a projection of each sequence's first state, ``[sequences, width]``. Raises ConfigError."""
        if not self.config.pooler:
            raise ConfigError("this albert has no pooler: its file holds no pooler.weight")
        return ops.activation(self.pooler(ops.pool(states, seqs, kind="first")), kind="tanh")

    @property
    def pair_head(self) -> Linear | None:
        """What tells of a pooled state whether two sentences were swapped, if the file had it."""
        return self.sentence_order if self.config.sentence_order else None


def copies(_fields: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """Tensors that a file may repeat: each with the one it repeats."""
    words = f"{_prefix(names)}embeddings.word_embeddings.weight"
    return {"predictions.decoder.weight": words, "predictions.decoder.bias": "predictions.bias"}


def weights(config: Config, names: Collection[str] = ()) -> Sources:
    """Where each parameter is in a checkpoint with these tensor names; as transformers writes it if none are given."""
    start = _prefix(names) if names or config.mlm else ""
    sources: Sources = {}
    for path, name in (("embed", "word"), ("positions", "position"), ("segments", "token_type")):
        sources |= weight(path, f"{start}embeddings.{name}_embeddings")
    sources |= both("embed_norm", f"{start}embeddings.LayerNorm")
    sources |= both("widen", f"{start}encoder.embedding_hidden_mapping_in")
    order = _groups(config)
    for group in range(config.groups):
        # A shared parameter has the path of its first place.
        block, stored = f"blocks.{order.index(group)}", f"{start}encoder.albert_layer_groups.{group}.albert_layers.0"
        for path, name in _BLOCK.items():
            sources |= both(f"{block}.{path}", f"{stored}.{name}")
    if config.pooler:
        sources |= both("pooler", f"{start}pooler")
    if config.sentence_order:
        sources |= both("sentence_order", "sop_classifier.classifier")
    if config.mlm:
        sources |= both("transform", "predictions.dense") | both("transform_norm", "predictions.LayerNorm")
        sources["head.bias"] = Source("predictions.bias")
        if not config.tied:
            sources |= weight("head", "predictions.decoder")
    return sources


_BLOCK = {
    "attn.q": "attention.query",
    "attn.k": "attention.key",
    "attn.v": "attention.value",
    "attn.o": "attention.dense",
    "norm1": "attention.LayerNorm",
    "ff.up": "ffn",
    "ff.down": "ffn_output",
    "norm2": "full_layer_layer_norm",
}


def _groups(config: Config) -> list[int]:
    """The group of each block."""
    return [layer * config.groups // config.layers for layer in range(config.layers)]


def _prefix(names: Collection[str]) -> str:
    return "" if "embeddings.word_embeddings.weight" in names else "albert."
