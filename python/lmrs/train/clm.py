"""Causal language modelling: each token predicted from those before it in its document."""

from collections.abc import Sequence
from typing import Any

from lmrs.errors import InputError
from lmrs.models.beside import tokenizer_of
from lmrs.tokenizer import Tokenizer
from lmrs.train.ids import checked
from lmrs.train.objective import Example, NextToken


def clm(
    model: Any,
    documents: str | Sequence[str | Sequence[int]],
    *,
    context: int | None = None,
    tokenizer: Tokenizer | None = None,
) -> NextToken:
    """The objective ``-Σ log p(xₜ | x₁ … xₜ₋₁)`` over ``documents``: a text, or several texts or lists of token ids.

    A document is cut into runs of at most ``context`` tokens (by default what the model takes, at most 1024); each
    token but the first is predicted once, from those before it in its run. Texts are encoded by ``tokenizer``, by
    default the one beside the model's checkpoint, and end with its end-of-text token if it has one; ids are taken as
    they are. Raises InputError if nothing is left to predict, an id is not the model's, or ``context`` is not what it
    takes.
    """
    longest = model.config.context
    context = min(longest or 1024, 1024) if context is None else context
    if context < 1 or (longest is not None and context > longest):
        raise InputError(f"context is {context}, expected 1 … {longest or 'any number of'} tokens")
    sequences: list[Sequence[int]] = []
    for document in [documents] if isinstance(documents, str) else documents:
        if isinstance(document, str):
            tokenizer = tokenizer or tokenizer_of(model)
            end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
            sequences.append([*tokenizer.encode(document).ids, *end])
        else:
            sequences.append(document)
    checked(model, sequences, "document")
    return NextToken(model, [run for ids in sequences for run in _runs(ids, context)])


def _runs(ids: Sequence[int], context: int) -> list[Example]:
    """The runs of a document. Its last token is only predicted, its first only read."""
    read, predicted = ids[:-1], ids[1:]
    starts = range(0, len(read), context)
    return [Example(read[start : start + context], predicted[start : start + context]) for start in starts]
