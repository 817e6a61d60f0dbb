"""Heads that classify a whole text or a pair, and reranking by one: against transformers."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from starlette.testclient import TestClient

import lmrs
from lmrs.engine import quantize
from lmrs.models import save
from lmrs.serve import create_app

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *["the", "sea", "is", "blue", "house", "red", "old", "new", "cat", "sleeps"],
]
QUERY = "the sea"
DOCUMENTS = ["the house is red", "the sea is blue", "cat sleeps", "the old sea sleeps the new sea is blue"]


def checkpoint(where: Path, labels: int) -> Path:
    """A tiny cross-encoder of transformers with random weights, and its tokenizer."""
    torch.manual_seed(labels)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.BertConfig(**sizes, vocab_size=len(WORDS), max_position_embeddings=24, num_labels=labels)
    model = transformers.BertForSequenceClassification(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(where)
    (where / "vocab.txt").write_text("\n".join(WORDS))
    return where


def expected(where: Path, texts: list[str], pairs: list[str] | None = None) -> np.ndarray:
    """The logits of each text alone."""
    model = transformers.BertForSequenceClassification.from_pretrained(where).eval()
    tokenizer = transformers.BertTokenizer(str(where / "vocab.txt"))
    rows = []
    for at, text in enumerate(texts):
        read = tokenizer(text, None if pairs is None else pairs[at], return_tensors="pt")
        with torch.no_grad():
            rows.append(model(**read).logits[0].numpy())
    return np.stack(rows)


@pytest.mark.parametrize("labels", [1, 2, 5])
def test_logits_are_those_of_transformers(tmp_path: Path, labels: int) -> None:
    where = checkpoint(tmp_path / "model", labels)
    engine = lmrs.Engine(lmrs.load(where))
    assert engine.labels == labels
    found = engine.classify(DOCUMENTS)
    np.testing.assert_allclose(found, expected(where, DOCUMENTS), atol=1e-5)
    pairs = engine.classify([(QUERY, document) for document in DOCUMENTS])
    np.testing.assert_allclose(pairs, expected(where, [QUERY] * len(DOCUMENTS), DOCUMENTS), atol=1e-5)
    mixed = engine.classify([DOCUMENTS[0], (QUERY, DOCUMENTS[1])])
    assert np.array_equal(mixed, np.stack([found[0], pairs[1]]))


def test_a_classifier_is_saved_and_packed(tmp_path: Path) -> None:
    where = checkpoint(tmp_path / "model", 3)
    model = lmrs.load(where)
    save(model, tmp_path / "again")
    (tmp_path / "again" / "vocab.txt").write_text("\n".join(WORDS))
    assert np.array_equal(
        lmrs.Engine(lmrs.load(tmp_path / "again")).classify(DOCUMENTS), lmrs.Engine(model).classify(DOCUMENTS)
    )
    np.testing.assert_allclose(expected(tmp_path / "again", DOCUMENTS), expected(where, DOCUMENTS), atol=1e-6)
    quantize(model, tmp_path / "packed", dtype="int8")
    packed = lmrs.Engine(lmrs.load(tmp_path / "packed")).classify(DOCUMENTS)
    assert np.array_equal(packed, lmrs.Engine(model, dtype="int8").classify(DOCUMENTS))


def test_rerank_reads_pairs_with_a_cross_encoder(tmp_path: Path) -> None:
    where = checkpoint(tmp_path / "model", 1)
    logits = expected(where, [QUERY] * len(DOCUMENTS), DOCUMENTS)[:, 0].astype(np.float64)
    with TestClient(create_app(lmrs.Engine(lmrs.load(where)), name="m")) as client:
        answer = client.post("/rerank", json={"model": "m", "query": QUERY, "documents": DOCUMENTS})
    results = answer.json()["results"]
    assert [each["index"] for each in results] == np.argsort(-logits).tolist()
    for each in results:
        assert each["relevance_score"] == pytest.approx(1 / (1 + np.exp(-logits[each["index"]])), abs=1e-5)


def test_what_cannot_be_classified_is_refused(tmp_path: Path, fixtures: Path) -> None:
    engine = lmrs.Engine(lmrs.load(checkpoint(tmp_path / "model", 2)))
    with pytest.raises(lmrs.InputError, match="text 1 to embed is empty"):
        engine.classify(["the sea", ("the sea", "")])
    with pytest.raises(lmrs.InputError, match="text 0 has"):
        engine.classify(["the sea " * 20])
    assert engine.classify(["the sea " * 20], truncate=True).shape == (1, 2)
    assert engine.classify([]).shape == (0, 2)
    for family in ("bert", "llama"):
        other = lmrs.Engine(lmrs.load(fixtures / "models" / family))
        with pytest.raises(lmrs.ConfigError, match="no head of sequence classification"):
            other.classify([[3, 4]])
