"""Tokenizers: text to ids and back, exact to the id and the character."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

from lmrs import _rs
from lmrs._rs import Encoding
from lmrs.errors import MissingFileError, TokenizerError

__all__ = ["DecodeStream", "Encoding", "Tokenizer"]

DecodeStream = _rs.DecodeStream

Truncate = Literal["longest_first", "only_first", "only_second"]
Side = Literal["left", "right"]

_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_GGUF_ROLES = {"unknown": "unk", "padding": "pad", "seperator": "sep"}  # the format's own spelling


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer with what its checkpoint says about it. It never changes; everything about a call is an option of it.

    Attributes:
        native: The Rust tokenizer.
        special_tokens: The tokens with a role, by role: bos, eos, unk, sep, pad, cls, mask; only roles that are taken.
        chat_template: The Jinja program that turns messages into text, if there is one.
        max_length: How many tokens the checkpoint says its model takes, if it says.
    """

    native: _rs.Tokenizer
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    chat_template: str | None = None
    max_length: int | None = None

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a tokenizer.

        `path` is a checkpoint directory (tokenizer.json, else vocab.json and merges.txt, else vocab.txt, else one GGUF
        file; tokenizer_config.json beside them), one of these files, or a GGUF file.

        Raises:
            MissingFileError: There is nothing at `path`, or the directory has no tokenizer.
            TokenizerError: What is there is no tokenizer, or not one that can be used; names the file and the field.
        """
        path = Path(path)
        if not path.exists():
            raise MissingFileError(f"{path}: no such file or directory")
        if path.suffix == ".gguf":
            return cls._from_gguf(path)
        if path.is_dir():
            return cls._from_directory(path)
        if path.suffix == ".json" and path.name not in {"vocab.json", "tokenizer_config.json"}:
            return cls._with_config(_rs.Tokenizer.from_json(path.read_bytes(), str(path)), path.parent)
        if path.suffix == ".txt" and path.name != "merges.txt":
            return cls._from_bert_vocab(path)
        if path.name in {"vocab.json", "merges.txt"}:
            return cls._from_gpt2_vocab(path.parent)
        raise TokenizerError(f"{path}: expected a directory, a GGUF file, tokenizer.json, vocab.json or vocab.txt")

    @classmethod
    def _from_directory(cls, directory: Path) -> "Tokenizer":
        if (file := directory / "tokenizer.json").exists():
            return cls._with_config(_rs.Tokenizer.from_json(file.read_bytes(), str(file)), directory)
        if (directory / "vocab.json").exists() and (directory / "merges.txt").exists():
            return cls._from_gpt2_vocab(directory)
        if (file := directory / "vocab.txt").exists():
            return cls._from_bert_vocab(file)
        if len(files := sorted(directory.glob("*.gguf"))) == 1:
            return cls._from_gguf(files[0])
        there = ", ".join(sorted(file.name for file in directory.glob("*.model")))
        raise (TokenizerError if there else MissingFileError)(
            f"{directory}: no tokenizer.json, no vocab.json with merges.txt, no vocab.txt and no single GGUF file"
            + (f"; {there} is not supported: save the tokenizer as tokenizer.json" if there else "")
        )

    @classmethod
    def _from_bert_vocab(cls, file: Path) -> "Tokenizer":
        config = _Config.of(file.parent)
        native = _rs.Tokenizer.from_bert_vocab(
            file.read_bytes(),
            str(file),
            lowercase=config.flag("do_lower_case", default=True),
            strip_accents=config.flag("strip_accents", default=None),
            handle_chinese_chars=config.flag("tokenize_chinese_chars", default=True),
            special=config.special_tokens,
        )
        known = {role: f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls", "mask")} | config.special_tokens
        return cls._with_config(native, file.parent, known)

    @classmethod
    def _from_gpt2_vocab(cls, directory: Path) -> "Tokenizer":
        config = _Config.of(directory)
        if "cls" in config.special_tokens:
            raise TokenizerError(
                f"{directory}: vocab.json with a cls_token needs a tokenizer.json to say where it goes"
            )
        end = "<|endoftext|>"
        special = dict.fromkeys([*config.special_tokens.values(), end])
        native = _rs.Tokenizer.from_gpt2_vocab(
            (directory / "vocab.json").read_bytes(),
            (directory / "merges.txt").read_bytes(),
            str(directory),
            list(special),
        )
        return cls._with_config(native, directory, {"bos": end, "eos": end, "unk": end} | config.special_tokens)

    @classmethod
    def _from_gguf(cls, file: Path) -> "Tokenizer":
        native, values = _rs.Tokenizer.from_gguf(file)
        tokens = {}
        for key, value in values.items():
            role = key.removeprefix("ggml.").removesuffix("_token_id")
            token = native.id_to_token(value) if key.endswith("_token_id") and isinstance(value, int) else None
            if token is not None:
                tokens[_GGUF_ROLES.get(role, role)] = token
        template = values.get("chat_template")
        return cls(
            native,
            special_tokens={role: tokens[role] for role in _ROLES if role in tokens},
            chat_template=template if isinstance(template, str) else None,
        )

    @classmethod
    def _with_config(
        cls, native: _rs.Tokenizer, directory: Path, special_tokens: Mapping[str, str] | None = None
    ) -> "Tokenizer":
        config = _Config.of(directory)
        tokens = config.special_tokens if special_tokens is None else special_tokens
        known = {role: token for role, token in tokens.items() if native.token_to_id(token) is not None}
        if "unk" not in known and native.unknown_id is not None:
            known["unk"] = native.id_to_token(native.unknown_id) or ""
        return cls(native, known, config.chat_template, config.max_length)

    # --- text to ids ---

    @overload
    def encode(
        self,
        text: str,
        *,
        pair: str | None = ...,
        add_special_tokens: bool = ...,
        split_special_tokens: bool = ...,
        max_length: int | None = ...,
        truncate: Truncate = ...,
        side: Side = ...,
    ) -> Encoding: ...

    @overload
    def encode(
        self,
        text: list[str],
        *,
        pair: None = ...,
        add_special_tokens: bool = ...,
        split_special_tokens: bool = ...,
        max_length: int | None = ...,
        truncate: Truncate = ...,
        side: Side = ...,
    ) -> list[Encoding]: ...

    def encode(
        self,
        text: str | list[str],
        *,
        pair: str | None = None,
        add_special_tokens: bool = True,
        split_special_tokens: bool = False,
        max_length: int | None = None,
        truncate: Truncate = "longest_first",
        side: Side = "right",
    ) -> Encoding | list[Encoding]:
        """Encode a text, a pair of texts, or a list of texts (on all processors, without the GIL).

        Args:
            text: One text gives one Encoding, a list gives a list.
            pair: A second text, encoded behind the first.
            add_special_tokens: Whether to put the model's special tokens around the text.
            split_special_tokens: Whether special tokens written in the text are ordinary text; set it for text that
                users write.
            max_length: Most tokens to give, special ones included; the rest is cut off.
            truncate: Which text of a pair is cut.
            side: The end that is cut off.

        Raises:
            TokenizerError: The text has a lone surrogate, or a character that the model has no token for.
            InputError: `max_length` leaves no room for the special tokens, or an option is unknown.
        """
        options = {
            "add_special_tokens": add_special_tokens,
            "split_special_tokens": split_special_tokens,
            "max_length": max_length,
            "truncate": truncate,
            "side": side,
        }
        if isinstance(text, str):
            return self.native.encode(text, pair, options)
        return self.native.encode_batch(text, options)

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False, **variables: Any
    ) -> str:
        """The text of a conversation, as transformers' method of the same name writes it without tokenising.

        The special tokens are in the text: encode it with `add_special_tokens=False`.

        Args:
            messages: Turns with `role` and `content`, and whatever else the template reads.
            add_generation_prompt: Whether the text ends where the assistant begins.
            variables: More for the template, such as `tools`; JSON values only.

        Raises:
            TokenizerError: There is no template, or it fails or refuses the messages.
        """
        if self._chat is None:
            raise TokenizerError("the checkpoint has no chat template")
        named = {f"{role}_token": token for role, token in self.special_tokens.items()}
        given = named | {"messages": messages, "add_generation_prompt": add_generation_prompt} | variables
        try:
            text = json.dumps(given, default=dict)
        except (TypeError, ValueError) as error:
            raise TokenizerError(f"chat messages must be JSON values: {error}") from error
        return self._chat.render(text)

    @cached_property
    def _chat(self) -> "_rs.ChatTemplate | None":
        return None if self.chat_template is None else _rs.ChatTemplate(self.chat_template)

    # --- ids to text ---

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of ids. Ids that no token has, such as padding rows of an embedding, are no text.

        Raises:
            InputError: An id is negative or no 32-bit number; names its position.
        """
        return self.native.decode(ids, skip_special_tokens)

    def decode_stream(self, *, after: Sequence[int] = (), skip_special_tokens: bool = False) -> DecodeStream:
        """Decode ids as they come: `push(id)` gives the text that is now certain, `finish()` the rest.

        No character is given in halves. `after` are the ids whose text is known already, such as a prompt.
        """
        return self.native.decode_stream(after, skip_special_tokens)

    # --- the vocabulary ---

    def id_to_token(self, token_id: int) -> str | None:
        """The token of an id; None if no token has it."""
        return self.native.id_to_token(token_id) if 0 <= token_id < 1 << 32 else None

    def token_to_id(self, token: str) -> int | None:
        """The id of a token; None if there is no such token."""
        return self.native.token_to_id(token)

    def __len__(self) -> int:
        return len(self.native)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Tokens and ids, by id."""
        missing = len(self)
        token_id = 0
        while missing:
            if (token := self.id_to_token(token_id)) is not None:
                missing -= 1
                yield token, token_id
            token_id += 1

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, added ones included. The model's embedding may have more rows."""
        return len(self)

    @property
    def kind(self) -> str:
        """BPE, WordPiece or Unigram."""
        return self.native.kind

    def _id(self, role: str) -> int | None:
        token = self.special_tokens.get(role)
        return None if token is None else self.token_to_id(token)

    @property
    def bos_id(self) -> int | None:
        """The id that begins a text."""
        return self._id("bos")

    @property
    def eos_id(self) -> int | None:
        """The id that ends a text."""
        return self._id("eos")

    @property
    def unk_id(self) -> int | None:
        """The id of what the vocabulary lacks."""
        return self._id("unk")

    @property
    def sep_id(self) -> int | None:
        """The id between texts."""
        return self._id("sep")

    @property
    def pad_id(self) -> int | None:
        """The id that fills up batches."""
        return self._id("pad")

    @property
    def cls_id(self) -> int | None:
        """The id whose row stands for the whole text."""
        return self._id("cls")

    @property
    def mask_id(self) -> int | None:
        """The id that stands for a word to guess."""
        return self._id("mask")


