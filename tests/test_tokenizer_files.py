"""Tokenizer files: every form that is read, and one clear error for each that cannot be."""

import base64
import contextlib
import copy
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers as peer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import GPT2TokenizerFast

from lmrs.errors import MissingFileError, TokenizerError
from lmrs.tokenizer import Tokenizer

HERE = Path(__file__).parent / "fixtures" / "tokenizers"
TEXTS = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))["texts"]


def model_of(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    return value


# --- directories and single files ---


def test_a_directory_says_its_special_tokens(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((HERE / "byte_bpe.json").read_bytes())
    config = {
        "bos_token": "<s>",
        "eos_token": {"content": "<|endoftext|>", "special": True},
        "pad_token": "<nowhere>",
        "model_max_length": 512,
        "chat_template": [{"name": "tools", "template": "no"}, {"name": "default", "template": "{{ bos_token }}!"}],
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id) == (0, 1, None, None)
    assert (tokenizer.max_length, tokenizer.kind) == (512, "BPE")
    assert tokenizer.apply_chat_template([]) == "<s>!"
    assert len(tokenizer) == tokenizer.vocab_size == len(dict(tokenizer)) == 1004
    assert all(tokenizer.token_to_id(token) == at and tokenizer.id_to_token(at) == token for token, at in tokenizer)
    (tmp_path / "chat_template.jinja").write_text("alone")
    assert Tokenizer.load(tmp_path).apply_chat_template([]) == "alone"


@pytest.mark.parametrize("where", ["", "vocab.txt"])
def test_bert_vocab(tmp_path: Path, where: str) -> None:
    value = model_of("wordpiece")
    tokens = sorted(value["model"]["vocab"], key=value["model"]["vocab"].__getitem__)
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false, "strip_accents": false}')
    ours = Tokenizer.load(tmp_path / where)
    theirs = peer.Tokenizer.from_str(json.dumps(value | {"added_tokens": value["added_tokens"][:5]}))
    theirs.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    for text in TEXTS:
        got, want = ours.encode(text, pair="b"), theirs.encode(text, "b")
        assert (got.ids, got.offsets, got.type_ids) == (want.ids, want.offsets, want.type_ids)
        assert ours.decode(got.ids, skip_special_tokens=True) == theirs.decode(want.ids)
    assert [ours.pad_id, ours.unk_id, ours.cls_id, ours.sep_id, ours.mask_id] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("where", ["", "vocab.json", "merges.txt"])
def test_gpt2_vocab(tmp_path: Path, where: str) -> None:
    model = model_of("roberta")["model"]
    vocab = {token: at for token, at in model["vocab"].items()} | {"<|endoftext|>": len(model["vocab"])}
    merges = [" ".join(pair) for pair in model["merges"]]
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    ours, theirs = Tokenizer.load(tmp_path / where), GPT2TokenizerFast.from_pretrained(tmp_path)
    for text in TEXTS:
        want = theirs(text, return_offsets_mapping=True)
        got = ours.encode(text)
        assert (got.ids, got.offsets) == (want["input_ids"], want["offset_mapping"])
        assert ours.decode(got.ids) == theirs.decode(got.ids, clean_up_tokenization_spaces=False)
    assert ours.bos_id == ours.eos_id == vocab["<|endoftext|>"]


# --- what cannot be read ---


def put(*path: Any) -> Callable[[Any], Callable[[dict[str, Any]], None]]:
    """Sets the value at a path of the file."""

    def to(new: Any) -> Callable[[dict[str, Any]], None]:
        def change(value: dict[str, Any]) -> None:
            for step in path[:-1]:
                value = value[step]
            value[path[-1]] = new

        return change

    return to


def drop(*path: Any) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        for step in path[:-1]:
            value = value[step]
        del value[path[-1]]

    return change


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "NFC"}
    for _ in range(depth):
        value = {"type": "Sequence", "normalizers": [value]}
    return value


def charsmap(raw: bytes) -> dict[str, str]:
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(raw).decode()}


