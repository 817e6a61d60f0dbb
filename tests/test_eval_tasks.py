"""Continuations and tasks: the same numbers as lm-evaluation-harness with transformers, item by item."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lmrs
from lmrs.errors import FormatError, InputError
from lmrs.eval import tasks
from lmrs.eval.continuations import boundary, fitted
from lmrs.eval.outcome import Outcome, pooled
from lmrs.eval.tasks import Choice, Cloze, Pair

ITEMS = [
    Choice(
        query="Question: What colour is the sky on a clear day?\nAnswer:", choices=["blue", "green", "brown"], gold=0
    ),
    Choice(query="Fish live in", choices=["water", "trees", "the sun", "a book of poems"], gold=0),
    Choice(query="One, two, three,", choices=["four", "nine"], gold=0),
    Choice(query="The opposite of hot is ", choices=["cold", "blue"], gold=0),
]
PAIRS = [
    Pair(good="The cats sleep on the mat.", bad="The cats sleeps on the mat."),
    Pair(good="She has eaten the apple.", bad="She has ate the apple."),
    Pair(good="Who did you see?", bad="Who did you saw?"),
]
CLOZES = [
    Cloze(context="The capital of France is", continuation="Paris"),
    Cloze(context="The sun rises in the east and sets in the", continuation=" west"),
    Cloze(context="Mary had a little lamb, its fleece was white as", continuation="snow"),
]


@pytest.fixture(scope="module")
def engine(smollm2_gguf: Path) -> lmrs.Engine:
    return lmrs.Engine(lmrs.load(smollm2_gguf))


@pytest.fixture(scope="module")
def peer(smollm2_gguf: Path) -> Any:
    """SmolLM2 in transformers, under the harness."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(
        smollm2_gguf.parent, gguf_file=smollm2_gguf.name, dtype=torch.float32
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, device="cpu")


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=given, idx=at) for at, given in enumerate(arguments)]


@pytest.mark.slow
def test_plugin_is_the_harness_with_transformers(peer: Any, smollm2_gguf: Path) -> None:
    """All three kinds of request, a context with a space at its end, an empty one and one too long among them."""
    from lmrs.eval.harness import Harness

    ours = Harness(str(smollm2_gguf))
    pairs = [(item.query, f" {choice}") for item in ITEMS for choice in item.choices]
    pairs += [("", pair.good) for pair in PAIRS] + [("A space at the end ", "and more"), ("word " * 2200, " word")]
    asked = requests("loglikelihood", pairs)
    for (mine, greedy), (theirs, expected) in zip(ours.loglikelihood(asked), peer.loglikelihood(asked), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4 * max(1.0, abs(theirs)))
        assert greedy == expected
    asked = requests("loglikelihood_rolling", [(pair.good,) for pair in PAIRS])
    assert ours.loglikelihood_rolling(asked) == pytest.approx(peer.loglikelihood_rolling(asked), rel=1e-5)
    asked = requests(
        "generate_until", [(item.context, {"until": ["."], "max_gen_toks": 12, "do_sample": False}) for item in CLOZES]
    )
    assert ours.generate_until(asked) == peer.generate_until(asked)


def test_choices_are_their_definition(engine: lmrs.Engine) -> None:
    outcome = tasks.choices(engine, ITEMS)
    for at, item in enumerate(ITEMS):
        sums = [one.sum_logprob for one in engine.continuations([(item.query, f" {c}") for c in item.choices])]
        assert outcome.each["acc"][at] == float(int(np.argmax(sums)) == item.gold)
        norms = [total / len(choice) for total, choice in zip(sums, item.choices, strict=True)]
        assert outcome.each["acc_norm"][at] == float(int(np.argmax(norms)) == item.gold)
    assert outcome.metrics["acc"].value == outcome.each["acc"].mean()
    assert outcome.metrics["acc"].value >= 0.75


