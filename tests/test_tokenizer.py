"""Tokenizers: the same ids, offsets, tokens and text as Hugging Face's library, on any text."""

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers as peer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers
from transformers.utils.chat_template_utils import render_jinja_template

from lmrs import _rs
from lmrs.errors import InputError, TokenizerError
from lmrs.tokenizer import Tokenizer

HERE = Path(__file__).parent / "fixtures" / "tokenizers"
SHARED = Path(__file__).parents[2] / "shared" / "data"
EXPECTED = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))
TEXTS = EXPECTED["texts"]
SMALL = ["byte_bpe", "roberta", "wordpiece", "unigram", "spm_bpe", "clip"]

# Characters that tokenizers treat apart, beside the whole of Unicode; and the added tokens of the fixtures.
AWKWARD = (
    "aA 1'\n\t\r.,_#▁Ġé\u0301\u0323\u0f71\u0f73\u200b\u200d\u00a0\u3000\u2028"
    "ßİﬁ①ｆ漢か가ก😀👍🏽\x00\x7f\x85\ufffd\ufeff\u00ad"
)
PIECES = ["<mask>", "word", "yesterday", "</s>", "<s>", "[MASK]", "<0x41>", "<|im_start|>", "  ", "'ll", "##s"]
texts = st.one_of(
    st.text(max_size=40),
    st.text(alphabet=AWKWARD, max_size=40),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(alphabet=AWKWARD, max_size=4)), max_size=10).map("".join),
)


def assert_equal(ours: Tokenizer, theirs: peer.Tokenizer, text: str, pair: str | None = None) -> None:
    got, want = ours.encode(text, pair=pair), theirs.encode(text, pair)
    assert got.ids == want.ids
    assert got.offsets == want.offsets
    assert got.tokens == want.tokens
    assert got.type_ids == want.type_ids
    assert got.word_ids == want.word_ids
    assert got.special_tokens_mask == want.special_tokens_mask
    assert got.sequence_ids == want.sequence_ids
    assert got.attention_mask == want.attention_mask
    bare = theirs.encode(text, pair, add_special_tokens=False)
    assert ours.encode(text, pair=pair, add_special_tokens=False).ids == bare.ids
    for skip in (False, True):
        assert ours.decode(got.ids, skip_special_tokens=skip) == theirs.decode(want.ids, skip_special_tokens=skip)
    assert stream(ours, got.ids) == ours.decode(got.ids)


def stream(tokenizer: Tokenizer, ids: list[int]) -> str:
    decoding = tokenizer.decode_stream()
    return "".join([*(decoding.push(token_id) for token_id in ids), decoding.finish()])


@pytest.fixture(scope="module")
def small() -> dict[str, tuple[Tokenizer, peer.Tokenizer]]:
    files = {name: HERE / f"{name}.json" for name in SMALL}
    return {name: (Tokenizer.load(file), peer.Tokenizer.from_file(str(file))) for name, file in files.items()}


@pytest.fixture(scope="module", params=["minilm", "smollm2"])
def real(
    request: pytest.FixtureRequest, smollm2_gguf: Path, smollm2_peer: peer.Tokenizer, minilm_dir: Path
) -> tuple[Tokenizer, peer.Tokenizer]:
    """The tokenizer of a real model."""
    if request.param == "smollm2":
        return Tokenizer.load(smollm2_gguf), smollm2_peer
    minilm = peer.Tokenizer.from_file(str(minilm_dir / "tokenizer.json"))
    minilm.no_padding()
    minilm.no_truncation()
    return Tokenizer.load(minilm_dir), minilm


# --- what the peer wrote down ---


@pytest.mark.parametrize("name", SMALL)
def test_as_written_down(name: str) -> None:
    tokenizer = Tokenizer.load(HERE / f"{name}.json")
    for text, want in zip(TEXTS, EXPECTED[name], strict=True):
        got = tokenizer.encode(text)
        assert got.ids == want["ids"], text
        assert [list(offset) for offset in got.offsets] == want["offsets"], text
        assert got.tokens == want["tokens"], text
        assert tokenizer.decode(got.ids, skip_special_tokens=True) == want["plain"], text
        assert tokenizer.decode(got.ids) == want["special"], text


