"""Corpora: sums that merge, runs that go on, shards, every kind of file, and Arrow."""

import gzip
import json
import multiprocessing
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

import lmrs
from lmrs.cli import main
from lmrs.errors import FormatError, InputError, MissingFileError
from lmrs.eval import ArrowScorer, Shard, Totals, merged, score_corpus
from lmrs.eval.corpus import UNIT
from lmrs.eval.rows import texts

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "the", "dog", "did", "not"]
TEXTS = [" ".join(WORDS[i % 7 : i % 7 + 3 + i % 5]) for i in range(75)]


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> lmrs.Engine:
    return lmrs.Engine(lmrs.load(checkpoint))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """The texts in four files of four kinds, two of them without anything to score."""
    paths = [tmp_path / name for name in ("a.txt", "b.jsonl", "c.jsonl.gz", "d.parquet")]
    paths[0].write_text("\n".join(TEXTS[:20]) + "\n")
    rows = [json.dumps({"id": i, "text": text}) for i, text in enumerate([*TEXTS[20:40], ""])]
    paths[1].write_text("\n\n".join(rows))
    with gzip.open(paths[2], "wt") as file:
        file.write("\n".join(json.dumps({"text": text}) for text in TEXTS[40:60]))
    parquet.write_table(pyarrow.table({"text": [*TEXTS[60:], ""], "n": range(16)}), paths[3])
    return paths


