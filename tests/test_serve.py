"""The server, by the clients people use: a live one on real small models."""

import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from lmrs import Engine, delta, models
from lmrs.backend import native
from lmrs.serve import Limits, create_app

KEY = "a key"
LIMITS = Limits(body_bytes=1 << 20, prompts=8, choices=4, tokens=64, texts=32, messages=8, requests=24)
GREEDY: dict[str, Any] = {"model": "smollm2", "temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def engine(smollm2_gguf: Path) -> Engine:
    model: Any = models.load(smollm2_gguf)
    engine, draw = Engine(model, dtype="int8"), np.random.default_rng(3)
    for name, method in (("low", delta.LoRA(rank=4)), ("scaled", delta.IA3())):
        tuned = method(model)
        for parameter in tuned.named_parameters().values():
            if parameter.trainable:
                values = native.tensor(parameter).numpy() + draw.normal(0, 0.1, parameter.shape)
                parameter.data = native.array(values.astype(np.float32)).tensor
        engine.load_delta(name, tuned)
    return engine


@pytest.fixture(scope="module")
def address(engine: Engine, live: Any) -> Iterator[str]:
    with live(create_app(engine, name="smollm2", api_key=KEY, limits=LIMITS)) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def minilm(minilm_dir: Path, live: Any) -> Iterator[tuple[str, Engine]]:
    engine = Engine(models.load(minilm_dir))
    with live(create_app(engine, name="minilm", limits=LIMITS)) as address:
        yield address, engine


def settled(engine: Engine) -> None:
    """Waits until nothing runs."""
    end = time.monotonic() + 20
    while engine.load.running or engine.load.waiting:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_models_and_their_deltas(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["smollm2", "smollm2:low", "smollm2:scaled"]


def test_completions_are_the_engines(client: openai.OpenAI, engine: Engine) -> None:
    expected = engine.generate("The sea is", max_tokens=12)
    whole = client.completions.create(prompt="The sea is", **GREEDY)
    assert whole.choices[0].text == expected.text
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (3, 12)
    pieces = client.completions.create(
        prompt="The sea is", stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    chunks = list(pieces)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == expected.text
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12
    several = client.completions.create(prompt=["The sea is", "A cat"], n=2, **GREEDY)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in several.choices[:2]] == [expected.text] * 2


def test_logprobs_of_the_prompt_and_of_what_follows(client: openai.OpenAI, engine: Engine) -> None:
    answer = client.completions.create(prompt="The sea is blue", echo=True, logprobs=2, **GREEDY)
    found = answer.choices[0].logprobs
    ids = engine.tokenizer.encode("The sea is blue").ids
    expected = engine.generate(ids, max_tokens=12)
    assert found is not None
    assert found.token_logprobs is not None
    assert found.tokens is not None
    end = "<|im_end|>" if answer.choices[0].finish_reason == "stop" else ""
    assert "".join(found.tokens) == answer.choices[0].text + end
    whole = engine.following([*ids, *expected.tokens], top_k=2)
    assert found.token_logprobs[0] is None
    assert found.token_logprobs[1:] == whole[:, 0].tolist()
    assert found.top_logprobs is not None
    assert len(found.top_logprobs[-1]) == 2
    only = client.completions.create(
        model="smollm2", prompt="The sea is blue", echo=True, logprobs=0, max_tokens=0, temperature=0
    )
    assert only.choices[0].logprobs is not None
    assert only.choices[0].logprobs.token_logprobs == found.token_logprobs[: len(ids)]


def test_conversations(client: openai.OpenAI, engine: Engine) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is a byte?"}]},
    ]
    plain = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a byte?"}]
    text = engine.tokenizer.apply_chat_template(plain, add_generation_prompt=True)
    expected = engine.generate(engine.tokenizer.encode(text, add_special_tokens=False).ids, max_tokens=12)
    answer = client.chat.completions.create(messages=messages, logprobs=True, top_logprobs=3, **GREEDY)
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.content is not None
    told = [token.logprob for token in answer.choices[0].logprobs.content]
    assert told == expected.logprobs.tolist()
    assert [len(token.top_logprobs) for token in answer.choices[0].logprobs.content] == [3] * 12
    chunks = list(client.chat.completions.create(messages=messages, stream=True, n=2, **GREEDY))
    for at in range(2):
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == at]
        assert "".join(choice.delta.content or "" for choice in mine) == expected.text
        assert mine[0].delta.role == "assistant"
        assert mine[-1].finish_reason == "length"