@dataclass(frozen=True)
class _Config:
    """What tokenizer_config.json and its neighbours say."""

    path: Path
    values: Mapping[str, Any]

    @classmethod
    def of(cls, directory: Path) -> "_Config":
        path = directory / "tokenizer_config.json"
        values = _read_json(directory / "special_tokens_map.json") | _read_json(path)
        template = directory / "chat_template.jinja"
        if template.exists():
            values["chat_template"] = template.read_text(encoding="utf-8")
        return cls(path, values)

    @property
    def special_tokens(self) -> dict[str, str]:
        tokens = {}
        for role in _ROLES:
            token = self.values.get(f"{role}_token")
            if isinstance(token, Mapping):
                token = token.get("content")
            if isinstance(token, str):
                tokens[role] = token
            elif token is not None:
                raise TokenizerError(f"{self.path}: {role}_token is {token!r}, expected a token")
        return tokens

    @property
    def chat_template(self) -> str | None:
        template = self.values.get("chat_template")
        if isinstance(template, list):
            named = [entry for entry in template if isinstance(entry, Mapping)]
            template = next((entry.get("template") for entry in named if entry.get("name") == "default"), None)
        if template is None or isinstance(template, str):
            return template
        raise TokenizerError(f"{self.path}: chat_template is a {type(template).__name__}, expected text")

    @property
    def max_length(self) -> int | None:
        length = self.values.get("model_max_length")
        # Without a limit, transformers writes 10^30.
        return length if isinstance(length, int) and 0 < length < 1 << 31 else None

    @overload
    def flag(self, name: str, *, default: bool) -> bool: ...

    @overload
    def flag(self, name: str, *, default: None) -> bool | None: ...

    def flag(self, name: str, *, default: bool | None) -> bool | None:
        value = self.values.get(name)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        raise TokenizerError(f"{self.path}: {name} is {value!r}, expected true or false")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise TokenizerError(f"{path}: expected an object")
    return values
