"""N-gram models: files of KenLM with its scores, Kneser–Ney estimation by its equations, buckets."""

import gzip
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrs.errors import FileError, FormatError, InputError, MissingFileError
from lmrs.eval import ngram
from lmrs.eval.ngram.model import START

SCORES = {
    "arpa": "scores.json",
    "probing": "scores.json",
    "trie": "scores.json",
    "arrays": "scores.json",
    "quantised": "scores.quantised.json",
    "both": "scores.both.json",
}
"""A kind of file, and what KenLM says with it: one whose values are quantised has scores of its own."""


@pytest.mark.parametrize("kind", SCORES)
def test_scores_are_kenlms(fixtures: Path, kind: str) -> None:
    expected: list[dict[str, Any]] = json.loads((fixtures / "ngram" / SCORES[kind]).read_text())
    model = ngram.load(fixtures / f"ngram/small.{kind}")
    assert model.order == 4
    for each in expected:
        sentence = each["sentence"]
        assert model.score(sentence) == pytest.approx(each["score"], abs=1e-5)
        assert model.score(sentence, bos=False, eos=False) == pytest.approx(each["bare"], abs=1e-5)
        assert model.perplexity(sentence) == pytest.approx(each["perplexity"], rel=1e-5)
        words = model.words(sentence.split())
        assert [(word.ngram, word.unknown) for word in words] == [(length, oov) for _, length, oov in each["full"]]
        np.testing.assert_allclose(
            [word.log10_prob for word in words], [prob for prob, _, _ in each["full"]], atol=1e-5
        )
    assert any(length == 4 for each in expected for _, length, _ in each["full"])
    assert any(oov for each in expected for _, _, oov in each["full"])


Sentences = st.lists(st.lists(st.sampled_from("abcde"), max_size=9).map(" ".join), min_size=1, max_size=30)


@settings(max_examples=40)
@given(Sentences, st.integers(2, 5), st.lists(st.sampled_from("abcdex"), max_size=4))
def test_probabilities_sum_to_one(sentences: list[str], order: int, context: list[str]) -> None:
    """After any context, over all words, the end and the unknown word: the start is never predicted."""
    if not any(sentence.split() for sentence in sentences):
        with pytest.raises(InputError, match="there is no word"):
            ngram.train(sentences, order=order)
        return
    table = ngram.train(sentences, order=order)
    model = ngram.NGramModel(table)
    total = math.fsum(
        10.0 ** model.words([*context, word], eos=False)[-1].log10_prob for word in table.ids if word != START
    )
    assert total == pytest.approx(1.0, abs=1e-9)


def test_the_equations_by_hand() -> None:
    """Bigrams of three sentences, whose counts of counts are too few: discounts ½, 1, 1½."""
    table = ngram.train(["a b", "a b", "a c"], order=2)
    model = ngram.NGramModel(table)
    # Different words before each: a ← <s>, b ← a, c ← a, </s> ← b c; five words with <unk>.
    taken = (0.5 + 0.5 + 0.5 + 1.0) / 5
    unigram = {"a": 0.5 / 5, "b": 0.5 / 5, "c": 0.5 / 5, "</s>": 1.0 / 5}
    unigram = {word: p + taken / 5 for word, p in unigram.items()}
    gamma = (1.0 + 0.5) / 3
    assert 10 ** model.words(["a", "b"])[1].log10_prob == pytest.approx((2 - 1.0) / 3 + gamma * unigram["b"])
    assert 10 ** model.words(["a", "a"])[1].log10_prob == pytest.approx(gamma * unigram["a"])
    assert 10 ** model.words(["a", "x"])[1].log10_prob == pytest.approx(gamma * taken / 5)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    table = ngram.train(["the cat sat on the mat", "the dog sat", "on the mat the dog sat"], order=3)
    ngram.save(table, tmp_path / "model.arpa")
    (tmp_path / "model.arpa.gz").write_bytes(gzip.compress((tmp_path / "model.arpa").read_bytes()))
    for name in ("model.arpa", "model.arpa.gz"):
        model = ngram.load(tmp_path / name)
        for sentence in ("the dog sat on the mat", "a cat", ""):
            assert model.score(sentence) == pytest.approx(ngram.NGramModel(table).score(sentence), abs=1e-6)


