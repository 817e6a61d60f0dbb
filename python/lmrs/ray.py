"""Corpora on the cores of one machine or the machines of a cluster, through Ray (``pip install lmrs[ray]``).

    ray.init()
    totals = lmrs.ray.perplexity("smollm2.gguf", ["web.parquet"], state="run", shards=64)
    scored = lmrs.ray.score(ray.data.read_parquet("web.parquet"), ArrowScorer(model="smollm2.gguf"))

The caller connects to Ray; nothing here starts or stops it. Model, texts and states lie where every worker sees them.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmrs.errors import InputError
from lmrs.eval import ArrowScorer, Protocol, Shard, Totals, merged, score_corpus

if TYPE_CHECKING:
    from lmrs.engine import DType

PathLike = str | os.PathLike[str]


def score(dataset: Any, scorer: ArrowScorer, *, threads: int = 1, batch_size: int = 256) -> Any:
    """``dataset``, a ``ray.data.Dataset``, with the columns that ``scorer`` adds.

    Each task takes ``threads`` cores and reads ``batch_size`` rows at a time. :func:`lmrs.eval.arrow.totals` adds up
    the batches of ``iter_batches(batch_format="pyarrow")``.
    """
    return dataset.map_batches(
        scorer, batch_format="pyarrow", batch_size=batch_size, num_cpus=threads, runtime_env=_threads(threads)
    )


def perplexity(
    model: PathLike,
    files: Sequence[PathLike],
    *,
    state: PathLike,
    shards: int,
    threads: int = 1,
    column: str = "text",
    protocol: Protocol = "rolling",
    window: int | None = None,
    stride: int | None = None,
    dtype: "DType | None" = None,
    delta: PathLike | None = None,
    on_done: Callable[[int, int], object] | None = None,
) -> Totals:
    """The sums over all texts of ``files``, every ``shards``-th text in a task of its own with ``threads`` cores.

    A shard keeps its sums in the directory ``state`` as :func:`lmrs.eval.score_corpus` does, so that a task that Ray
    runs again, or a whole run that was killed, goes on where it was, and the result is the integers of one run in one
    process. ``on_done`` hears how many of how many shards are done. Raises InputError without Ray or for fewer than one
    shard, and what a shard raises.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise InputError("lmrs.ray needs Ray: pip install 'lmrs[ray]'") from None
    if shards < 1:
        raise InputError(f"shards is {shards}, expected 1 or more")
    Path(state).mkdir(parents=True, exist_ok=True)
    states = [Path(state) / f"{index}-of-{shards}.json" for index in range(shards)]
    remote = ray.remote(num_cpus=threads, runtime_env=_threads(threads))(_shard)
    reading = {"column": column, "protocol": protocol, "window": window, "stride": stride}
    waiting = [
        remote.remote(
            str(model),
            None if delta is None else str(delta),
            dtype,
            [str(path) for path in files],
            Shard(index=index, of=shards),
            str(states[index]),
            reading,
        )
        for index in range(shards)
    ]
    try:
        for done, _ in enumerate(_as_they_end(ray, waiting), start=1):
            if on_done is not None:
                on_done(done, shards)
    except ray.exceptions.RayTaskError as error:
        # What was wrong with the input is what the caller should see, not where it ran.
        raise error.cause from None
    return merged(states)


def _as_they_end(ray: Any, waiting: list[Any]) -> Iterator[None]:
    try:
        while waiting:
            ended, waiting = ray.wait(waiting)
            yield ray.get(ended[0])
    finally:
        for task in waiting:
            ray.cancel(task)


def _shard(
    model: str,
    delta: str | None,
    dtype: "DType | None",
    files: list[str],
    shard: Shard,
    state: str,
    reading: dict[str, Any],
) -> None:
    from lmrs.eval.arrow import engine_of

    score_corpus(engine_of(model, delta, dtype), files, shard=shard, state=state, **reading)


def _threads(count: int) -> dict[str, Any]:
    """Workers of one machine share its cores, so none takes more than it was given."""
    return {"env_vars": {"LMRS_NUM_THREADS": str(count)}}
