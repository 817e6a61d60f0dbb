"""The list of families, and what a family page defines."""

from collections.abc import Collection, Mapping
from importlib import import_module
from typing import Any, Protocol

from lmrs.errors import ConfigError
from lmrs.models.source import Sources

FAMILIES = (
    *("albert", "bert", "distilbert", "elmo", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "llama", "mistral"),
    *("modernbert", "mt5", "opt", "qwen2", "qwen3", "roberta", "static", "t5", "umt5", "xlm-roberta"),
)
"""The values of ``model_type`` that can be loaded; each is a module beside this one, with _ for -."""


class Family(Protocol):
    """A family page: ``Config``, ``Model``, the tensors to ignore, those that repeat others, and where weights are."""

    Config: Any
    Model: Any
    IGNORED: Any

    def weights(self, config: Any, names: Collection[str] = ()) -> Sources:
        """Where each parameter is in a checkpoint."""

    def copies(self, fields: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
        """Tensors that a file may repeat: each with the one it repeats."""


def family(model_type: object) -> Family:
    """The page of ``model_type``. Raises ConfigError if there is none."""
    if model_type not in FAMILIES:
        raise ConfigError(f"model_type is {model_type!r}, expected one of {', '.join(FAMILIES)}")
    return import_module(f"lmrs.models.{str(model_type).replace('-', '_')}")
