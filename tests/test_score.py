"""Perplexity: the windows of every protocol against the loops they restate, and a real model against transformers."""

import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

import lmrs
from lmrs import Engine, Score, models
from lmrs.errors import InputError
from lmrs.eval.protocols import PROTOCOLS, Frame, Protocol, Window, windows

BOS = 1000

Cuts = st.tuples(st.lists(st.integers(0, 50), min_size=1, max_size=80), st.integers(1, 24), st.integers(1, 24))


def cut(protocol: Protocol, tokens: list[int], window: int, stride: int | None = None) -> list[Window]:
    return windows(tokens, protocol=protocol, frame=Frame(context=window, stride=stride, prefix=BOS))


def logprob(context: list[int], token: int) -> float:
    """Stands for a model: a number that depends on all that was read."""
    return -(hash((tuple(context), token)) % 997) / 100


def total(found: list[Window]) -> tuple[float, int]:
    """The weighted sum of log-probabilities and the number of tokens it is for."""
    whole, count = 0.0, 0
    for window in found:
        first = len(window.inputs) - len(window.targets)
        parts = [logprob(list(window.inputs[: first + i + 1]), t) for i, t in enumerate(window.targets)]
        whole += sum(parts) * window.counted / len(parts)
        count += window.counted
    return whole, count


def harness(tokens: list[int], size: int) -> Iterator[tuple[list[int], list[int]]]:
    """Rolling windows with one token of context, as lm-evaluation-harness describes them: (read, predicted)."""
    first = min(size, len(tokens))
    yield [BOS, *tokens[: first - 1]], tokens[:first]
    done = first
    while done < len(tokens):
        count = min(len(tokens) - done, size)
        end = done + count
        yield tokens[end - size - 1 : end - 1], tokens[end - count : end]
        done = end


@given(Cuts)
def test_rolling_is_the_harness(given_: tuple[list[int], int, int]) -> None:
    tokens, size, _ = given_
    ours = [(list(window.inputs), list(window.targets)) for window in cut("rolling", tokens, size)]
    assert ours == list(harness(tokens, size))
    assert [token for _, targets in ours for token in targets] == tokens


@given(Cuts)
def test_strided_hf_is_the_documented_loop(given_: tuple[list[int], int, int]) -> None:
    tokens, size, stride = given_[0], given_[1], min(given_[1], given_[2])
    nll, counted, done = 0.0, 0, 0
    for start in range(0, len(tokens), stride):
        end = min(start + size, len(tokens))
        labels = [-100] * (start + (done - start) if done > start else start) + tokens[max(done, start) : end]
        # The shift: label i is judged by what was read up to i - 1, so that the window's first is judged by nothing.
        judged = [i for i in range(start + 1, end) if labels[i] != -100]
        losses = [-logprob(tokens[start:i], tokens[i]) for i in judged]
        weight = (end - done) - 1
        if judged and weight:
            nll += sum(losses) / len(losses) * weight
            counted += weight
        done = end
        if end == len(tokens):
            break
    if not counted:
        with pytest.raises(InputError, match="has none that protocol 'strided_hf' scores"):
            cut("strided_hf", tokens, size, stride)
        return
    ours, count = total(cut("strided_hf", tokens, size, stride))
    assert count == counted
    assert ours == pytest.approx(-nll)


@given(Cuts)
def test_strided_scores_every_token_but_the_first_once(given_: tuple[list[int], int, int]) -> None:
    tokens, size, stride = given_
    if len(tokens) < 2 or stride >= size:
        return
    place = 1
    for window in cut("strided", tokens, size, stride):
        assert len(window.inputs) < size
        assert list(window.targets) == tokens[place : place + len(window.targets)]
        before = tokens[place - (len(window.inputs) - len(window.targets) + 1) : place]
        assert list(window.inputs[: len(before)]) == before
        assert len(before) >= min(place, size - stride)
        place += len(window.targets)
    assert place == len(tokens)


@given(Cuts)
def test_windows_beside_each_other(given_: tuple[list[int], int, int]) -> None:
    tokens, size, _ = given_
    if size < 2 or len(tokens) < 2:
        return
    parts = [tokens[at : at + size] for at in range(0, len(tokens), size)]
    ours = [(list(w.inputs), list(w.targets)) for w in cut("disjoint", tokens, size)]
    assert ours == [(part[:-1], part[1:]) for part in parts if len(part) > 1]
    with_bos = cut("bos_each_window", tokens, size)
    assert all(window.inputs[0] == BOS and len(window.inputs) <= size for window in with_bos)
    assert [token for window in with_bos for token in window.targets] == tokens


