"""The engine: the same tokens as transformers, and the same bits whatever the company, the chunks or the threads."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from lmrs import Engine, Tokenizer, delta, models
from lmrs.batch import Batch, Ragged
from lmrs.engine import Completion, KvDtype
from lmrs.errors import ConfigError, InputError

FIXTURES = Path(__file__).parent / "fixtures" / "models"
SHARED = Path(__file__).parent.parent.parent / "shared" / "data" / "models"
CAUSAL = ["gpt2", "llama", "mistral", "qwen2", "qwen3"]
SEQ2SEQ = ["t5", "flan-t5"]
PROMPTS = [[5, 6, 7, 8, 9], [11], [4] * 9 + [90, 3], [8, 8, 7]]
SAMPLED: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95, "top_k": 40, "repetition_penalty": 1.1, "max_tokens": 24}


def bare(name: str) -> Engine:
    """An engine of a fixture, which has no tokenizer."""
    model = models.load(FIXTURES / name)
    model.source = None
    return Engine(model)


def same(one: Completion, other: Completion) -> bool:
    return one.tokens == other.tokens and one.text == other.text and np.array_equal(one.logprobs, other.logprobs)


@pytest.mark.parametrize("name", CAUSAL + SEQ2SEQ)
def test_greedy_tokens_are_transformers(name: str) -> None:
    expected = np.load(FIXTURES / name / "reference.npz")
    prompt = expected["ids"][: expected["lengths"][0]].tolist()
    completion = bare(name).generate(prompt, max_tokens=len(expected["greedy"]))
    assert completion.tokens == expected["greedy"].tolist()
    assert (completion.finish_reason, completion.text) == ("length", "")


@pytest.mark.parametrize("kv_dtype", ["bf16", "int8"])
@pytest.mark.parametrize("name", CAUSAL + SEQ2SEQ)
def test_narrow_keys_and_values_are_near_and_do_not_depend_on_company(name: str, kv_dtype: KvDtype) -> None:
    engine = Engine(bare(name).model, kv_dtype=kv_dtype)
    together = engine.generate(PROMPTS, max_tokens=24)
    assert all(map(same, together, [engine.generate(p, max_tokens=24) for p in PROMPTS]))
    for prompt, completion in zip(PROMPTS, together, strict=True):
        exact = bare(name).generate(prompt, max_tokens=1)
        assert abs(exact.logprobs[0] - completion.logprobs[0]) < 0.05


@pytest.mark.parametrize("options", [{"max_tokens": 24}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", CAUSAL + SEQ2SEQ)
def test_a_batch_is_one_by_one_to_the_bit(name: str, options: dict[str, Any]) -> None:
    engine, seeds = bare(name), [3, 1, 4, 1]
    together = engine.generate(PROMPTS, **options, seed=seeds)
    alone = [engine.generate(p, **options, seed=s) for p, s in zip(PROMPTS, seeds, strict=True)]
    assert all(map(same, together, alone))
    reversed_ = engine.generate(PROMPTS[::-1], **options, seed=seeds[::-1])
    assert all(map(same, together, reversed_[::-1]))


@pytest.mark.parametrize("name", CAUSAL)
def test_prefill_and_decode_are_the_full_forward_to_the_bit(name: str) -> None:
    engine = bare(name)
    model = engine.model
    for prompt, completion in zip(PROMPTS, engine.generate(PROMPTS, **SAMPLED, ignore_eos=True), strict=True):
        ids = [*prompt, *completion.tokens]
        batch = Batch.of([ids[:-1]], labels=[ids[1:]])
        logprobs = model.head.logprob(model.hidden(batch), batch.labels).numpy()[len(prompt) - 1 :, 0]
        assert np.array_equal(completion.logprobs, logprobs)


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_the_decoder_is_its_full_forward_to_the_bit(name: str) -> None:
    engine = bare(name)
    model: Any = engine.model
    for prompt, completion in zip(PROMPTS, engine.generate(PROMPTS, **SAMPLED, ignore_eos=True), strict=True):
        source = Batch.of([prompt])
        memory, seqs = model.encode(source), Ragged("memory", source.seqs.starts)
        reply = Batch.of([[model.config.start, *completion.tokens[:-1]]], labels=[completion.tokens])
        logprobs = model.head.logprob(model.hidden(reply, memory, seqs), reply.labels).numpy()[:, 0]
        assert np.array_equal(completion.logprobs, logprobs)


DIGEST = f"""
import sys, hashlib
import numpy as np
from lmrs import Engine, models
digest = hashlib.sha256()
for name in {CAUSAL + SEQ2SEQ}:
    model = models.load({str(FIXTURES)!r} + "/" + name)
    model.source = None
    for c in Engine(model).generate({[list(range(3, 60)), *PROMPTS]}, **{SAMPLED}):
        digest.update(np.int32(c.tokens).tobytes() + c.logprobs.tobytes())
