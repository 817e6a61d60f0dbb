"""The objective of running text that a model was made for."""

from typing import Any

from lmrs.tokenizer import Tokenizer
from lmrs.train.clm import clm
from lmrs.train.documents import Documents
from lmrs.train.mlm import mlm
from lmrs.train.objective import Objective
from lmrs.train.span import span_corruption


def language_modelling(
    model: Any,
    documents: Documents,
    *,
    context: int | None = None,
    tokenizer: Tokenizer | None = None,
    seed: int = 0,
) -> Objective:
    """:func:`span_corruption` for an encoder-decoder, :func:`mlm` for a model that sees both sides, else :func:`clm`.

    For going on with what a checkpoint has learnt, on ``documents`` of another kind. ``seed`` draws what is hidden.
    Raises as those do.
    """
    if hasattr(model, "encode"):
        return span_corruption(model, documents, context=context, tokenizer=tokenizer, seed=seed)
    if any(getattr(module, "causal", True) is False for _, module in model.named_modules()):
        return mlm(model, documents, context=context, tokenizer=tokenizer, seed=seed)
    return clm(model, documents, context=context, tokenizer=tokenizer)
