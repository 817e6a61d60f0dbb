"""What a model wrote, whole and piece by piece."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

FinishReason = Literal["eos", "stop", "length", "deadline"]
Likeliest = Sequence[tuple[int, float]]
"""Ids and their log-probabilities in nats, the likeliest first."""


@dataclass(frozen=True, eq=False)
class Beam:
    """A text that a search found: ``tokens`` and ``logprobs`` as in a Completion, and the ``score`` it is ranked by."""

    tokens: list[int]
    logprobs: npt.NDArray[np.float32]
    score: float


@dataclass(frozen=True, eq=False)
class Completion:
    """What a model wrote.

    ``tokens`` are all it chose, those of an end or a stop string included; ``logprobs``, float32, are in nats and of
    the model's own distribution, before temperature and the like. ``top_logprobs`` has an item a token if it was asked
    for: the likeliest tokens in its place. ``beams`` are the texts that a search found, the best, which this is, first.
    """

    text: str
    tokens: list[int]
    logprobs: npt.NDArray[np.float32]
    finish_reason: FinishReason
    top_logprobs: list[Likeliest] = field(default_factory=list)
    beams: list[Beam] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Token:
    """One more token: its ``text`` is what has become certain with it, maybe nothing, never half a character."""

    text: str
    id: int
    logprob: float
    top_logprobs: Likeliest


@dataclass(frozen=True, eq=False)
class Event:
    """What happened to a request in a step: a token, an end, or both."""

    text: str
    token: Token | None
    completion: Completion | None
    error: BaseException | None
