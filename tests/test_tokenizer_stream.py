"""Text encoded as it comes: the ids of the whole, wherever it was cut. Words of many scripts, from the cache too."""

import io
from pathlib import Path

import pytest
import sentencepiece
import tokenizers as peer
from hypothesis import given
from hypothesis import strategies as st

import lmrs
from lmrs.tokenizer import Tokenizer

HERE = Path(__file__).parent / "fixtures" / "tokenizers"
NAMES = ["byte_bpe", "roberta", "wordpiece", "unigram", "spm_bpe", "clip"]
WORDS = [
    *("the", "don't", "A", "Straße", "élan", "e\u0301", "слово", "Ёж", "λόγος", "ͺ", "Ά", "շուն", "שלום", "سلام", "ﷺ"),
    *(
        "ქართული",
        "한국어",
        "語",
        "か",
        "ก็",
        "हिन्दी",
        "\u0301",
        "\u200d",
        "\u1100\u1161",
        "İ",
        "ﬁ",
        "¨",
        "😀",
        "123",
        "##s",
    ),
    *("<mask>", "</s>", "[MASK]", "<|im_start|>", "▁", "<0x41>", "!?", "``"),
]
SPACES = ["", " ", " ", " ", "  ", "\n", "\t ", "\u00a0", "\u3000", "\x1c "]
spaced = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(SPACES)), max_size=14).map(
    lambda parts: "".join(word + space for word, space in parts)
)


@pytest.fixture(scope="module")
def both() -> dict[str, tuple[Tokenizer, peer.Tokenizer]]:
    files = {name: HERE / f"{name}.json" for name in NAMES}
    return {name: (Tokenizer.load(file), peer.Tokenizer.from_file(str(file))) for name, file in files.items()}


@given(text=spaced)
@pytest.mark.parametrize("name", NAMES)
def test_words_of_many_scripts(both: dict[str, tuple[Tokenizer, peer.Tokenizer]], name: str, text: str) -> None:
    ours, theirs = both[name]
    want = theirs.encode(text)
    for _ in range(2):  # the second time from the cache
        got = ours.encode(text)
        assert (got.ids, got.offsets, got.word_ids) == (want.ids, want.offsets, want.word_ids)
        assert ours.encode_rows([text]).lists() == [want.ids]


@given(text=spaced, data=st.data())
@pytest.mark.parametrize("name", NAMES)
def test_any_cuts_give_the_ids_of_the_whole(
    both: dict[str, tuple[Tokenizer, peer.Tokenizer]], name: str, text: str, data: st.DataObject
) -> None:
    ours, _ = both[name]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    for plain in (False, True):
        stream = ours.encode_stream(split_special_tokens=plain)
        parts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        want = ours.encode(text, add_special_tokens=False, split_special_tokens=plain).ids
        for _ in range(2):  # finished streams begin anew
            ids = [token for part in parts for token in stream.push(part)]
            assert ids == want[: len(ids)]
            assert [*ids, *stream.finish()] == want


def test_ids_come_early() -> None:
    text = (Path(lmrs.__file__).parent / "demo" / "corpus" / "inaugural.txt").read_text(encoding="utf-8")[:20000]
    for model in ("bpe", "wordpiece", "unigram"):
        tokenizer = Tokenizer.train(text.splitlines(), model=model, vocab_size=500)
        stream, given_so_far = tokenizer.encode_stream(), 0
        for at in range(0, len(text), 100):
            given_so_far += len(stream.push(text[at : at + 100]))
            known = tokenizer.count(text[: at + 100])
            assert given_so_far >= known - 40
        assert given_so_far + len(stream.finish()) == tokenizer.count(text)


def test_a_model_that_judges_the_whole_text_waits_for_it() -> None:
    file = io.BytesIO()
    corpus = ["the quick brown fox jumps over the lazy dog"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=file, vocab_size=31, minloglevel=2
    )
    native, _ = lmrs._rs.Tokenizer.from_sentencepiece(file.getvalue(), "x.model", add_bos=False, add_eos=False)
    tokenizer = Tokenizer(native)
    stream = tokenizer.encode_stream()
    assert stream.push("the quick ") == stream.push("brown fox") == []
    assert stream.finish() == tokenizer.encode("the quick brown fox", add_special_tokens=False).ids
