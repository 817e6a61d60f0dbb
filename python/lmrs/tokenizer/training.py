"""Training tokenizers: texts to a vocabulary."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Required, TypedDict

from lmrs import _rs
from lmrs.errors import InputError
from lmrs.tokenizer.loading import Loaded

__all__ = ["Training", "train"]


class Training(TypedDict, total=False):
    """What to train.

    Attributes:
        model: `bpe` if not said, `wordpiece` or `unigram`.
        vocab_size: Tokens at most, special ones included.
        min_frequency: Pairs that are rarer are not merged; with `unigram`, stretches of words that are rarer are no
            pieces. 0 if not said.
        byte_fallback: With `unigram`: what the vocabulary lacks is spelled in bytes, and so are the rarest characters,
            0.05 % of the text. No if not said.
        special_tokens: These get the first ids. If not said, `<|endoftext|>` for `bpe`, BERT's for `wordpiece`, and
            `<unk>`, `<s>` and `</s>` for `unigram`.
        components: `normalizer`, `pre_tokenizer`, `post_processor` and `decoder` as `tokenizer.json` has them, in place
            of GPT-2's, BERT's or SentencePiece's.
        progress: Called now and then with `words`, the number of texts read and None; then with `merges`, the number
            of tokens so far and `vocab_size`, or with `rounds`, how many are done and how many there are.
    """

    model: Literal["bpe", "wordpiece", "unigram"]
    vocab_size: Required[int]
    min_frequency: int
    byte_fallback: bool
    special_tokens: Sequence[str] | None
    components: Mapping[str, Any] | None
    progress: Callable[[str, int, int | None], None] | None


@dataclass(frozen=True)
class _Preset:
    """What goes around a model if nothing is said."""

    special_tokens: Sequence[str]
    roles: Mapping[str, str]
    components: Mapping[str, Any]


_TRAIN_CHARACTERS = 1 << 23  # counted together; enough for every thread
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
_BERT_ROLES = {role: f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
_PRESETS = {
    "bpe": _Preset(
        ["<|endoftext|>"],
        {"bos": "<|endoftext|>", "eos": "<|endoftext|>"},
        {"pre_tokenizer": _BYTE_LEVEL, "decoder": _BYTE_LEVEL},
    ),
    "wordpiece": _Preset(
        list(_BERT_ROLES.values()),
        _BERT_ROLES,
        {
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": True,
                "strip_accents": None,
                "lowercase": True,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        },
    ),
    "unigram": _Preset(
        ["<unk>", "<s>", "</s>"],
        {"unk": "<unk>", "bos": "<s>", "eos": "</s>"},
        {
            "normalizer": {
                "type": "Sequence",
                "normalizers": [
                    {"type": "Nmt"},
                    {"type": "NFKC"},
                    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
                ],
            },
            "pre_tokenizer": _METASPACE,
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, _METASPACE]},
        },
    ),
}


def train(texts: Iterable[str], how: Training) -> Loaded:
    """Train as `Tokenizer.train` says."""
    if unknown := how.keys() - Training.__annotations__.keys():
        raise InputError(f"unknown option {min(unknown)}, expected one of {', '.join(Training.__annotations__)}")
    model, vocab_size, min_frequency = how.get("model", "bpe"), how["vocab_size"], how.get("min_frequency", 0)
    if model not in _PRESETS:
        raise InputError(f"model is {model!r}, expected {' or '.join(_PRESETS)}")
    if not 0 < vocab_size < 1 << 32 or not 0 <= min_frequency < 1 << 63:
        raise InputError(f"vocab_size is {vocab_size} and min_frequency {min_frequency}, expected positive numbers")
    byte_fallback = how.get("byte_fallback", False)
    if byte_fallback and model != "unigram":
        raise InputError(f"byte_fallback is for unigram, not for {model}")
    preset, given, components = _PRESETS[model], how.get("special_tokens"), how.get("components")
    special_tokens = list(preset.special_tokens if given is None else given)
    if components is None:
        template = _bert_template(special_tokens) if model == "wordpiece" else None
        components = {**preset.components, "post_processor": template}
    corpus, progress = _rs.Corpus(json.dumps(dict(components)).encode()), how.get("progress")
    _count(corpus, texts, progress)
    stage = "rounds" if model == "unigram" else "merges"
    native = corpus.train(
        model,
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        byte_fallback=byte_fallback,
        special_tokens=special_tokens,
        progress=None if progress is None else lambda done, total: progress(stage, done, total),
    )
    return Loaded(native, {role: token for role, token in preset.roles.items() if token in special_tokens})


def _count(corpus: _rs.Corpus, texts: Iterable[str], progress: Callable[[str, int, int | None], None] | None) -> None:
    batch: list[str] = []
    size = read = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _TRAIN_CHARACTERS:
            corpus.add(batch)
            read += len(batch)
            batch, size = [], 0
            if progress is not None:
                progress("words", read, None)
    corpus.add(batch)


def _bert_template(special_tokens: Sequence[str]) -> dict[str, Any] | None:
    """`[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`; special tokens have the first ids."""
    if not {"[CLS]", "[SEP]"} <= set(special_tokens):
        return None
    ids = {token: special_tokens.index(token) for token in ("[CLS]", "[SEP]")}

    def token(name: str, type_id: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": type_id}}

    first = [token("[CLS]", 0), {"Sequence": {"id": "A", "type_id": 0}}, token("[SEP]", 0)]
    second = [{"Sequence": {"id": "B", "type_id": 1}}, token("[SEP]", 1)]
    named = {name: {"id": name, "ids": [token_id], "tokens": [name]} for name, token_id in ids.items()}
    return {"type": "TemplateProcessing", "single": first, "pair": first + second, "special_tokens": named}
