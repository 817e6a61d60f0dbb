"""Reading tokenizers: which file says what."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lmrs import _rs
from lmrs.errors import MissingFileError, TokenizerError
from lmrs.tokenizer.config import ROLES, Config

__all__ = ["Loaded", "read"]

# Families whose `.model` goes with other ids than its own, and those that put a token at an end of every text.
_RENUMBERED = {"XLMRoberta", "Camembert", "MBart", "MBart50", "Barthez", "Nllb", "XGLM", "Plbart"}
_BOS_FAMILIES = {"Llama", "CodeLlama", "Gemma"}
_EOS_FAMILIES = {"T5", "MT5"}
_GGUF_ROLES = {"unknown": "unk", "padding": "pad", "seperator": "sep"}  # the format's own spelling


class Loaded(NamedTuple):
    """What a `Tokenizer` is made of."""

    native: _rs.Tokenizer
    special_tokens: Mapping[str, str]
    chat_template: str | None = None
    max_length: int | None = None


def read(path: Path, encoding: str | None) -> Loaded:
    """Read what `Tokenizer.load` is given, and raise what it says."""
    if not path.exists():
        raise MissingFileError(f"{path}: no such file or directory")
    if path.is_dir():
        return _from_directory(path)
    match path.name, path.suffix:
        case _, ".gguf":
            return _from_gguf(path)
        case _, ".tiktoken":
            native = _rs.Tokenizer.from_tiktoken(path.read_bytes(), str(path), encoding or path.stem)
            return Loaded(native, special_tokens={"eos": "<|endoftext|>"})
        case _, ".model":
            return _from_sentencepiece(path)
        case (("vocab.json" | "merges.txt"), _):
            return _from_gpt2_vocab(path.parent)
        case name, ".json" if name != "tokenizer_config.json":
            return _with_config(_rs.Tokenizer.from_json(path.read_bytes(), str(path)), path.parent)
        case _, ".txt":
            return _from_bert_vocab(path)
    raise TokenizerError(
        f"{path}: expected a directory, tokenizer.json, vocab.json, vocab.txt, a .model, .tiktoken or GGUF file"
    )


def _from_directory(directory: Path) -> Loaded:
    if (file := directory / "tokenizer.json").exists():
        return _with_config(_rs.Tokenizer.from_json(file.read_bytes(), str(file)), directory)
    if (directory / "vocab.json").exists() and (directory / "merges.txt").exists():
        return _from_gpt2_vocab(directory)
    if (file := directory / "vocab.txt").exists():
        return _from_bert_vocab(file)
    if len(files := sorted(directory.glob("*.model"))) == 1:
        return _from_sentencepiece(files[0])
    if len(files := sorted(directory.glob("*.gguf"))) == 1:
        return _from_gguf(files[0])
    raise MissingFileError(
        f"{directory}: no tokenizer.json, no vocab.json with merges.txt, no vocab.txt, no single .model "
        "and no single GGUF file"
    )


def _from_sentencepiece(file: Path) -> Loaded:
    config = Config.of(file.parent)
    family = str(config.values.get("tokenizer_class", "")).removesuffix("Fast").removesuffix("Tokenizer")
    if family in _RENUMBERED:
        raise TokenizerError(f"{file}: {family} numbers its pieces anew; its tokenizer.json says how, this file not")
    native, roles = _rs.Tokenizer.from_sentencepiece(
        file.read_bytes(),
        str(file),
        add_bos=config.flag("add_bos_token", default=family in _BOS_FAMILIES),
        add_eos=config.flag("add_eos_token", default=family in _EOS_FAMILIES),
    )
    return _with_config(native, file.parent, roles | config.special_tokens)


def _from_bert_vocab(file: Path) -> Loaded:
    config = Config.of(file.parent)
    native = _rs.Tokenizer.from_bert_vocab(
        file.read_bytes(),
        str(file),
        lowercase=config.flag("do_lower_case", default=True),
        strip_accents=config.flag("strip_accents", default=None),
        handle_chinese_chars=config.flag("tokenize_chinese_chars", default=True),
        special=config.special_tokens,
    )
    known = {role: f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls", "mask")} | config.special_tokens
    return _with_config(native, file.parent, known)


def _from_gpt2_vocab(directory: Path) -> Loaded:
    config = Config.of(directory)
    if "cls" in config.special_tokens:
        raise TokenizerError(f"{directory}: vocab.json with a cls_token needs a tokenizer.json to say where it goes")
    end = "<|endoftext|>"
    special = dict.fromkeys([*config.special_tokens.values(), end])
    native = _rs.Tokenizer.from_gpt2_vocab(
        (directory / "vocab.json").read_bytes(),
        (directory / "merges.txt").read_bytes(),
        str(directory),
        list(special),
    )
    return _with_config(native, directory, {"bos": end, "eos": end, "unk": end} | config.special_tokens)


def _from_gguf(file: Path) -> Loaded:
    native, values = _rs.Tokenizer.from_gguf(file)
    tokens = {}
    for key, value in values.items():
        role = key.removeprefix("ggml.").removesuffix("_token_id")
        token = native.id_to_token(value) if key.endswith("_token_id") and isinstance(value, int) else None
        if token is not None:
            tokens[_GGUF_ROLES.get(role, role)] = token
    template = values.get("chat_template")
    return Loaded(
        native,
        special_tokens={role: tokens[role] for role in ROLES if role in tokens},
        chat_template=template if isinstance(template, str) else None,
    )


def _with_config(native: _rs.Tokenizer, directory: Path, special_tokens: Mapping[str, str] | None = None) -> Loaded:
    config = Config.of(directory)
    tokens = config.special_tokens if special_tokens is None else special_tokens
    known = {role: token for role, token in tokens.items() if native.token_to_id(token) is not None}
    if "unk" not in known and native.unknown_id is not None:
        known["unk"] = native.id_to_token(native.unknown_id) or ""
    return Loaded(native, known, config.chat_template, config.max_length)