print(digest.hexdigest())
"""


def test_the_number_of_threads_changes_nothing() -> None:
    def digest(threads: int) -> str:
        environment = {**os.environ, "LMRS_NUM_THREADS": str(threads)}
        done = subprocess.run(
            [sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True, env=environment
        )
        return done.stdout

    assert digest(1) == digest(2) == digest(3)


def test_one_engine_in_several_threads() -> None:
    engine = bare("llama")
    alone = [bare("llama").generate(prompt, **SAMPLED) for prompt in PROMPTS]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda prompt: engine.generate(prompt, **SAMPLED), PROMPTS * 4))
    assert all(map(same, together, alone * 4))


# --- real models ---


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Engine:
    return Engine(models.load(smollm2_gguf))


def test_smollm2_is_transformers(smollm2: Engine, smollm2_gguf: Path) -> None:
    peer = transformers.AutoModelForCausalLM.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)
    for prompt in ("Once upon a time", "The capital of France is"):
        completion = smollm2.generate(prompt, max_tokens=64)
        ids = smollm2.tokenizer.encode(prompt).ids
        with torch.inference_mode():
            logits = peer(torch.tensor([[*ids, *completion.tokens]])).logits[0, len(ids) - 1 : -1].double()
        # Greedy decoding step by step is the likeliest token of each prefix.
        assert completion.tokens == logits.argmax(-1).tolist()
        logprobs = logits.log_softmax(-1).gather(1, torch.tensor(completion.tokens)[:, None])[:, 0]
        np.testing.assert_allclose(completion.logprobs, logprobs.numpy(), rtol=1e-5, atol=2e-5)
        assert (len(completion.tokens), completion.finish_reason) in [(64, "length"), (30, "eos")]


@pytest.mark.skipif(not SHARED.exists(), reason="an addition where the shared references are; the test above is live")
def test_smollm2_references(smollm2: Engine) -> None:
    for case in json.loads((SHARED / "smollm2-135m-instruct-gguf" / "reference.json").read_text())["greedy"]:
        completion = smollm2.generate(case["prompt"], max_tokens=len(case["new_ids"]))
        assert completion.tokens == case["new_ids"]


def test_pieces_are_the_text_in_whole_characters(smollm2: Engine) -> None:
    options: dict[str, Any] = {"max_tokens": 40, "temperature": 1.2, "seed": 5}
    prompt = "Translate to Japanese, with emoji: good morning 🌞 =>"
    pieces, stream = [], smollm2.stream(prompt, **options)
    try:
        while True:
            pieces.append(next(stream))
    except StopIteration as end:
        streamed = end.value
    whole = smollm2.generate(prompt, **options)
    assert same(streamed, whole)
    assert "".join(pieces) == whole.text
    assert len(pieces) > 10
    assert whole.text == smollm2.tokenizer.decode(whole.tokens, skip_special_tokens=True)


def test_a_conversation_is_what_its_template_writes(smollm2: Engine) -> None:
    turns = [[{"role": "user", "content": "Name a colour."}], [{"role": "user", "content": "Say hi."}]]
    texts = [smollm2.tokenizer.apply_chat_template(each, add_generation_prompt=True) for each in turns]
    ids = [smollm2.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    expected = smollm2.generate(ids, max_tokens=6)
    assert all(map(same, smollm2.generate(turns, max_tokens=6), expected))
    assert same(smollm2.generate(turns[0], max_tokens=6), expected[0])
    assert "".join(smollm2.stream(turns[1], max_tokens=6)) == expected[1].text
    with pytest.raises(InputError, match="tokenizer"):
        bare("llama").generate(turns[0])


def test_stop_strings_and_ends(smollm2: Engine) -> None:
    free = smollm2.generate("Once upon a time", max_tokens=32)
    assert "metropolis" in free.text
    stopped = smollm2.generate("Once upon a time", max_tokens=32, stop=["tropol", "never"])
    assert (stopped.text, stopped.finish_reason) == (free.text[: free.text.index("tropol")], "stop")
    assert stopped.tokens == free.tokens[: len(stopped.tokens)]
    ended = smollm2.generate("The capital of France is", max_tokens=64)
    assert (ended.finish_reason, ended.tokens[-1]) == ("eos", smollm2.tokenizer.eos_id)
    assert not ended.text.endswith("<|im_end|>")
    on = smollm2.generate("The capital of France is", max_tokens=64, ignore_eos=True)
    assert (on.finish_reason, len(on.tokens)) == ("length", 64)


TEXTS = ["A cat sat.", "The quick brown fox jumps over the lazy dog.", "naïve café — 語", "word " * 200]


def test_minilm_is_transformers(minilm_dir: Path) -> None:
    engine = Engine(models.load(minilm_dir))
    peer = transformers.AutoModel.from_pretrained(minilm_dir).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_dir)
    ours = engine.embed(TEXTS)
    assert (ours.shape, ours.dtype) == ((4, 384), np.float32)
    for text, row in zip(TEXTS, ours, strict=True):
        with torch.inference_mode():
            states = peer(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        expected = torch.nn.functional.normalize(states.mean(0), dim=0).numpy()
        assert abs(row - expected).max() < 1e-4
        assert row @ expected / np.linalg.norm(row) / np.linalg.norm(expected) > 1 - 1e-5
    assert all(np.array_equal(engine.embed(text), row) for text, row in zip(TEXTS, ours, strict=True))
    ids = [encoding.ids for encoding in engine.tokenizer.encode(TEXTS)]
    assert np.array_equal(engine.embed(ids), ours)
    assert np.array_equal(engine.embed(ids[0]), ours[0])


@pytest.mark.skipif(not SHARED.exists(), reason="an addition where the shared references are; the test above is live")
def test_minilm_references(minilm_dir: Path) -> None:
    file = SHARED / "all-minilm-l6-v2" / "reference.json"
    expected = json.loads(file.read_text())["reference_fp32_original"]["sentence_embeddings"]
    ours = Engine(models.load(minilm_dir)).embed(expected["texts"])
    assert abs(ours[:, :8] - np.array(expected["first8"])).max() < 1e-4
    np.testing.assert_allclose(ours @ ours[0], expected["cosine_first_row"], atol=1e-5)


@pytest.mark.parametrize("kind", ["mean", "first", "last", "max"])
def test_pooling(kind: Any) -> None:
    model = models.load(FIXTURES / "bert")
    states = model.states(Batch.of(PROMPTS)).numpy()
    starts = np.cumsum([0, *map(len, PROMPTS)])
    rows = [states[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True)]
    pool = {"mean": lambda r: r.mean(0), "first": lambda r: r[0], "last": lambda r: r[-1], "max": lambda r: r.max(0)}
    model.source = None
    engine = Engine(model)
    vectors = engine.embed(PROMPTS, pooling=kind, normalize=False)
    np.testing.assert_allclose(vectors, np.stack([pool[kind](row) for row in rows]), rtol=1e-5, atol=1e-6)
    unit = engine.embed(PROMPTS, pooling=kind, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(unit, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), rtol=1e-5, atol=1e-6)


# --- what is refused ---


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, None),
        ([[]], {}, "prompt is empty"),
        ([1, 99], {}, r"prompt\[1\] is 99, expected 0 to 98"),
        ([1, -1], {}, r"prompt\[1\] is -1"),
        ([1, 2**40], {}, r"prompt\[1\] is 1099511627776"),
        ([1] * 65, {}, "length of prompt is 65, expected at most the model's context, 64 tokens"),
        ([[1], 2.5], {}, r"item 1 is 2.5"),
        (None, {}, "None is neither a text nor token ids"),
        ([1], {"max_tokens": 0}, "max_tokens is 0"),
        ([1], {"max_tokens": 2**70}, "max_tokens is"),
        ([1], {"max_tokens": 2.0}, "max_tokens is 2.0"),
        ([1], {"temperature": float("nan")}, "temperature is NaN"),
        ([1], {"temperature": -0.1}, "temperature is -0.1"),
        ([1], {"top_p": 1.01}, "top_p is 1.01"),
        ([1], {"top_k": -1}, "top_k is -1"),
        ([1], {"min_p": 2}, "min_p is 2"),
        ([1], {"repetition_penalty": 0}, "repetition_penalty is 0"),
        ([1], {"seed": -1}, "seed is -1"),
        ([1], {"seed": 2**64}, "seed is"),
        ([[1], [2]], {"seed": [1]}, "seed is"),
        ([1], {"stop": ["a"]}, "stop is given"),
        ([1], {"best_of": 3}, "unknown option best_of; the options are max_tokens"),
        ("a text", {}, "pass tokenizer="),
    ],
)
def test_requests_out_of_range(prompt: Any, options: dict[str, Any], message: str | None) -> None:
    engine = bare("gpt2")
    if message is None:
        assert engine.generate(prompt, **options) == []
        return
    with pytest.raises(InputError, match=message):
        engine.generate(prompt, **options)
    if not isinstance(prompt, list) or all(isinstance(item, int) for item in prompt):
        with pytest.raises(InputError, match=message):
            next(engine.stream(prompt, **options))


def test_what_a_model_cannot_do(minilm_dir: Path) -> None:
    minilm = Engine(models.load(minilm_dir))
    with pytest.raises(ConfigError, match="a bert reads texts whole: it cannot generate"):
        minilm.generate("A cat")
    with pytest.raises(ConfigError, match="a bert reads texts whole: it cannot score"):
        minilm.score("A cat")
    for text, message in [
        ("", "text 0 to embed is empty"),
        ("word " * 300, "text 0 has 302 tokens, expected at most 256"),
    ]:
        with pytest.raises(InputError, match=message):
            minilm.embed(text)
    assert minilm.embed("word " * 300, truncate=True).shape == (384,)
    assert minilm.embed([]).shape == (0, 384)
    with pytest.raises(InputError, match="pooling is 'cls', expected one of mean, first, last, max"):
        minilm.embed("A cat", pooling="cls")  # type: ignore[arg-type]
    tokenizer = Tokenizer.load(minilm_dir)
    with pytest.raises(ConfigError, match="a t5 predicts an answer"):
        Engine(models.load(FIXTURES / "t5"), tokenizer=tokenizer).score("A cat")
    with pytest.raises(InputError, match="dtype is 'int3', expected one of f32, bf16, int8, int4"):
        Engine(models.load(FIXTURES / "gpt2"), dtype="int3")  # type: ignore[arg-type]


def test_a_generation_ends_with_the_context() -> None:
    completion = bare("gpt2").generate([1] * 60, max_tokens=50)
    assert (len(completion.tokens), completion.finish_reason) == (4, "length")


def test_interrupted_by_a_signal(smollm2_gguf: Path) -> None:
    program = f"""
