"""Options of a call: truncation, overflow, padding, pairs, rows of ids, counting; as Hugging Face's library does it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers as peer
from hypothesis import given
from hypothesis import strategies as st

from lmrs.errors import InputError
from lmrs.tokenizer import Tokenizer

HERE = Path(__file__).parent / "fixtures" / "tokenizers"
NAMES = ["byte_bpe", "roberta", "wordpiece", "unigram", "spm_bpe", "clip"]
BERT = {"type": "BertProcessing", "cls": ["[CLS]", 2], "sep": ["[SEP]", 3]}

texts = st.text(alphabet="aA 1'\n.é\u0301漢가😀ﬁ", max_size=24) | st.sampled_from(
    ["one word <mask> yesterday", "", "ab " * 9]
)
pairs = st.none() | texts


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tokenizer, Path]]:
    """Ours, and the peer's file: its options are part of its state, so each test makes its own."""
    files = {name: HERE / f"{name}.json" for name in NAMES}
    value = json.loads(files["wordpiece"].read_text(encoding="utf-8")) | {"post_processor": BERT}
    files["bert"] = tmp_path_factory.mktemp("bert") / "tokenizer.json"
    files["bert"].write_text(json.dumps(value), encoding="utf-8")
    return {name: (Tokenizer.load(file), file) for name, file in files.items()}


def assert_same(got: Any, want: Any, *, whole: bool = True) -> None:
    assert got.ids == want.ids
    assert got.offsets == want.offsets
    assert got.tokens == want.tokens
    assert got.type_ids == want.type_ids
    assert got.word_ids == want.word_ids
    assert got.special_tokens_mask == want.special_tokens_mask
    assert got.attention_mask == want.attention_mask
    if whole:
        # The peer forgets which text the tokens of an overflow are of, and sometimes takes padding for text.
        if 0 not in want.attention_mask:
            assert got.sequence_ids == want.sequence_ids
        assert len(got.overflowing) == len(want.overflowing)
        for ours, theirs in zip(got.overflowing, want.overflowing, strict=True):
            assert_same(ours, theirs, whole=False)


@given(data=st.data())
@pytest.mark.parametrize("name", [*NAMES, "bert"])
def test_truncation_overflow_and_padding(
    both: dict[str, tuple[Tokenizer, Path]], name: str, data: st.DataObject
) -> None:
    ours, file = both[name]
    theirs = peer.Tokenizer.from_file(str(file))
    text, pair = data.draw(texts), data.draw(pairs)
    special = data.draw(st.booleans())
    most, stride = data.draw(st.integers(6, 12)), data.draw(st.integers(0, 2))
    side, strategy = (
        data.draw(st.sampled_from(["left", "right"])),
        data.draw(st.sampled_from(["longest_first", "only_first"])),
    )
    options: dict[str, Any] = {"add_special_tokens": special, "max_length": most, "stride": stride, "side": side}
    theirs.enable_truncation(most, stride=stride, strategy=strategy, direction=side)
    if data.draw(st.booleans()):
        length, multiple = data.draw(st.none() | st.integers(0, 16)), data.draw(st.integers(1, 8))
        pad_side = data.draw(st.sampled_from(["left", "right"]))
        pad_token = ours.id_to_token(1)
        theirs.enable_padding(direction=pad_side, pad_id=1, pad_type_id=7, pad_token=pad_token, length=length,
                              pad_to_multiple_of=multiple)  # fmt: skip
        options |= {"padding": "longest" if length is None else length, "pad_to_multiple_of": multiple, "pad_id": 1,
                    "pad_side": pad_side, "pad_type_id": 7}  # fmt: skip
    want, refusal = attempt(theirs, text, pair, special=special)
    if refusal is None:
        assert_same(ours.encode(text, pair=pair, truncate=strategy, **options), want)
        return
    assert "too short" in refusal or "stride" in refusal
    with pytest.raises(InputError, match="must go|stride"):
        ours.encode(text, pair=pair, truncate=strategy, **options)


def attempt(theirs: peer.Tokenizer, text: str, pair: str | None, *, special: bool) -> tuple[Any, str | None]:
    """What the peer gives, or why it does not: it raises bare exceptions, and panics where a stride is too long."""
    try:
        return theirs.encode(text, pair, add_special_tokens=special), None
    except BaseException as error:
        return None, str(error)


@given(many=st.lists(st.tuples(texts, texts), min_size=1, max_size=4), side=st.sampled_from(["left", "right"]))
def test_a_batch_is_filled_up_to_its_longest(
    both: dict[str, tuple[Tokenizer, Path]], many: list[tuple[str, str]], side: Any
) -> None:
    ours, file = both["wordpiece"]
    theirs = peer.Tokenizer.from_file(str(file))
    theirs.enable_padding(direction=side, pad_id=0, pad_token="[PAD]")
    firsts, seconds = [first for first, _ in many], [second for _, second in many]
    for got, want in zip(
        ours.encode(firsts, padding="longest", pad_side=side, pad_id=0), theirs.encode_batch(firsts), strict=True
    ):
        assert_same(got, want)
    got_pairs = ours.encode(firsts, pair=seconds, padding="longest", pad_side=side, pad_id=0)
    for got, want in zip(got_pairs, theirs.encode_batch(many), strict=True):
        assert_same(got, want)
    rows = ours.encode_rows(firsts, padding="longest", pad_side=side, pad_id=0)
    assert rows.ids.dtype == np.uint32
    assert rows.lists() == [want.ids for want in theirs.encode_batch(firsts)]
    assert rows[len(rows) - 1].base is rows.ids


