"""Exactness on much text: ids and offsets of every real tokenizer at hand are those of its own library.

The texts are the sources, descriptions and catalogues of the Python packages installed here, and those of the shared
data beside a full checkout; none is read twice. `EXACT_MEGABYTES` says how much each tokenizer reads: little by
default, 100 in `make slow`. `EXACT_SHARE=1` hands the texts around, so that all tokenizers together read that much.
"""

import gzip
import hashlib
import os
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import sentencepiece
import tiktoken
import tokenizers as peer
from tiktoken.load import load_tiktoken_bpe
from tiktoken_ext import openai_public

from lmrs.tokenizer import Tokenizer

SHARED = Path(__file__).parents[2] / "shared" / "data"
MEGABYTES = float(os.environ.get("EXACT_MEGABYTES", "0.15"))
SHARE = os.environ.get("EXACT_SHARE") == "1"
SUFFIXES = {".py", ".pyi", ".md", ".rst", ".txt", ".po", ".html", ".json", ".toml", ".yaml", ".js", ".css", ".h", ".c"}
LARGEST = 2_000_000
DOCUMENT = 4000

Ids = list[int]
Offsets = list[tuple[int, int]]
Encode = Callable[[str], tuple[Ids, Offsets]]


def shared_texts() -> Iterator[str]:
    for path in sorted((SHARED / "text").rglob("*")):
        if path.suffix == ".gz":
            yield gzip.decompress(path.read_bytes()).decode(errors="replace")
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                yield from (archive.read(name).decode(errors="replace") for name in archive.namelist())


def installed_texts() -> Iterator[str]:
    roots = [Path(sysconfig.get_paths()[name]) for name in ("purelib", "stdlib")]
    for root in roots:
        for path in sorted(root.rglob("*")):
            if (path.suffix in SUFFIXES or path.name == "METADATA") and path.is_file():
                yield path.read_bytes()[:LARGEST].decode(errors="replace")


def documents() -> Iterator[str]:
    """Texts in pieces of about `DOCUMENT` characters, cut anywhere; a piece met before is left out."""
    seen: set[bytes] = set()
    for texts in (shared_texts(), installed_texts()):
        for text in texts:
            for start in range(0, len(text), DOCUMENT):
                piece = text[start : start + DOCUMENT]
                digest = hashlib.blake2b(piece.encode(), digest_size=8).digest()
                if digest not in seen:
                    seen.add(digest)
                    yield piece


def of_hugging_face(theirs: peer.Tokenizer) -> Encode:
    theirs.no_truncation()
    theirs.no_padding()

    def encode(text: str) -> tuple[Ids, Offsets]:
        encoding = theirs.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    return encode


def of_tiktoken(theirs: tiktoken.Encoding) -> Encode:
    def encode(text: str) -> tuple[Ids, Offsets]:
        ids = theirs.encode_ordinary(text)
        ends: list[int] = []
        for token in ids:
            ends.append((ends[-1] if ends else 0) + len(theirs.decode_single_token_bytes(token)))
        return ids, list(zip([0, *ends[:-1]], ends, strict=True))

    return encode


def of_sentencepiece(theirs: Any) -> Encode:
    def encode(text: str) -> tuple[Ids, Offsets]:
        pieces = theirs.encode(text, return_type="proto").pieces
        return [piece.id for piece in pieces], [(piece.begin, piece.end) for piece in pieces]

    return encode


def hugging_face_file(directory: Path, tmp_path: Path) -> tuple[Tokenizer, Encode]:
    path = directory / "tokenizer.json"
    if not path.exists():
        path = tmp_path / "tokenizer.json"
        path.write_bytes(gzip.decompress((directory / "tokenizer.json.gz").read_bytes()))
    return Tokenizer.load(path), of_hugging_face(peer.Tokenizer.from_file(str(path)))


def tiktoken_file(name: str, tmp_path: Path) -> tuple[Tokenizer, Encode]:
    path = tmp_path / f"{name}.tiktoken"
    path.write_bytes(gzip.decompress((SHARED / "tokenizers" / "tiktoken" / f"{path.name}.gz").read_bytes()))
    patch = pytest.MonkeyPatch()
    patch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: load_tiktoken_bpe(str(path)))
    theirs = tiktoken.Encoding(**openai_public.ENCODING_CONSTRUCTORS[name]())
    patch.undo()
    return Tokenizer.load(path, encoding=name), of_tiktoken(theirs)


def sentencepiece_file(path: Path) -> tuple[Tokenizer, Encode]:
    return Tokenizer.load(path), of_sentencepiece(sentencepiece.SentencePieceProcessor(model_file=str(path)))


HERE = ["minilm", "smollm2"]
BESIDE = [
    "gpt2",
    "qwen3",
    "t5",
    "cl100k_base",
    "o200k_base",
    "t5/spiece.model",
    "sentencepiece-test/test_ja_model.model",
]
NAMES = [*HERE, *BESIDE] if SHARED.exists() else HERE


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_offsets(
    name: str, tmp_path: Path, smollm2_gguf: Path, smollm2_peer: peer.Tokenizer, minilm_dir: Path
) -> None:
    options: dict[str, Any] = {"add_special_tokens": False}
    unit: Literal["characters", "bytes"] = "characters"
    if name == "minilm":
        ours, theirs = hugging_face_file(minilm_dir, tmp_path)
    elif name == "smollm2":
        ours, theirs = Tokenizer.load(smollm2_gguf), of_hugging_face(smollm2_peer)
    elif name.endswith("_base"):
        ours, theirs = tiktoken_file(name, tmp_path)
        options |= {"split_special_tokens": True}
    elif name.endswith(".model"):
        ours, theirs = sentencepiece_file(SHARED / "tokenizers" / name)
        options |= {"split_special_tokens": True}
        unit = "bytes"
    else:
        ours, theirs = hugging_face_file(SHARED / "tokenizers" / name, tmp_path)
    read = 0
    for number, text in enumerate(documents()):
        if SHARE and number % len(NAMES) != NAMES.index(name):
            continue
        read += len(text.encode())
        ids, offsets = theirs(text)
        got = ours.encode(text, offsets=unit, **options)
        assert got.ids == ids, text
        assert ours.encode_rows([text], **options).ids.tolist() == ids, text
        # Tokens of tiktoken may cut characters, which our offsets do not.
        assert got.offsets == offsets or (name.endswith("_base") and not text.isascii()), text
        if read >= MEGABYTES * 1e6 / (len(NAMES) if SHARE else 1):
            break
    print(f"{name}: {read / 1e6:.1f} MB", file=sys.stderr)
    assert read > 100_000
