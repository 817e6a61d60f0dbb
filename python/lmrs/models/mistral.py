"""Mistral (Jiang et al. 2023): Llama in which a token may see only the last ``sliding_window`` keys."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from lmrs.models import llama
from lmrs.models.config import Fields
from lmrs.models.llama import IGNORED, Model, copies, weights

__all__ = ["IGNORED", "Config", "Model", "copies", "weights"]


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config):
    """Llama's, with one window for all layers."""

    family: ClassVar[str] = "mistral"
    architecture: ClassVar[str] = "MistralForCausalLM"

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], names: Collection[str] | None = None) -> "Config":
        """From config.json."""
        read = Fields({"sliding_window": 4096} | dict(fields))
        window = None if read.get("sliding_window") is None else read.size("sliding_window")
        config = super().from_dict(fields, names)
        return replace(config, windows=(window,) * config.layers)

    def to_dict(self) -> dict[str, Any]:
        """The fields transformers reads."""
        return super().to_dict() | {"sliding_window": self.windows[0] if self.windows else None}
