"""Documents as token ids: what objectives are made of."""

from collections.abc import Sequence
from typing import Any

from lmrs.errors import InputError
from lmrs.models.beside import tokenizer_of
from lmrs.tokenizer import Tokenizer
from lmrs.train.ids import checked

Ids = Sequence[int]
Documents = str | Sequence[str | Ids]


def encoded(
    model: Any, documents: Documents, *, tokenizer: Tokenizer | None, special: bool = False, end: bool = False
) -> list[Ids]:
    """The ids of ``documents``: a text, or several texts or lists of ids, which are taken as they are.

    Texts are encoded by ``tokenizer``, by default the one beside the model's checkpoint, with its ``special`` tokens
    around them or without, and behind each its end-of-text token if ``end`` and there is one. Raises InputError if an
    id is not the model's or there is no tokenizer for a text.
    """
    found: list[Ids] = []
    for document in [documents] if isinstance(documents, str) else documents:
        if isinstance(document, str):
            tokenizer = tokenizer or tokenizer_of(model)
            last = [tokenizer.eos_id] if end and tokenizer.eos_id is not None else []
            found.append([*tokenizer.encode(document, add_special_tokens=special).ids, *last])
        else:
            found.append(document)
    checked(model, found, "document")
    return found


def length(context: int | None, model: Any, *, least: int = 1) -> int:
    """How long an example may be: ``context``, by default what the model takes, at most 1024.

    Raises InputError if that is not in ``least`` … what the model takes.
    """
    longest = model.config.context
    context = min(longest or 1024, 1024) if context is None else context
    if context < least or (longest is not None and context > longest):
        raise InputError(f"context is {context}, expected {least} … {longest or 'any number of'} tokens")
    return context


def cut(documents: Sequence[Ids], size: int, *, least: int = 1) -> list[Ids]:
    """Runs of at most ``size`` tokens of each document; those shorter than ``least`` are left out."""
    runs = (ids[start : start + size] for ids in documents for start in range(0, len(ids), size))
    return [run for run in runs if len(run) >= least]
