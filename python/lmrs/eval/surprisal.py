"""How surprising each word of a text is: ``-log p(word | what is before it)``, with the end of the word counted.

A token of a byte-level or SentencePiece vocabulary says with its own first character that a word begins, so that the
probability of its tokens is that of a *beginning* with this spelling; that the word also ends there is decided by the
token after it. With ``B`` the tokens that begin with white space, or end the text, the probability of the word is

    p(w | c) = Π p(tokens) · p(B | c, w) / p(B | c),

the one above where white space follows the word, the one below where it begins with some (Pimentel & Meister 2024;
Oh & Schuler 2024). Where there is none between words, as in Chinese, there is nothing to correct on that side.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lmrs.errors import InputError
from lmrs.eval.plans import Logits

if TYPE_CHECKING:
    from lmrs.engine import Engine

WIDE = "\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff\u0e00-\u0eff\u1780-\u17ff\u1000-\u109f"
"""Scripts written without spaces between words: a character of them is a word of its own."""
WORD = re.compile(rf"[{WIDE}]|[^\s{WIDE}]+")
ROWS = 32


@dataclass(frozen=True, kw_only=True)
class WordSurprisal:
    """``text[start:stop]``, of ``tokens`` tokens: ``surprisal`` in nats, and without the correction ``uncorrected``."""

    word: str
    start: int
    stop: int
    tokens: int
    surprisal: float
    uncorrected: float


def surprisal(engine: "Engine", text: str, *, words: Sequence[tuple[int, int]] | None = None) -> list[WordSurprisal]:
    """The surprisal of every word of ``text``.

    ``words`` are spans of characters, in order; by default runs between white space, and single characters of scripts
    that have none. Words that share a token are taken together. Raises InputError for a text without words or longer
    than the context, spans out of order, or a model that names no token to start from; ConfigError if it does not
    predict the next token.
    """
    engine.expect_next_token()
    spans = [match.span() for match in WORD.finditer(text)] if words is None else list(words)
    if (
        not spans
        or any(a >= b or b > len(text) for a, b in spans)
        or any(b[0] < a[1] for a, b in zip(spans, spans[1:], strict=False))
    ):
        raise InputError(f"the words of a text of {len(text)} characters are {spans[:4]}, expected spans in order")
    encoding = engine.tokenizer.encode(text, add_special_tokens=False)
    ids, prefix, limit = encoding.ids, engine.prefix, engine.config.context
    if prefix is None:
        raise InputError("the model names no bos or eos token to put before the text")
    if limit is not None and len(ids) + 1 > limit:
        raise InputError(f"the text has {len(ids)} tokens, expected at most {limit - 1}")
    beginning = beginnings(engine)
    logprobs, begins = _rows(engine, [prefix, *ids], beginning)
    found = []
    for (start, stop), tokens in _grouped(spans, encoding.offsets):
        total = -float(logprobs[tokens].sum(dtype=np.float64))
        corrected = total
        # Row t predicts token t: the row before a word's first token, and the one behind its last.
        if stop == len(text) or text[stop].isspace():
            corrected -= begins[tokens.stop]
        if start > 0 and beginning[ids[tokens.start]]:
            corrected += begins[tokens.start]
        found.append(
            WordSurprisal(
                word=text[start:stop],
                start=start,
                stop=stop,
                tokens=tokens.stop - tokens.start,
                surprisal=corrected,
                uncorrected=total,
            )
        )
    return found


def beginnings(engine: "Engine") -> npt.NDArray[np.bool_]:
    """``[V]``: the tokens that begin with white space, in either notation for it, or end a text."""
    chosen = np.zeros(engine.config.vocabulary, bool)
    numbers = [number for _, number in engine.tokenizer if number < len(chosen)]
    # SentencePiece drops the space of a text's first piece, so that only the token shows it.
    pieces = [engine.tokenizer.id_to_token(number) or "" for number in numbers]
    texts = engine.tokenizer.decode_batch([[number] for number in numbers])
    for number, piece, decoded in zip(numbers, pieces, texts, strict=True):
        chosen[number] = piece.startswith("▁") or decoded[:1].isspace()
    if engine.tokenizer.eos_id is not None:
        chosen[engine.tokenizer.eos_id] = True
    return chosen


def _rows(
    engine: "Engine", ids: list[int], begins: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Of each row: log p of the next id (of the last row: none), and log of what tokens that begin a word have."""
    logprobs, masses = [], []
    labels = np.array([*ids[1:], 0])
    for at, logits in enumerate(Logits(engine).blocks([ids], select=range(len(ids)), rows=ROWS)):
        exact = logits.astype(np.float64)
        exact -= exact.max(1, keepdims=True)
        whole = np.log(np.exp(exact).sum(1))
        logprobs.append(exact[np.arange(len(exact)), labels[at * ROWS :][: len(exact)]] - whole)
        masses.append(np.log(np.exp(exact[:, begins]).sum(1)) - whole)
    return np.concatenate(logprobs)[:-1], np.concatenate(masses)


def _grouped(
    spans: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]]
) -> list[tuple[tuple[int, int], slice]]:
    """Words with their tokens; words that share one as one."""
    found: list[tuple[tuple[int, int], slice]] = []
    for start, stop in spans:
        inside = [at for at, (a, b) in enumerate(offsets) if a < stop and b > start]
        if not inside:
            continue
        first, last = inside[0], inside[-1] + 1
        if found and found[-1][1].stop > first:
            (begun, _), tokens = found.pop()
            start, first = begun, tokens.start
        found.append(((start, stop), slice(first, last)))
    return found