BAD: list[tuple[str, Callable[[dict[str, Any]], None], str]] = [
    ("byte_bpe", drop("model"), "model"),
    ("byte_bpe", put("version")("2.0"), "version.*2.0"),
    ("byte_bpe", put("model")([]), "expected"),
    ("byte_bpe", put("model", "type")("Words"), "model.type.*Words.*supported"),
    ("byte_bpe", put("model", "type")("WordLevel"), "unk_token"),
    ("byte_bpe", put("model", "dropout")(1.5), "model.dropout: 1.5"),
    ("byte_bpe", drop("model", "vocab"), "vocab"),
    ("byte_bpe", drop("model", "merges"), "merges"),
    ("byte_bpe", put("model", "vocab", "a")(-1), "u32"),
    ("byte_bpe", put("model", "vocab", "a")(4_000_000_000), '"a" has id 4000000000'),
    ("byte_bpe", put("model", "vocab", "a")(5), "given twice"),
    ("byte_bpe", put("model", "vocab", "a")("5"), "u32"),
    ("byte_bpe", put("model", "merges", 3)(["a", "nowhere"]), r"model.merges\[3\].*nowhere"),
    ("byte_bpe", put("model", "merges", 3)(["Ġ", "Ġnot-made"]), r"model.merges\[3\]"),
    ("byte_bpe", put("model", "merges", 3)("abc"), "merges"),
    ("byte_bpe", put("model", "merges", 3)(["a", "b", "c"]), "line"),
    ("byte_bpe", put("added_tokens", 0, "id")(77), r"added_tokens\[0\].*77"),
    ("byte_bpe", drop("added_tokens", 0, "content"), "content"),
    ("byte_bpe", put("normalizer")({"type": "NFX"}), "normalizer.*NFX.*supported"),
    ("byte_bpe", put("normalizer")({}), "normalizer.*type"),
    ("byte_bpe", put("normalizer")(nested(200)), "recursion"),
    (
        "byte_bpe",
        put("normalizer")({"type": "Strip", "strip_left": 1, "strip_right": True}),
        "strip_left.*true or false",
    ),
    ("byte_bpe", put("normalizer")(charsmap(b"")), "precompiled_charsmap.*header"),
    ("byte_bpe", put("normalizer")(charsmap(struct.pack("<I", 1 << 31) + b"x" * 64)), "trie"),
    ("byte_bpe", put("normalizer")(charsmap(struct.pack("<II", 4, 0) + b"\xff")), "UTF-8"),
    ("byte_bpe", put("normalizer")({"type": "Precompiled", "precompiled_charsmap": "*"}), "base64"),
    ("byte_bpe", put("pre_tokenizer")({"type": "Scripts"}), "Scripts.*supported"),
    ("byte_bpe", put("pre_tokenizer")({"type": "FixedLength", "length": 0}), "length.*at least 1"),
    (
        "byte_bpe",
        put("pre_tokenizer", "pretokenizers", 0, "behavior")("Sideways"),
        r"pretokenizers\[0\].behavior.*Sideways",
    ),
    ("byte_bpe", put("pre_tokenizer", "pretokenizers", 0, "pattern", "Regex")("(a+)+\\1"), "linear time"),
    ("byte_bpe", put("pre_tokenizer", "pretokenizers", 0, "pattern", "Regex")("("), "Regex"),
    ("byte_bpe", put("pre_tokenizer", "pretokenizers", 0, "pattern", "Regex")("(?:x{1000}){1000}"), "Regex"),
    ("byte_bpe", put("pre_tokenizer", "pretokenizers", 0, "pattern", "Regex")("a*"), "empty string"),
    ("byte_bpe", put("pre_tokenizer", "pretokenizers", 0, "pattern")({"String": ""}), "empty"),
    ("byte_bpe", put("decoder")({"type": "Beam"}), "decoder.*Beam.*supported"),
    ("byte_bpe", put("decoder")({"type": "CTC"}), "decoder.*pad_token"),
    ("byte_bpe", put("post_processor", "processors", 1, "special_tokens", "<s>", "ids")([99999]), "99999"),
    ("byte_bpe", put("post_processor", "processors", 1, "special_tokens")({}), "<s>"),
    ("byte_bpe", put("post_processor", "processors", 1, "single", 1, "Sequence", "id")("B"), "single.*B"),
    ("roberta", put("post_processor", "cls")(["<s>"]), "post_processor.cls"),
    ("wordpiece", put("model", "unk_token")("[NOT]"), "unk_token.*NOT"),
    ("wordpiece", drop("model", "max_input_chars_per_word"), "max_input_chars_per_word"),
    ("wordpiece", put("normalizer", "lowercase")(None), "lowercase"),
    ("unigram", put("model", "unk_id")(10**9), "unk_id"),
    ("unigram", put("model", "vocab", 5)(["a"]), "line"),
    ("unigram", put("model", "vocab", 5)(["a" * 5000, -1.0]), "5000 bytes"),
    ("unigram", put("model", "vocab")({"a": 1}), "vocab"),
    ("unigram", put("pre_tokenizer", "replacement")("ab"), "replacement.*one character"),
    ("unigram", put("pre_tokenizer", "prepend_scheme")("sometimes"), "prepend_scheme.*sometimes"),
    ("unigram", put("pre_tokenizer", "add_prefix_space")(False), "add_prefix_space"),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD, ids=range(len(BAD)))
