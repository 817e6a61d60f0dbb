"""How far one model's predictions are from another's: a quantised, merged or tuned one from the one it was made of."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lmrs.errors import InputError
from lmrs.eval.plans import Floats, Logits, batches
from lmrs.eval.protocols import Protocol

if TYPE_CHECKING:
    from lmrs.engine import Engine

BLOCK = 2**21
"""Logits of one model held at a time: 8 MiB."""
Table = npt.NDArray[np.float64]
PERCENTILES = (1, 5, 10, 90, 95, 99, 99.9)


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """A model beside a reference, both reading the same windows; of each scored token both whole distributions.

    ``kl`` is the mean over ``tokens`` of ``KL(reference ‖ model) = Σ p·(log p - log q)`` in nats, ``kl_error`` its
    standard error, ``kl_percentiles`` by percent. ``same_top`` is the share of tokens at which both have the same
    likeliest one, ``delta_p`` and ``delta_p_rms`` the mean and the root mean square of ``q - p`` of the token that
    came, ``perplexity_ratio`` the model's over the reference's. ``token_kl [n]`` and the log-probabilities of the
    tokens, ``token_logprobs [n]`` and ``reference_logprobs [n]``, are float32 in the order of the text.
    """

    protocol: Protocol
    tokens: int
    perplexity: float
    reference_perplexity: float
    perplexity_ratio: float
    kl: float
    kl_error: float
    kl_median: float
    kl_max: float
    kl_percentiles: Mapping[str, float]
    same_top: float
    delta_p: float
    delta_p_rms: float
    token_kl: npt.NDArray[np.float32]
    token_logprobs: npt.NDArray[np.float32]
    reference_logprobs: npt.NDArray[np.float32]


def compare(
    engine: "Engine",
    reference: "Engine",
    texts: str | Sequence[str],
    *,
    protocol: Protocol = "rolling",
    window: int | None = None,
    stride: int | None = None,
    on_done: Callable[[int, int], object] | None = None,
) -> Comparison:
    """``engine`` beside ``reference`` on all ``texts``, in one pass over both.

    The tokens are the reference's; the options are those of :meth:`lmrs.Engine.score`. Logits are held in blocks of
    8 MiB a model, whatever the length. ``on_done`` hears how many of how many tokens are read. Raises InputError if the
    vocabularies differ in size or there is nothing to score.
    """
    sizes = [one.config.vocabulary for one in (engine, reference)]
    if sizes[0] != sizes[1]:
        raise InputError(f"the model has {sizes[0]} tokens, the reference {sizes[1]}: their predictions do not compare")
    both = [Logits(one) for one in (reference, engine)]
    many = [texts] if isinstance(texts, str) else list(texts)
    if not many:
        raise InputError("there is no text to score")
    cut = [part for text in many for part in reference.windows(text, protocol=protocol, window=window, stride=stride)]
    total, done = sum(len(part.inputs) for part in cut), 0
    found = []
    rows = max(1, BLOCK // sizes[0])
    for batch in batches(cut, lambda part: len(part.inputs)):
        labels = np.array([label for part in batch for label in part.labels()])
        select = np.flatnonzero(labels >= 0)
        inputs = [part.inputs for part in batch]
        blocks = (one.blocks(inputs, select=select, rows=rows) for one in both)
        for at, (p, q) in enumerate(zip(*blocks, strict=True)):
            found.append(_measured(p, q, labels[select[at * rows : (at + 1) * rows]]))
        done += sum(map(len, inputs))
        if on_done is not None:
            on_done(done, total)
    return _comparison(protocol, np.concatenate(found))


def _measured(p: Floats, q: Floats, labels: npt.NDArray[np.int64]) -> Table:
    """Of each row of logits ``[n, V]``: KL, log p and log q of its label, and whether the largest are at one place."""
    place = np.arange(len(labels))
    same = p.argmax(1) == q.argmax(1)
    # From the largest on, so that the likely tokens have small numbers and the float32 ones are exact where it counts.
    p, q = p - p.max(1, keepdims=True), q - q.max(1, keepdims=True)
    mass = np.exp(p)
    sums = mass.sum(1, dtype=np.float64)
    log_p, log_q = np.log(sums), np.log(np.exp(q).sum(1, dtype=np.float64))
    at_label = p[place, labels] - log_p, q[place, labels] - log_q
    mass *= np.subtract(p, q, out=p)
    kl = mass.sum(1, dtype=np.float64) / sums - log_p + log_q
    return np.stack([np.maximum(kl, 0.0), *at_label, same], 1)


def _comparison(protocol: Protocol, table: Table) -> Comparison:
    kl, log_p, log_q, same = table.T
    tokens = len(table)
    shift = np.exp(log_q) - np.exp(log_p)
    # A model that is lost gives log-probabilities whose exp is beyond float64.
    perplexities = [math.exp(min(-math.fsum(each) / tokens, 700.0)) for each in (log_q, log_p)]
    return Comparison(
        protocol=protocol,
        tokens=tokens,
        perplexity=perplexities[0],
        reference_perplexity=perplexities[1],
        perplexity_ratio=perplexities[0] / perplexities[1],
        kl=math.fsum(kl) / tokens,
        kl_error=float(kl.std(ddof=1) / math.sqrt(tokens)) if tokens > 1 else 0.0,
        kl_median=float(np.median(kl)),
        kl_max=float(kl.max()),
        kl_percentiles={f"{at:g}": float(np.percentile(kl, at)) for at in PERCENTILES},
        same_top=float(same.mean()),
        delta_p=float(shift.mean()),
        delta_p_rms=float(np.sqrt((shift**2).mean())),
        token_kl=kl.astype(np.float32),
        token_logprobs=log_q.astype(np.float32),
        reference_logprobs=log_p.astype(np.float32),
    )
