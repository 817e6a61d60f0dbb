"""A real local Ray: corpora in shards that resume, and Ray Data with the callable that datasets takes too."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

import lmrs
import lmrs.ray
from lmrs.errors import InputError
from lmrs.eval import ArrowScorer, merged, score_corpus
from lmrs.eval.arrow import totals

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

WORDS = ["the", "cat", "sat", "on", "a", "mat"]
TEXTS = [" ".join(WORDS[i % 4 : i % 4 + 1 + i % 5]) for i in range(60)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 texts, one without anything to score among them."""
    path = tmp_path_factory.mktemp("corpus") / "texts.parquet"
    parquet.write_table(pyarrow.table({"text": [*TEXTS[:40], "", *TEXTS[40:]]}), path)
    return path


@pytest.fixture(scope="module")
def ray(checkpoint: Path) -> Iterator[Any]:
    import ray

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=80 * 2**20,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


def test_shards_on_workers_are_one_run(ray: Any, checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    expected = score_corpus(lmrs.Engine(lmrs.load(checkpoint)), [corpus], window=16)
    heard: list[tuple[int, int]] = []

    def run() -> lmrs.eval.Totals:
        heard.clear()
        return lmrs.ray.perplexity(
            checkpoint, [corpus], state=tmp_path, shards=3, window=16, on_done=lambda *at: heard.append(at)
        )

    assert run() == expected
    assert (expected.texts, expected.skipped, heard) == (60, 1, [(1, 3), (2, 3), (3, 3)])
    # A shard that was lost is scored again, the others are found done.
    states = sorted(tmp_path.iterdir())
    states[1].unlink()
    before = [states[at].stat().st_mtime_ns for at in (0, 2)]
    assert merged([states[0], states[2]]).texts < 60
    assert run() == expected
    assert [states[at].stat().st_mtime_ns for at in (0, 2)] == before


def test_what_a_shard_refuses_is_said_here(ray: Any, checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column 'body'; it has text"):
        lmrs.ray.perplexity(checkpoint, [corpus], state=tmp_path, shards=2, column="body")
    with pytest.raises(InputError, match="shards is 0"):
        lmrs.ray.perplexity(checkpoint, [corpus], state=tmp_path, shards=0)


def test_one_callable_for_ray_data_and_datasets(ray: Any, checkpoint: Path, corpus: Path) -> None:
    import datasets

    scorer = ArrowScorer(model=str(checkpoint), window=16)
    expected = score_corpus(lmrs.Engine(lmrs.load(checkpoint)), [corpus], window=16)
    scored = lmrs.ray.score(ray.data.read_parquet(str(corpus)), scorer, batch_size=16)
    found = list(scored.iter_batches(batch_format="pyarrow", batch_size=None))
    assert totals(found) == expected
    rows = datasets.Dataset.from_parquet(str(corpus)).map(scorer, batched=True, new_fingerprint="scored")
    assert totals([rows[:]]) == expected
    by_text = {row["text"]: row["sum_logprob"] for row in rows}
    for batch in found:
        for text, sum_logprob in zip(batch["text"].to_pylist(), batch["sum_logprob"].to_pylist(), strict=True):
            assert by_text[text] == sum_logprob
    with pytest.raises(InputError, match="a batch has no column 'bytes'; it has text"):
        totals([pyarrow.table({"text": ["a"]})])
