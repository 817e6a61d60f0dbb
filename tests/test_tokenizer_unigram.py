"""Training of unigram models: at least as likely texts as the peers' trainers find, and a model that the peer reads."""

import io
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers as peer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, trainers

import lmrs
from lmrs.errors import InputError
from lmrs.tokenizer import Tokenizer

CORPUS = Path(lmrs.__file__).parent / "demo" / "corpus" / "inaugural.txt"
ENGLISH = [" ".join(line.split()) for line in CORPUS.read_text(encoding="utf-8").splitlines() if line.strip()]
SPECIAL = ["<unk>", "<s>", "</s>"]
SIZE = 1500


def pieces_of(model: dict[str, Any]) -> list[tuple[str, float]]:
    return [(piece, score) for piece, score in model["vocab"] if piece not in SPECIAL]


def of_ours(tokenizer: Tokenizer) -> list[tuple[str, float]]:
    return pieces_of(json.loads(tokenizer.native.to_json())["model"])


def of_tokenizers(corpus: list[str]) -> list[tuple[str, float]]:
    theirs = peer.Tokenizer(models.Unigram())
    theirs.normalizer, theirs.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=SIZE, show_progress=False, unk_token="<unk>", special_tokens=SPECIAL)
    theirs.train_from_iterator(corpus, trainer)
    return pieces_of(json.loads(theirs.to_str())["model"])


def of_sentencepiece(corpus: list[str]) -> list[tuple[str, float]]:
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=file,
        vocab_size=SIZE,
        character_coverage=1.0,
        normalization_rule_name="nfkc",
        minloglevel=2,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())
    return [(theirs.id_to_piece(at), theirs.get_score(at)) for at in range(3, theirs.get_piece_size())]


def surprise(pieces: list[tuple[str, float]], corpus: list[str]) -> float:
    """-log p of the best way to write the texts, by the peer's search, where the p of all pieces sum to 1."""
    total = math.log(sum(math.exp(score) for _, score in pieces))
    scored = [("<unk>", -1e3), *((piece, score - total) for piece, score in pieces)]
    judge = peer.Tokenizer(models.Unigram(scored, unk_id=0))
    judge.normalizer, judge.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    ids = [token for encoding in judge.encode_batch(corpus) for token in encoding.ids]
    assert 0 not in ids
    return -sum(scored[token][1] for token in ids)


def test_texts_are_likelier_than_under_the_peers_pieces() -> None:
    ours = of_ours(Tokenizer.train(ENGLISH, model="unigram", vocab_size=SIZE))
    peers = [of_tokenizers(ENGLISH), of_sentencepiece(ENGLISH)]
    assert len(ours) == SIZE - len(SPECIAL) >= max(map(len, peers))
    best = min(surprise(pieces, ENGLISH) for pieces in peers)
    assert surprise(ours, ENGLISH) < 0.97 * best  # 0.94 when this was written


def test_neither_order_nor_threads_matter() -> None:
    first = Tokenizer.train(ENGLISH * 2, model="unigram", vocab_size=SIZE).native.to_json()
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    try:
        alone = Tokenizer.train([*reversed(ENGLISH)] * 2, model="unigram", vocab_size=SIZE).native.to_json()
    finally:
        os.sched_setaffinity(0, processors)
    assert alone == first


@settings(max_examples=30)
@given(
    corpus=st.lists(st.text(alphabet="abc é漢\u0301", max_size=40), min_size=1, max_size=6),
    more=st.integers(0, 40),
    byte_fallback=st.booleans(),
    text=st.text(max_size=30),
)
def test_the_peer_reads_what_was_trained(*, corpus: list[str], more: int, byte_fallback: bool, text: str) -> None:
    size = (12 if not byte_fallback else 288) + more
    ours = Tokenizer.train(corpus, model="unigram", vocab_size=size, byte_fallback=byte_fallback)
    theirs = peer.Tokenizer.from_str(ours.native.to_json().decode())
    for each in (*corpus, text):
        got, want = ours.encode(each, add_special_tokens=False), theirs.encode(each, add_special_tokens=False)
        assert (got.ids, got.offsets) == (want.ids, want.offsets)
        assert ours.decode(got.ids, skip_special_tokens=True) == theirs.decode(want.ids)
    if byte_fallback:
        plain = "a 語 🎉 <0x41> ab"
        assert ours.decode(ours.encode(plain).ids) == plain


def test_rounds_are_told_and_bad_training_is_one_error() -> None:
    said: list[tuple[str, int, int | None]] = []
    Tokenizer.train(ENGLISH, model="unigram", vocab_size=500, progress=lambda *what: said.append(what))
    stage, done, total = said[-1]
    assert (stage, done) == ("rounds", total)
    assert [step[1] for step in said] == sorted(step[1] for step in said)
    with pytest.raises(InputError, match="vocab_size is 5, but the special tokens and the alphabet are 6"):
        Tokenizer.train(["ab"], model="unigram", vocab_size=5)
    with pytest.raises(InputError, match="no unknown token"):
        Tokenizer.train(["ab"], model="unigram", vocab_size=50, special_tokens=[])
    with pytest.raises(InputError, match="byte_fallback is for unigram"):
        Tokenizer.train(["ab"], vocab_size=300, byte_fallback=True)
    assert len(Tokenizer.train([], model="unigram", vocab_size=50)) == 3