# --- what it says now ---


@pytest.mark.parametrize("name", SMALL)
@given(text=texts, pair=st.none() | texts)
def test_small(small: dict[str, tuple[Tokenizer, peer.Tokenizer]], name: str, text: str, pair: str | None) -> None:
    assert_equal(*small[name], text, pair)


@given(text=texts, pair=st.none() | texts)
def test_real(real: tuple[Tokenizer, peer.Tokenizer], text: str, pair: str | None) -> None:
    assert_equal(*real, text, pair)


def test_real_on_every_script(real: tuple[Tokenizer, peer.Tokenizer]) -> None:
    for text in TEXTS:
        assert_equal(*real, text)


def components() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every component by itself, in a tokenizer whose model shows what reaches it."""
    scripts = {
        "normalizer": [
            *(getattr(normalizers, name)() for name in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents")),
            *(normalizers.Strip(left, right) for left, right in ((True, True), (True, False), (False, True))),
            normalizers.Nmt(),
            normalizers.Prepend("▁▁"),
            normalizers.Replace("a", "bcd"),
            normalizers.Replace(peer.Regex(r"\s+"), "_"),
            normalizers.Replace(peer.Regex(r"\p{N}\p{M}*"), ""),
            normalizers.ByteLevel(),
            normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.NFC()]),
            normalizers.BertNormalizer(lowercase=False),
            normalizers.BertNormalizer(clean_text=False, strip_accents=False),
            normalizers.BertNormalizer(handle_chinese_chars=False, strip_accents=True, lowercase=False),
        ],
        "pre_tokenizer": [
            pre_tokenizers.BertPreTokenizer(),
            *(pre_tokenizers.ByteLevel(prefix, regex) for prefix in (True, False) for regex in (True, False)),
            *(pre_tokenizers.Metaspace(prepend_scheme=when, split=split)
              for when in ("always", "first", "never") for split in (True, False)),
            *(pre_tokenizers.Digits(each) for each in (True, False)),
            *(pre_tokenizers.Punctuation(how) for how in
              ("removed", "isolated", "contiguous", "merged_with_previous", "merged_with_next")),
            *(pre_tokenizers.Split(peer.Regex(r"[\s\d]+|a"), how, invert) for invert in (True, False) for how in
              ("removed", "isolated", "contiguous", "merged_with_previous", "merged_with_next")),
            pre_tokenizers.Split(" ", "isolated"),
            pre_tokenizers.CharDelimiterSplit("a"),
            pre_tokenizers.Whitespace(),
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.UnicodeScripts(),
            *(pre_tokenizers.FixedLength(length) for length in (1, 3)),
            pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(), pre_tokenizers.Digits()]),
        ],
    }  # fmt: skip
    for kind, every in scripts.items():
        for component in every:
            value = json.loads(component.__getstate__())
            yield f"{kind}-{json.dumps(value)}"[:80], {kind: value}


@pytest.mark.parametrize("component", [pytest.param(value, id=name) for name, value in components()])
def test_component(tmp_path: Path, component: dict[str, Any]) -> None:
    value = json.loads((HERE / "unigram.json").read_text(encoding="utf-8"))
    value |= {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None} | component
    text = json.dumps(value)
    path = tmp_path / "tokenizer.json"
    path.write_text(text, encoding="utf-8")
    ours, theirs = Tokenizer.load(path), peer.Tokenizer.from_str(text)

    @given(text=texts)
    def check(text: str) -> None:
        got, want = ours.encode(text), theirs.encode(text)
        assert (got.ids, got.offsets, got.tokens) == (want.ids, want.offsets, want.tokens)
        assert got.word_ids == want.word_ids

    check()


def test_scripts_of_all_characters() -> None:
    model = {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}
    text = json.dumps({"model": model, "pre_tokenizer": {"type": "UnicodeScripts"}})
    ours = _rs.Tokenizer.from_json(text.encode(), "tokenizer.json")
    theirs = peer.Tokenizer.from_str(text)
    every = "".join(f"{chr(c)}a" for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    got = Tokenizer(ours).encode(every)
    assert got.offsets == theirs.encode(every).offsets


words = st.lists(st.sampled_from(["a", "b", "<pad>", "|", " .", "do not", "ab", ""]), max_size=8)


@given(tokens=words, cleanup=st.booleans(), blank=st.sampled_from(["<pad>", "a"]))
def test_ctc_decoder(*, tokens: list[str], cleanup: bool, blank: str) -> None:
    vocab = {token: at for at, token in enumerate(sorted({"?", *tokens} - {""}))}
    decoder = {"type": "CTC", "pad_token": blank, "word_delimiter_token": "|", "cleanup": cleanup}
    text = json.dumps({"model": {"type": "WordLevel", "vocab": vocab, "unk_token": "?"}, "decoder": decoder})
    ours = Tokenizer(_rs.Tokenizer.from_json(text.encode(), "tokenizer.json"))
    ids = [vocab[token] for token in tokens if token]
    assert ours.decode(ids) == peer.Tokenizer.from_str(text).decode(ids, skip_special_tokens=False)


@given(text=texts)
def test_word_level(text: str) -> None:
    vocab = {token: at for at, token in enumerate(["<unk>", "a", "A", "1", "漢", "word"])}
    value = {
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
        "pre_tokenizer": {"type": "Whitespace"},
        "added_tokens": [{"id": 3, "content": "1", "single_word": True, "normalized": False, "lstrip": False,
                          "rstrip": False, "special": False}],
    }  # fmt: skip
    theirs = peer.Tokenizer.from_str(json.dumps(value))
    ours = Tokenizer(_rs.Tokenizer.from_json(json.dumps(value).encode(), "tokenizer.json"))
    assert_equal(ours, theirs, text)


@given(many=st.lists(texts, max_size=5))
def test_a_list_is_each_text(small: dict[str, tuple[Tokenizer, peer.Tokenizer]], many: list[str]) -> None:
    ours, _ = small["byte_bpe"]
    assert [encoding.ids for encoding in ours.encode(many)] == [ours.encode(text).ids for text in many]


def test_threads_give_the_order_of_the_list(small: dict[str, tuple[Tokenizer, peer.Tokenizer]]) -> None:
    ours, _ = small["wordpiece"]
    many = [f"{at} " * (at % 50) for at in range(4000)]
    assert [encoding.ids for encoding in ours.encode(many)] == [ours.encode(text).ids for text in many]


@given(ids=st.lists(st.integers(0, 1100), max_size=20))
@pytest.mark.parametrize("name", SMALL)
def test_any_ids_decode(small: dict[str, tuple[Tokenizer, peer.Tokenizer]], name: str, ids: list[int]) -> None:
    ours, theirs = small[name]
    if name != "clip" or ids:  # the peer's BPEDecoder takes the last of no tokens
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    joined = stream(ours, ids)
    if "\ufffd" not in joined:
        assert joined == ours.decode(ids)


def test_a_stream_goes_on_after_a_prompt(small: dict[str, tuple[Tokenizer, peer.Tokenizer]]) -> None:
    ours, _ = small["spm_bpe"]
    ids = ours.encode("All human beings are born free 😀 and equal", add_special_tokens=False).ids
    for at in range(1, len(ids)):
        before = ours.decode(ids[:at])
        if not before.endswith("\ufffd"):
            decoding = ours.decode_stream(after=ids[:at])
            rest = "".join([*(decoding.push(token_id) for token_id in ids[at:]), decoding.finish()])
            assert before + rest == ours.decode(ids)


def test_special_tokens_in_a_text_can_be_plain_text(small: dict[str, tuple[Tokenizer, peer.Tokenizer]]) -> None:
    ours, theirs = small["byte_bpe"]
    theirs = peer.Tokenizer.from_str(theirs.to_str())
    theirs.encode_special_tokens = True
    text = "a<|endoftext|> word"
    assert ours.encode(text, split_special_tokens=True).ids == theirs.encode(text).ids
    assert ours.encode(text, split_special_tokens=True).ids != ours.encode(text).ids


@pytest.mark.parametrize("unit", ["a", " ", "漢", "\u0301", "\n ", "a\u0300", "<mask> ", "word"])
@pytest.mark.parametrize("name", SMALL)
def test_a_mebibyte_of_one_thing(small: dict[str, tuple[Tokenizer, peer.Tokenizer]], name: str, unit: str) -> None:
    ours, _ = small[name]
    text = unit * ((1 << 20) // len(unit.encode()))
    start = time.process_time()
    ours.encode(text)
    assert time.process_time() - start < 1


# --- what a caller can get wrong ---


def test_bad_calls_are_one_error(small: dict[str, tuple[Tokenizer, peer.Tokenizer]]) -> None:
    ours, _ = small["wordpiece"]
    with pytest.raises(TokenizerError, match="surrogate"):
        ours.encode("a\ud800")
    with pytest.raises(TokenizerError, match="surrogate"):
        ours.encode(["a", "\udfff"])
    with pytest.raises(InputError, match="max_length is 1"):
        ours.encode("a", max_length=1)
    with pytest.raises(InputError, match="truncate"):
        ours.encode("a", truncate="first")  # type: ignore[typeddict-item]
    with pytest.raises(InputError, match=r"ids\[1\] is -1"):
        ours.decode([1, -1])
    with pytest.raises(InputError, match=r"ids\[0\]"):
        ours.decode([1 << 32])
    assert ours.decode([10**6]) == ""
    assert ours.id_to_token(-1) is None
    assert ours.encode("").ids == [ours.cls_id, ours.sep_id] or ours.cls_id is None


# --- chat ---


def test_chat_is_transformers_chat(smollm2_gguf: Path) -> None:
    ours = Tokenizer.load(smollm2_gguf)
    messages = [{"role": "user", "content": "Hi <b> & é\n"}, {"role": "assistant", "content": ""}]
    for more in (False, True):
        want, _ = render_jinja_template([messages], chat_template=ours.chat_template, add_generation_prompt=more)
        assert ours.apply_chat_template(messages, add_generation_prompt=more) == want[0]


def test_chat_without_a_template_is_an_error(small: dict[str, tuple[Tokenizer, peer.Tokenizer]]) -> None:
    with pytest.raises(TokenizerError, match="no chat template"):
        small["clip"][0].apply_chat_template([{"role": "user", "content": "a"}])


# --- the tokenizers beside a full checkout ---


@pytest.mark.skipif(not SHARED.exists(), reason="an addition to the fixtures: needs the shared data")
@pytest.mark.parametrize("name", ["gpt2", "bert-base-uncased", "qwen3", "t5"])
def test_famous_ones(name: str, tmp_path: Path) -> None:
    directory = SHARED / "tokenizers" / name
    path = directory / "vocab.txt"
    if not path.exists():
        path = tmp_path / "tokenizer.json"
        path.write_bytes(gzip.decompress((directory / "tokenizer.json.gz").read_bytes()))
    tokenizer = Tokenizer.load(path)
    for case in json.loads((directory / "reference.json").read_text(encoding="utf-8"))["examples"]:
        got = tokenizer.encode(case["text"], add_special_tokens=name != "t5")
        want = (case["hf_ids"] or case["spm_ids"]) if name == "t5" else case["ids"]
        assert got.ids == want, case["text"]
        if "offsets" in case:
            assert [list(offset) for offset in got.offsets] == case["offsets"]
