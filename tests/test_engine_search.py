"""Beams, guesses ahead, guidance and grammars: transformers' results, no bit changed, and never what must not be."""

import json
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process

from lmrs import Engine, Grammar, models
from lmrs.errors import InputError

FIXTURES = Path(__file__).parent / "fixtures" / "models"
PROMPTS = [[5, 6, 7, 8, 9], [11], [4] * 9 + [90, 3], [8, 8, 7]]


def bare(name: str, **options: Any) -> Engine:
    model = models.load(FIXTURES / name)
    model.source = None
    return Engine(model, **options)


def peer(name: str) -> Any:
    kind = transformers.AutoModelForSeq2SeqLM if "t5" in name else transformers.AutoModelForCausalLM
    return kind.from_pretrained(FIXTURES / name, dtype=torch.float64).eval()


SEARCHES = [
    {"beams": 4},
    {"beams": 3, "length_penalty": 0.0, "early_stopping": "never"},
    {"beams": 5, "length_penalty": 2.0, "early_stopping": True},
    {"beams": 2, "length_penalty": -0.5, "early_stopping": "never"},
    {"beams": 3, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
]


@pytest.mark.parametrize("options", SEARCHES, ids=str)
@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_beams_are_transformers(name: str, options: dict[str, Any]) -> None:
    model = peer(name)
    # Ends that are written now and then, so that some texts end and others go on.
    ends = [3, 8, 20, 31, 57]
    theirs = {**options, "num_beams": options["beams"], "num_return_sequences": options["beams"]}
    del theirs["beams"]
    with bare(name) as engine:
        engine.__dict__["_eos"] = ends
        for prompt in PROMPTS:
            with torch.inference_mode():
                expected = model.generate(
                    torch.tensor([prompt]),
                    attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                    max_new_tokens=12,
                    do_sample=False,
                    eos_token_id=ends,
                    pad_token_id=0,
                    return_dict_in_generate=True,
                    output_scores=True,
                    **theirs,
                )
            found = engine.generate(prompt, max_tokens=12, **options)
            read = 1 if "t5" in name else len(prompt)
            assert len(found.beams) == options["beams"]
            for beam, ids, score in zip(found.beams, expected.sequences, expected.sequences_scores, strict=True):
                written = ids[read:].tolist()
                assert beam.tokens == written[: len(beam.tokens)]
                assert set(written[len(beam.tokens) :]) <= {ends[0]}
                assert abs(beam.score - float(score)) < 1e-4 * max(1, abs(float(score)))
            assert found.tokens == found.beams[0].tokens


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_searches_side_by_side_are_each_alone(name: str) -> None:
    with bare(name) as engine:
        together = engine.generate(PROMPTS, max_tokens=9, beams=3)
        for prompt, completion in zip(PROMPTS, together, strict=True):
            alone = engine.generate(prompt, max_tokens=9, beams=3)
            assert [beam.tokens for beam in alone.beams] == [beam.tokens for beam in completion.beams]
            assert [beam.score for beam in alone.beams] == [beam.score for beam in completion.beams]


@pytest.mark.parametrize("options", [{}, {"temperature": 0.9, "seed": 4, "top_p": 0.9}], ids=["greedy", "sampled"])
def test_guesses_change_no_bit_and_save_steps(smollm2_gguf: Path, options: dict[str, Any]) -> None:
    model = models.load(smollm2_gguf)
    text = "Repeat after me: the quick brown fox jumps over the lazy dog. the quick brown fox jumps over the"
    with Engine(model, dtype="int8") as engine, Engine(model, dtype="int8", draft=model) as drafted:
        plain = engine.generate(text, max_tokens=40, **options)
        alone = engine.load.steps
        looked_up = engine.generate(text, max_tokens=40, draft_tokens=6, **options)
        guessed = drafted.generate(text, max_tokens=40, draft_tokens=6, **options)
        for other in (looked_up, guessed):
            assert other.tokens == plain.tokens
            assert np.array_equal(other.logprobs, plain.logprobs)
            assert other.text == plain.text
        # A draft model that is the model itself is always right.
        assert drafted.load.steps <= alone / 4
        if not options:
            assert engine.load.steps - alone < alone


@given(st.lists(st.integers(0, 98), min_size=1, max_size=9), st.floats(0.5, 3))
@settings(max_examples=15)
def test_guidance_is_transformers(negative: list[int], scale: float) -> None:
    model, other = GUIDED["model"], cast(Any, torch.tensor([negative]))
    processor = logits_process.UnbatchedClassifierFreeGuidanceLogitsProcessor(scale, model, unconditional_ids=other)
    with torch.inference_mode():
        expected = model.generate(
            torch.tensor([PROMPTS[0]]),
            attention_mask=torch.ones(1, 5, dtype=torch.int64),
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            logits_processor=transformers.LogitsProcessorList([processor]),
        )
    found = GUIDED["engine"].generate(
        PROMPTS[0], max_tokens=8, guidance=scale, negative_prompt=negative, ignore_eos=True
    )
    assert found.tokens == expected[0, 5:].tolist()


GUIDED = {"model": peer("llama"), "engine": bare("llama")}


# --- grammars ---


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Engine:
    return Engine(models.load(smollm2_gguf), dtype="int8")


SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "population": {"type": "integer", "minimum": 0, "maximum": 99999999},
        "capital": {"type": "boolean"},
    },
    "required": ["city", "population", "capital"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "seed": 3}], ids=["greedy", "sampled"])
