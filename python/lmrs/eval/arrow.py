"""Scoring as a function from Arrow to Arrow, for Ray Data, Hugging Face datasets and Spark.

    ray.data.read_parquet(...).map_batches(ArrowScorer(model="smollm2.gguf"), batch_format="pyarrow")
    dataset.map(ArrowScorer(model="smollm2.gguf"), batched=True)
    frame.mapInArrow(ArrowScorer(model="smollm2.gguf").batches, f"text string, {SPARK}")

It is plain settings when it is sent to a worker; the model is mapped there, when first asked. :func:`totals` adds up
what the workers gave, to the integers of :func:`lmrs.eval.score_corpus`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from lmrs.errors import InputError
from lmrs.eval.corpus import UNIT, Totals
from lmrs.eval.protocols import Protocol

if TYPE_CHECKING:
    from lmrs.engine import DType, Engine

COLUMNS = ("sum_logprob", "tokens", "words", "bytes", "perplexity")
FLOATS = ("sum_logprob", "perplexity")
SPARK = ", ".join(f"{name} {'double' if name in FLOATS else 'bigint'}" for name in COLUMNS)
"""The added columns as Spark writes a schema."""


@dataclass(frozen=True, kw_only=True)
class ArrowScorer:
    """Adds to a batch with a text ``column`` the columns ``sum_logprob`` (nats), ``tokens``, ``words``, ``bytes`` and
    ``perplexity`` of each text; null where the text is null or empty.

    ``model`` is what :func:`lmrs.load` takes, ``delta`` a directory of one to put on it, the rest are the options of
    :class:`lmrs.Engine` and of :meth:`lmrs.Engine.score`. Sums over the first four columns, of all batches
    wherever they were computed, give the perplexity of the whole. Raises InputError for a missing column or one that
    holds no texts.
    """  # noqa: D205

    model: str
    column: str = "text"
    protocol: Protocol = "rolling"
    window: int | None = None
    stride: int | None = None
    dtype: "DType | None" = None
    delta: str | None = None

    def __call__(self, batch: Any) -> Any:
        """A ``pyarrow.Table`` or ``RecordBatch`` for one; for a mapping of columns to lists the new columns as one."""
        if isinstance(batch, Mapping):
            return self._columns(batch.get(self.column), list(batch))
        names = batch.schema.names
        given = batch.column(self.column).to_pylist() if self.column in names else None
        added = self._columns(given, names)
        import pyarrow

        for name, values in added.items():
            kind = pyarrow.float64() if name in FLOATS else pyarrow.int64()
            batch = batch.append_column(name, pyarrow.array(values, kind))
        return batch

    def batches(self, batches: Iterable[Any]) -> Iterator[Any]:
        """An iterator of batches for one, as Spark's ``mapInArrow`` calls it."""
        return map(self, batches)

    def _columns(self, texts: list[Any] | None, names: list[str]) -> dict[str, list[Any]]:
        if texts is None:
            raise InputError(f"no column {self.column!r} in the batch; it has {', '.join(names[:8])}")
        if taken := set(names) & set(COLUMNS):
            raise InputError(f"the batch has a column {min(taken)!r} already")
        for row, text in enumerate(texts):
            if text is not None and not isinstance(text, str):
                raise InputError(f"row {row} of {self.column} is {text!r}, expected a text")
        engine = engine_of(self.model, self.delta, self.dtype)
        wanted = [text for text in texts if text]
        scores = iter(engine.score(wanted, protocol=self.protocol, window=self.window, stride=self.stride))
        rows = [next(scores) if text else None for text in texts]
        return {name: [None if row is None else getattr(row, name) for row in rows] for name in COLUMNS}


def totals(batches: Iterable[Any], *, protocol: Protocol = "rolling") -> Totals:
    """The sums over all rows of ``batches``, each a table, a record batch or a mapping of columns that was scored.

    Rows without a score are counted as skipped. They are the integers that :func:`lmrs.eval.score_corpus` gives, for
    any division into batches and any order. Raises InputError for a batch without the columns.
    """
    done = Totals(protocol=protocol)
    for batch in batches:
        names = list(batch) if isinstance(batch, Mapping) else batch.schema.names
        if missing := set(COLUMNS) - set(names):
            raise InputError(f"a batch has no column {min(missing)!r}; it has {', '.join(names[:8])}")
        columns = [batch[name] if isinstance(batch, Mapping) else batch.column(name).to_pylist() for name in COLUMNS]
        for logprob, tokens, words, size, _ in zip(*columns, strict=True):
            if tokens is None:
                done += Totals(protocol=protocol, skipped=1)
            else:
                units = round(logprob / UNIT)
                done += Totals(protocol=protocol, texts=1, tokens=tokens, words=words, bytes=size, units=units)
    return done


@cache
def engine_of(model: str, delta: str | None, dtype: "DType | None") -> "Engine":
    """One engine a process for each setting."""
    import lmrs

    tree = lmrs.load(model)
    return lmrs.Engine(tree if delta is None else lmrs.delta.load(tree, delta), dtype=dtype)
