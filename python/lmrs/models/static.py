"""Word vectors without context (Mikolov et al. 2013): a table of words, and one of what stands around them."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lmrs.batch import Batch
from lmrs.models.config import Fields
from lmrs.models.model import LanguageModel
from lmrs.models.source import Source, Sources
from lmrs.nn.layers import Embedding, Head
from lmrs.ops import Value

IGNORED = re.compile(r"(?!)")


@dataclass(frozen=True, kw_only=True)
class Config:
    """``vocabulary`` words, vectors of ``width``."""

    family: ClassVar[str] = "static"
    context: ClassVar[int | None] = None
    vocabulary: int
    width: int

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], names: Collection[str] | None = None) -> "Config":
        """From config.json."""
        read = Fields(fields)
        return cls(vocabulary=read.size("vocab_size"), width=read.size("hidden_size"))

    def to_dict(self) -> dict[str, Any]:
        """The inverse of :meth:`from_dict`."""
        return {"model_type": self.family, "vocab_size": self.vocabulary, "hidden_size": self.width}


class Model(LanguageModel):
    """``p(word around | word) = softmax(around·vector)`` (the paper's eq. 2, in full)."""

    config: Config

    def __init__(self, config: Config, metadata: Mapping[str, Any] | None = None) -> None:
        self.config, self.metadata = config, metadata or {}
        self.embed = Embedding(config.vocabulary, config.width)
        self.head = Head(config.width, config.vocabulary)

    def hidden(self, batch: Batch) -> Value:
        """The vector of each token, ``[T, width]``."""
        return self.embed(batch.ids)


def copies(_fields: Mapping[str, Any], _names: Collection[str]) -> dict[str, str]:
    """Tensors that a file may repeat: none."""
    return {}


def weights(_config: Config, _names: Collection[str] = ()) -> Sources:
    """Where each parameter is in a checkpoint."""
    return {path: Source(path) for path in ("embed.weight", "head.weight")}
