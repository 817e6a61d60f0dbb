"""The tokenizer inside a GGUF file: what Hugging Face's library makes of the same tokens and merges."""

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers as peer
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from lmrs.errors import TokenizerError
from lmrs.tokenizer import Tokenizer

HERE = Path(__file__).parent / "fixtures" / "tokenizers"
SHARED = Path(__file__).parents[2] / "shared" / "data"
TEXTS = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))["texts"]


def model_of(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    return value


def write_gguf(path: Path, **values: Any) -> Path:
    """A GGUF file with one tensor and the given `tokenizer.ggml.` values."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in values.items():
        key = f"tokenizer.ggml.{name}"
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case str():
                writer.add_string(key, value)
            case list():
                writer.add_array(key, value)
    writer.add_tensor("token_embd.weight", np.zeros((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


PATTERNS: dict[str, list[pre_tokenizers.PreTokenizer]] = {
    "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "llama-bpe": [],
    "qwen2": [],
}


@pytest.mark.parametrize("pre", PATTERNS)
def test_gguf_byte_bpe(tmp_path: Path, pre: str) -> None:
    value = model_of("byte_bpe")
    model, llama3 = value["model"], value["pre_tokenizer"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    path = write_gguf(
        tmp_path / "a.gguf",
        model="gpt2",
        pre=pre,
        tokens=tokens,
        token_type=[3, 3] + [1] * (len(tokens) - 2),
        merges=[" ".join(pair) for pair in model["merges"]],
        bos_token_id=0,
        eos_token_id=1,
        add_bos_token=True,
        add_eos_token=True,
    )
    value["added_tokens"] = value["added_tokens"][:2]
    value["normalizer"] = {"type": "NFC"} if pre == "qwen2" else None
    model["ignore_merges"] = pre == "llama-bpe"
    value["post_processor"] = peer_template(("<s>", 0), ("<|endoftext|>", 1))
    if pre == "qwen2":
        pattern = llama3["pretokenizers"][0]["pattern"]
        pattern["Regex"] = pattern["Regex"].replace(r"\p{N}{1,3}", r"\p{N}")
    theirs = peer.Tokenizer.from_str(json.dumps(value))
    if PATTERNS[pre]:
        theirs.pre_tokenizer = pre_tokenizers.Sequence(PATTERNS[pre])
    ours = Tokenizer.load(path)
    assert (ours.bos_id, ours.eos_id) == (0, 1)
    for text in TEXTS:
        got, want = ours.encode(text), theirs.encode(text)
        assert (got.ids, got.offsets, got.tokens) == (want.ids, want.offsets, want.tokens)


def peer_template(before: tuple[str, int], after: tuple[str, int]) -> dict[str, Any]:
    tokenizer = peer.processors.TemplateProcessing(
        [before[0], "$A", after[0]], [before[0], "$A", "$B:1"], [before, after]
    )
    value: dict[str, Any] = json.loads(tokenizer.__getstate__())
    return value


def test_gguf_sentencepiece_bpe(tmp_path: Path) -> None:
    """The score of a merge is that of the token it makes; the peer has the same merges as a list."""
    value = model_of("spm_bpe")
    model = value["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    scores = [0.0 if at < 259 else -float(at) for at in range(len(tokens))]
    path = write_gguf(
        tmp_path / "a.gguf",
        model="llama",
        tokens=tokens,
        scores=scores,
        token_type=[2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)],
        bos_token_id=1,
        eos_token_id=2,
        unknown_token_id=0,
    )
    known = set(tokens[259:])
    merges = [
        (token[:at], token[at:])
        for token in tokens[259:]
        for at in range(1, len(token))
        if token[:at] in known and token[at:] in known
    ]
    theirs = peer.Tokenizer(
        models.BPE(
            {token: at for at, token in enumerate(tokens)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    )
    theirs.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens[:3]])
    theirs.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    theirs.decoder = decoders.Sequence(steps)
    ours = Tokenizer.load(path)
    for text in TEXTS:
        got, want = ours.encode(text), theirs.encode(text)
        assert got.ids == [1, *want.ids]
        assert ours.decode(want.ids) == theirs.decode(want.ids, skip_special_tokens=False)


@pytest.mark.skipif(not SHARED.exists(), reason="an addition to the test above: needs the shared data")
def test_gguf_of_stories260k(tmp_path: Path) -> None:
    directory = SHARED / "models" / "stories260k"
    raw = (directory / "tok512.bin").read_bytes()
    tokens, scores, at = [], [], 4
    while at < len(raw):
        score, size = struct.unpack_from("<fi", raw, at)
        tokens.append(
            raw[at + 8 : at + 8 + size].decode().strip("\n")
            if len(tokens) < 3
            else raw[at + 8 : at + 8 + size].decode()
        )
        scores.append(score)
        at += 8 + size
    tokens = [token if at < 259 else token.replace(" ", "▁") for at, token in enumerate(tokens)]
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)]
    path = write_gguf(
        tmp_path / "a.gguf", model="llama", tokens=tokens, scores=scores, token_type=kinds, bos_token_id=1
    )
    ours = Tokenizer.load(path)
    for case in json.loads((directory / "reference.json").read_text(encoding="utf-8"))["tokenizer"]:
        assert ours.encode(case["text"], add_special_tokens=False).ids == case["ids"], case["text"]


def test_gguf_bert(tmp_path: Path, minilm_dir: Path) -> None:
    tokens = (minilm_dir / "vocab.txt").read_text(encoding="utf-8").splitlines()
    marked = [t if t.startswith("[") and t.endswith("]") else t[2:] if t.startswith("##") else f"▁{t}" for t in tokens]
    ours, theirs = (
        Tokenizer.load(write_gguf(tmp_path / "a.gguf", model="bert", tokens=marked)),
        Tokenizer.load(minilm_dir),
    )
    for text in TEXTS:
        assert ours.encode(text).ids == theirs.encode(text).ids


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "gpt2", "pre": "unheard-of", "tokens": ["a"], "merges": ["a a"]}, "pre.*unheard-of"),
        ({"model": "rwkv", "tokens": ["a"]}, "model.*rwkv"),
        ({"tokens": ["a"]}, "model"),
        ({"model": "gpt2", "tokens": ["a"], "merges": ["a b"]}, "merges.*'?b"),
        ({"model": "gpt2", "tokens": ["a"], "merges": ["ab"]}, "merges"),
        ({"model": "llama", "tokens": ["a"]}, "scores"),
        ({"model": "llama", "tokens": ["a", "b"], "scores": [0.5]}, "scores"),
        ({"model": "llama", "tokens": ["a"], "scores": [float("nan")], "bos_token_id": 0}, "scores"),
        ({"model": "gpt2", "tokens": ["a"], "token_type": [9]}, "token_type"),
        ({"model": "gpt2", "tokens": ["a"], "bos_token_id": 7}, "bos_token_id"),
        ({"model": "gpt2", "tokens": ["a"], "add_bos_token": True}, "bos_token_id"),
        ({"model": "gpt2", "tokens": [1, 2]}, "tokens"),
        ({"model": "bert", "tokens": ["▁a"]}, "UNK"),
    ],
)
def test_bad_gguf(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError, match=f"a.gguf.*{message}"):
        Tokenizer.load(write_gguf(tmp_path / "a.gguf", **values))