def test_bad_json(tmp_path: Path, name: str, change: Callable[[dict[str, Any]], None], message: str) -> None:
    value = copy.deepcopy(model_of(name))
    change(value)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(value))
    with pytest.raises(TokenizerError, match=rf"(?s)tokenizer\.json: .*{message}"):
        Tokenizer.load(path)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"a":' * 100_000, b'{"model": {"vocab": {"\\ud800": 1}}}']
)
def test_not_json(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(raw)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        Tokenizer.load(path)


@given(at=st.integers(0), change=st.binary(max_size=3), name=st.sampled_from(["unigram", "byte_bpe", "spm_bpe"]))
def test_damaged_files_end_in_one_error_or_work(
    tmp_path_factory: pytest.TempPathFactory, at: int, change: bytes, name: str
) -> None:
    raw = bytearray((HERE / f"{name}.json").read_bytes())
    raw[at % len(raw) : at % len(raw) + 1] = change
    path = tmp_path_factory.mktemp("damaged") / "tokenizer.json"
    path.write_bytes(raw)
    with contextlib.suppress(TokenizerError):
        tokenizer = Tokenizer.load(path)
        tokenizer.decode(tokenizer.encode("some text é 😀").ids)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="nothing"):
        Tokenizer.load(tmp_path / "nothing")
    with pytest.raises(MissingFileError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "spiece.model").touch()
    with pytest.raises(TokenizerError, match=r"spiece\.model: pieces: 0 pieces"):
        Tokenizer.load(tmp_path)
    (tmp_path / "weights.bin").touch()
    with pytest.raises(TokenizerError, match=r"weights\.bin: expected"):
        Tokenizer.load(tmp_path / "weights.bin")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[]", "an object"),
        ("{", "not JSON"),
        ('{"bos_token": 1}', "bos_token"),
        ('{"chat_template": 1}', "chat_template"),
    ],
)
def test_bad_config(tmp_path: Path, config: str, message: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes((HERE / "clip.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(TokenizerError, match=rf"tokenizer_config\.json: .*{message}"):
        Tokenizer.load(tmp_path)


def test_a_hostile_chat_template_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((HERE / "clip.json").read_bytes())
    for source in ("{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}", "{{ '' . }}"):
        (tmp_path / "chat_template.jinja").write_text(source)
        with pytest.raises(TokenizerError, match="chat template"):
            Tokenizer.load(tmp_path).apply_chat_template([{"role": "user", "content": "a"}])
