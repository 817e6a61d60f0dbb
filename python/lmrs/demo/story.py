"""What the chapters of the demo hand from each to the next."""

from collections.abc import Callable
from dataclasses import dataclass

from lmrs.demo.report import Section
from lmrs.demo.texts import Text
from lmrs.models import LanguageModel
from lmrs.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How much a chapter does; the defaults keep the whole demo under two minutes on two cores."""

    steps: int
    sequences: int
    length: int
    rate: float


@dataclass(frozen=True, kw_only=True)
class Story:
    """A model that learnt (or was given as knowing) `home`, and is about to learn `away`."""

    tokenizer: Tokenizer
    model: LanguageModel
    home: Text
    away: Text
    pretraining: Pace
    tuning: Pace
    prompts: tuple[str, ...]
    seed: int = 0


Chapter = Callable[[Story], tuple[Story, Section]]
"""A chapter reads the story, adds to it, and tells what happened."""