def test_clients_at_once_with_deltas_get_what_each_gets_alone(client: openai.OpenAI, engine: Engine) -> None:
    names = [None, "low", "scaled"]
    expected = {name: engine.generate("Once upon a time", max_tokens=12, delta=name).text for name in names}
    assert len(set(expected.values())) == 3

    def ask(name: str | None) -> str:
        model = "smollm2" if name is None else f"smollm2:{name}"
        return client.completions.create(prompt="Once upon a time", **{**GREEDY, "model": model}).choices[0].text

    with ThreadPoolExecutor(9) as pool:
        answers = list(pool.map(ask, names * 6))
    assert answers == [expected[name] for name in names * 6]


def test_seeds_repeat_and_choices_differ(client: openai.OpenAI) -> None:
    def ask(**more: Any) -> list[str]:
        options = {**GREEDY, "temperature": 1.2, "n": 3, **more}
        return [choice.text for choice in client.completions.create(prompt="The", **options).choices]

    assert ask(seed=5) == ask(seed=5)
    assert len(set(ask(seed=5))) == 3
    assert ask(seed=5) != ask()
    best = client.completions.create(prompt="The", **{**GREEDY, "temperature": 1.2, "seed": 5}, best_of=3)
    assert best.choices[0].text in ask(seed=5)


def test_a_client_that_leaves_frees_its_place(http: httpx.Client, engine: Engine) -> None:
    asked = {"model": "smollm2", "prompt": "The", "max_tokens": 64, "ignore_eos": True, "n": 4}
    for _ in range(4):
        with http.stream("POST", "/v1/completions", json={**asked, "stream": True}) as answer:
            assert next(answer.iter_lines()).startswith("data: ")
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/completions", json=asked, timeout=0.1)
    settled(engine)
    assert engine.load.cached_bytes == 0


def test_too_many_are_told_to_come_back(http: httpx.Client, engine: Engine) -> None:
    asked = {"model": "smollm2", "prompt": ["The"] * 6, "n": 4, "max_tokens": 64, "ignore_eos": True, "stream": True}
    with http.stream("POST", "/v1/completions", json=asked) as first:
        lines = first.iter_lines()
        next(lines)
        turned_away = http.post("/v1/completions", json={**asked, "stream": False})
        assert (turned_away.status_code, turned_away.headers["retry-after"]) == (429, "1")
        assert turned_away.json()["error"]["type"] == "rate_limit_error"
    settled(engine)
    assert http.post("/v1/completions", json={**GREEDY, "prompt": "The"}).status_code == 200


def test_embeddings_and_ranks(minilm: tuple[str, Engine]) -> None:
    address, engine = minilm
    texts = ["a cat", "a dog sleeps", "the sea is deep and cold"]
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    answer = client.embeddings.create(model="minilm", input=texts)
    found = np.array([item.embedding for item in answer.data], np.float32)
    assert np.array_equal(found, engine.embed(texts))
    plain = client.embeddings.create(model="minilm", input=texts[0], encoding_format="float")
    assert np.array_equal(np.float32(plain.data[0].embedding), engine.embed(texts[0]))
    with httpx.Client(base_url=address) as http:
        ranked = http.post("/rerank", json={"query": "ocean", "documents": texts, "top_n": 2}).json()["results"]
        assert [item["index"] for item in ranked][0] == 2
        assert len(ranked) == 2
        refused = http.post("/v1/completions", json={"model": "minilm", "prompt": "x"})
        assert refused.status_code == 400
        assert "it cannot generate" in refused.json()["error"]["message"]


def test_scores_and_tokens(http: httpx.Client, engine: Engine) -> None:
    text = "The sea is blue."
    scored = http.post("/score", json={"input": text}).json()["scores"][0]
    assert scored["perplexity"] == engine.score(text).perplexity
    ids = http.post("/tokenize", json={"prompt": text}).json()
    assert ids == {"tokens": engine.tokenizer.encode(text).ids, "count": len(ids["tokens"])}
    assert http.post("/detokenize", json={"tokens": ids["tokens"]}).json() == {"prompt": text}


def test_health_and_metrics(http: httpx.Client, address: str) -> None:
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}
    assert httpx.get(f"{address}/ready").status_code == 200
    page = http.get("/metrics").text
    assert 'lmrs_requests_total{route="/v1/completions",status="200"}' in page
    assert "lmrs_generated_tokens_total" in page
    assert "lmrs_running 0.0" in page


