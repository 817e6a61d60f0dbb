"""How well a model predicts a text."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from lmrs import _rs
from lmrs.engine.options import Reading, expect_known
from lmrs.engine.plans import Plans
from lmrs.errors import InputError
from lmrs.eval.continuations import RANK, Continuation, boundary, fitted
from lmrs.eval.protocols import Frame, windows
from lmrs.eval.scores import Details, Score, count_words
from lmrs.tokenizer import Encoding, Tokenizer

Judge = Callable[..., list[npt.NDArray[np.float32]]]
"""Runs a plan over windows: :meth:`lmrs.engine.loop.Loop.score`."""


def score(
    plans: Plans, judge: Judge, texts: Sequence[str], encodings: Sequence[Encoding], *, frame: Frame, reading: Reading
) -> list[Score]:
    """See :meth:`lmrs.Engine.score`."""
    expect_known(reading, Reading.__annotations__)
    top_k, protocol = _top_k(plans, reading), reading.get("protocol", "rolling")
    plan = plans.logprob(top_k)
    cut = [windows(encoding.ids, protocol=protocol, frame=frame) for encoding in encodings]
    flat = [(window.inputs, window.labels()) for part in cut for window in part]
    rows = iter(judge(plan, flat, **plans.bounds))
    scores = []
    for text, part in zip(texts, cut, strict=True):
        found = [next(rows).reshape(len(window.targets), -1) for window in part]
        sums = (table[:, 0].sum(dtype=np.float64) for table in found)
        weighted = [s * w.counted / len(w.targets) for s, w in zip(sums, part, strict=True)]
        table = np.concatenate(found)
        scores.append(
            Score.of(
                protocol=protocol,
                tokens=sum(window.counted for window in part),
                words=count_words(text),
                bytes=len(text.encode()),
                sum_logprob=math.fsum(weighted),
                token_logprobs=np.ascontiguousarray(table[:, 0]),
                **_details(table, reading),
            )
        )
    return scores


def continuations(
    plans: Plans, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], *, prefix: int | None
) -> list[Continuation]:
    """See :meth:`lmrs.Engine.continuations`."""
    plan, context = plans.logprob(0), plans.bounds["context"]
    frames = [fitted(*boundary(tokenizer, before, text, prefix=prefix), context=context) for before, text in pairs]
    cut = [(window.inputs, window.labels()) for window, _ in frames]
    rows = _rs.score(plan, cut, **plans.bounds)
    found = []
    for (window, dropped), row in zip(frames, rows, strict=True):
        table = row.reshape(len(window.targets), -1)
        found.append(
            Continuation(
                sum_logprob=float(table[:, 0].sum(dtype=np.float64)),
                tokens=len(window.targets),
                greedy=bool((table[:, RANK] == 1).all()),
                token_logprobs=np.ascontiguousarray(table[:, 0]),
                dropped=dropped,
            )
        )
    return found


def following(plans: Plans, judge: Judge, ids: Sequence[int], *, top_k: int) -> npt.NDArray[np.float32]:
    """See :meth:`lmrs.Engine.following`."""
    plan = plans.logprob(top_k)
    labels = [*ids[1:], -1]
    (row,) = judge(plan, [(ids, labels)], **plans.bounds)
    return row.reshape(len(ids) - 1, -1)


def _top_k(plans: Plans, reading: Reading) -> int | None:
    """What the head is asked for; None if log-probabilities are enough."""
    top_k, vocabulary = reading.get("top_k"), plans.bounds["vocabulary"]
    if top_k is None:
        return 0 if reading.get("rank") or reading.get("entropy") else None
    if isinstance(top_k, bool) or not isinstance(top_k, int) or not 0 <= top_k <= vocabulary:
        raise InputError(f"top_k is {top_k!r}, expected an integer from 0 to {vocabulary}")
    return top_k


def _details(table: npt.NDArray[np.float32], reading: Reading) -> Details:
    """What was asked for of the columns of :func:`lmrs.ops.token_logprob`."""
    details: Details = {}
    if reading.get("entropy"):
        details["token_entropies"] = np.ascontiguousarray(table[:, 2])
    if reading.get("rank"):
        details["token_ranks"] = table[:, RANK].astype(np.int32)
    top_k = reading.get("top_k")
    if top_k is not None:
        details["top_tokens"] = table[:, 4 : 4 + top_k].astype(np.int32)
        details["top_logprobs"] = np.ascontiguousarray(table[:, 4 + top_k :])
    return details
