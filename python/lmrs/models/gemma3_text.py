"""Gemma 3 (Kamath et al. 2025), its text model: Gemma 2 with each head of q and k normed in place of the caps.

Layers with a window have rotary frequencies of their own.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from lmrs.errors import ConfigError
from lmrs.models import gemma2
from lmrs.models.gemma2 import IGNORED, copies, weights
from lmrs.nn.rope import Rope

__all__ = ["IGNORED", "Config", "Model", "copies", "weights"]
_FULL, _LOCAL = "full_attention", "sliding_attention"


@dataclass(frozen=True, kw_only=True)
class Config(gemma2.Config):
    """Gemma 2's, with ``head_norms`` on and ``local_rope`` for layers with a window."""

    family: ClassVar[str] = "gemma3_text"
    architecture: ClassVar[str] = "Gemma3ForCausalLM"
    every: ClassVar[int] = 6
    head_norms: bool = True
    softcap: float | None = None
    cap: float | None = None
    local_rope: Mapping[str, Any] = field(default_factory=lambda: {"rope_type": "default", "rope_theta": 10000.0})

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], names: Collection[str] | None = None) -> "Config":
        """From config.json, where the two rotations lie in ``rope_parameters``, in old files in fields of their own."""
        given = fields.get("rope_parameters")
        if given is None:
            whole = {"rope_type": "default", "rope_theta": fields.get("rope_theta", 1e6)}
            whole |= fields.get("rope_scaling") or {}
            given = {
                _FULL: whole,
                _LOCAL: {"rope_type": "default", "rope_theta": fields.get("rope_local_base_freq", 1e4)},
            }
        if not isinstance(given, Mapping) or not all(isinstance(given.get(kind), Mapping) for kind in (_FULL, _LOCAL)):
            raise ConfigError(f"rope_parameters is {given!r}, expected an object for {_FULL} and one for {_LOCAL}")
        caps = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
        rest = {name: value for name, value in fields.items() if name not in ("rope_scaling", "rope_theta")}
        config = super().from_dict(caps | rest | {"rope_parameters": given[_FULL]}, names)
        return replace(config, head_norms=True, local_rope=dict(given[_LOCAL]))

    def to_dict(self) -> dict[str, Any]:
        """The fields transformers reads."""
        return super().to_dict() | {"rope_parameters": {_FULL: dict(self.rope), _LOCAL: dict(self.local_rope)}}


class Model(gemma2.Model):
    """The causal language model."""

    config: Config

    def ropes(self) -> list[Rope]:
        """The rotation of each layer."""
        config = self.config
        whole, local = (Rope(config.heads.dim, r, context=config.context) for r in (config.rope, config.local_rope))
        return [whole if window is None else local for window in config.windows]
