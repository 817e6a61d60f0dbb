"""umT5 (Chung et al. 2023): mT5's successor, each block of which has relative biases of its own.

Hidden states are scaled before the head where the config says ``tie_word_embeddings``, as transformers 5 does; the
published checkpoints say that they are not tied, and the model they were trained as does not scale.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lmrs.models import t5
from lmrs.models.t5 import IGNORED, Model, copies, weights
from lmrs.ops import Activation

__all__ = ["IGNORED", "Config", "Model", "copies", "weights"]


@dataclass(frozen=True, kw_only=True)
class Config(t5.Config):
    """T5's, with relative biases in every block."""

    family: ClassVar[str] = "umt5"
    own_biases: ClassVar[bool] = True
    kind: Activation = "gelu_tanh"
    gated: bool = True

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], names: Collection[str] | None = None) -> "Config":
        """From config.json."""
        return super().from_dict({"feed_forward_proj": "gated-gelu"} | dict(fields), names)

    def to_dict(self) -> dict[str, Any]:
        """The fields transformers reads."""
        return super().to_dict() | {"architectures": ["UMT5ForConditionalGeneration"]}
