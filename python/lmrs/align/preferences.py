"""Preferences: a prompt, a reply that was chosen and one that was rejected; read, checked and encoded.

A text may be a string, token ids, or for prompts a conversation, which the tokenizer's chat template writes.
"""

import gzip
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lmrs.errors import FormatError, InputError, MissingFileError
from lmrs.models.beside import tokenizer_of
from lmrs.tokenizer import Tokenizer
from lmrs.train.ids import checked
from lmrs.train.objective import IGNORED, Example

Messages: TypeAlias = Sequence[Mapping[str, Any]]
Prompt: TypeAlias = str | Sequence[int] | Messages
Unfit = Literal["refuse", "drop"]


@dataclass(frozen=True, kw_only=True)
class Preference:
    """``chosen`` was preferred to ``rejected`` after ``prompt``, by ``margin`` if that was said."""

    prompt: Prompt
    chosen: str | Sequence[int]
    rejected: str | Sequence[int]
    margin: float = 0.0


@dataclass(frozen=True, eq=False)
class Pair:
    """A preference as a model reads it: both replies after their prompt, whose tokens are not predicted."""

    chosen: Example
    rejected: Example
    margin: float = 0.0

    @property
    def prompt(self) -> list[int]:
        """The tokens that both replies follow."""
        return list(self.chosen.ids[: self.chosen.labels.count(IGNORED) + 1])

    @property
    def replies(self) -> tuple[list[int], list[int]]:
        """The tokens of the chosen reply and of the rejected one."""
        chosen, rejected = ([i for i in e.labels if i != IGNORED] for e in (self.chosen, self.rejected))
        return chosen, rejected


@dataclass(frozen=True, eq=False)
class Encoded:
    """Pairs a model can take, and how many were dropped for which reason."""

    pairs: list[Pair]
    dropped: Mapping[str, int]


def objects(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, gzipped or not. Raises MissingFileError, FormatError naming the line."""
    try:
        data = Path(path).read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: not a text of JSON lines: {error}") from None
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{path} line {number}: not JSON: {error}") from None
        if not isinstance(value, dict):
            raise FormatError(f"{path} line {number}: is a {type(value).__name__}, expected an object")
        found.append(value)
    return found


def read(path: str | os.PathLike[str], *, limit: int | None = None, unfit: Unfit = "refuse") -> list[Preference]:
    """Preferences from JSON lines of TRL's shapes or of HH-RLHF's.

    ``chosen`` and ``rejected`` are replies to ``prompt``, strings or lists of messages; without a prompt they are whole
    conversations, lists of messages or HH's transcripts of Human and Assistant, that part at the last reply.
    ``margin`` is optional. Raises FormatError naming the item that is none of these; with ``unfit="drop"`` it is left
    out (HH has a few whose conversations part before the last reply).
    """
    found = []
    for at, item in enumerate(objects(path)[:limit]):
        try:
            found.append(_preference(item, f"{path} item {at}"))
        except FormatError:
            if unfit == "refuse":
                raise
    return found


def _preference(item: Mapping[str, Any], where: str) -> Preference:
    margin = item.get("margin", 0.0)
    if (
        "chosen" not in item
        or "rejected" not in item
        or isinstance(margin, bool)
        or not isinstance(margin, int | float)
    ):
        raise FormatError(f"{where}: expected chosen, rejected and a number if there is a margin")
    if isinstance(item.get("prompt"), str) and isinstance(item["chosen"], str) and isinstance(item["rejected"], str):
        return Preference(prompt=item["prompt"], chosen=item["chosen"], rejected=item["rejected"], margin=margin)
    before = conversation(item.get("prompt", []), where)
    chosen, rejected = (before + conversation(item[name], where) for name in ("chosen", "rejected"))
    if not chosen or not rejected or chosen[:-1] != rejected[:-1]:
        raise FormatError(f"{where}: the two conversations differ before their last reply")
    if (role := chosen[-1]["role"]) != "assistant" or rejected[-1]["role"] != "assistant":
        raise FormatError(f"{where}: the last turn is of {role!r}, expected assistant")
    return Preference(prompt=chosen[:-1], chosen=chosen[-1]["content"], rejected=rejected[-1]["content"], margin=margin)


_HH = {"\n\nHuman:": "user", "\n\nAssistant:": "assistant"}


def conversation(value: object, where: str) -> list[dict[str, Any]]:
    """The turns of a list of messages or of HH's transcript. Raises FormatError naming ``where`` if it is neither."""
    if isinstance(value, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in value
    ):
        return value
    if not isinstance(value, str) or not value.startswith(tuple(_HH)):
        raise FormatError(f"{where}: expected a list of messages or a text that starts with '\\n\\nHuman:'")
    turns: list[dict[str, Any]] = []
    rest = value
    while rest:
        mark = next(mark for mark in _HH if rest.startswith(mark))
        rest = rest[len(mark) :]
        end = min((at for other in _HH if (at := rest.find(other)) >= 0), default=len(rest))
        turns.append({"role": _HH[mark], "content": rest[:end].strip()})
        rest = rest[end:]
    return turns


def prompt_ids(tokenizer: Tokenizer | None, prompt: Prompt) -> list[int]:
    """The tokens of ``prompt``: ids as they are, a string as the start of a text, messages to the assistant's turn."""
    if isinstance(prompt, str):
        return list(_known(tokenizer).encode(prompt).ids)
    if not prompt or isinstance(prompt[0], int):
        return [id_ for id_ in prompt if isinstance(id_, int)]
    text = _known(tokenizer).apply_chat_template(prompt, add_generation_prompt=True)  # type: ignore[arg-type]
    return list(_known(tokenizer).encode(text, add_special_tokens=False).ids)


def reply_ids(tokenizer: Tokenizer | None, prompt: Prompt, reply: str | Sequence[int]) -> list[int]:
    """The tokens of ``reply`` behind ``prompt``, its end included; ids as they are.

    Behind messages it is what the chat template writes for it, up to its last sign that is not white space, which
    generation never reaches. Raises InputError if the template does not continue what it wrote for the prompt.
    """
    if not isinstance(reply, str):
        return list(reply)
    tokenizer = _known(tokenizer)
    if isinstance(prompt, str) or not prompt or isinstance(prompt[0], int):
        end = [] if tokenizer.eos_id is None or not reply else [tokenizer.eos_id]
        return [*tokenizer.encode(reply, add_special_tokens=False).ids, *end]
    if not reply.strip():
        return []
    messages: list[Any] = [*prompt, {"role": "assistant", "content": reply}]
    before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)  # type: ignore[arg-type]
    whole = tokenizer.apply_chat_template(messages)
    if not whole.startswith(before):
        raise InputError("the chat template writes a conversation with a reply unlike the one that asks for it")
    return list(tokenizer.encode(whole[len(before) :].rstrip(), add_special_tokens=False).ids)


