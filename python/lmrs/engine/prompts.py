"""What a prompt may be: a text, token ids, or several of either."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmrs.engine.options import Ids
from lmrs.errors import InputError


def listed(prompt: str | Ids | list[str] | list[list[int]]) -> tuple[list[str | Ids], bool]:
    """The prompts, and whether there were several: a text or a run of ids is one. Raises InputError."""
    if isinstance(prompt, str):
        return [prompt], False
    prompts: list[Any] = list(prompt)
    if prompts and _are_ids(prompts):
        return [[int(item) for item in prompts]], False
    for at, item in enumerate(prompts):
        if not isinstance(item, str) and not _are_ids(item):
            raise InputError(f"item {at} is {item!r}, expected a text or token ids")
    return prompts, True


def _are_ids(item: object) -> bool:
    if not isinstance(item, Sequence | np.ndarray):
        return False
    return all(isinstance(id_, int | np.integer) and not isinstance(id_, bool) for id_ in item)
