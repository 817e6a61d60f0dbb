"""Sampling: transformers' distributions on the same logits, and OpenAI's penalties by their formula."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation import logits_process

from lmrs import Engine, _rs, models
from lmrs.engine.options import chosen
from lmrs.errors import InputError

FIXTURES = Path(__file__).parent / "fixtures" / "models"
Floats = npt.NDArray[np.float64]

MOST = 40
IDS = st.integers(0, MOST - 1)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0.1, 4),
        "top_k": st.integers(1, 70),
        "top_p": st.floats(0.01, 1),
        "min_p": st.floats(0, 0.5),
        "typical_p": st.floats(0.01, 0.99),
        "repetition_penalty": st.floats(0.5, 2),
        "no_repeat_ngram_size": st.integers(1, 4),
        "logit_bias": st.dictionaries(IDS, st.floats(-20, 20), max_size=4),
        "bad_words": st.lists(st.lists(IDS, min_size=1, max_size=3), max_size=4),
        "min_tokens": st.integers(0, 8),
        "begin": st.lists(IDS, max_size=4),
        "force_eos": st.booleans(),
        "max_tokens": st.integers(1, 8),
    },
)


def theirs(logits: Floats, prompt: list[int], written: list[int], eos: list[int], options: dict[str, Any]) -> Floats:
    """The distribution after transformers' processors, in the order `generate` runs them."""
    chain = transformers.LogitsProcessorList()
    if options.get("logit_bias"):
        bias: Any = {(id_,): float(by) for id_, by in options["logit_bias"].items()}
        chain.append(logits_process.SequenceBiasLogitsProcessor(bias))
    if "repetition_penalty" in options:
        chain.append(logits_process.RepetitionPenaltyLogitsProcessor(options["repetition_penalty"]))
    if options.get("no_repeat_ngram_size"):
        chain.append(logits_process.NoRepeatNGramLogitsProcessor(options["no_repeat_ngram_size"]))
    if options.get("bad_words"):
        chain.append(logits_process.NoBadWordsLogitsProcessor(options["bad_words"]))
    if options.get("min_tokens"):
        chain.append(
            logits_process.MinNewTokensLengthLogitsProcessor(len(prompt), options["min_tokens"], eos, device="cpu")
        )
    begin = options.get("begin", [])
    if len(written) < len(begin):
        length = len(prompt) + len(written)
        # The processor of a forced first token, told that the first is now.
        forced = logits_process.ForcedBOSTokenLogitsProcessor(begin[len(written)])
        chain.append(lambda ids, scores: forced(ids[:, length - 1 :], scores))
    if options.get("force_eos"):
        most = len(prompt) + options.get("max_tokens", 128)
        chain.append(logits_process.ForcedEOSTokenLogitsProcessor(most, eos, device="cpu"))
    chain.append(logits_process.TemperatureLogitsWarper(float(options.get("temperature", 1.0))))
    if "top_k" in options:
        chain.append(logits_process.TopKLogitsWarper(options["top_k"]))
    if options.get("top_p", 1.0) < 1:
        chain.append(logits_process.TopPLogitsWarper(options["top_p"]))
    if "min_p" in options:
        chain.append(logits_process.MinPLogitsWarper(options["min_p"]))
    if "typical_p" in options:
        chain.append(logits_process.TypicalLogitsWarper(options["typical_p"]))
    ids: Any = torch.tensor([prompt + written], dtype=torch.int64)
    scores = chain(ids, torch.from_numpy(logits)[None].clone())
    return np.asarray(scores.softmax(-1)[0].numpy())


