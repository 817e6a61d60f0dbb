"""Prompting: templates, verbalizers, demonstrations and calibration, by their definitions and on a real model."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lmrs
from lmrs.errors import InputError
from lmrs.prompting import Task, Template, Verbalizer

FEELING = Task(Template("Review: {text}\nIt was"), Verbalizer({"good": [" great", " fun"], "bad": [" awful"]}))
SHOTS = [({"text": "I loved it."}, "good"), ({"text": "A waste of time."}, "bad")]


def biased(pairs: Sequence[tuple[str, str]]) -> list[Any]:
    """Stands for an engine: prefers " great" whatever it reads, and " awful" a little more after "boring"."""
    table = {" great": 0.6, " fun": 0.2, " awful": 0.1}
    return [
        SimpleNamespace(sum_logprob=np.log(table[word] * (2.0 if word == " awful" and "boring" in prompt else 1.0)))
        for prompt, word in pairs
    ]


def test_templates() -> None:
    assert Template("{a} and {{b}} {c}").fill({"a": 1, "c": "{a}"}) == "1 and {b} {a}"
    assert Template("{a}{b}{a}").fields == ["a", "b", "a"]
    with pytest.raises(InputError, match="has no b"):
        Template("{a}{b}").fill({"a": 1})
    for text in ("{a", "a}", "{}", "{a b}"):
        with pytest.raises(InputError, match="template"):
            Template(text)


def test_verbalizers() -> None:
    found = FEELING.verbalizer.probabilities(np.log([[0.6, 0.2, 0.1]]))
    np.testing.assert_allclose(found, [[0.4 / 0.5, 0.1 / 0.5]])
    for words, names in (
        ({"a": ["x"]}, "1 classes"),
        ({"a": ["x"], "b": []}, "'b' has no"),
        ({"a": ["x"], "b": ["x"]}, "share"),
    ):
        with pytest.raises(InputError, match=names):
            Verbalizer(words)


def test_demonstrations() -> None:
    assert FEELING.prompt({"text": "Fine."}, SHOTS) == (
        "Review: I loved it.\nIt was great\n\nReview: A waste of time.\nIt was awful\n\nReview: Fine.\nIt was"
    )
    with pytest.raises(InputError, match="a demonstration is 'meh'"):
        FEELING.prompt({"text": "x"}, [({"text": "y"}, "meh")])


def test_calibration_takes_the_prior_out() -> None:
    engine: Any = SimpleNamespace(continuations=biased)
    examples = [{"text": "boring"}, {"text": "so"}]
    plain, even = (FEELING.classify(engine, examples, calibrated=calibrated) for calibrated in (False, True))
    assert [answer.label for answer in plain] == ["good", "good"]
    assert even[0].label == "bad"
    # What says nothing has no class: a text like those is even.
    assert even[1].probabilities == pytest.approx({"good": 0.5, "bad": 0.5})


def test_a_real_model_ranks_a_good_review_higher(smollm2_gguf: Path) -> None:
    engine = lmrs.Engine(lmrs.load(smollm2_gguf))
    examples = [{"text": "I loved every minute of it."}, {"text": "Terrible acting, I walked out."}]
    answers = FEELING.classify(engine, examples, shots=SHOTS, calibrated=True)
    # Its labels lean to the last demonstration, as Zhao et al. found; the order of the two reviews does not.
    assert answers[0].probabilities["good"] > answers[1].probabilities["good"]
    assert sum(answers[0].probabilities.values()) == pytest.approx(1)
