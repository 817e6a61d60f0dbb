"""Programs that evaluations run beside those of the engine, on packed sequences."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from lmrs.backend import native
from lmrs.batch import Batch
from lmrs.errors import InputError

if TYPE_CHECKING:
    from lmrs.engine import Engine

BATCH_TOKENS = 1024
"""Tokens in a batch of sequences; one longer than that travels alone."""

T = TypeVar("T")
Floats = npt.NDArray[np.float32]


def batches(items: Iterable[T], tokens: Callable[[T], int]) -> Iterator[list[T]]:
    """Runs of ``items`` of at most BATCH_TOKENS tokens, at least one item each."""
    batch: list[T] = []
    total = 0
    for item in items:
        count = tokens(item)
        if batch and total + count > BATCH_TOKENS:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += count
    if batch:
        yield batch


def run(plan: Any, batch: Batch, *, memory: Floats | None = None, memory_starts: Sequence[int] = ()) -> Floats:
    """The one output of ``plan`` for a native ``batch`` and, if it reads them, an encoder's states ``[S, d]``."""
    inputs = {"ids": batch.ids.tensor, "positions": batch.positions.tensor, "segments": batch.segments.tensor}
    streams = [(batch.seqs.name, [start for start, _ in batch.seqs.spans()] + [batch.ids.shape[0]])]
    if batch.labels is not None:
        inputs["labels"] = batch.labels.tensor
    if memory is not None:
        inputs["memory"] = native.array(memory).tensor
        streams.append(("memory", list(memory_starts)))
    (output,) = plan.run(inputs, streams)
    values: Floats = output.numpy()
    return values


class Logits:
    """The logits of a model that predicts the next token, a few rows at a time.

    Raises ConfigError if the engine's model is of another kind.
    """

    def __init__(self, engine: "Engine") -> None:
        engine.expect_next_token()
        model = engine.model
        self._hidden = engine.planned(model.hidden)
        self._head = engine.planned(lambda _, states, __: model.head(states), memory_width=engine.config.width)

    def blocks(
        self, sequences: Sequence[Sequence[int]], *, select: Sequence[int] | npt.NDArray[np.int64], rows: int
    ) -> Iterator[Floats]:
        """Of the rows ``select`` of ``sequences`` laid one after another, in blocks ``[rows, V]``, the last shorter.

        Those of a long text are so never in memory together; log-probabilities of given tokens, for which
        :meth:`lmrs.Engine.score` is there, need none at all. Raises InputError for an id or a row out of range.
        """
        hidden = run(self._hidden, Batch.of(sequences))
        chosen = np.asarray(select, np.int64)
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(hidden):
            raise InputError(f"select reaches from {chosen.min()} to {chosen.max()}, there are {len(hidden)} rows")
        for at in range(0, len(chosen), rows):
            part = hidden[chosen[at : at + rows]]
            inputs = {"memory": native.array(part).tensor}
            (logits,) = self._head.run(inputs, [("memory", [0, len(part)])])
            yield logits.numpy()