def test_rows_may_be_none() -> None:
    ours = Tokenizer.load(HERE / "byte_bpe.json")
    assert ours.encode_rows([]).lists() == []
    assert ours.encode([]) == []
    with pytest.raises(IndexError):
        ours.encode_rows(["a"])[1]
    assert ours.decode_batch([[5], [], [6, 7]]) == [ours.decode([5]), "", ours.decode([6, 7])]


@given(text=texts)
@pytest.mark.parametrize("name", NAMES)
def test_offsets_in_bytes(both: dict[str, tuple[Tokenizer, Path]], name: str, text: str) -> None:
    ours, _ = both[name]
    starts = [0, *np.cumsum([len(c.encode()) for c in text]).tolist()]
    characters, in_bytes = ours.encode(text), ours.encode(text, offsets="bytes")
    assert in_bytes.ids == characters.ids
    if name != "roberta":  # trimmed offsets count what they trim in the same unit
        assert in_bytes.offsets == [(starts[start], starts[end]) for start, end in characters.offsets]


@given(text=texts, most=st.integers(0, 9), special=st.booleans())
@pytest.mark.parametrize("name", NAMES)
def test_a_text_is_cut_where_a_token_ends(
    *, both: dict[str, tuple[Tokenizer, Path]], name: str, text: str, most: int, special: bool
) -> None:
    ours, _ = both[name]
    got = ours.truncate_to(text, most, add_special_tokens=special)
    assert text.startswith(got)
    count = ours.count(got, add_special_tokens=special)
    assert count == len(ours.encode(got, add_special_tokens=special).ids)
    assert count <= most or got == ""
    if ours.count(text, add_special_tokens=special) <= most:
        assert got == text


def test_bad_options_are_one_error(both: dict[str, tuple[Tokenizer, Path]]) -> None:
    ours, _ = both["wordpiece"]
    clip, _ = both["clip"]
    bad: list[tuple[Tokenizer, dict[str, Any], str]] = [
        (ours, {"max_length": 5, "stride": 3}, "stride is 3"),
        (ours, {"max_length": -1}, "max_length is -1"),
        (ours, {"padding": "all"}, "padding"),
        (ours, {"padding": -2}, "padding"),
        (ours, {"padding": 1 << 31, "pad_to_multiple_of": 1 << 31, "pad_id": 0}, "padded to more"),
        (ours, {"padding": 4, "pad_side": "up", "pad_id": 0}, "pad_side"),
        (ours, {"offsets": "words"}, "offsets"),
        (ours, {"max_len": 4}, "unknown option max_len"),
        (ours, {"truncate": "only_second", "max_length": 4}, "second text"),
        (clip, {"padding": 4}, "give pad_id"),
    ]
    for tokenizer, options, message in bad:
        with pytest.raises(InputError, match=message):
            tokenizer.encode("some words here", **options)
    with pytest.raises(InputError, match="expected a text"):
        ours.encode("a", pair=["b"])  # type: ignore[call-overload]
    with pytest.raises(InputError, match="list of texts"):
        ours.encode(["a"], pair="b")  # type: ignore[call-overload]
    with pytest.raises(InputError, match="1 texts, but 2"):
        ours.encode(["a"], pair=["b", "c"])
    with pytest.raises(InputError, match="tokens is -1"):
        ours.truncate_to("a", -1)


def test_dropout(both: dict[str, tuple[Tokenizer, Path]], tmp_path: Path) -> None:
    ours, file = both["byte_bpe"]
    value = json.loads(file.read_text(encoding="utf-8"))
    value["model"]["dropout"] = 0.25
    (tmp_path / "tokenizer.json").write_text(json.dumps(value), encoding="utf-8")
    asked = Tokenizer.load(tmp_path / "tokenizer.json")
    assert (ours.dropout, asked.dropout) == (None, 0.25)
    text = "the lower newest widest things of this world, don't they? " * 3
    # The file's rate changes nothing of itself, and is written again.
    assert asked.encode(text).ids == ours.encode(text).ids
    asked.save(tmp_path / "again.json")
    assert peer.Tokenizer.from_file(str(tmp_path / "again.json")).model.dropout == 0.25
    rows = asked.encode_rows([text] * 8, dropout=0.25, seed=1)
    ways = [tuple(row.tolist()) for row in rows]
    assert len(set(ways)) == 8
    assert [tuple(encoding.ids) for encoding in asked.encode([text] * 8, dropout=0.25, seed=1)] == ways
    assert tuple(asked.encode(text, dropout=0.25, seed=1).ids) == ways[0]
    assert tuple(asked.encode(text, dropout=0.25, seed=2).ids) not in ways
    assert {asked.decode(way) for way in ways} == {asked.decode(asked.encode(text).ids)}
    # Hugging Face's library gives as many tokens on average; its draws cannot be repeated.
    theirs = peer.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    length = sum(len(theirs.encode(text)) for _ in range(400)) / 400
    mean = np.diff(asked.encode_rows([text] * 400, dropout=0.25).starts).mean()
    assert abs(mean / length - 1) < 0.05


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("byte_bpe", {"dropout": 1.5}, "dropout is 1.5, expected 0 to 1"),
        ("byte_bpe", {"dropout": float("nan")}, "dropout"),
        ("byte_bpe", {"dropout": 0.5, "seed": -1}, "seed is -1"),
        ("unigram", {"dropout": 0.5}, "Unigram"),
        ("wordpiece", {"dropout": 0.5}, "WordPiece"),
    ],
)
def test_dropout_errors(both: dict[str, tuple[Tokenizer, Path]], name: str, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        both[name][0].encode("text", **options)
