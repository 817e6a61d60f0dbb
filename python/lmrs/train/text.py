"""From texts to the token ids of a model."""

from collections.abc import Sequence
from typing import Any

from lmrs.errors import InputError
from lmrs.tokenizer import Tokenizer


def tokenizer_of(model: Any) -> Tokenizer:
    """The tokenizer beside the checkpoint of ``model``. Raises InputError if it came from no file."""
    source = getattr(model, "source", None)
    if source is None:
        raise InputError("this model came from no file: pass tokenizer= to give texts, or give token ids")
    return Tokenizer.load(source)


def checked(model: Any, sequences: Sequence[Sequence[int]], what: str) -> Sequence[Sequence[int]]:
    """``sequences`` themselves. Raises InputError naming the first whose ids the model does not have."""
    for index, ids in enumerate(sequences):
        if ids and not 0 <= min(ids) <= max(ids) < model.config.vocabulary:
            wrong = next(i for i in ids if not 0 <= i < model.config.vocabulary)
            raise InputError(f"{what} {index} holds the id {wrong}, the model has 0 … {model.config.vocabulary - 1}")
    return sequences
