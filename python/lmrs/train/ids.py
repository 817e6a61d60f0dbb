"""Token ids that a model has."""

from collections.abc import Sequence
from typing import Any

from lmrs.errors import InputError


def checked(model: Any, sequences: Sequence[Sequence[int]], what: str) -> Sequence[Sequence[int]]:
    """``sequences`` themselves. Raises InputError naming the first whose ids the model does not have."""
    for index, ids in enumerate(sequences):
        if ids and not 0 <= min(ids) <= max(ids) < model.config.vocabulary:
            wrong = next(i for i in ids if not 0 <= i < model.config.vocabulary)
            raise InputError(f"{what} {index} holds the id {wrong}, the model has 0 … {model.config.vocabulary - 1}")
    return sequences
