"""The perplexity of a model on a corpus: by sums that merge, so that a run can stop, go on, and be divided."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmrs.errors import FormatError, InputError
from lmrs.eval.protocols import Protocol, TooShortError
from lmrs.eval.rows import texts
from lmrs.eval.scores import Score, total
from lmrs.files import read_json, replace_file

if TYPE_CHECKING:
    from lmrs.engine import Engine
    from lmrs.models import LanguageModel
    from lmrs.tokenizer import Tokenizer

UNIT = 2.0**-40
"""Log-probabilities are added up in this many nats, as integers: their sum does not depend on the order."""
TOGETHER = 32
"""Texts scored in one call, and at most lost when a run is killed between two saves."""


def perplexity(
    model: "LanguageModel | Engine",
    texts: str | Sequence[str],
    *,
    tokenizer: "Tokenizer | None" = None,
    protocol: Protocol = "rolling",
    window: int | None = None,
    stride: int | None = None,
) -> Score:
    """One :class:`Score` for all ``texts`` together, each scored on its own; an engine scores in its own ``dtype``.

    The options are those of :meth:`lmrs.Engine.score`. Raises InputError if there is no text or one is empty.
    """
    # The engine imports the protocols of this package.
    from lmrs.engine import Engine

    many = [texts] if isinstance(texts, str) else list(texts)
    if not many:
        raise InputError("there is no text to score")
    engine = model if isinstance(model, Engine) else Engine(model, tokenizer=tokenizer)
    return total(engine.score(many, protocol=protocol, window=window, stride=stride))


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What is known of a corpus, or of a shard of it: ``a + b`` is what is known of both, in any order the same.

    ``units`` is the sum of log-probabilities in 2⁻⁴⁰ nats; ``skipped`` counts texts that have no token to score. The
    measures are those of :class:`lmrs.eval.Score`.
    """

    protocol: Protocol
    texts: int = 0
    skipped: int = 0
    tokens: int = 0
    words: int = 0
    bytes: int = 0
    units: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        if self.protocol != other.protocol:
            raise InputError(f"numbers of {self.protocol!r} and of {other.protocol!r} do not add up")
        fields = ("texts", "skipped", "tokens", "words", "bytes", "units")
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in fields})

    def with_score(self, score: Score) -> "Totals":
        """With one more text."""
        counts = {"tokens": score.tokens, "words": score.words, "bytes": score.bytes}
        return self + Totals(protocol=score.protocol, texts=1, units=round(score.sum_logprob / UNIT), **counts)

    @property
    def sum_logprob(self) -> float:
        """In nats."""
        return self.units * UNIT

    @property
    def perplexity(self) -> float:
        """``exp(-sum_logprob / tokens)``."""
        return self._by(self.tokens)

    @property
    def word_perplexity(self) -> float:
        """``exp(-sum_logprob / words)``."""
        return self._by(self.words)

    @property
    def byte_perplexity(self) -> float:
        """``exp(-sum_logprob / bytes)``."""
        return self._by(self.bytes)

    @property
    def bits_per_byte(self) -> float:
        """``-sum_logprob / (bytes·ln 2)``."""
        return -self.sum_logprob / (max(self.bytes, 1) * math.log(2))

    def _by(self, count: int) -> float:
        if not count:
            raise InputError("no text was scored")
        return math.exp(min(-self.sum_logprob / count, 700.0))


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Every ``of``-th text of a corpus, from number ``index`` on: 0 … of - 1."""

    index: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.of:
            raise InputError(f"shard {self.index} of {self.of}, expected 0 to {self.of - 1}")


def score_corpus(
    engine: "Engine",
    files: Sequence[str | Path],
    *,
    column: str = "text",
    protocol: Protocol = "rolling",
    window: int | None = None,
    stride: int | None = None,
    shard: Shard = Shard(),
    state: str | Path | None = None,
    on_done: Callable[[Totals], object] | None = None,
) -> Totals:
    """The sums over all texts of ``files`` (:func:`lmrs.eval.rows.texts`), or over a ``shard`` of them.

    A few texts are in memory at a time. With ``state``, a file, the sums so far are kept there, replaced whole after
    every 32 texts, and a run that finds them goes on behind them: it ends with the integers of a run that was never
    interrupted. :func:`merged` adds up the files of all shards. ``on_done`` hears the sums after every 32 texts.
    Raises InputError for a state of another run and what reading raises; what was scored before stays in ``state``.
    """
    setting = {
        "files": [[str(path), Path(path).stat().st_size if Path(path).is_file() else None] for path in files],
        "column": column,
        "protocol": protocol,
        "window": window,
        "stride": stride,
        "shard": [shard.index, shard.of],
        "model": None if engine.model.source is None else str(engine.model.source),
        "dtype": engine.dtype,
    }
    done = Totals(protocol=protocol)
    if state is not None and Path(state).exists():
        found = read_json(Path(state))
        for name, value in setting.items():
            if found.get(name) != value:
                raise InputError(f"{state} is of another run: its {name} is {found.get(name)!r}, not {value!r}")
        done = _read(Path(state), found)
    rows: Iterator[str] = (text for path in files for text in texts(Path(path), column=column))
    mine = islice(rows, shard.index + (done.texts + done.skipped) * shard.of, None, shard.of)
    while some := list(islice(mine, TOGETHER)):
        done = _scored(engine, some, done, window=window, stride=stride)
        if state is not None:
            replace_file(Path(state), json.dumps(setting | {"totals": _plain(done)}).encode())
        if on_done is not None:
            on_done(done)
    return done


def _scored(engine: "Engine", some: Sequence[str], done: Totals, **reading: Any) -> Totals:
    countable = []
    for text in some:
        with suppress(TooShortError):
            if text:
                engine.windows(text, protocol=done.protocol, **reading)
                countable.append(text)
    for score in engine.score(countable, protocol=done.protocol, **reading):
        done = done.with_score(score)
    return replace(done, skipped=done.skipped + len(some) - len(countable))


def merged(states: Sequence[str | Path]) -> Totals:
    """The sums of all shards, from the files that :func:`score_corpus` keeps. Raises InputError if none is given."""
    parts = [_read(Path(state), read_json(Path(state))) for state in states]
    if not parts:
        raise InputError("there is no shard to add up")
    return sum(parts[1:], parts[0])


def _plain(done: Totals) -> dict[str, Any]:
    return dict(vars(done))


def _read(path: Path, found: dict[str, Any]) -> Totals:
    try:
        fields = found["totals"]
        if not all(isinstance(value, int) for name, value in fields.items() if name != "protocol"):
            raise TypeError
        return Totals(**fields)
    except (KeyError, TypeError, AttributeError):
        raise FormatError(f"{path}: no sums of a corpus in it") from None
