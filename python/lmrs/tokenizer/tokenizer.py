"""The tokenizer."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack, overload

from lmrs import _rs, hub
from lmrs._rs import DecodeStream, EncodeStream, Encoding
from lmrs.errors import InputError, TokenizerError
from lmrs.files import replace_file
from lmrs.tokenizer.loading import read
from lmrs.tokenizer.options import Options, native_options
from lmrs.tokenizer.rows import Rows
from lmrs.tokenizer.training import Training, train

__all__ = ["Tokenizer"]


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
    def load(cls, path: str | Path, *, encoding: str | None = None) -> "Tokenizer":
        """Read a tokenizer.

        `path` is a checkpoint directory (tokenizer.json, else vocab.json and merges.txt, else vocab.txt, else one
        SentencePiece .model, else one GGUF file; tokenizer_config.json beside them), one of these files, a GGUF file,
        a .tiktoken file, or a name of the Hugging Face hub (see `lmrs.hub`).

        Args:
            path: Where it is.
            encoding: The name of a .tiktoken file's encoding, which says how text is cut: gpt2, r50k_base, p50k_base,
                p50k_edit, cl100k_base, o200k_base or o200k_harmony; without it, the file's own name.

        Raises:
            MissingFileError: There is nothing at `path`, or the directory has no tokenizer.
            TokenizerError: What is there is no tokenizer, or not one that can be used; names the file and the field.
        """
        return cls(*read(hub.local(path, hub.TOKENIZER), encoding))

    @classmethod
    def train(cls, texts: Iterable[str], **how: Unpack[Training]) -> "Tokenizer":
        """Train a tokenizer. The same texts give the same tokenizer, in any order and on any number of threads.

        Merges are those of Hugging Face's trainers: the most frequent pair first, of equals the one whose tokens came
        first (Sennrich et al., 2016). `bpe` has all bytes in its vocabulary; `wordpiece` the characters of the texts.
        The pieces of `unigram` are those without which the texts would be the least likely (Kudo, 2018).

        Args:
            texts: Read once, a few MiB at a time.
            how: See `Training`.

        Raises:
            InputError: `vocab_size` is too small for the special tokens and the alphabet, or an option is unknown.
            TokenizerError: A text has a lone surrogate, or a component cannot be used.
        """
        return cls(*train(texts, how))

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json into a directory, as transformers has them, or one .json file.

        Hugging Face's library then gives the same ids. What came from a SentencePiece model is written in that
        library's terms, where a few rare sequences of characters are normalised in another way.

        Raises:
            TokenizerError: The tokenizer does what tokenizer.json cannot say; names it.
            FileError: The system refuses.
        """
        path = Path(path)
        data = self.native.to_json()
        if path.suffix == ".json":
            return replace_file(path, data)
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
        config |= {f"{role}_token": token for role, token in self.special_tokens.items()}
        if self.max_length is not None:
            config["model_max_length"] = self.max_length
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        replace_file(path / "tokenizer_config.json", text.encode())
        return replace_file(path / "tokenizer.json", data)

    # --- text to ids ---

    @overload
    def encode(self, text: str, *, pair: str | None = ..., **options: Unpack[Options]) -> Encoding: ...

    @overload
    def encode(
        self, text: list[str], *, pair: Sequence[str] | None = ..., **options: Unpack[Options]
    ) -> list[Encoding]: ...

    def encode(
        self, text: str | list[str], *, pair: str | Sequence[str] | None = None, **options: Unpack[Options]
    ) -> Encoding | list[Encoding]:
        """Encode a text, a pair of texts, or a list of either (on all processors, without the GIL).

        Args:
            text: One text gives one Encoding, a list gives a list.
            pair: A second text, encoded behind the first; a list of them for a list of texts.
            options: See `Options`.

        Raises:
            TokenizerError: A text has a lone surrogate, or a character that the model has no token for.
            InputError: `max_length` leaves no room for special tokens, `stride` no progress, an option is unknown, or
                there is `dropout` with a model that has no merges.
        """
        if isinstance(text, str):
            if pair is not None and not isinstance(pair, str):
                raise InputError(f"pair is a {type(pair).__name__}, expected a text for a text")
            return self.native.encode(text, pair, native_options(options, self.pad_id))
        return self.native.encode_batch(text, _pairs(pair), native_options(options, self.pad_id))

    def encode_rows(
        self, texts: Sequence[str], *, pair: Sequence[str] | None = None, **options: Unpack[Options]
    ) -> Rows:
        """The ids of many texts in one array, as `encode` gives them."""
        ids, starts = self.native.encode_rows(list(texts), _pairs(pair), native_options(options, self.pad_id))
        return Rows(ids, starts)

    def encode_stream(self, *, split_special_tokens: bool = False) -> EncodeStream:
        """Encode text as it comes: `push(text)` gives the ids that are now certain, `finish()` the rest.

        All together are the ids of the whole text without special tokens around it, wherever it was cut. Ids become
        certain at spaces where the model is byte-level, BERT's, or one whose words begin at spaces; with others, such
        as a SentencePiece `.model`, which judges the whole text, all come at the end.
        """
        return self.native.encode_stream(split_special_tokens)

    def count(self, text: str, **options: Unpack[Options]) -> int:
        """How many tokens `encode` gives. Special tokens around the text count if `add_special_tokens=True` says so."""
        return self.native.count(text, native_options({"add_special_tokens": False, **options}, self.pad_id))

    def truncate_to(self, text: str, tokens: int, **options: Unpack[Options]) -> str:
        """The longest beginning of a text that ends where a token ends and has at most `tokens` tokens itself.

        No character is cut. Special tokens are counted if `add_special_tokens=True` asks for them.

        Raises:
            InputError: `tokens` is negative.
        """
        if tokens < 0:
            raise InputError(f"tokens is {tokens}, expected 0 or more")
        return self.native.truncate_to(
            text, tokens, native_options({"add_special_tokens": False, **options}, self.pad_id)
        )

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
        template, given = self._conversation(messages, variables | {"add_generation_prompt": add_generation_prompt})
        return template.render(given)

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False, **variables: Any
    ) -> tuple[Encoding, list[int]]:
        """The tokens of a conversation, and the assistant mask: 1 for each token of what the assistant says.

        What the assistant says is what the template's `{% generation %}` blocks write, as in transformers; without
        such blocks the mask is all 0. Arguments and errors are those of `apply_chat_template`.
        """
        template, given = self._conversation(messages, variables | {"add_generation_prompt": add_generation_prompt})
        text, generations = template.render_with_generations(given)
        encoding = self.encode(text, add_special_tokens=False)
        mask = [0] * len(encoding)
        offsets = encoding.offsets
        for start, end in generations:
            for token, (first, last) in enumerate(offsets):
                if first < end and last > start:
                    mask[token] = 1
        return encoding, mask

    def _conversation(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
    ) -> tuple[_rs.ChatTemplate, str]:
        if self._chat is None:
            raise TokenizerError("the checkpoint has no chat template")
        named = {f"{role}_token": token for role, token in self.special_tokens.items()}
        try:
            return self._chat, json.dumps(named | {"messages": messages} | dict(variables), default=dict)
        except (TypeError, ValueError) as error:
            raise TokenizerError(f"chat messages must be JSON values: {error}") from error

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

    def decode_batch(self, rows: Iterable[Sequence[int]], *, skip_special_tokens: bool = False) -> list[str]:
        """The texts of many rows of ids. Raises InputError as `decode` does."""
        return self.native.decode_batch(list(rows), skip_special_tokens)

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

    @property
    def dropout(self) -> float | None:
        """The share of merges that the file says training leaves out, if it does.

        Nothing is left out unless a call says so, because a model is asked about the usual ids:
        `encode(text, dropout=tokenizer.dropout, seed=epoch)`.
        """
        return self.native.dropout

    def _id(self, role: str) -> int | None:
        token = self.special_tokens.get(role)
        return None if token is None else self.token_to_id(token)

    @cached_property
    def bos_id(self) -> int | None:
        """The id that begins a text."""
        return self._id("bos")

    @cached_property
    def eos_id(self) -> int | None:
        """The id that ends a text."""
        return self._id("eos")

    @cached_property
    def unk_id(self) -> int | None:
        """The id of what the vocabulary lacks."""
        return self._id("unk")

    @cached_property
    def sep_id(self) -> int | None:
        """The id between texts."""
        return self._id("sep")

    @cached_property
    def pad_id(self) -> int | None:
        """The id that fills up batches."""
        return self._id("pad")

    @cached_property
    def cls_id(self) -> int | None:
        """The id whose row stands for the whole text."""
        return self._id("cls")

    @cached_property
    def mask_id(self) -> int | None:
        """The id that stands for a word to guess."""
        return self._id("mask")


def _pairs(pair: str | Sequence[str] | None) -> list[str] | None:
    if isinstance(pair, str):
        raise InputError("pair is one text, expected a list of texts for a list of texts")
    return None if pair is None else list(pair)
