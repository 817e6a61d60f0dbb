"""DistilBERT (Sanh et al. 2019): BERT without token types and pooler, of half the blocks, under other names."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lmrs.errors import ConfigError
from lmrs.models import bert
from lmrs.models.bert import Model
from lmrs.models.config import MOST_LAYERS, Fields, written_activation
from lmrs.models.source import Source, Sources, both, weight

__all__ = ["IGNORED", "Config", "Model", "copies", "weights"]
IGNORED = re.compile(r"(distilbert\.)?embeddings\.position_ids")


@dataclass(frozen=True, kw_only=True)
class Config(bert.Config):
    """BERT's without segments."""

    family: ClassVar[str] = "distilbert"
    segments: int = 0

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], names: Collection[str] | None = None) -> "Config":
        """From config.json; whether there is a head is read off the tensor ``names`` of the file if given."""
        read = Fields(fields)
        width, heads = read.size("dim"), read.size("n_heads")
        if width % heads:
            raise ConfigError(f"dim is {width}, expected a multiple of n_heads = {heads}")
        return cls(
            vocabulary=read.size("vocab_size"),
            width=width,
            layers=read.size("n_layers", most=MOST_LAYERS),
            heads=heads,
            context=read.size("max_position_embeddings"),
            inner=read.size("hidden_dim"),
            kind=read.activation("activation", "gelu"),
            tied=read.flag("tie_word_embeddings", True) if names is None else "vocab_projector.weight" not in names,
            mlm=names is None or "vocab_transform.weight" in names,
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields transformers reads."""
        return {
            "model_type": self.family,
            "architectures": ["DistilBertForMaskedLM" if self.mlm else "DistilBertModel"],
            "vocab_size": self.vocabulary,
            "dim": self.width,
            "n_layers": self.layers,
            "n_heads": self.heads,
            "max_position_embeddings": self.context,
            "hidden_dim": self.inner,
            "activation": written_activation(self.kind),
            "tie_word_embeddings": self.tied,
        }


def copies(_fields: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """Tensors that a file may repeat: each with the one it repeats."""
    return {"vocab_projector.weight": f"{_prefix(names)}embeddings.word_embeddings.weight"}


def weights(config: Config, names: Collection[str] = ()) -> Sources:
    """Where each parameter is in a checkpoint with these tensor names; as transformers writes it if none are given."""
    start = _prefix(names) if names or config.mlm else ""
    sources = weight("embed", f"{start}embeddings.word_embeddings")
    sources |= weight("positions", f"{start}embeddings.position_embeddings")
    sources |= both("embed_norm", f"{start}embeddings.LayerNorm")
    for i in range(config.layers):
        for path, name in _BLOCK.items():
            sources |= both(f"blocks.{i}.{path}", f"{start}transformer.layer.{i}.{name}")
    if config.mlm:
        sources |= both("transform", "vocab_transform") | both("transform_norm", "vocab_layer_norm")
        sources["head.bias"] = Source("vocab_projector.bias")
        if not config.tied:
            sources |= weight("head", "vocab_projector")
    return sources


_BLOCK = {
    "attn.q": "attention.q_lin",
    "attn.k": "attention.k_lin",
    "attn.v": "attention.v_lin",
    "attn.o": "attention.out_lin",
    "norm1": "sa_layer_norm",
    "ff.up": "ffn.lin1",
    "ff.down": "ffn.lin2",
    "norm2": "output_layer_norm",
}


def _prefix(names: Collection[str]) -> str:
    return "" if "embeddings.word_embeddings.weight" in names else "distilbert."
