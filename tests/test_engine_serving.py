"""One long-lived engine for many: requests join and leave while others run, and each gets what it gets alone."""

import asyncio
import contextlib
import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmrs import Engine, delta, models
from lmrs.backend import native
from lmrs.engine import Completion
from lmrs.errors import InputError

FIXTURES = Path(__file__).parent / "fixtures" / "models"
PROMPTS = [[(7 * i + 3 * j) % 99 for j in range(1 + 5 * i)] for i in range(10)]
METHODS = {
    "low": delta.LoRA(rank=4),
    "wide": delta.LoRA(rank=16, targets="*.{q,k,v,o,up,down}"),
    "scaled": delta.IA3(),
    "beside": delta.Adapter(),
    "before": delta.Prefix(),
}


def bare(name: str) -> Any:
    model = models.load(FIXTURES / name)
    model.source = None
    return model


def same(one: Completion, other: Completion) -> bool:
    return one.tokens == other.tokens and one.text == other.text and np.array_equal(one.logprobs, other.logprobs)


def wait_until(true: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_requests_of_many_threads_get_what_they_get_alone(name: str) -> None:
    options: dict[str, Any] = {"max_tokens": 16, "temperature": 0.7, "top_k": 30, "ignore_eos": True}
    expected = [Engine(bare(name)).generate(p, **options, seed=i) for i, p in enumerate(PROMPTS) if p]
    prompts = [p for p in PROMPTS if p]
    # Little room, so that some are preempted and computed again.
    engine = Engine(bare(name), cache_bytes=150_000, step_tokens=17, sequences=6)
    for order in (range(len(prompts)), reversed(range(len(prompts)))):
        with ThreadPoolExecutor(5) as pool:
            futures = {i: pool.submit(engine.generate, prompts[i], **options, seed=i) for i in order}
        assert all(same(futures[i].result(), expected[i]) for i in futures)
    assert (engine.load.running, engine.load.waiting, engine.load.cached_bytes) == (0, 0, 0)


def test_a_prompt_that_begins_alike_changes_nothing(smollm2_gguf: Path) -> None:
    model = models.load(smollm2_gguf)
    engine, shared = Engine(model, dtype="int8", step_tokens=48), list(range(100, 230))
    prompts = [[*shared, 5, 6], [*shared, 9], [*shared[:70], 3]]
    first = [engine.generate(prompt, max_tokens=3, top_logprobs=2) for prompt in prompts]
    assert engine.load.prefix_bytes > 0
    steps = engine.load.steps
    assert same(engine.generate(prompts[0], max_tokens=3), first[0])
    # 128 of its 132 tokens are there, so that one step reads the rest; else it takes three.
    assert engine.load.steps - steps <= 4
    for prompt, completion in zip(prompts, first, strict=True):
        assert same(Engine(model, dtype="int8").generate(prompt, max_tokens=3), completion)


def test_coroutines_and_threads_read_the_same() -> None:
    engine = Engine(bare("gpt2"))
    expected = engine.generate([5, 6, 7], max_tokens=12, top_logprobs=3)

    async def one() -> Completion:
        async with engine.asubmit([5, 6, 7], max_tokens=12, top_logprobs=3) as reply:
            tokens = [token async for token in reply]
            completion = await reply.result()
        assert [token.id for token in tokens] == completion.tokens
        assert [token.top_logprobs for token in tokens] == completion.top_logprobs
        return completion

    async def many() -> list[Completion]:
        return list(await asyncio.gather(*(one() for _ in range(6))))

    assert all(same(c, expected) for c in asyncio.run(many()))
    for token, top, logprob in zip(expected.tokens, expected.top_logprobs, expected.logprobs, strict=True):
        assert [p for _, p in top] == sorted((p for _, p in top), reverse=True)
        assert top[0] == (token, pytest.approx(logprob))
        assert len(top) == 3


def test_what_is_cancelled_is_gone_and_disturbs_nobody() -> None:
    engine = Engine(bare("llama"))
    expected = engine.generate([5, 6, 7], max_tokens=40, ignore_eos=True)
    gone = [engine.submit([i, 4], max_tokens=60, ignore_eos=True) for i in range(1, 9)]
    kept = engine.submit([5, 6, 7], max_tokens=40, ignore_eos=True)
    for reply in gone:
        reply.cancel()
        reply.cancel()
    assert same(kept.result(), expected)
    wait_until(lambda: engine.load.running == 0)
    assert engine.load.cached_bytes == 0
    stream = engine.stream([5, 6, 7], max_tokens=60, ignore_eos=True)
    with pytest.raises(StopIteration):
        next(stream)
    assert engine.load.running == 0


def test_a_timeout_ends_a_text_with_what_there_is() -> None:
    engine = Engine(bare("gpt2"))
    completion = engine.generate([5, 6], max_tokens=50, ignore_eos=True, timeout=0)
    assert completion.finish_reason == "deadline"
    assert len(completion.tokens) < 50


def test_a_closed_engine_ends_its_requests_and_starts_again() -> None:
    # One after the other, so that the last is far from its turn however late this thread comes to close the engine.
    with Engine(bare("gpt2"), sequences=1) as engine:
        expected = engine.generate([5, 6], max_tokens=60, ignore_eos=True)
        *replies, last = [engine.submit([5, 6], max_tokens=60, ignore_eos=True) for _ in range(1000)]
    with pytest.raises(RuntimeError, match="the engine was closed"):
        last.result()
    for reply in replies:
        with contextlib.suppress(RuntimeError):
            assert same(reply.result(), expected)
    assert (engine.load.running, engine.load.waiting) == (0, 0)
    assert same(engine.generate([5, 6], max_tokens=60, ignore_eos=True), expected)
    engine.close()


def test_a_dropped_engine_leaves_no_thread() -> None:
    before = threading.active_count()
    engines = [Engine(bare("gpt2")) for _ in range(3)]
    for engine in engines:
        engine.generate([5], max_tokens=2)
    del engine, engines
    gc.collect()
    wait_until(lambda: threading.active_count() <= before)


def test_the_interpreter_ends_in_the_middle_of_a_text() -> None:
    program = f"""
from lmrs import Engine, models
model = models.load({str(FIXTURES / "gpt2")!r})
engine = Engine(model)
replies = [engine.submit([5, 6, i], max_tokens=60, ignore_eos=True) for i in range(30)]
print(next(iter(replies[0])).id)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_child_has_its_own() -> None:
    engine = Engine(bare("gpt2"))
    expected = engine.generate([5, 6, 7], max_tokens=8)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put(engine.generate([5, 6, 7], max_tokens=8).tokens))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert queue.get() == expected.tokens
    assert same(engine.generate([5, 6, 7], max_tokens=8), expected)


# --- deltas ---


def tuned(model: Any, name: str) -> Any:
    """The model with a delta that does something."""
    changed = METHODS[name](model)
    draw = np.random.default_rng(len(name))
    for parameter in changed.named_parameters().values():
        if parameter.trainable:
            values = native.tensor(parameter).numpy() + draw.normal(0, 0.2, parameter.shape)
            parameter.data = native.array(values.astype(np.float32)).tensor
    return changed


@pytest.fixture(scope="module")
def family() -> dict[str | None, Any]:
    model = bare("llama")
    return {None: model, **{name: tuned(model, name) for name in METHODS}}


def test_deltas_side_by_side_give_what_each_gives_alone(family: dict[str | None, Any]) -> None:
    engine = Engine(family[None], step_tokens=40)
    for name in METHODS:
        engine.load_delta(name, family[name])
    assert engine.deltas == tuple(METHODS)
    work = [(name, prompt) for prompt in PROMPTS[1:6] for name in family]
    replies = [engine.submit(prompt, max_tokens=10, delta=name) for name, prompt in work]
    alone = {name: Engine(model) for name, model in family.items()}
    seen = set()
    for (name, prompt), reply in zip(work, replies, strict=True):
        completion = reply.result()
        assert same(completion, alone[name].generate(prompt, max_tokens=10)), name
        seen.add((name, completion.logprobs.tobytes()))
    assert len({bits for _, bits in seen}) == len(seen), "a delta that changes nothing tests nothing"
    for name in METHODS:
        assert np.array_equal(engine.embed(PROMPTS[3], delta=name), alone[name].embed(PROMPTS[3]))
        found = engine.following(PROMPTS[3], top_k=2, delta=name)
        assert np.array_equal(found, alone[name].following(PROMPTS[3], top_k=2))


def test_a_delta_may_go_while_it_is_used(family: dict[str | None, Any]) -> None:
    engine = Engine(family[None])
    for _ in range(10):
        engine.load_delta("mine", family["low"])
        reply = engine.submit([5, 6, 7], max_tokens=20, ignore_eos=True, delta="mine")
        engine.unload_delta("mine")
        engine.load_delta("mine", family["scaled"])
        other = engine.submit([5, 6, 7], max_tokens=20, ignore_eos=True, delta="mine")
        engine.unload_delta("mine")
        for model, found in ((family["low"], reply), (family["scaled"], other)):
            assert same(found.result(), Engine(model).generate([5, 6, 7], max_tokens=20, ignore_eos=True))


def test_deltas_that_are_not_there(family: dict[str | None, Any]) -> None:
    engine = Engine(family[None])
    engine.load_delta("low", family["low"])
    for ask in (
        lambda: engine.generate([5], delta="other"),
        lambda: engine.embed([5], delta="other"),
        lambda: engine.unload_delta("other"),
    ):
        with pytest.raises(InputError, match="delta is 'other', expected one that is loaded: low"):
            ask()
    with pytest.raises(InputError, match="delta 'low' is loaded already"):
        engine.load_delta("low", family["low"])
    with pytest.raises(InputError, match="of a model with another config"):
        engine.load_delta("gpt2", bare("gpt2"))


# --- deltas of low rank in one batch with their base ---


def trained(method: Any, model: Any, seed: int) -> Any:
    """The model with the method on it, all its own weights drawn at random."""
    tuned, random = method(model), np.random.default_rng(seed)
    for parameter in tuned.named_parameters().values():
        if parameter.trainable:
            values = random.normal(0, 0.2, parameter.shape).astype(np.float32)
            parameter.data = native.array(values).tensor
    return tuned


MIXED: dict[str, Any] = {
    "one": delta.LoRA(rank=4, targets="*.attn.{q,v}", dropout=0.1),
    "two": delta.LoRA(rank=4, targets="*.attn.{q,v}"),
    "all": delta.LoRA(rank=3, targets="*.{q,k,v,o,up,down}", rslora=True),
    "head": delta.LoRA(rank=2, targets="head"),
    "composed": delta.LoRA(rank=2, targets="*.attn.o"),
    "scaled": delta.IA3(),
}


@pytest.mark.parametrize("dtype", ["f32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "gpt_neox", "opt"])
def test_deltas_of_low_rank_share_a_batch_with_their_base(name: str, dtype: Any) -> None:
    model = bare(name)
    methods = {key: method for key, method in MIXED.items() if key != "head" or name in ("llama", "qwen3")}
    engine = Engine(model, dtype=dtype)
    for seed, (key, method) in enumerate(methods.items()):
        engine.load_delta(key, trained(method, model, seed))
    options: dict[str, Any] = {"max_tokens": 12, "temperature": 0.7, "ignore_eos": True}
    asked = [(prompt, key) for prompt in PROMPTS[1:5] for key in (None, *engine.deltas)]
    alone = [engine.generate(prompt, **options, seed=at, delta=key) for at, (prompt, key) in enumerate(asked)]
    for order in (range(len(asked)), reversed(range(len(asked)))):
        replies = {at: engine.submit(asked[at][0], **options, seed=at, delta=asked[at][1]) for at in order}
        assert all(same(replies[at].result(), alone[at]) for at in range(len(asked)))
    base = engine._base.generator(None)
    variants = {key: engine._plans(key).generator(None, base).is_variant for key in engine.deltas}
    # Those that change more than projections run by themselves.
    assert variants == {key: key not in ("scaled", "head") for key in engine.deltas}


def test_variants_come_and_go_while_others_run() -> None:
    model = bare("llama")
    engine = Engine(model)
    options: dict[str, Any] = {"max_tokens": 24, "ignore_eos": True}
    tuned = {f"d{i}": trained(delta.LoRA(rank=2 + i % 3), model, i) for i in range(12)}
    expected = {}
    for key, each in tuned.items():
        engine.load_delta(key, each)
        expected[key] = engine.generate(PROMPTS[3], **options, delta=key)
        engine.unload_delta(key)
    running = []
    for key, each in tuned.items():
        engine.load_delta(key, each)
        running.append((key, engine.submit(PROMPTS[3], **options, delta=key)))
        if len(engine.deltas) > 4:
            engine.unload_delta(engine.deltas[0])
    assert all(same(reply.result(), expected[key]) for key, reply in running)


# --- texts that are read, in the queue of those that are written ---


def test_texts_are_read_beside_requests_with_the_bits_of_each_alone() -> None:
    engine = Engine(bare("llama"), step_tokens=24)
    texts = [p for p in PROMPTS if p]
    vectors = [engine.embed(text) for text in texts]
    rows = [engine.following(text) for text in texts if len(text) > 1]
    expected = [engine.generate(text, max_tokens=8, ignore_eos=True) for text in texts]
    replies = [engine.submit(text, max_tokens=8, ignore_eos=True) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        embedded = [pool.submit(engine.embed, text) for text in texts]
        together = pool.submit(engine.embed, texts)
        followed = [pool.submit(engine.following, text) for text in texts if len(text) > 1]
        assert all(np.array_equal(got.result(), want) for got, want in zip(embedded, vectors, strict=True))
        assert np.array_equal(together.result(), np.stack(vectors))
        assert all(np.array_equal(got.result(), want) for got, want in zip(followed, rows, strict=True))
    assert all(same(reply.result(), want) for reply, want in zip(replies, expected, strict=True))
    engine.close()


def test_a_reading_that_fails_takes_no_other_with_it() -> None:
    engine = Engine(bare("bert"))
    good = engine.embed([3, 4, 5])
    with ThreadPoolExecutor(8) as pool:
        bad = [pool.submit(engine.embed_pieces, [([3, 4], [0, 99])]) for _ in range(4)]
        fine = [pool.submit(engine.embed, [3, 4, 5]) for _ in range(12)]
        assert all(np.array_equal(each.result(), good) for each in fine)
        assert all(isinstance(each.exception(), Exception) for each in bad)
