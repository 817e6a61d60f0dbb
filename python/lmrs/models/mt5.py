"""mT5 (Xue et al. 2021): T5 v1.1 of many languages, whose hidden states are never scaled before the head."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from lmrs.models import t5
from lmrs.models.t5 import IGNORED, Model, copies, weights
from lmrs.ops import Activation

__all__ = ["IGNORED", "Config", "Model", "copies", "weights"]


@dataclass(frozen=True, kw_only=True)
class Config(t5.Config):
    """T5's, with ``scaled`` off."""

    family: ClassVar[str] = "mt5"
    kind: Activation = "gelu_tanh"
    gated: bool = True
    scaled: bool = False

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], names: Collection[str] | None = None) -> "Config":
        """From config.json."""
        return replace(super().from_dict({"feed_forward_proj": "gated-gelu"} | dict(fields), names), scaled=False)

    def to_dict(self) -> dict[str, Any]:
        """The fields transformers reads."""
        fields = super().to_dict() | {
            "architectures": ["MT5ForConditionalGeneration"],
            "tie_word_embeddings": self.tied,
        }
        del fields["scale_decoder_outputs"]
        return fields
