"""Qwen3 (Yang et al. 2025): Llama with an RMSNorm of each head of q and k before the rotation."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from lmrs.models import llama
from lmrs.models.llama import IGNORED, Model, copies, weights
from lmrs.models.qwen2 import window_fields, windows

__all__ = ["IGNORED", "Config", "Model", "copies", "weights"]


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config):
    """Llama's, with ``head_norms`` on."""

    family: ClassVar[str] = "qwen3"
    architecture: ClassVar[str] = "Qwen3ForCausalLM"
    head_norms: bool = True

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], names: Collection[str] | None = None) -> "Config":
        """From config.json, where an absent ``head_dim`` means 128."""
        config = super().from_dict({"head_dim": 128} | dict(fields), names)
        return replace(config, head_norms=True, windows=windows(fields, config.layers))

    def to_dict(self) -> dict[str, Any]:
        """The fields transformers reads."""
        return super().to_dict() | window_fields(self.windows)