def test_without_the_key_nothing(address: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}):
        for path in ("/v1/models", "/metrics", "/nowhere"):
            assert httpx.get(address + path, headers=headers).status_code == 401
        assert httpx.post(f"{address}/v1/completions", headers=headers, json=GREEDY).status_code == 401


def test_deltas_come_and_go_only_where_allowed(engine: Engine, tmp_path: Path, http: httpx.Client, live: Any) -> None:
    name = {"lora_name": "fresh", "lora_path": "fresh"}
    assert http.post("/v1/load_lora_adapter", json=name).status_code == 403
    model: Any = engine.model
    delta.save(delta.LoRA(rank=2)(model), tmp_path / "allowed" / "fresh")
    delta.save(delta.LoRA(rank=2)(model), tmp_path / "outside")
    (tmp_path / "allowed" / "link").symlink_to(tmp_path / "outside")
    app = create_app(Engine(model, dtype="int8"), name="m", limits=LIMITS, delta_root=tmp_path / "allowed")
    with live(app) as address, httpx.Client(base_url=address, timeout=60) as client:
        for path in ("../outside", str(tmp_path / "outside"), "link", "nothing", "a\0b", ""):
            refused = client.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": path})
            assert refused.status_code == 400, path
        assert client.post("/v1/load_lora_adapter", json=name).status_code == 200
        asked = {"model": "m:fresh", "prompt": "The", "max_tokens": 2}
        assert client.post("/v1/completions", json=asked).status_code == 200
        assert client.post("/v1/unload_lora_adapter", json={"lora_name": "fresh"}).status_code == 200
        assert client.post("/v1/completions", json=asked).status_code == 404


# --- what is refused ---

