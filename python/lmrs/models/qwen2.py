"""Qwen2 (Yang et al. 2024): Llama with a bias on q, k and v, and in some layers, if switched on, a sliding window."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from lmrs.errors import ConfigError
from lmrs.models import llama
from lmrs.models.config import Fields
from lmrs.models.llama import IGNORED, Model, copies, weights

__all__ = ["IGNORED", "Config", "Model", "copies", "weights"]
C = TypeVar("C", bound="Config")


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config):
    """Llama's, with ``qkv_bias`` on."""

    family: ClassVar[str] = "qwen2"
    architecture: ClassVar[str] = "Qwen2ForCausalLM"
    qkv_bias: bool = True

    @classmethod
    def from_dict(cls: type[C], fields: Mapping[str, Any], names: Collection[str] | None = None) -> C:
        """From config.json."""
        config = super().from_dict(fields, names)
        return replace(config, qkv_bias=True, o_bias=False, windows=windows(fields, config.layers))

    def to_dict(self) -> dict[str, Any]:
        """The fields transformers reads."""
        return super().to_dict() | window_fields(self.windows)


def windows(fields: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    """The window of each layer, if switched on: by ``layer_types``, or from layer ``max_window_layers`` on."""
    read = Fields(fields)
    if not read.flag("use_sliding_window", False):
        return (None,) * layers
    size = read.size("sliding_window", 4096)
    first = read.size("max_window_layers", 28)
    kinds = read.get("layer_types") or ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    if len(kinds) != layers or not {"full_attention", "sliding_attention"}.issuperset(kinds):
        raise ConfigError(f"layer_types is {kinds!r}, expected {layers} of full_attention or sliding_attention")
    return tuple(size if kind == "sliding_attention" else None for kind in kinds)


def window_fields(windows: tuple[int | None, ...]) -> dict[str, Any]:
    """The inverse of :func:`windows`."""
    size = next((window for window in windows if window is not None), None)
    if size is None:
        return {"use_sliding_window": False}
    kinds = ["full_attention" if window is None else "sliding_attention" for window in windows]
    return {"use_sliding_window": True, "sliding_window": size, "layer_types": kinds}
