"""Causal language modelling: each token predicted from those before it in its document."""

from typing import Any

from lmrs.tokenizer import Tokenizer
from lmrs.train.documents import Documents, Each, Ids, Runs, encoded, length
from lmrs.train.objective import Example, NextToken


def clm(
    model: Any,
    documents: Documents,
    *,
    context: int | None = None,
    tokenizer: Tokenizer | None = None,
) -> NextToken:
    """The objective ``-Σ log p(xₜ | x₁ … xₜ₋₁)`` over ``documents``: texts, lists of token ids, or packed shards.

    A document is cut into runs of at most ``context`` tokens (by default what the model takes, at most 1024); each
    token but the first is predicted once, from those before it in its run. Texts are encoded by ``tokenizer``, by
    default the one beside the model's checkpoint, and end with its end-of-text token if it has one; ids are taken as
    they are. Raises InputError if nothing is left to predict, an id is not the model's, or ``context`` is not what it
    takes.
    """
    context = length(context, model)
    sequences = encoded(model, documents, tokenizer=tokenizer, special=True, end=True)
    # The last token of a run is only predicted, its first only read.
    return NextToken(model, Each(_shifted, Runs(sequences, context, least=2, overlap=1)))


def _shifted(run: Ids) -> Example:
    return Example(run[:-1], run[1:])
