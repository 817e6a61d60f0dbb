"""Token ids that a model has."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmrs.errors import InputError


def checked(model: Any, sequences: Sequence[Sequence[int]], what: str) -> Sequence[Sequence[int]]:
    """``sequences`` themselves. Raises InputError naming the first whose ids the model does not have."""
    for index, ids in enumerate(sequences):
        numbers = np.asarray(ids)
        wrong = numbers[(numbers < 0) | (numbers >= model.config.vocabulary)]
        if wrong.size:
            raise InputError(f"{what} {index} holds the id {wrong[0]}, the model has 0 … {model.config.vocabulary - 1}")
    return sequences