def test_a_corpus_is_the_sum_of_its_texts(engine: lmrs.Engine, files: list[Path]) -> None:
    assert [text for path in files for text in texts(path) if text] == TEXTS
    heard: list[Totals] = []
    totals = score_corpus(engine, files, window=16, on_done=heard.append)
    scores = engine.score(TEXTS, window=16)
    assert (totals.texts, totals.skipped, heard[-1]) == (75, 2, totals)
    assert totals.units == sum(round(score.sum_logprob / UNIT) for score in scores)
    whole = lmrs.perplexity(engine.model, TEXTS, window=16)
    for name in ("tokens", "words", "bytes"):
        assert getattr(totals, name) == getattr(whole, name)
    for name in ("sum_logprob", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"):
        assert getattr(totals, name) == pytest.approx(getattr(whole, name), rel=1e-9)


@pytest.mark.parametrize("killed_after", [1, 2])
def test_a_killed_run_goes_on(engine: lmrs.Engine, files: list[Path], tmp_path: Path, killed_after: int) -> None:
    expected = score_corpus(engine, files)
    turns = 0

    def kill(_: Totals) -> None:
        nonlocal turns
        turns += 1
        if turns == killed_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_corpus(engine, files, state=tmp_path / "state", on_done=kill)
    assert merged([tmp_path / "state"]).texts < expected.texts
    assert score_corpus(engine, files, state=tmp_path / "state") == expected
    # A run that is over has nothing left to do.
    assert score_corpus(engine, files, state=tmp_path / "state", on_done=kill) == expected
    with pytest.raises(InputError, match=r"is of another run: its window is None, not 16"):
        score_corpus(engine, files, window=16, state=tmp_path / "state")
    (tmp_path / "state").write_text("{}")
    with pytest.raises(InputError, match="its files is None"):
        score_corpus(engine, files, state=tmp_path / "state")
    with pytest.raises(FormatError, match="no sums of a corpus"):
        merged([tmp_path / "state"])


def test_shards_add_up_to_the_integer(engine: lmrs.Engine, files: list[Path], tmp_path: Path) -> None:
    states = [tmp_path / f"shard-{index}" for index in range(3)]
    for index, state in enumerate(states):
        score_corpus(engine, files, shard=Shard(index=index, of=3), state=state)
    assert merged(states) == merged(states[::-1]) == score_corpus(engine, files)
    with pytest.raises(InputError, match="shard 3 of 3, expected 0 to 2"):
        Shard(index=3, of=3)


Sums = st.builds(
    Totals,
    protocol=st.just("rolling"),
    texts=st.integers(0, 9),
    units=st.integers(-(2**80), 0),
    tokens=st.integers(0, 9),
)


@given(Sums, Sums, Sums)
def test_sums_merge_in_any_order(a: Totals, b: Totals, c: Totals) -> None:
    assert (a + b) + c == c + (b + a)


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.txt", b"good\nb\xffad\n", FormatError, r"a.txt:2: not UTF-8 at byte 1 of the line"),
        ("a.jsonl", b'{"text": "x"}\n{', FormatError, r"a.jsonl:2: not JSON"),
        ("a.jsonl", b'{"body": "x"}', InputError, r"a.jsonl:1: no field 'text'; it has body"),
        ("a.jsonl", b'{"text": 3}', InputError, r"a.jsonl:1: text is 3, expected a text"),
        ("a.jsonl.gz", b"no gzip", lmrs.FileError, r"a.jsonl.gz: Not a gzipped file"),
        ("a.parquet", b"PAR1 no", FormatError, r"a.parquet: not a Parquet file"),
        ("a.csv", b"text", InputError, r"a.csv: expected .txt, .jsonl or .parquet"),
        ("missing.txt", None, MissingFileError, r"missing.txt: no such file"),
    ],
)
def test_bad_files_are_named(
    tmp_path: Path, name: str, content: bytes | None, error: type[Exception], message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        list(texts(tmp_path / name))


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"body": ["x", None]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no column 'text'; it has body"):
        list(texts(tmp_path / "a.parquet"))
    with pytest.raises(InputError, match="row 2: body is None, expected a text"):
        list(texts(tmp_path / "a.parquet", column="body"))


def test_arrow_in_arrow_out(engine: lmrs.Engine, checkpoint: Path) -> None:
    """As a table, record batches, a mapping, and sent to another process."""
    rows = [*TEXTS[:5], None, ""]
    scorer = ArrowScorer(model=str(checkpoint), window=16)
    table = pyarrow.table({"text": rows})
    found = scorer(table)
    scores = engine.score(TEXTS[:5], window=16)
    assert found.column("sum_logprob").to_pylist() == [score.sum_logprob for score in scores] + [None, None]
    assert found.column("tokens").to_pylist() == [score.tokens for score in scores] + [None, None]
    assert found.column("perplexity").to_pylist()[:5] == [score.perplexity for score in scores]
    assert [batch.num_rows for batch in scorer.batches(iter(table.to_batches(max_chunksize=4)))] == [4, 3]
    assert scorer({"text": rows})["bytes"] == found.column("bytes").to_pylist()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply_async(scorer, (table,)).get(timeout=60).equals(found)
    with pytest.raises(InputError, match="no column 'text' in the batch; it has body"):
        scorer(pyarrow.table({"body": rows}))
    with pytest.raises(InputError, match="row 0 of text is 3, expected a text"):
        scorer({"text": [3]})
    with pytest.raises(InputError, match="has a column 'bytes' already"):
        scorer(found)


def test_datasets_map(checkpoint: Path, engine: lmrs.Engine) -> None:
    import datasets

    given = datasets.Dataset.from_dict({"text": TEXTS[:9]})
    found = given.map(ArrowScorer(model=str(checkpoint)), batched=True, batch_size=4, new_fingerprint="scored")
    assert found["sum_logprob"] == [score.sum_logprob for score in engine.score(TEXTS[:9])]


def test_the_command(checkpoint: Path, engine: lmrs.Engine, files: list[Path], tmp_path: Path) -> None:
    def run(*arguments: object) -> Any:
        return CliRunner().invoke(main, ["corpus", *map(str, arguments)])

    states = [tmp_path / "0", tmp_path / "1"]
    for index, state in enumerate(states):
        assert run(checkpoint, *files, "--shard", f"{index}/2", "--state", state).exit_code == 0
    found = json.loads(run("--merge", *states, "--json").stdout)
    assert found["perplexity"] == score_corpus(engine, files).perplexity
    assert found["skipped"] == 2
    assert run(checkpoint).exit_code == 2
    assert run(checkpoint, *files, "--shard", "1").exit_code == 2
    refused = run(checkpoint, tmp_path / "none.txt")
    assert refused.exit_code == 1
    assert "no such file" in refused.stderr
