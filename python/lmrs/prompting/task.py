"""Tasks by prompting: classes, choices and free text through one call, with demonstrations and calibration.

Demonstrations as in Brown et al. (2020), contextual calibration as in Zhao et al. (2021).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np

from lmrs.delta import Prompt, methods
from lmrs.engine import Engine, Options
from lmrs.errors import InputError
from lmrs.eval.outcome import Outcome
from lmrs.eval.tasks import Heard
from lmrs.prompting.reading import logprobs
from lmrs.prompting.template import MASK, Fillable
from lmrs.prompting.verbalizer import Floats, Verbalizer, learned

CONTENT_FREE = ("N/A", "[MASK]", "")
Examples = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Answer:
    """The likeliest class or choice and the probability of each; or the text that was written, and none."""

    label: str
    probabilities: Mapping[str, float]


@dataclass(frozen=True)
class Task:
    """A ``template`` and what its answer is; ``between`` demonstrations.

    With a ``verbalizer`` one of its classes; with ``choices`` one of the texts that this gives for an example, each put
    behind ``before``; with neither, what the model writes.
    """

    template: Fillable
    verbalizer: Verbalizer | None = None
    choices: Callable[[Mapping[str, Any]], Sequence[str]] | None = None
    between: str = "\n\n"
    before: str = " "

    def __post_init__(self) -> None:
        if self.verbalizer is not None and self.choices is not None:
            raise InputError("a task has a verbalizer or choices, not both")

    def _expect_soft(self, engine: Engine) -> None:
        """Raise InputError if the template has soft tokens and the engine's model has none."""
        if getattr(self.template, "soft", None) and not any(isinstance(m, Prompt) for m in methods(engine.model)):
            raise InputError("the template has soft tokens and the model has none: put template.prompt(model) on it")

    def prompt(self, example: Mapping[str, Any], shots: Sequence[tuple[Mapping[str, Any], str]] = ()) -> str:
        """The text of ``example`` after its demonstrations, each an example and its answer.

        Raises InputError for a demonstration whose answer is no class, or none of its choices.
        """
        told = []
        for shown, label in shots:
            text, word = self.template.fill(shown), self._word(shown, label)
            told.append(text.replace(MASK, word.strip()) if MASK in text else text + word)
        return self.between.join([*told, self.template.fill(example)])

    def _word(self, example: Mapping[str, Any], label: str) -> str:
        if self.verbalizer is not None:
            if label not in self.verbalizer.words:
                raise InputError(f"a demonstration is {label!r}, expected one of {', '.join(self.verbalizer.classes)}")
            return self.verbalizer.words[label][0]
        if self.choices is not None and label not in (known := self.choices(example)):
            raise InputError(f"a demonstration is {label!r}, expected one of {', '.join(known)}")
        return self.before + label

    def answer(
        self,
        engine: Engine,
        examples: Examples,
        *,
        shots: Sequence[tuple[Mapping[str, Any], str]] = (),
        calibrated: bool = False,
        **options: Unpack[Options],
    ) -> list[Answer]:
        """The answer to each of ``examples``, by any kind of model (see :mod:`lmrs.prompting.reading`).

        ``calibrated`` divides the probabilities of classes by those of inputs that say nothing, after the same
        demonstrations. ``options`` are those of generation. Raises InputError where a calibration or an option is not
        for this kind of answer, or there are fewer than two choices; and what the engine raises.
        """
        self._expect_soft(engine)
        if calibrated and self.verbalizer is None:
            raise InputError("classes can be calibrated; this task has none")
        if options and (self.verbalizer is not None or self.choices is not None):
            raise InputError(f"{', '.join(options)}: this task writes nothing")
        if self.verbalizer is not None:
            table = self._classes(engine, examples, shots, calibrated=calibrated)
            return [_likeliest(self.verbalizer.classes, p) for p in table]
        prompts = [self.prompt(example, shots) for example in examples]
        if self.choices is None:
            if cloze := [text for text in prompts if MASK in text.removesuffix(MASK)]:
                raise InputError(f"{cloze[0]!r} goes on behind its mask: give a verbalizer or choices")
            written = engine.generate([text.removesuffix(MASK) for text in prompts], **options)
            return [Answer(completion.text.strip(), {}) for completion in written]
        offered = [list(self.choices(example)) for example in examples]
        for number, texts in enumerate(offered):
            if len(texts) < 2 or len(set(texts)) < len(texts) or "" in texts:
                raise InputError(f"example {number} has the choices {texts!r}, expected at least two different texts")
        asked = [(p, self.before + t) for p, texts in zip(prompts, offered, strict=True) for t in texts]
        ends = np.cumsum([len(texts) for texts in offered])[:-1]
        parts = np.split(logprobs(engine, asked), ends)
        return [_likeliest(t, np.exp(x - np.logaddexp.reduce(x, axis=0))) for t, x in zip(offered, parts, strict=True)]

    def learned(
        self,
        engine: Engine,
        examples: Examples,
        labels: Sequence[str],
        *,
        decay: float = 1.0,
    ) -> "Task":
        """The task with its verbalizer :func:`~lmrs.prompting.verbalizer.learned` from ``examples``; no weight moves.

        Raises InputError if it has no verbalizer, and what that raises.
        """
        found = self._words(engine, [self.prompt(example) for example in examples])
        return replace(self, verbalizer=learned(self._verbalizer, found, labels, decay=decay))

    def judge(
        self,
        engine: Engine,
        examples: Examples,
        labels: Sequence[str],
        *,
        shots: Sequence[tuple[Mapping[str, Any], str]] = (),
        calibrated: bool = False,
        on_done: Heard | None = None,
    ) -> Outcome:
        """How often :meth:`answer` finds the ``labels``: ``acc``, and ``nll`` of the right class in nats.

        ``on_done`` hears how many words are scored. Raises InputError for a label that is no class, or without
        examples.
        """
        classes = self._verbalizer.classes
        for number, label in enumerate(labels):
            if label not in classes:
                raise InputError(f"example {number} has label {label!r}, expected one of {', '.join(classes)}")
        if len(labels) != len(examples) or not labels:
            raise InputError(f"there are {len(examples)} examples and {len(labels)} labels")
        found = self._classes(engine, examples, shots, calibrated=calibrated, on_done=on_done)
        right = np.array([classes.index(label) for label in labels])
        chosen = np.maximum(found[np.arange(len(right)), right], np.finfo(float).tiny)
        return Outcome.of({"acc": (found.argmax(1) == right).astype(float), "nll": -np.log(chosen)})

    @property
    def _verbalizer(self) -> Verbalizer:
        if self.verbalizer is None:
            raise InputError("the task has no verbalizer, so no classes")
        return self.verbalizer

    def _classes(
        self,
        engine: Engine,
        examples: Examples,
        shots: Sequence[tuple[Mapping[str, Any], str]],
        *,
        calibrated: bool,
        on_done: Heard | None = None,
    ) -> Floats:
        """The probability of each class, ``[n, classes]``."""
        verbalizer = self._verbalizer
        prompts = [self.prompt(example, shots) for example in examples]
        found = verbalizer.probabilities(self._words(engine, prompts, on_done))
        if calibrated:
            empty = [dict.fromkeys(self.template.fields, word) for word in CONTENT_FREE]
            nothing = self._words(engine, [self.prompt(e, shots) for e in empty])
            found = found / verbalizer.probabilities(nothing).mean(0)
            found = found / found.sum(1, keepdims=True)
        return found

    def _words(self, engine: Engine, prompts: Sequence[str], on_done: Heard | None = None) -> Floats:
        self._expect_soft(engine)
        words = self._verbalizer.every
        asked = [(prompt, word) for prompt in prompts for word in words]
        return logprobs(engine, asked, on_done=on_done).reshape(len(prompts), len(words))


def _likeliest(names: Sequence[str], p: Floats) -> Answer:
    return Answer(names[int(p.argmax())], dict(zip(names, p.tolist(), strict=True)))
