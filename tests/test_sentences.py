"""lmrs.SentenceEncoder against sentence-transformers itself, on a real checkpoint."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lmrs

TEXTS = ["A cat sat on the mat.", "", "Σ is a letter, 雨 is rain.", "long " * 400]


@pytest.fixture(scope="module")
def prompted(minilm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM with prompts, as newer checkpoints have them."""
    directory: Path = tmp_path_factory.mktemp("prompted") / "model"
    shutil.copytree(minilm_dir, directory)
    settings = {"prompts": {"query": "search: ", "document": "text: "}, "default_prompt_name": None}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return directory


@pytest.fixture(scope="module")
def ours(prompted: Path) -> lmrs.SentenceEncoder:
    return lmrs.SentenceEncoder(prompted)


@pytest.fixture(scope="module")
def theirs(prompted: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(prompted), device="cpu")


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"normalize_embeddings": True},
        {"prompt": "say: "},
        {"prompt_name": "query", "batch_size": 2, "show_progress_bar": False},
        {"truncate_dim": 100},
        {"truncate_dim": 100, "normalize_embeddings": True},
    ],
    ids=str,
)
def test_vectors_are_theirs(ours: lmrs.SentenceEncoder, theirs: Any, how: dict[str, Any]) -> None:
    np.testing.assert_allclose(ours.encode(TEXTS, **how), theirs.encode(TEXTS, **how), rtol=0, atol=1e-5)


def test_queries_documents_and_their_likeness(ours: lmrs.SentenceEncoder, theirs: Any) -> None:
    query, documents = ours.encode_query("a pet"), ours.encode_document(TEXTS[:3])
    np.testing.assert_allclose(query, theirs.encode_query("a pet"), rtol=0, atol=1e-5)
    np.testing.assert_allclose(documents, theirs.encode_document(TEXTS[:3]), rtol=0, atol=1e-5)
    likeness = ours.similarity(query, documents)
    assert likeness.shape == (1, 3)
    np.testing.assert_allclose(likeness, theirs.similarity(query, documents).numpy(), rtol=0, atol=1e-5)


def test_shapes_and_facts(ours: lmrs.SentenceEncoder, theirs: Any) -> None:
    assert ours.encode(TEXTS[0]).shape == (384,)  # type: ignore[union-attr]
    assert ours.encode([]).shape == (0, 384)  # type: ignore[union-attr]
    assert [row.shape for row in ours.encode(TEXTS[:2], convert_to_numpy=False)] == [(384,), (384,)]
    assert ours.max_seq_length == theirs.max_seq_length
    assert ours.get_sentence_embedding_dimension() == 384
    assert ours.prompts == {"query": "search: ", "document": "text: "}


def test_what_is_refused(ours: lmrs.SentenceEncoder) -> None:
    with pytest.raises(lmrs.InputError, match="prompt_name is 'other', expected one of query, document"):
        ours.encode("a", prompt_name="other")
    with pytest.raises(lmrs.InputError, match=r"torch\.from_numpy"):
        ours.encode("a", convert_to_tensor=True)
