"""Classification by prompting, with demonstrations and contextual calibration (Brown et al. 2020; Zhao et al. 2021)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmrs.engine import Engine
from lmrs.errors import InputError
from lmrs.eval.outcome import Outcome
from lmrs.eval.tasks import Heard, scored
from lmrs.prompting.template import Template
from lmrs.prompting.verbalizer import Floats, Verbalizer

CONTENT_FREE = ("N/A", "[MASK]", "")


@dataclass(frozen=True, eq=False)
class Answer:
    """The likeliest class of an example, and the probability of each."""

    label: str
    probabilities: Mapping[str, float]


@dataclass(frozen=True)
class Task:
    """A ``template`` whose continuation is one of the words of ``verbalizer``; ``between`` demonstrations."""

    template: Template
    verbalizer: Verbalizer
    between: str = "\n\n"

    def prompt(self, example: Mapping[str, Any], shots: Sequence[tuple[Mapping[str, Any], str]] = ()) -> str:
        """The text of ``example`` after its demonstrations, each an example and its class.

        Raises InputError for a class that is none.
        """
        told = []
        for shown, label in shots:
            if label not in self.verbalizer.words:
                raise InputError(f"a demonstration is {label!r}, expected one of {', '.join(self.verbalizer.classes)}")
            told.append(self.template.fill(shown) + self.verbalizer.words[label][0])
        return self.between.join([*told, self.template.fill(example)])

    def classify(
        self,
        engine: Engine,
        examples: Sequence[Mapping[str, Any]],
        *,
        shots: Sequence[tuple[Mapping[str, Any], str]] = (),
        calibrated: bool = False,
    ) -> list[Answer]:
        """The class of each of ``examples``.

        ``calibrated`` divides the probabilities by those of inputs that say nothing, after the same demonstrations.
        """
        found = self._classes(engine, examples, shots, calibrated=calibrated)
        classes = self.verbalizer.classes
        return [Answer(classes[int(p.argmax())], dict(zip(classes, p.tolist(), strict=True))) for p in found]

    def judge(
        self,
        engine: Engine,
        examples: Sequence[Mapping[str, Any]],
        labels: Sequence[str],
        *,
        shots: Sequence[tuple[Mapping[str, Any], str]] = (),
        calibrated: bool = False,
        on_done: Heard | None = None,
    ) -> Outcome:
        """How often :meth:`classify` finds the ``labels``: ``acc``, and ``nll`` of the right class in nats.

        ``on_done`` hears how many words are scored. Raises InputError for a label that is no class, or without
        examples.
        """
        classes = self.verbalizer.classes
        for number, label in enumerate(labels):
            if label not in classes:
                raise InputError(f"example {number} has label {label!r}, expected one of {', '.join(classes)}")
        if len(labels) != len(examples) or not labels:
            raise InputError(f"there are {len(examples)} examples and {len(labels)} labels")
        found = self._classes(engine, examples, shots, calibrated=calibrated, on_done=on_done)
        right = np.array([classes.index(label) for label in labels])
        chosen = np.maximum(found[np.arange(len(right)), right], np.finfo(float).tiny)
        return Outcome.of({"acc": (found.argmax(1) == right).astype(float), "nll": -np.log(chosen)})

    def _classes(
        self,
        engine: Engine,
        examples: Sequence[Mapping[str, Any]],
        shots: Sequence[tuple[Mapping[str, Any], str]],
        *,
        calibrated: bool,
        on_done: Heard | None = None,
    ) -> Floats:
        """The probability of each class, ``[n, classes]``."""
        found = self._probabilities(engine, [self.prompt(example, shots) for example in examples], on_done)
        if calibrated:
            empty = [dict.fromkeys(self.template.fields, word) for word in CONTENT_FREE]
            found = found / self._probabilities(engine, [self.prompt(e, shots) for e in empty]).mean(0)
            found = found / found.sum(1, keepdims=True)
        return found

    def _probabilities(self, engine: Engine, prompts: Sequence[str], on_done: Heard | None = None) -> Floats:
        words = self.verbalizer.every
        found = scored(engine, [(prompt, word) for prompt in prompts for word in words], on_done)
        logprobs = np.array([one.sum_logprob for one in found]).reshape(len(prompts), len(words))
        return self.verbalizer.probabilities(logprobs)