def test_texts_are_what_they_must_be(smollm2: Engine, options: dict[str, Any]) -> None:
    how: dict[str, Any] = {"max_tokens": 80, **options}
    date = smollm2.generate("Today is", grammar=Grammar.regex(r"20[0-9]{2}-[01][0-9]-[0-3][0-9]"), **how)
    assert re.fullmatch(r"20[0-9]{2}-[01][0-9]-[0-3][0-9]", date.text)
    assert date.finish_reason in ("stop", "eos")
    said = smollm2.generate("Paris, as JSON:", grammar=Grammar.json_schema(SCHEMA), **how)
    found = json.loads(said.text)
    assert set(found) == {"city", "population", "capital"}
    assert isinstance(found["capital"], bool)
    assert 0 <= found["population"] <= 99999999
    sums = Grammar.lark('start: term (" + " term)* "."\nterm: /[1-9][0-9]?/')
    assert re.fullmatch(r"[1-9][0-9]?( \+ [1-9][0-9]?)*\.?", smollm2.generate("1 +", grammar=sums, **how).text)
    # Characters of several bytes, which tokens cut.
    emoji = smollm2.generate("Weather:", grammar=Grammar.regex("(🌞|🌧️|雪)+!"), **{**how, "max_tokens": 30})
    assert re.fullmatch("(🌞|🌧\ufe0f|雪)*🌧?!?", emoji.text)


def test_grammars_beside_others_and_with_guesses(smollm2: Engine) -> None:
    how: dict[str, Any] = {"grammar": Grammar.json_schema(SCHEMA), "max_tokens": 60, "temperature": 0.8}
    alone = [smollm2.generate("A city:", seed=seed, **how) for seed in range(3)]
    replies = [smollm2.submit("A city:", seed=seed, draft_tokens=seed, **how) for seed in range(3)]
    free = smollm2.submit("A city:", max_tokens=60)
    assert [reply.result().tokens for reply in replies] == [completion.tokens for completion in alone]
    assert free.result().tokens == smollm2.generate("A city:", max_tokens=60).tokens


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        (Grammar.regex("("), "regex is"),
        (Grammar.regex("(?<=x)*"), "regex is"),
        (Grammar.regex("(" * 1000), "brackets deep"),
        (Grammar.json_schema("{"), "json_schema is"),
        (Grammar.json_schema({"$ref": "#/nowhere"}), "json_schema is"),
        (Grammar.json_schema({"enum": ["x" * 10**5]}), "longer than 65536 bytes"),
        (Grammar.lark("start: other"), "lark is"),
        ("a", "grammar is 'a', expected an lmrs.Grammar"),
    ],
    ids=lambda given: str(given)[:40],
)
def test_grammars_that_cannot_be_are_refused(smollm2: Engine, grammar: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        smollm2.generate("x", grammar=grammar)


def test_options_that_do_not_go_together_are_refused() -> None:
    with bare("llama") as engine:
        for options, message in [
            ({"beams": 2, "temperature": 1.0}, "temperature"),
            ({"beams": 2, "stop": "x"}, "stop"),
            ({"beams": 10**6}, "beams"),
            ({"beams": 2, "early_stopping": 3}, "early_stopping is 3"),
            ({"guidance": 2.0}, "negative_prompt"),
            ({"draft_tokens": -1}, "draft_tokens is -1"),
            ({"negative_prompt": [99]}, r"negative prompt\[0\] is 99"),
        ]:
            with pytest.raises(InputError, match=message):
                engine.generate([1, 2], **options)  # type: ignore[arg-type]