def ours(logits: Floats, prompt: list[int], written: list[int], eos: list[int], options: dict[str, Any]) -> Floats:
    request: dict[str, Any] = chosen({"temperature": 1.0, **options}, at=0, eos=eos, encode=lambda _: [])  # type: ignore[typeddict-item]
    found = np.zeros(len(logits))
    for token, p in _rs.sampling_distribution(logits.tolist(), written, {**request, "prompt": prompt, "drafter": None}):
        found[token] = p
    return found


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=MOST, max_size=MOST, unique=True),
    st.lists(IDS, min_size=1, max_size=6),
    st.lists(IDS, max_size=7),
    st.lists(IDS, min_size=1, max_size=2, unique=True),
    OPTIONS,
)
def test_distributions_are_transformers(
    logits: list[float], prompt: list[int], written: list[int], eos: list[int], options: dict[str, Any]
) -> None:
    scores = np.array(logits, np.float64)
    if "max_tokens" in options:
        written = written[: options["max_tokens"] - 1]
    options["bad_words"] = [word for word in options.get("bad_words", []) if len(word) <= len(prompt + written)]
    expected = theirs(scores, prompt, written, eos, options)
    if np.isnan(expected).any():
        with pytest.raises(InputError, match="no token"):
            ours(scores, prompt, written, eos, options)
        return
    found = ours(scores, prompt, written, eos, options)
    # Where a bound falls on a token up to rounding, either side may keep it.
    if ((found > 0) == (expected > 0)).all():
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    else:
        edges = np.flatnonzero((found > 0) != (expected > 0))
        nudged = [theirs(scores, prompt, written, eos, moved(options, by)) for by in (-1e-6, 1e-6)]
        assert any((near[edges] > 0).tolist() == (found[edges] > 0).tolist() for near in nudged)


def moved(options: dict[str, Any], by: float) -> dict[str, Any]:
    """The bounds moved a little."""
    bounds = [name for name in ("top_p", "min_p", "typical_p") if name in options]
    return {**options, **{name: min(max(options[name] + by, 1e-9), 1 - 1e-9) for name in bounds}}


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=MOST, max_size=MOST),
    st.lists(IDS, max_size=9),
    st.floats(-2, 2),
    st.floats(-2, 2),
)
def test_presence_and_frequency_are_as_openai_defines_them(
    logits: list[float], written: list[int], presence: float, frequency: float
) -> None:
    scores = np.array(logits, np.float64)
    counts = np.bincount(written, minlength=MOST)
    expected = scores - counts * frequency - (counts > 0) * presence
    expected = np.exp(expected - expected.max())
    options = {"presence_penalty": presence, "frequency_penalty": frequency}
    # What was only read is not penalised.
    found = ours(scores, [0, 1, 2], written, [], options)
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-9, atol=1e-15)


def test_options_reach_the_engine() -> None:
    model = models.load(FIXTURES / "llama")
    model.source = None
    prompt = [5, 6, 7, 8, 9]
    with Engine(model) as engine:
        free = engine.generate(prompt, max_tokens=12)
        begun = engine.generate(prompt, max_tokens=12, begin=[3, 4], ignore_eos=True)
        assert begun.tokens[:2] == [3, 4]
        banned = engine.generate(prompt, max_tokens=12, bad_words=[[free.tokens[0]]], ignore_eos=True)
        assert free.tokens[0] not in banned.tokens
        fresh = engine.generate(prompt, max_tokens=12, no_repeat_ngram_size=1, ignore_eos=True)
        assert len({*prompt, *fresh.tokens}) == len(prompt) + 12
        raised = engine.generate(prompt, max_tokens=3, logit_bias={11: 100}, ignore_eos=True)
        assert raised.tokens == [11, 11, 11]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"typical_p": 1.5}, "typical_p is 1.5"),
        ({"presence_penalty": "x"}, "presence_penalty is 'x'"),
        ({"logit_bias": {99: 1.0}}, "logit_bias is 99"),
        ({"logit_bias": [1]}, r"logit_bias is \[1\]"),
        ({"logit_bias": {"a": 1.0}}, "logit_bias has 'a'"),
        ({"bad_words": [[]]}, r"bad_words\[0\] is empty"),
        ({"bad_words": [[1.5]]}, "bad_words has 1.5"),
        ({"begin": [99]}, r"begin\[0\] is 99"),
        ({"min_tokens": -1}, "min_tokens is -1"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1"),
    ],
)
def test_what_is_out_of_range_is_named(options: dict[str, Any], message: str) -> None:
    model = models.load(FIXTURES / "llama")
    model.source = None
    with Engine(model) as engine, pytest.raises(InputError, match=message):
        engine.generate([1, 2], **options)
