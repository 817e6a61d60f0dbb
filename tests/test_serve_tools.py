"""Answers of a form, and calls of functions, by OpenAI's client; and the page at `/`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from lmrs import Engine, models
from lmrs.serve import Limits, create_app

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "maxProperties": 0}}}
ASK: Any = {"model": "smollm2", "messages": [{"role": "user", "content": "The weather in Paris?"}], "max_tokens": 60}


@pytest.fixture(scope="module")
def address(smollm2_gguf: Path, live: Any) -> Iterator[str]:
    engine = Engine(models.load(smollm2_gguf), dtype="int8")
    with live(create_app(engine, name="smollm2", limits=Limits(tokens=128))) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_call_that_must_be_is_one(client: openai.OpenAI, choice: Any) -> None:
    for seed in range(3):
        answer = client.chat.completions.create(
            **ASK, tools=[WEATHER, CLOCK] if choice != "required" else [WEATHER], tool_choice=choice, seed=seed
        )
        (told,) = answer.choices
        assert told.finish_reason == "tool_calls"
        assert told.message.content is None
        assert told.message.tool_calls is not None
        (call,) = told.message.tool_calls
        assert call.type == "function"
        assert call.function.name == "weather"
        arguments = json.loads(call.function.arguments)
        assert set(arguments) == {"city", "unit"}
        assert arguments["unit"] in ("C", "F")


def test_a_call_in_a_stream(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**ASK, tools=[WEATHER], tool_choice="required", temperature=0)
    chunks = list(
        client.chat.completions.create(**ASK, tools=[WEATHER], tool_choice="required", temperature=0, stream=True)
    )
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert whole.choices[0].message.tool_calls is not None
    expected: Any = whole.choices[0].message.tool_calls[0]
    assert calls[0].function is not None
    assert calls[0].function.arguments == expected.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_conversation_goes_on_after_a_call(client: openai.OpenAI) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    messages: Any = [
        *ASK["messages"],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "18 C, rain"},
    ]
    more: list[Any] = [{}, {"tools": [WEATHER]}]
    for tools in more:
        answer = client.chat.completions.create(**{**ASK, "messages": messages}, temperature=0, **tools)
        assert answer.choices[0].message.content or answer.choices[0].message.tool_calls


def test_answers_of_a_form(client: openai.OpenAI, address: str) -> None:
    schema = WEATHER["function"]["parameters"]
    form: Any = {"type": "json_schema", "json_schema": {"name": "w", "strict": True, "schema": schema}}
    for seed in range(2):
        said = client.chat.completions.create(**ASK, response_format=form, seed=seed).choices[0].message.content
        assert said is not None
        assert set(json.loads(said)) == {"city", "unit"}
    whole = client.chat.completions.create(**ASK, response_format={"type": "json_object"}, temperature=0)
    assert (whole.choices[0].message.content or "").startswith("{")
    pattern = {"type": "regex", "regex": "(sun|rain|snow), [0-9]{1,2} °C"}
    answer = httpx.post(f"{address}/v1/chat/completions", json={**ASK, "response_format": pattern}, timeout=60).json()
    assert re.fullmatch(pattern["regex"], answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    "more",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#/x"}}}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"schema": {"pattern": "(?<=x)*", "type": "string"}},
            }
        },
        {"response_format": {"type": "regex", "regex": "(" * 1000}},
        {"response_format": {"type": "regex", "regex": "((a{1,999}){1,999}){1,999}"}},
        {"response_format": {"type": "lark", "lark": "start: start start start"}},
        {"response_format": {"type": "xml"}},
        {"tools": [WEATHER] * 2, "tool_choice": "auto"},
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        {"tools": [{**WEATHER, "function": {"name": "a b"}}]},
        {
            "messages": [
                {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "x", "arguments": "{"}}]}
            ]
        },
    ],
    ids=lambda more: str(more)[:50],
)
def test_forms_that_cannot_be_are_refused(address: str, more: dict[str, Any]) -> None:
    answer = httpx.post(f"{address}/v1/chat/completions", json={**ASK, **more}, timeout=60)
    assert answer.status_code == 400, answer.text
    assert len(answer.json()["error"]["message"]) < 600


def test_the_page_needs_nothing_from_elsewhere(address: str) -> None:
    page = httpx.get(f"{address}/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert httpx.get(f"{address}/{name}").status_code == 200
    assert "http" not in page.text
    assert httpx.get(f"{address}/page/other.js").status_code == 404
    assert httpx.get(f"{address}/page/..%2fapp.py").status_code == 404


def test_the_document_names_the_routes_and_what_they_take(address: str) -> None:
    told = httpx.get(f"{address}/openapi.json").json()["paths"]
    for path, ways in told.items():
        for way, operation in ways.items():
            if way == "get":
                assert httpx.get(address + path).status_code == 200
                continue
            body = operation["requestBody"]["content"]["application/json"]["schema"]
            # A field that the document does not know is refused, and one that it knows is read.
            asked = {"unheard_of": 1, **dict.fromkeys(body["properties"], float("1e300"))}
            answer = httpx.post(address + path, json=asked)
            assert answer.status_code in (400, 403, 404), (path, answer.text)
    minimal: dict[str, Any] = {
        "/v1/completions": {"prompt": "x", "max_tokens": 1, "n": 2, "logit_bias": {"5": 1}, "min_tokens": 1},
        "/v1/chat/completions": {"messages": [{"role": "tool", "content": "x"}], "max_tokens": 1, "tools": [CLOCK]},
    }
    for path, asked in minimal.items():
        known = told[path]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
        assert asked.keys() <= known.keys()
        assert httpx.post(address + path, json={"model": "smollm2", **asked}, timeout=60).status_code == 200
