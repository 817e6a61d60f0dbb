"""Causal language modelling: each token predicted from those before it in its document."""

from typing import Any

from lmrs.tokenizer import Tokenizer
from lmrs.train.documents import Documents, Ids, encoded, length
from lmrs.train.objective import Example, NextToken


def clm(
    model: Any,
    documents: Documents,
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
    context = length(context, model)
    sequences = encoded(model, documents, tokenizer=tokenizer, special=True, end=True)
    return NextToken(model, [run for ids in sequences for run in _runs(ids, context)])


def _runs(ids: Ids, context: int) -> list[Example]:
    """The runs of a document. Its last token is only predicted, its first only read."""
    read, predicted = ids[:-1], ids[1:]
    starts = range(0, len(read), context)
    return [Example(read[start : start + context], predicted[start : start + context]) for start in starts]
