"""How likely a continuation is after its context; the boundary is drawn as lm-evaluation-harness draws it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmrs.errors import InputError
from lmrs.eval.protocols import Window
from lmrs.tokenizer import Tokenizer

RANK = 3
"""The column of :func:`lmrs.ops.token_logprob` that holds the rank."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Continuation:
    """``sum_logprob``, in nats, of the ``tokens`` of a continuation given its context.

    ``token_logprobs [n]``, float32, are its parts. ``greedy``: greedy decoding would have written it. ``dropped``
    tokens at the start of the context did not fit.
    """

    sum_logprob: float
    tokens: int
    greedy: bool
    token_logprobs: npt.NDArray[np.float32]
    dropped: int


def boundary(
    tokenizer: Tokenizer, context: str, continuation: str, *, prefix: int | None
) -> tuple[list[int], list[int]]:
    """The tokens of a context and of its continuation.

    White space at the end of the context belongs to the continuation. Both are encoded together and cut after as many
    tokens as the context has alone, because a tokenizer may join them differently across the boundary. An empty context
    is the token ``prefix`` (the beginning of a sequence, else its end). This is ``TemplateLM._encode_pair`` and
    ``loglikelihood`` of lm-evaluation-harness, but that a context of white space alone, which it cannot score, is empty
    here. Raises InputError if nothing is left to score, or a prefix is needed and the model has none.
    """
    bare = context.rstrip()
    if bare == "":
        ids = tokenizer.encode(context + continuation, add_special_tokens=False).ids
        if prefix is None:
            raise InputError("the context is empty and the model names no bos or eos token to put in its place")
        before, after = ([prefix], ids) if ids[:1] != [prefix] else (ids[:1], ids[1:])
    else:
        whole = tokenizer.encode(context + continuation).ids
        before = tokenizer.encode(bare).ids
        after = whole[len(before) :]
    if not after:
        raise InputError(f"the continuation {continuation!r} has no token of its own to score")
    return before, after


def fitted(before: Sequence[int], after: Sequence[int], *, context: int | None) -> tuple[Window, int]:
    """The window that scores ``after``, its last ``context`` inputs kept, and how many tokens of ``before`` it drops.

    Raises InputError if ``after`` alone is longer than ``context``.
    """
    if context is not None and len(after) > context:
        raise InputError(f"the continuation has {len(after)} tokens, expected at most the model's context, {context}")
    inputs = [*before, *after][:-1]
    kept = inputs if context is None else inputs[-context:]
    return Window(kept, list(after), len(after)), len(inputs) - len(kept)
