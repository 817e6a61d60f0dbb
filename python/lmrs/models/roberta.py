"""RoBERTa (Liu et al. 2019): BERT whose first position is row 2 of the table, with a head of other names."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lmrs.errors import ConfigError
from lmrs.models import bert
from lmrs.models.bert import Model
from lmrs.models.config import MOST_LAYERS, Fields
from lmrs.models.source import Source, Sources, both, weight

__all__ = ["IGNORED", "Config", "Model", "copies", "weights"]
IGNORED = re.compile(r"(roberta\.)?embeddings\.(position_ids|token_type_ids)")


@dataclass(frozen=True, kw_only=True)
class Config(bert.Config):
    """BERT's; ``offset`` is one more than the id of the padding token."""

    family: ClassVar[str] = "roberta"
    offset: int = 2
    segments: int = 1
    eps: float = 1e-5

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], names: Collection[str] | None = None) -> "Config":
        """From config.json; which heads there are is read off the tensor ``names`` of the file if given."""
        read = Fields(fields)
        read.expect("position_embedding_type", "absolute")
        read.expect("is_decoder", False)
        width, heads, pad = read.size("hidden_size"), read.size("num_attention_heads"), read.get("pad_token_id", 1)
        if width % heads:
            raise ConfigError(f"hidden_size is {width}, expected a multiple of num_attention_heads = {heads}")
        if isinstance(pad, bool) or not isinstance(pad, int) or not 0 <= pad < read.size("max_position_embeddings") - 1:
            raise ConfigError(f"pad_token_id is {pad!r}, expected an id below max_position_embeddings")
        return cls(
            vocabulary=read.size("vocab_size"),
            width=width,
            layers=read.size("num_hidden_layers", most=MOST_LAYERS),
            heads=heads,
            context=read.size("max_position_embeddings") - pad - 1,
            offset=pad + 1,
            inner=read.size("intermediate_size"),
            segments=read.size("type_vocab_size", 1),
            kind=read.activation("hidden_act", "gelu"),
            eps=read.number("layer_norm_eps", 1e-5),
            tied=read.flag("tie_word_embeddings", True) if names is None else "lm_head.decoder.weight" not in names,
            mlm=names is None or "lm_head.dense.weight" in names,
            pooler=names is not None and any(name.endswith("pooler.dense.weight") for name in names),
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields transformers reads."""
        return super().to_dict() | {
            "architectures": ["RobertaForMaskedLM" if self.mlm else "RobertaModel"],
            "max_position_embeddings": self.context + self.offset,
            "pad_token_id": self.offset - 1,
        }


def copies(_fields: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """Tensors that a file may repeat: each with the one it repeats."""
    words = f"{_prefix(names)}embeddings.word_embeddings.weight"
    return {"lm_head.decoder.weight": words, "lm_head.decoder.bias": "lm_head.bias"}


def weights(config: Config, names: Collection[str] = ()) -> Sources:
    """Where each parameter is in a checkpoint with these tensor names; as transformers writes it if none are given."""
    start = _prefix(names) if names or config.mlm else ""
    table, first = f"{start}embeddings.position_embeddings.weight", config.offset
    sources = weight("embed", f"{start}embeddings.word_embeddings")
    sources |= {
        "positions.weight": Source(table, rows=(first, first + config.context)),
        "unread.weight": Source(table, rows=(0, first)),
    }
    sources |= weight("segments", f"{start}embeddings.token_type_embeddings")
    sources |= both("embed_norm", f"{start}embeddings.LayerNorm") | bert.blocks(config, f"{start}encoder.layer")
    if config.pooler:
        sources |= both("pooler", f"{start}pooler.dense")
    if config.mlm:
        sources |= both("transform", "lm_head.dense") | both("transform_norm", "lm_head.layer_norm")
        sources["head.bias"] = Source("lm_head.bias")
        if not config.tied:
            sources |= weight("head", "lm_head.decoder")
    return sources


def _prefix(names: Collection[str]) -> str:
    return "" if "embeddings.word_embeddings.weight" in names else "roberta."
