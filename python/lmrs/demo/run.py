"""Which chapters are played, at what pace, and the page they end in."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import lmrs
from lmrs.backend.machine import instruction_set, threads
from lmrs.demo import texts
from lmrs.demo.chapters.prefer import prefer
from lmrs.demo.chapters.pretrain import pretrain
from lmrs.demo.chapters.tune import tune
from lmrs.demo.report import Section, Table, write
from lmrs.demo.story import Chapter, Pace, Story
from lmrs.demo.texts import Text
from lmrs.initialise import initialise
from lmrs.models import gpt2
from lmrs.terminal import waiting
from lmrs.tokenizer import Tokenizer

CONTEXT = 128

# Little more than a minute in all on two cores with AVX-512. Preferences are gone through once.
LEARNING = Pace(steps=320, batch_tokens=8 * CONTEXT, context=CONTEXT, rate=2e-3)
TUNING = Pace(steps=150, batch_tokens=8 * CONTEXT, context=CONTEXT, rate=2e-3)
TUNING_A_CHECKPOINT = Pace(steps=30, batch_tokens=512, context=CONTEXT, rate=5e-4)
PREFERRING = Pace(steps=57, batch_tokens=8 * CONTEXT, context=CONTEXT, rate=1e-3)
PREFERRING_A_CHECKPOINT = Pace(steps=8, batch_tokens=512, context=CONTEXT, rate=2e-4)
JUDGED_CHARACTERS = 4000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The page, the seconds it all took, and the sections in it."""

    report: Path
    seconds: float
    sections: Sequence[Section]


def run(report: Path, *, model: Path | None = None, steps: int | None = None) -> Outcome:
    """Play the demo and write its page to `report`; on the checkpoint `model` in place of a model of its own.

    `steps` replaces the number of steps of every training. Raises what loading and training raise.
    """
    start = time.perf_counter()
    story = _own() if model is None else _of(model)
    if steps is not None:
        paces = {name: replace(getattr(story, name), steps=steps) for name in ("learning", "tuning", "preferring")}
        story = replace(story, **paces)
    chapters: list[Chapter] = [pretrain, tune, prefer] if model is None else [tune, prefer]
    sections = []
    for chapter in chapters:
        story, section = chapter(story)
        sections.append(section)
    seconds = time.perf_counter() - start
    facts = Table(
        ["this run", ""],
        [
            ["lmrs", lmrs.__version__],
            ["instruction set, threads", f"{instruction_set()}, {threads()}"],
            ["model", "a GPT from scratch" if model is None else model.name],
            ["time", f"{seconds:.0f} seconds"],
        ],
    )
    write(
        report,
        "A language model's life on this machine",
        "What lmrs demo trained, judged, tuned, taught to prefer and let write.",
        facts,
        sections,
    )
    return Outcome(report=report, seconds=seconds, sections=sections)


def _own() -> Story:
    """A GPT-2 of four blocks with the tokenizer that ships with the package."""
    tokenizer = texts.tokenizer()
    config = gpt2.Config(vocabulary=len(tokenizer), width=192, layers=4, heads=6, context=CONTEXT, inner=768)
    return Story(
        model=initialise(gpt2.Model(config), seed=0),
        tokenizer=tokenizer,
        home=texts.shakespeare(),
        away=texts.addresses(),
        learning=LEARNING,
        tuning=TUNING,
        preferring=PREFERRING,
    )


def _of(path: Path) -> Story:
    """A real checkpoint, tuned from what it knows to the addresses; Shakespeare shows what it keeps."""
    with waiting(f"loading {path.name}"):
        model, tokenizer = lmrs.load(path), Tokenizer.load(path)
    return Story(
        model=model,
        tokenizer=tokenizer,
        home=_judged_briefly(texts.shakespeare()),
        away=_judged_briefly(texts.addresses()),
        learning=LEARNING,
        tuning=TUNING_A_CHECKPOINT,
        preferring=PREFERRING_A_CHECKPOINT,
    )


def _judged_briefly(text: Text) -> Text:
    """A checkpoint is a hundred times the size of the demo's own model: it is judged by less."""
    return replace(text, held_out=text.held_out[:JUDGED_CHARACTERS])
