"""What may be asked of an engine, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from lmrs.engine.grammar import Grammar
from lmrs.errors import InputError

if TYPE_CHECKING:
    from lmrs.eval.protocols import Protocol

Ids = Sequence[int]


class Writing(TypedDict, total=False):
    """How a completion is made. Every option has a range; a value outside it raises InputError.

    ``max_tokens`` (128): at most so many new tokens, and ``min_tokens`` (0): no end-of-sequence token before so many.
    ``temperature`` (0, which takes the likeliest token; to 100), ``top_k`` (0: all), ``top_p`` (1), ``min_p`` (0),
    ``typical_p`` (1), ``repetition_penalty`` (1), ``no_repeat_ngram_size`` (0: none) and ``bad_words`` are
    transformers' processors of these names, in its order. ``bad_words`` are token ids, or texts: these are forbidden
    as the tokenizer writes them at the start of a text and after a space. ``presence_penalty`` and
    ``frequency_penalty`` (0) are OpenAI's, taken off the logits of tokens that were written, once and for each time;
    ``logit_bias`` adds to the logits of ids. ``begin``: ids that the completion begins with, whatever the model says;
    ``force_eos`` (False): whether the last of ``max_tokens`` is an end. ``seed`` (0): with the number of the token all
    that a draw depends on, so that a prompt's completion does not depend on what runs beside it; a sequence gives each
    prompt its own. ``stop``: strings before which the text ends. ``ignore_eos`` (False): whether to go on after an
    end-of-sequence token.

    ``beams`` (1): so many texts go on at once, and the completion is the one with the highest
    Σ log p / lengthᵖ, ``length_penalty`` (1) being p; ``early_stopping`` (False) is transformers', True, False or
    "never". ``guidance`` (1) is the scale of classifier-free guidance away from ``negative_prompt`` (None).
    ``penalty_alpha`` (0: off) is α of contrastive search (Su et al., 2022): of the ``top_k`` likeliest tokens the one
    with the largest (1 - α)·p - α·cos, cos being the likeness of its state to the most similar earlier one.
    ``grammar`` (None) is what the text must be, a :class:`lmrs.Grammar`.
    """

    max_tokens: int
    min_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    no_repeat_ngram_size: int
    bad_words: Sequence[str | Ids]
    begin: Ids
    force_eos: bool
    seed: int | Sequence[int]
    stop: str | Sequence[str]
    ignore_eos: bool
    beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    guidance: float
    penalty_alpha: float
    negative_prompt: str | Ids | None
    grammar: Grammar | None


class Options(Writing, total=False):
    """How a completion is made, and how a request is treated beside others: more than :class:`Writing`.

    ``top_logprobs`` (0): how many of the likeliest tokens to tell of in the place of each. ``draft_tokens`` (0): so
    many are guessed ahead, by the engine's draft model or from what is there already, and computed together; the
    completion is the same to the bit. ``delta`` (None): the name
    of a delta loaded with :meth:`Engine.load_delta`. ``priority`` (0): a request of a higher one goes first, and may
    take the place of one that runs, which then starts again with what it has. ``timeout`` (None): seconds after which
    the text ends as it is, with the finish reason ``"deadline"``.
    """

    top_logprobs: int
    draft_tokens: int
    delta: str | None
    priority: int
    timeout: float | None


class Reading(TypedDict, total=False):
    """How a text is scored.

    ``protocol`` ("rolling", see :mod:`lmrs.eval.protocols`) cuts it into windows; ``window`` (the context) is the most
    tokens read at once, ``stride`` (half the window) that of strided protocols. ``top_k``, ``rank`` and ``entropy``
    (None, False, False) ask for these of each token's distribution: see :class:`lmrs.eval.Score`. ``delta`` (None): the
    name of a delta loaded with :meth:`Engine.load_delta`.
    """

    protocol: Protocol
    window: int | None
    stride: int | None
    top_k: int | None
    rank: bool
    entropy: bool
    delta: str | None


DEFAULTS: Options = {
    "max_tokens": 128,
    "min_tokens": 0,
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "logit_bias": {},
    "no_repeat_ngram_size": 0,
    "bad_words": (),
    "begin": (),
    "force_eos": False,
    "seed": 0,
    "stop": (),
    "ignore_eos": False,
    "beams": 1,
    "length_penalty": 1.0,
    "early_stopping": False,
    "guidance": 1.0,
    "penalty_alpha": 0.0,
    "negative_prompt": None,
    "grammar": None,
    "top_logprobs": 0,
    "draft_tokens": 0,
    "delta": None,
    "priority": 0,
    "timeout": None,
}

_INTEGERS = (
    ("max_tokens", 1, 2**31),
    ("min_tokens", 0, 2**31),
    ("no_repeat_ngram_size", 0, 2**31),
    ("top_k", 0, 2**31),
    ("seed", 0, 2**64 - 1),
    ("top_logprobs", 0, 2**31),
    ("beams", 1, 2**31),
    ("draft_tokens", 0, 256),
    ("priority", -(2**31), 2**31 - 1),
)
_NUMBERS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "length_penalty",
    "guidance",
    "penalty_alpha",
)


def expect_known(options: Mapping[str, object], known: Mapping[str, object]) -> None:
    """Raises InputError naming the options that are not ``known``."""
    unknown = options.keys() - known.keys()
    if unknown:
        raise InputError(f"unknown option {', '.join(sorted(unknown))}; the options are {', '.join(known)}")


def chosen(options: Options, *, at: int, eos: list[int], encode: Callable[[str], list[int]]) -> dict[str, Any]:
    """What the ``at``-th prompt is given of ``options``, whole, as the native engine reads it. Raises InputError.

    ``encode`` turns a bad word into ids.
    """
    expect_known(options, DEFAULTS)
    found: dict[str, Any] = {**DEFAULTS, **options}
    seeds = found["seed"]
    if isinstance(seeds, Sequence) and not isinstance(seeds, str):
        found["seed"] = seeds[at] if at < len(seeds) else -1
    for name, least, most in _INTEGERS:
        value = found[name]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise InputError(f"{name} is {value!r}, expected an integer from {least} to {most}")
    for name in _NUMBERS:
        if isinstance(found[name], bool) or not isinstance(found[name], int | float):
            raise InputError(f"{name} is {found[name]!r}, expected a number")
    stop, timeout = found["stop"], found.pop("timeout")
    found["stop"] = [stop] if isinstance(stop, str) else list(stop)
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0):
        raise InputError(f"timeout is {timeout!r}, expected seconds, 0 or more")
    if not isinstance(found["logit_bias"], Mapping):
        raise InputError(f"logit_bias is {found['logit_bias']!r}, expected a mapping of ids to numbers")
    found["logit_bias"] = [(_id("logit_bias", id_), by) for id_, by in found["logit_bias"].items()]
    found["bad_words"] = _words(found["bad_words"], encode)
    found["begin"] = [_id("begin", id_) for id_ in found["begin"]]
    if found["early_stopping"] not in (True, False, "never"):
        raise InputError(f'early_stopping is {found["early_stopping"]!r}, expected True, False or "never"')
    if found["early_stopping"] == "never":
        found["early_stopping"] = None
    if found["guidance"] != 1 and found["negative_prompt"] is None:
        raise InputError("guidance needs a negative_prompt to keep away from")
    del found["delta"]
    found["eos"] = [] if found.pop("ignore_eos") else eos
    return found


def _words(words: Sequence[str | Ids], encode: Callable[[str], list[int]]) -> list[list[int]]:
    found: list[list[int]] = []
    for word in [words] if isinstance(words, str) else words:
        forms = [encode(word), encode(f" {word}")] if isinstance(word, str) else [list(word)]
        found += [[_id("bad_words", id_) for id_ in form] for form in forms]
    return found


def _id(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise InputError(f"{name} has {value!r}, expected token ids")
    return value
