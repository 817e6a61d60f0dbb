"""How a text longer than a model's context is cut into windows, and which tokens of each window are scored.

Perplexities of one model on one text differ by tens of percent between these protocols, so a number without its
protocol says little. Every protocol is a pure function from the tokens of one text to windows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lmrs.errors import InputError

Protocol = Literal["rolling", "strided", "disjoint", "bos_each_window", "strided_hf", "llama_cpp"]


class TooShortError(InputError):
    """A text has no token that its protocol scores."""


@dataclass(frozen=True)
class Window:
    """The model reads ``inputs``; its last ``len(targets)`` predictions are scored against ``targets``.

    The window counts for ``counted`` tokens: their log-probabilities are summed and the sum multiplied by
    ``counted / len(targets)``, which is 1 except in ``strided_hf``.
    """

    inputs: Sequence[int]
    targets: Sequence[int]
    counted: int

    def labels(self) -> list[int]:
        """What each row of ``inputs`` should predict, -1 where that is not scored."""
        return [-1] * (len(self.inputs) - len(self.targets)) + list(self.targets)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The numbers a protocol needs.

    ``window`` is the most tokens a model reads at once, ``stride`` from the start of one window to that of the next.
    ``prefix`` is the token before a text (its beginning-of-sequence token, else the end-of-sequence token), None if the
    model has neither.
    """

    window: int
    stride: int
    prefix: int | None

    def before(self, protocol: Protocol) -> int:
        """The prefix. Raises InputError if there is none."""
        if self.prefix is None:
            raise InputError(
                f"protocol {protocol!r} puts a token before the text, but the model names no bos or eos token"
            )
        return self.prefix


def rolling(tokens: Sequence[int], cut: Cut) -> list[Window]:
    """Each token once, the first after ``prefix``; windows overlap only where the last reaches back for a full context.

    This is ``loglikelihood_rolling`` of lm-evaluation-harness (``get_rolling_token_windows``, context 1).
    """
    whole = [cut.before("rolling"), *tokens]
    windows = []
    for done in range(0, len(tokens), cut.window):
        end = min(done + cut.window, len(tokens))
        start = max(end - cut.window, 0)
        windows.append(Window(whole[start:end], tokens[done:end], end - done))
    return windows


def strided(tokens: Sequence[int], cut: Cut) -> list[Window]:
    """Windows that start ``stride`` apart, each scoring what those before did not; the first token is not scored.

    Once the text is that long, a scored token has at least ``window - stride`` tokens before it.
    """
    parts = [(tokens[start : end - 1], tokens[max(done, start + 1) : end]) for start, end, done in _steps(tokens, cut)]
    return [Window(inputs, targets, len(targets)) for inputs, targets in parts if targets]


def _steps(tokens: Sequence[int], cut: Cut) -> Iterator[tuple[int, int, int]]:
    """Start and end of each window, and the end of the one before."""
    done = 0
    for start in range(0, len(tokens), cut.stride):
        end = min(start + cut.window, len(tokens))
        yield start, end, done
        done = end
        if end == len(tokens):
            return


def disjoint(tokens: Sequence[int], cut: Cut) -> list[Window]:
    """Windows beside each other; the first token of each is read and not scored."""
    starts = range(0, len(tokens) - 1, cut.window)
    parts = [tokens[start : start + cut.window] for start in starts]
    return [Window(part[:-1], part[1:], len(part) - 1) for part in parts]


def bos_each_window(tokens: Sequence[int], cut: Cut) -> list[Window]:
    """Windows beside each other, ``prefix`` before each: every token is scored once."""
    before = cut.before("bos_each_window")
    size = cut.window - 1
    if size < 1:
        raise InputError(f"window is {cut.window}, expected at least 2 with a prefix in each")
    parts = [tokens[start : start + size] for start in range(0, len(tokens), size)]
    return [Window([before, *part[:-1]], part, len(part)) for part in parts]


def strided_hf(tokens: Sequence[int], cut: Cut) -> list[Window]:
    """``strided`` as transformers' documentation computes it ("Perplexity of fixed-length models").

    To compare with numbers found so: every window's mean, but for the first, is weighted by one token less than it is
    the mean of.
    """
    counts = [end - done - 1 for _, end, done in _steps(tokens, cut)]
    scored = zip(strided(tokens, cut), counts, strict=False)
    return [Window(window.inputs, window.targets, count) for window, count in scored if count]


def llama_cpp(tokens: Sequence[int], cut: Cut) -> list[Window]:
    """Whole windows beside each other, the rest dropped, and only the second half of each scored.

    The first token of each gives way to ``prefix``. This is ``llama-perplexity`` without ``--ppl-stride``.
    """
    before = cut.before("llama_cpp")
    whole = [before, *tokens]
    first = cut.window // 2 + 1
    if len(whole) < 2 * cut.window:
        raise TooShortError(
            f"protocol 'llama_cpp' needs {2 * cut.window - 1} tokens for windows of {cut.window}, got {len(tokens)}"
        )
    windows = []
    for start in range(0, len(whole) - cut.window + 1, cut.window):
        part = [before, *whole[start + 1 : start + cut.window]]
        windows.append(Window(part[:-1], part[first:], len(part) - first))
    return windows


PROTOCOLS: dict[Protocol, Callable[[Sequence[int], Cut], list[Window]]] = {
    "rolling": rolling,
    "strided": strided,
    "disjoint": disjoint,
    "bos_each_window": bos_each_window,
    "strided_hf": strided_hf,
    "llama_cpp": llama_cpp,
}


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What a model and a caller allow: ``window`` is by default ``context``, ``stride`` half of ``window``."""

    context: int | None
    window: int | None = None
    stride: int | None = None
    prefix: int | None = None


def windows(tokens: Sequence[int], *, protocol: Protocol, frame: Frame) -> list[Window]:
    """The windows of ``protocol``.

    Raises InputError for an unknown protocol, a window or stride out of range; TooShortError, one of these, if there is
    no token to score.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol is {protocol!r}, expected one of {', '.join(PROTOCOLS)}")
    most = max(len(tokens) + 1, frame.window or 1) if frame.context is None else frame.context
    window = most if frame.window is None else frame.window
    if not 1 <= window <= most:
        raise InputError(f"window is {window}, expected 1 to {most}")
    stride = max(window // 2, 1) if frame.stride is None else frame.stride
    if not 1 <= stride <= window:
        raise InputError(f"stride is {stride}, expected 1 to the window, {window}")
    found = PROTOCOLS[protocol](tokens, Cut(window=window, stride=stride, prefix=frame.prefix))
    if not found:
        raise TooShortError(f"a text of {len(tokens)} tokens has none that protocol {protocol!r} scores")
    return found
