"""XLM-RoBERTa (Conneau et al. 2020): RoBERTa of a hundred languages, with a vocabulary of SentencePiece."""

from dataclasses import dataclass
from typing import Any, ClassVar

from lmrs.models import roberta
from lmrs.models.roberta import IGNORED, Model, copies, weights

__all__ = ["IGNORED", "Config", "Model", "copies", "weights"]


@dataclass(frozen=True, kw_only=True)
class Config(roberta.Config):
    """RoBERTa's."""

    family: ClassVar[str] = "xlm-roberta"

    def to_dict(self) -> dict[str, Any]:
        """The fields transformers reads."""
        whole = "XLMRobertaForMaskedLM" if self.mlm else "XLMRobertaModel"
        return super().to_dict() | {"architectures": [whole]}