def test_pairs_and_cloze(engine: lmrs.Engine) -> None:
    assert tasks.pairs(engine, PAIRS).metrics["acc"].value == 1.0
    outcome = tasks.cloze(engine, CLOZES)
    sums = [
        one.sum_logprob for one in engine.continuations([(c.context, f" {c.continuation.strip()}") for c in CLOZES])
    ]
    assert outcome.metrics["perplexity"].value == pytest.approx(np.exp(-np.mean(sums)))
    written = [engine.generate(c.context, max_tokens=1).text.strip() for c in CLOZES]
    likely = [text == c.continuation.strip() for text, c in zip(written, CLOZES, strict=True)]
    assert outcome.each["acc"].tolist() == [float(one) for one in likely]


def test_bootstrapped_error_is_the_standard_error() -> None:
    """Of a mean: the bootstrap's is sqrt(p(1-p)/n) up to its own noise, a few percent at a thousand samples."""
    outcome = Outcome.of({"acc": [1.0] * 300 + [0.0] * 100})
    assert outcome.metrics["acc"].error == pytest.approx(np.sqrt(0.75 * 0.25 / 400), rel=0.1)
    again = pooled([Outcome.of({"acc": [1.0] * 300}), Outcome.of({"acc": [0.0] * 100})])
    assert again.metrics == outcome.metrics
    with pytest.raises(InputError, match="with the same metrics"):
        pooled([outcome, Outcome.of({"nll": [1.0]})])


def test_company_changes_nothing(engine: lmrs.Engine) -> None:
    pairs = [(item.query, f" {choice}") for item in ITEMS for choice in item.choices]
    together = engine.continuations(pairs)
    for pair, one in zip(pairs, together, strict=True):
        assert engine.continuations([pair])[0].token_logprobs.tobytes() == one.token_logprobs.tobytes()


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.text(min_size=1, max_size=20))
def test_boundary_is_the_harness(context: str, continuation: str) -> None:
    tokenizer = shared_tokenizer()
    try:
        before, after = boundary(tokenizer, context, continuation, prefix=0)
    except InputError:
        return
    if context.strip() == "":
        ids = tokenizer.encode(context + continuation).ids
        assert [*before, *after][-len(ids) :] == ids
    else:
        stripped = context.rstrip()
        assert before == tokenizer.encode(stripped).ids
        assert after == tokenizer.encode(context + continuation).ids[len(before) :]


def shared_tokenizer() -> lmrs.Tokenizer:
    from lmrs.demo.texts import tokenizer

    return tokenizer()


@given(st.integers(0, 30), st.integers(1, 10), st.integers(1, 12))
def test_what_does_not_fit_is_cut_from_the_start(before: int, after: int, context: int) -> None:
    ids = list(range(before + after))
    if after > context:
        with pytest.raises(InputError, match="expected at most the model's context"):
            fitted(ids[:before], ids[before:], context=context)
        return
    window, dropped = fitted(ids[:before], ids[before:], context=context)
    assert window.inputs == ids[:-1][-context:]
    assert (window.targets, window.counted) == (ids[before:], after)
    assert dropped + len(window.inputs) == len(ids) - 1


@pytest.mark.parametrize(
    ("task", "line", "message"),
    [
        ("choices", "{", r":1: not JSON"),
        ("choices", "[]", r":1: is list, expected a JSON object"),
        ("choices", "{}", r":1: query is None, expected str"),
        ("choices", json.dumps({"query": "q", "choices": ["a"], "gold": 1}), r":1: gold is 1, expected 0 to 0"),
        ("choices", json.dumps({"query": "q", "choices": ["a"], "gold": True}), r"gold is True, expected int"),
        ("choices", json.dumps({"query": "q", "choices": [3], "gold": 0}), r"choices is \[3\], expected texts"),
        ("pairs", json.dumps({"sentence_good": "a"}), r"sentence_bad is None"),
        ("cloze", json.dumps({"context": 3, "continuation": "a"}), r"context is 3, expected str"),
    ],
)
def test_bad_items_are_refused_by_name(tmp_path: Path, task: str, line: str, message: str) -> None:
    (tmp_path / "items.jsonl").write_text(line + "\n")
    with pytest.raises((InputError, FormatError), match=message):
        tasks.read(task, tmp_path / "items.jsonl")


def test_nothing_to_score_is_refused(engine: lmrs.Engine) -> None:
    with pytest.raises(InputError, match="has no token of its own"):
        engine.continuations([("a", "")])
    with pytest.raises(InputError, match="there is no item"):
        tasks.pairs(engine, [])
