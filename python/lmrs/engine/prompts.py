"""What a prompt may be: a text, token ids, or a conversation; or several of one kind."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lmrs.engine.options import Ids
from lmrs.errors import InputError
from lmrs.tokenizer import Tokenizer

Conversation = Sequence[Mapping[str, Any]]
"""Turns with ``role`` and ``content``."""
Prompt = str | Ids | Conversation
Prompts = list[str] | list[list[int]] | list[list[dict[str, Any]]]


def listed(texts: str | Ids | list[str] | list[list[int]]) -> tuple[list[str | Ids], bool]:
    """The texts, and whether there were several: a text or a run of ids is one. Raises InputError."""
    if isinstance(texts, str):
        return [texts], False
    several = _run(texts)
    if several and _are_ids(several):
        return [[int(item) for item in several]], False
    for at, item in enumerate(several):
        if not isinstance(item, str) and not _are_ids(item):
            raise InputError(f"item {at} is {item!r}, expected a text or token ids")
    return several, True


def prompts_of(prompt: Prompt | Prompts) -> tuple[list[Any], bool]:
    """The prompts, and whether there were several: a run of turns is one as well. Raises InputError."""
    if _are_turns(prompt):
        return [prompt], False
    if isinstance(prompt, Sequence) and prompt and all(map(_are_turns, prompt)):
        return list(prompt), True
    return listed(prompt)  # type: ignore[arg-type]


def ids_of(prompt: Prompt, tokenizer: Callable[[], Tokenizer]) -> list[int]:
    """The ids of one prompt; of turns by the chat template, up to where the assistant begins. Raises TokenizerError."""
    if isinstance(prompt, str):
        return tokenizer().encode(prompt).ids
    if not _are_turns(prompt):
        return _run(prompt)
    text = tokenizer().apply_chat_template(prompt, add_generation_prompt=True)  # type: ignore[arg-type]
    return tokenizer().encode(text, add_special_tokens=False).ids


def _run(given: object) -> list[Any]:
    if not isinstance(given, Sequence | np.ndarray):
        raise InputError(f"{given!r} is neither a text nor token ids, nor a list of either")
    return list(given)


def _are_turns(item: object) -> bool:
    if not isinstance(item, Sequence) or isinstance(item, str) or not item:
        return False
    return all(isinstance(turn, Mapping) for turn in item)


def _are_ids(item: object) -> bool:
    if not isinstance(item, Sequence | np.ndarray):
        return False
    return all(isinstance(id_, int | np.integer) and not isinstance(id_, bool) for id_ in item)