ROUTES = {
    "/v1/completions": {"model": "smollm2", "prompt": "x", "max_tokens": 1},
    "/v1/chat/completions": {"model": "smollm2", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
    "/v1/embeddings": {"model": "smollm2", "input": "x"},
    "/rerank": {"query": "x", "documents": ["y"]},
    "/score": {"input": "some text"},
    "/tokenize": {"prompt": "x"},
    "/detokenize": {"tokens": [5]},
}
WRONG: list[Any] = [True, -1, 10**30, 1.5, "x", [], {}, [None], [[[]]], "\ud800", [10**9], -0.1, 1e308]
FIELDS = {
    "/v1/completions": [
        "model", "prompt", "max_tokens", "n", "best_of", "logprobs", "temperature", "top_p", "top_k", "min_p",
        "repetition_penalty", "seed", "stop", "echo", "stream", "stream_options", "unheard_of", "presence_penalty",
        "frequency_penalty", "logit_bias", "no_repeat_ngram_size", "min_tokens", "typical_p",
    ],
    "/v1/chat/completions": [
        "model", "messages", "max_completion_tokens", "top_logprobs", "response_format", "tools", "tool_choice",
    ],
    "/v1/embeddings": ["model", "input", "encoding_format", "dimensions"],
    "/rerank": ["query", "documents", "top_n"],
    "/score": ["input", "protocol"],
    "/tokenize": ["prompt", "add_special_tokens"],
    "/detokenize": ["tokens"],
}  # fmt: skip


def test_every_field_given_something_else(http: httpx.Client, engine: Engine) -> None:
    seen: dict[int, int] = {}
    for route, fields in FIELDS.items():
        for field in fields:
            for value in WRONG:
                answer = http.post(route, content=json.dumps({**ROUTES[route], field: value}))
                seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
                assert answer.status_code in (200, 400, 404), (route, field, value, answer.text)
                if answer.status_code != 200:
                    error = answer.json()["error"]
                    assert error["message"]
                    assert len(error["message"]) < 500
    assert sum(seen.values()) >= 400
    assert seen[400] >= 300
    settled(engine)


@pytest.mark.parametrize(
    ("route", "more", "message"),
    [
        ("/v1/completions", {"n": 10**6}, "n is 1000000, expected an integer from 1 to 4"),
        ("/v1/completions", {"best_of": 10**6}, "best_of is 1000000"),
        ("/v1/completions", {"logprobs": 10**9}, "logprobs is 1000000000, expected an integer from 0 to 20"),
        ("/v1/completions", {"max_tokens": 2**63}, "expected an integer from 1 to 64"),
        ("/v1/completions", {"stop": ["a"] * 10**5}, "stop has 100000 items, expected at most 16"),
        ("/v1/completions", {"stop": ""}, "stop has an empty string"),
        ("/v1/completions", {"prompt": ""}, "prompt is empty"),
        ("/v1/completions", {"prompt": []}, "prompt is [], expected a string, token ids, or a list of either"),
        ("/v1/completions", {"prompt": [10**6]}, "prompt[0] is 1000000, expected 0 to 49151"),
        ("/v1/completions", {"prompt": ["x"] * 9}, "prompt has 9 items, expected at most 8"),
        ("/v1/completions", {"prompt": "word " * 9000}, "expected at most the model's context, 8192 tokens"),
        ("/v1/completions", {"suffix": "x"}, 'suffix is "x", expected "", since it is not offered here'),
        ("/v1/completions", {"presence_penalty": 2.5}, "presence_penalty is 2.5, expected a number from -2 to 2"),
        ("/v1/completions", {"frequency_penalty": False}, "frequency_penalty is false"),
        ("/v1/completions", {"logit_bias": {"x": 1}}, "whose keys are token ids, 0 to 49151"),
        ("/v1/completions", {"logit_bias": {"1": 101}}, "numbers from -100 to 100"),
        ("/v1/completions", {"model": "gpt-5"}, "there is no model gpt-5; there are smollm2, smollm2:low"),
        ("/v1/completions", {"model": "smollm2:../x"}, "there is no model smollm2:../x"),
        ("/v1/chat/completions", {"messages": []}, "messages is [], expected a list of messages"),
        ("/v1/chat/completions", {"messages": [{"role": "x", "content": ""}]}, "messages[0].role is not one of"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "of type text"),
        ("/v1/chat/completions", {"tools": [{"type": "function"}]}, "tools[0] is not an object of type function"),
        ("/v1/chat/completions", {"tool_choice": "required"}, 'expected "none" or "auto" without tools'),
        ("/v1/chat/completions", {"chat_template": "{{ 1 }}"}, "unknown field chat_template"),
        ("/v1/chat/completions", {"top_logprobs": 5}, "top_logprobs needs logprobs to be true"),
        ("/v1/embeddings", {"input": ["x"] * 33}, "input has 33 items, expected at most 32"),
        ("/v1/embeddings", {"input": ""}, "text 0 to embed is empty"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0] is out of range"),
    ],
)
def test_what_is_said_of_it(http: httpx.Client, route: str, more: dict[str, Any], message: str) -> None:
    answer = http.post(route, json={**ROUTES[route], **more})
    assert answer.status_code in (400, 404)
    assert message in answer.json()["error"]["message"]


def test_what_is_not_offered_may_be_left_at_nothing(http: httpx.Client) -> None:
    nothing = {"presence_penalty": 0.0, "frequency_penalty": 0, "logit_bias": {}, "tools": [], "tool_choice": "none"}
    for route in ("/v1/completions", "/v1/chat/completions"):
        answer = http.post(route, json={**ROUTES[route], **nothing})
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"null", 400),
        (b"[]", 400),
        (b"\xff\xfe", 400),
        (b'{"model": NaN}', 400),
        (b'{"model": "a", "model": "b"}', 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 100_000, 400),
        (b'{"seed": ' + b"9" * 100_000 + b"}", 400),
        (b'{"model": "\\ud800"}', 400),
        (b" " * (1 << 20) + b"{}", 413),
    ],
)
@pytest.mark.parametrize("route", list(ROUTES))
def test_bodies_that_are_not_requests(http: httpx.Client, route: str, body: bytes, status: int) -> None:
    assert http.post(route, content=body).status_code == status


def test_a_body_without_end_is_cut(http: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(1000):
            yield b" " * 65536

    # The server may have closed the connection before all of it was sent.
    with contextlib.suppress(httpx.WriteError, httpx.RemoteProtocolError):
        assert http.post("/tokenize", content=endless()).status_code == 413


def test_ways_and_places_that_are_not_there(http: httpx.Client) -> None:
    assert http.get("/nowhere").status_code == 404
    assert http.get("/v1/completions").status_code == 405
    assert http.get("/health", headers={"x": "y" * 100_000}).status_code == 431
    assert http.post("/v1/completions", json=ROUTES["/v1/completions"], params={"a": "b"}).status_code == 200