import signal, sys
from lmrs import Engine, models
engine = Engine(models.load({str(smollm2_gguf)!r}))
engine.generate("x", max_tokens=1)
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.5)
try:
    engine.generate("Once", max_tokens=8000, ignore_eos=True)
except KeyboardInterrupt:
    print("interrupted")
print(engine.generate("Once", max_tokens=3).finish_reason)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["interrupted", "length"]


def test_what_it_says_of_itself() -> None:
    engine = bare("llama")
    count = sum(parameter.size for parameter in engine.model.named_parameters().values())
    engine.load_delta("poet", delta.LoRA(rank=2)(engine.model))
    assert repr(engine) == f"<Engine of <llama of {count:,} parameters> as f32 with poet>"
    assert repr(delta.BitFit()(engine.model)).endswith(" parameters, BitFit(seed=0, modules='*', add=True)>")


def test_token_ids_need_no_tokenizer() -> None:
    engine = Engine(models.load(FIXTURES / "gpt2"))
    assert len(engine.generate([5, 6], max_tokens=2, ignore_eos=True).tokens) == 2
    with pytest.raises(InputError, match="no tokenizer beside this model"):
        engine.generate("a text")


def test_a_tokenizer_that_does_not_fit(minilm_dir: Path) -> None:
    model = models.load(FIXTURES / "gpt2")
    with pytest.raises(ConfigError, match=r"30522 tokens, the model's embedding \d+ rows"):
        Engine(model, tokenizer=Tokenizer.load(minilm_dir)).generate("a text")