@given(st.lists(st.integers(0, 50), min_size=23, max_size=90), st.sampled_from([4, 8, 12]))
def test_llama_cpp_scores_second_halves(tokens: list[int], size: int) -> None:
    whole = [BOS, *tokens]
    expected = []
    for chunk in range(len(whole) // size):
        part = [BOS, *whole[chunk * size + 1 : (chunk + 1) * size]]
        # Rows n/2 … n-2 of a chunk each predict the token after.
        expected.append((part[:-1], [part[row + 1] for row in range(size // 2, size - 1)]))
    assert [(list(w.inputs), list(w.targets)) for w in cut("llama_cpp", tokens, size)] == expected


@given(Cuts, st.sampled_from(list(PROTOCOLS)))
def test_labels_are_the_targets_at_the_end(given_: tuple[list[int], int, int], protocol: Protocol) -> None:
    tokens, size, stride = given_
    try:
        found = cut(protocol, tokens, size, min(stride, size))
    except InputError:
        return
    for window in found:
        labels = window.labels()
        assert len(labels) == len(window.inputs) <= size
        assert [label for label in labels if label >= 0] == list(window.targets)


@pytest.mark.parametrize(
    ("protocol", "frame", "message"),
    [
        ("rollin", Frame(context=8), "protocol is 'rollin', expected one of rolling, strided"),
        ("rolling", Frame(context=8, window=9, prefix=1), "window is 9, expected 1 to 8"),
        ("rolling", Frame(context=8, window=0, prefix=1), "window is 0, expected 1 to 8"),
        ("strided", Frame(context=8, stride=9), "stride is 9, expected 1 to the window, 8"),
        ("strided", Frame(context=8, stride=0), "stride is 0"),
        ("rolling", Frame(context=8), "the model names no bos or eos token"),
        ("bos_each_window", Frame(context=8, window=1, prefix=1), "window is 1, expected at least 2"),
        ("llama_cpp", Frame(context=8, prefix=1), "needs 15 tokens for windows of 8, got 5"),
    ],
)
def test_frames_out_of_range(protocol: Any, frame: Frame, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        windows([1, 2, 3, 4, 5], protocol=protocol, frame=frame)


# --- a real model ---


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Engine:
    return Engine(models.load(smollm2_gguf))


@pytest.fixture(scope="module")
def text(fixtures: Path) -> str:
    return (fixtures / "texts" / "wikitext.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def peer(smollm2_gguf: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)


@pytest.mark.parametrize(("protocol", "window"), [("rolling", 200), ("strided", 300)])
def test_wikitext_is_transformers(
    smollm2: Engine, text: str, peer: Any, protocol: Protocol, window: int | None
) -> None:
    score = smollm2.score(text, protocol=protocol, window=window)
    tokens = smollm2.tokenizer.encode(text, add_special_tokens=False).ids
    frame = Frame(context=8192, window=window, prefix=smollm2.tokenizer.bos_id)
    expected = []
    for part in windows(tokens, protocol=protocol, frame=frame):
        with torch.inference_mode():
            logits = peer(torch.tensor([list(part.inputs)])).logits[0, -len(part.targets) :].double()
        expected += logits.log_softmax(-1).gather(1, torch.tensor(part.targets)[:, None])[:, 0].tolist()
    assert score.tokens == len(expected) == len(score.token_logprobs)
    np.testing.assert_allclose(score.token_logprobs, expected, rtol=1e-4, atol=1e-4)
    assert score.perplexity == pytest.approx(math.exp(-sum(expected) / len(expected)), rel=1e-5)


def test_a_score_is_what_its_fields_say(smollm2: Engine) -> None:
    text = " The café  opened.\n"
    score = smollm2.score(text)
    assert (score.protocol, score.words, score.bytes) == ("rolling", 5, 20)
    total = float(score.token_logprobs.sum(dtype=np.float64))
    assert score.sum_logprob == total
    assert score.perplexity == math.exp(-total / score.tokens)
    assert score.word_perplexity == math.exp(-total / 5)
    assert score.byte_perplexity == math.exp(-total / 20)
    assert score.bits_per_byte == -total / (20 * math.log(2))
    assert score.token_logprobs.dtype == np.float32


def test_what_each_token_was_drawn_from(smollm2: Engine, text: str, peer: Any) -> None:
    text = text[:300]
    plain = smollm2.score(text)
    score = smollm2.score(text, top_k=3, rank=True, entropy=True)
    assert np.array_equal(score.token_logprobs, plain.token_logprobs)
    assert (plain.token_ranks, plain.token_entropies, plain.top_tokens, plain.top_logprobs) == (None,) * 4
    ids = [smollm2.tokenizer.bos_id, *smollm2.tokenizer.encode(text, add_special_tokens=False).ids]
    with torch.inference_mode():
        logprobs = peer(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
    targets = torch.tensor(ids[1:])
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    np.testing.assert_allclose(score.token_entropies, entropy, rtol=1e-4, atol=1e-4)
    # Two likelihoods nearer than the two f32 models agree may change places.
    target = logprobs.gather(1, targets[:, None])
    assert score.token_ranks is not None
    assert score.top_tokens is not None
    assert score.top_logprobs is not None
    least, most = (1 + (logprobs > target + d).sum(-1).numpy() for d in (1e-3, -1e-3))
    assert ((least <= score.token_ranks) & (score.token_ranks <= most)).all()
    np.testing.assert_allclose(score.top_logprobs, logprobs.topk(3).values, rtol=1e-4, atol=1e-3)
    named = logprobs.gather(1, torch.tensor(score.top_tokens, dtype=torch.int64))
    np.testing.assert_allclose(score.top_logprobs, named, rtol=1e-4, atol=1e-3)
    likeliest = score.token_ranks == 1
    assert likeliest.any()
    assert np.array_equal(score.top_tokens[likeliest, 0], np.array(ids[1:], np.int32)[likeliest])
    assert np.array_equal(score.top_logprobs[likeliest, 0], score.token_logprobs[likeliest])
    alone = smollm2.score(text, entropy=True)
    assert alone.token_ranks is None
    assert alone.top_tokens is None
    assert np.array_equal(alone.token_entropies, score.token_entropies)
    for top_k in (-1, True, smollm2.config.vocabulary + 1):
        with pytest.raises(InputError, match="top_k is"):
            smollm2.score(text, top_k=top_k)
    with pytest.raises(InputError, match="unknown option topk"):
        smollm2.score(text, topk=1)  # type: ignore[call-overload]


def test_texts_together_are_one_by_one_to_the_bit(smollm2: Engine, text: str) -> None:
    texts = [text[:40], text[100:900], text[50:51], text[1000:1200]]
    together = smollm2.score(texts, window=64)
    for alone, score in zip((smollm2.score(t, window=64) for t in texts), together, strict=True):
        assert np.array_equal(alone.token_logprobs, score.token_logprobs)
    whole = lmrs.perplexity(smollm2.model, texts, window=64)
    assert isinstance(whole, Score)
    assert whole.tokens == sum(score.tokens for score in together)
    assert whole.sum_logprob == math.fsum(score.sum_logprob for score in together)
    assert smollm2.score([]) == []


def test_generated_logprobs_are_scored_logprobs_to_the_bit(smollm2: Engine) -> None:
    completion = smollm2.generate("Once upon a time", max_tokens=20)
    scored = smollm2.score("Once upon a time" + completion.text, protocol="strided")
    assert np.array_equal(scored.token_logprobs[-20:], completion.logprobs)


def test_texts_that_cannot_be_scored(smollm2: Engine) -> None:
    with pytest.raises(InputError, match="text 1 to score is empty"):
        smollm2.score(["a", ""])
    with pytest.raises(InputError, match="a text of 1 tokens has none that protocol 'strided' scores"):
        smollm2.score("a", protocol="strided")
    with pytest.raises(InputError, match="window is 8193, expected 1 to 8192"):
        smollm2.score("a", window=8193)
    with pytest.raises(InputError, match="there is no text to score"):
        lmrs.perplexity(smollm2.model, [])


GROWTH = """
import sys
from pathlib import Path
import numpy as np
import lmrs
from lmrs.initialise import initialise
from lmrs.models import gpt2

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))

vocabulary = int(sys.argv[1])
config = {"n_embd": 768, "n_head": 12, "n_layer": 2, "n_positions": 1024, "vocab_size": vocabulary}
engine = lmrs.Engine(initialise(gpt2.Model(gpt2.Config.from_dict(config)), seed=0))
ids = np.random.default_rng(0).integers(0, vocabulary, 1024).tolist()
engine.following(ids[:16], top_k=0)
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
engine.following(ids, top_k=0)
print((status("VmHWM") - before) / 1024)
"""


def test_memory_of_a_long_window_does_not_know_the_vocabulary() -> None:
    """Logits of 1023 rows would be 80 MiB with 20,000 tokens; the values of a layer in one piece were 40."""
    found = []
    for vocabulary in (500, 20_000):
        command = [sys.executable, "-c", GROWTH, str(vocabulary)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=os.environ | {"LMRS_NUM_THREADS": "1"}
        )
        found.append(float(done.stdout))
    assert max(found) < 32, found
    # Pages that the allocator keeps for itself come and go by ten.
    assert abs(found[1] - found[0]) < 20, found
