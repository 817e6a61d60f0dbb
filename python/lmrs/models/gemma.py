"""Gemma (Mesnard et al. 2024): Llama with embeddings times ``√width``, norms of ``1 + w`` and a gate of tanh GELU.

Parameters hold ``1 + w``, what a norm multiplies by; files hold ``w``.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from lmrs import ops
from lmrs.batch import Batch
from lmrs.models import llama
from lmrs.models.config import Fields, activation
from lmrs.models.llama import IGNORED, copies
from lmrs.models.source import Sources
from lmrs.ops import Value

__all__ = ["IGNORED", "Config", "Model", "copies", "weights"]
C = TypeVar("C", bound="Config")


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config):
    """Llama's."""

    family: ClassVar[str] = "gemma"
    architecture: ClassVar[str] = "GemmaForCausalLM"

    @classmethod
    def from_dict(cls: type[C], fields: Mapping[str, Any], names: Collection[str] | None = None) -> C:
        """From config.json. What old files call gelu is the tanh form, unless ``hidden_activation`` says otherwise."""
        Fields(fields).expect("use_bidirectional_attention", False)
        said = fields.get("hidden_activation") or fields.get("hidden_act") or "gelu_pytorch_tanh"
        kind = "gelu_tanh" if said == "gelu" and not fields.get("hidden_activation") else said
        config = super().from_dict({"head_dim": 256, "tie_word_embeddings": True} | dict(fields), names)
        return replace(config, kind=activation("hidden_act", kind))


class Model(llama.Model):
    """The causal language model."""

    def hidden(self, batch: Batch) -> Value:
        """The normed output of the last block, ``[T, width]``."""
        x = ops.scale(self.embed(batch.ids), by=self.config.width**0.5)
        for block in self.blocks:
            x = block(x, batch)
        return self.norm(x)


def weights(config: llama.Config, names: Collection[str] = ()) -> Sources:
    """Where each parameter is in a checkpoint with these tensor names; as transformers writes it if none are given."""
    return plus_one(llama.weights(config, names))


def plus_one(sources: Sources) -> Sources:
    """``sources`` with every norm one more than what is stored."""
    return {path: replace(source, plus=1.0) if "norm" in path else source for path, source in sources.items()}
