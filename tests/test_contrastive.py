"""Contrastive search against its definition (Su et al., 2022), computed in float64 from the model's own states."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import lmrs
from lmrs import delta
from lmrs.backend import native
from lmrs.engine import Completion

FIXTURES = Path(__file__).parent / "fixtures" / "models"
PROMPT = [5, 6, 7, 8, 9]


def engine_of(name: str, **options: Any) -> lmrs.Engine:
    model = lmrs.load(FIXTURES / name)
    model.source = None
    return lmrs.Engine(model, **options)


def defined(name: str, prompt: list[int], *, alpha: float, top_k: int, tokens: int) -> tuple[list[int], float]:
    """The tokens, each chosen by running all of the text anew, and the least lead that any had over the next best."""
    model = transformers.AutoModelForCausalLM.from_pretrained(FIXTURES / name, dtype=torch.float64).eval()

    def run(ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            out = model(torch.tensor([ids]), output_hidden_states=True)
        states = out.hidden_states[-1][0].numpy()
        logits = out.logits[0, -1].numpy()
        p = np.exp(logits - logits.max())
        return p / p.sum(), states / np.linalg.norm(states, axis=1, keepdims=True)

    ids, least = list(prompt), np.inf
    for _ in range(tokens):
        p, _ = run(ids)
        tried = np.argsort(-p, kind="stable")[:top_k]
        scores = []
        for token in tried:
            _, states = run([*ids, int(token)])
            scores.append((1 - alpha) * p[token] - alpha * (states[:-1] @ states[-1]).max())
        best = np.sort(scores)[::-1]
        least = min(least, best[0] - best[1])
        ids.append(int(tried[int(np.argmax(scores))]))
    return ids[len(prompt) :], least


def same(one: Completion, other: Completion) -> bool:
    return one.tokens == other.tokens and np.array_equal(one.logprobs, other.logprobs)


@pytest.mark.parametrize(("alpha", "top_k"), [(0.6, 4), (0.3, 8), (1.0, 3)])
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
def test_tokens_are_those_of_the_definition(name: str, alpha: float, top_k: int) -> None:
    want, lead = defined(name, PROMPT, alpha=alpha, top_k=top_k, tokens=16)
    found = engine_of(name).generate(PROMPT, penalty_alpha=alpha, top_k=top_k, max_tokens=16, ignore_eos=True)
    assert lead > 1e-6, "a tie says nothing"
    assert found.tokens == want
    assert len(found.logprobs) == 16


def test_one_candidate_is_greedy_search() -> None:
    engine = engine_of("llama")
    greedy = engine.generate(PROMPT, max_tokens=20, ignore_eos=True)
    assert same(engine.generate(PROMPT, penalty_alpha=0.5, top_k=1, max_tokens=20, ignore_eos=True), greedy)


def test_company_chunks_and_preemption_change_no_bit() -> None:
    options: dict[str, Any] = {"penalty_alpha": 0.6, "top_k": 4, "max_tokens": 12, "ignore_eos": True}
    prompts = [PROMPT, [11], [4] * 9 + [90, 3], [(7 * i) % 99 for i in range(30)]]
    alone = [engine_of("llama").generate(prompt, **options) for prompt in prompts]
    for limits in ({}, {"step_tokens": 7}, {"cache_bytes": 80_000, "step_tokens": 16, "sequences": 9}):
        engine = engine_of("llama", **limits)
        greedy = engine.submit(prompts[3], max_tokens=8, ignore_eos=True)
        assert all(map(same, engine.generate(prompts, **options), alone))
        assert same(greedy.result(), engine_of("llama").generate(prompts[3], max_tokens=8, ignore_eos=True))


def test_a_delta_changes_what_is_found() -> None:
    model = lmrs.load(FIXTURES / "llama")
    tuned, random = delta.LoRA(rank=4, alpha=64)(model), np.random.default_rng(1)
    for parameter in tuned.named_parameters().values():
        if parameter.trainable:
            parameter.data = native.array(random.normal(size=parameter.shape).astype(np.float32)).tensor
    engine = lmrs.Engine(model)
    engine.load_delta("tuned", tuned)
    options: dict[str, Any] = {"penalty_alpha": 0.6, "top_k": 4, "max_tokens": 12, "ignore_eos": True}
    assert same(engine.generate(PROMPT, **options, delta="tuned"), lmrs.Engine(tuned).generate(PROMPT, **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty_alpha": 1.5, "top_k": 4}, "penalty_alpha is 1.5, expected 0 to 1"),
        ({"penalty_alpha": 0.6}, "top_k is 0, expected 1 to"),
        ({"penalty_alpha": 0.6, "top_k": 1000}, "top_k is 1000, expected 1 to"),
        ({"penalty_alpha": 0.6, "top_k": 4, "temperature": 1.0}, "temperature is given, expected none with"),
        ({"penalty_alpha": 0.6, "top_k": 4, "beams": 2}, "beams is given, expected none with penalty_alpha"),
    ],
)
def test_what_does_not_go_with_it_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(lmrs.InputError, match=message.replace(".", r"\.")):
        engine_of("llama").generate(PROMPT, **options)
    with pytest.raises(lmrs.ConfigError, match="contrastive search"):
        engine_of("t5").generate(PROMPT, penalty_alpha=0.6, top_k=4)