GOOD = "\\data\\\nngram 1=2\nngram 2=1\n\n\\1-grams:\n-1\t<unk>\n-1\ta\t-0.5\n\n\\2-grams:\n-0.5\ta a\n\n\\end\\\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\data\\", "data", r"arpa:1: 'data', expected \\data\\ and counts"),
        ("ngram 2=1", "ngram 3=1", r"arpa:3: 'ngram 3=1', expected ngram 2=COUNT"),
        ("ngram 1=2", "ngram 1=3", r"arpa:9: 2 1-grams, expected 3"),
        ("-0.5\ta a", "-0.5\ta b", r"arpa:10: the word 'b' is no 1-gram"),
        ("-0.5\ta a", "x\ta a", r"arpa:10: 'x\\ta a', expected a number, 2 words"),
        ("-0.5\ta a", "-0.5\ta", r"arpa:10: 1 words or a back-off"),
        ("-0.5\ta a", "0.5\ta a", r"arpa:10: log₁₀ p is 0.5"),
        ("-1\ta\t-0.5", "-1\ta\tinf", r"arpa:7: log₁₀ p is -1 and the back-off inf"),
        ("\\2-grams:", "\\end\\", r"arpa:9: the end, expected \\2-grams:"),
        ("\\end\\\n", "", r"ends before \\end\\"),
    ],
)
def test_bad_arpa_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "arpa").write_text(GOOD)
    assert ngram.load(tmp_path / "arpa").order == 2
    (tmp_path / "arpa").write_text(GOOD.replace(old, new))
    with pytest.raises(FormatError, match=message):
        ngram.load(tmp_path / "arpa")


def test_bad_binaries_are_named(fixtures: Path, tmp_path: Path) -> None:
    good = (fixtures / "ngram/small.trie").read_bytes()
    path = tmp_path / "binary"

    def refused(data: bytes, message: str) -> None:
        path.write_bytes(data)
        with pytest.raises(FormatError, match=message):
            ngram.load(path)

    refused(good[:70], "not a binary file of KenLM")
    refused(good.replace(b"version 5", b"version 4"), "expected version 5")
    refused(good[:96] + struct.pack("<i", 1) + good[100:], "a probing file with rest costs, expected probing or trie")
    refused(good[:96] + struct.pack("<i", 6) + good[100:], "kind 6, expected probing or trie")
    refused(good[:118], "ends in its header")
    refused(good[:1000], "1000 bytes, expected at least")
    good = (fixtures / "ngram/small.both").read_bytes()
    refused(good[:1000], "1000 bytes, expected at least")
    tables = good.index(b"\x02\x04\x03\x00\x00")
    refused(good[:tables] + b"\x01" + good[tables + 1 :], "quantisation 1 of 4 and 3 bits, expected 2 of 1 to 25 bits")
    refused(good[:tables] + b"\x02\xff" + good[tables + 2 :], "quantisation 2 of 255 and 3 bits")
    with pytest.raises(MissingFileError, match="no such file"):
        ngram.load(tmp_path / "none")


@settings(max_examples=60)
@given(st.data())
def test_no_bytes_are_too_much(fixtures: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A file with any bytes changed scores something or is refused: no other error, and no hang."""
    kind = data.draw(st.sampled_from([kind for kind in SCORES if kind != "arpa"]))
    bent = bytearray((fixtures / f"ngram/small.{kind}").read_bytes())
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(bent) - 1), st.integers(0, 255)), max_size=8)):
        bent[at] = value
    for at, value in data.draw(st.lists(st.tuples(st.integers(50, 160), st.integers(0, 255)), max_size=2)):
        bent[at] = value
    path = tmp_path_factory.mktemp("bent") / "model"
    path.write_bytes(bent)
    try:
        ngram.load(path).words(["the", "game", "was", "released", "in", "japan"])
    except (FormatError, FileError):
        return


@pytest.mark.parametrize(
    ("sentences", "order", "message"),
    [(["a"], 1, "order is 1, expected 2 to 16"), (["a <s>"], 2, "holds <s>"), (["", " "], 2, "there is no word")],
)
def test_what_cannot_be_trained(sentences: list[str], order: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ngram.train(sentences, order=order)


def test_buckets() -> None:
    model = ngram.NGramModel(ngram.train(["the cat sat on the mat", "the dog sat on the mat"] * 3, order=3))
    documents = ["the cat sat on the mat", "the dog\n\nthe mat sat", "zebra xylophone"]
    perplexities = [ngram.document_perplexity(model, document) for document in documents]
    assert perplexities == sorted(perplexities)
    assert perplexities[0] == model.perplexity(documents[0])
    lines = ["the dog", "the mat sat"]
    assert perplexities[1] == pytest.approx(10 ** (-sum(map(model.score, lines)) / (3 + 4)))
    assert ngram.document_perplexity(model, "\n \n") == math.inf
    cutoffs = ngram.Cutoffs.of({"en": range(1, 101)})
    assert cutoffs.by_language["en"] == pytest.approx((30.7, 60.4))
    assert [cutoffs.bucket(p, language="en") for p in (5, 30.8, 60.5, math.inf)] == ["head", "middle", "tail", "tail"]
    assert cutoffs.bucket(5, language="de") == "all"
    with pytest.raises(InputError, match="there is no perplexity for en"):
        ngram.Cutoffs.of({"en": []})
    with pytest.raises(InputError, match="expected two growing numbers"):
        ngram.Cutoffs({"en": (3.0, 2.0)})