def example(prompt: Sequence[int], reply: Sequence[int]) -> Example:
    """``reply`` to be predicted after ``prompt``."""
    whole = [*prompt, *reply]
    return Example(whole[:-1], [IGNORED] * (len(prompt) - 1) + list(reply))


def encoded(
    model: Any,
    preferences: Sequence[Preference],
    *,
    tokenizer: Tokenizer | None = None,
    longest: int | None = None,
    unfit: Unfit = "refuse",
) -> Encoded:
    """``preferences`` as pairs of examples for ``model``.

    One whose prompt or a reply is empty, whose replies are identical, or with more than ``longest`` tokens (by default
    what the model takes) is unfit: InputError names it, or with ``unfit="drop"`` it is counted and left out. Raises
    InputError also for ids the model lacks, or if no pair is left.
    """
    # The last token of a reply is predicted and not read.
    room = 2**31 if model.config.context is None else model.config.context + 1
    limit = room if longest is None else min(longest, room)
    pairs: list[Pair] = []
    dropped: Counter[str] = Counter()
    for index, preference in enumerate(preferences):
        if tokenizer is None and not _all_ids(preference):
            tokenizer = tokenizer_of(model)
        prompt = prompt_ids(tokenizer, preference.prompt)
        chosen, rejected = (
            reply_ids(tokenizer, preference.prompt, r) for r in (preference.chosen, preference.rejected)
        )
        fault = _fault(prompt, chosen, rejected, limit)
        if fault is None:
            checked(model, [prompt + chosen, prompt + rejected], f"pair {index}, reply")
            pairs.append(Pair(example(prompt, chosen), example(prompt, rejected), preference.margin))
        elif unfit == "refuse":
            raise InputError(f"pair {index} {fault[1]}")
        else:
            dropped[fault[0]] += 1
    if not pairs:
        raise InputError(f"there is no pair to learn from; dropped: {dict(dropped) or 'none'}")
    return Encoded(pairs, dict(dropped))


def _fault(prompt: list[int], chosen: list[int], rejected: list[int], limit: int) -> tuple[str, str] | None:
    for name, ids in (("prompt", prompt), ("chosen reply", chosen), ("rejected reply", rejected)):
        if not ids:
            return "empty", f"has an empty {name}"
    if chosen == rejected:
        return "identical", "has identical replies"
    if (length := len(prompt) + max(len(chosen), len(rejected))) > limit:
        return "over-long", f"has {length} tokens, expected at most {limit}"
    return None


def _all_ids(preference: Preference) -> bool:
    parts = (preference.prompt, preference.chosen, preference.rejected)
    return all(not isinstance(part, str) and not (part and isinstance(part[0], Mapping)) for part in parts)


def _known(tokenizer: Tokenizer | None) -> Tokenizer:
    if tokenizer is None:
        raise InputError("texts need a tokenizer: pass tokenizer= or give token ids")
    return tokenizer
