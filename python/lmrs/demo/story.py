"""What the chapters of the demo hand from each to the next."""

from collections.abc import Callable
from dataclasses import dataclass

from lmrs.demo.report import Section
from lmrs.demo.texts import Text
from lmrs.models import LanguageModel
from lmrs.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How much a chapter trains: `steps` of `batch_tokens`, in runs of `context`, at a peak `rate`."""

    steps: int
    batch_tokens: int
    context: int
    rate: float


@dataclass(frozen=True, kw_only=True)
class Story:
    """A model that knows (or is about to learn) `home`, and will be tuned to `away`."""

    model: LanguageModel
    tokenizer: Tokenizer
    home: Text
    away: Text
    learning: Pace
    tuning: Pace
    preferring: Pace


Chapter = Callable[[Story], tuple[Story, Section]]
"""A chapter reads the story, takes it further, and tells what happened as a section of the report."""
