"""LangChain's OpenAI classes against the server, as its users write them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr

from lmrs import Engine, models
from lmrs.serve import create_app

KEY = SecretStr("a key")
PROMPT = "The capital of France is"
QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def engine(smollm2_gguf: Path) -> Engine:
    return Engine(models.load(smollm2_gguf), dtype="int8")


@pytest.fixture(scope="module")
def address(engine: Engine, live: Any) -> Iterator[str]:
    with live(create_app(engine, name="smollm2", api_key=KEY.get_secret_value())) as address:
        yield f"{address}/v1"


@pytest.fixture
def chat(address: str) -> ChatOpenAI:
    return ChatOpenAI(model="smollm2", base_url=address, api_key=KEY, max_completion_tokens=48, temperature=0)


class City(BaseModel):
    """A city."""

    name: str
    country: str


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


def test_a_message_whole_and_in_pieces(chat: ChatOpenAI, engine: Engine) -> None:
    message = chat.invoke(QUESTION)
    prompt = engine.tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}], add_generation_prompt=True)
    expected = engine.generate(prompt, max_tokens=48)
    assert message.content == expected.text
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] == len(expected.tokens)
    assert "".join(str(piece.content) for piece in chat.stream(QUESTION)) == expected.text
    assert [reply.content for reply in chat.batch([QUESTION, QUESTION])] == [expected.text] * 2


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(chat: ChatOpenAI, method: Any) -> None:
    answer = chat.with_structured_output(City, method=method).invoke("Paris is the capital of France.")
    assert isinstance(answer, City)


def test_tools(chat: ChatOpenAI) -> None:
    (call,) = chat.bind_tools([weather], tool_choice="any").invoke("What is the weather in Paris?").tool_calls
    assert call["name"] == "weather"
    assert isinstance(weather.invoke(call["args"]), str)


def test_a_completion_whole_and_in_pieces(address: str, engine: Engine) -> None:
    llm = OpenAI(model="smollm2", base_url=address, api_key=KEY, max_tokens=8, temperature=0)
    expected = engine.generate(PROMPT, max_tokens=8).text
    assert llm.invoke(PROMPT) == expected
    assert "".join(llm.stream(PROMPT)) == expected


def test_embeddings(minilm_dir: Path, live: Any) -> None:
    engine = Engine(models.load(minilm_dir))
    texts = ["A cat sat.", "A dog ran far away."]
    with live(create_app(engine, name="minilm")) as address:
        # Without the check it sends texts; with it, ids of OpenAI's own tokenizer, which only its models understand.
        client = OpenAIEmbeddings(
            model="minilm", base_url=f"{address}/v1", api_key=KEY, check_embedding_ctx_length=False
        )
        np.testing.assert_allclose(client.embed_documents(texts), engine.embed(texts), rtol=0, atol=1e-7)
        np.testing.assert_allclose(client.embed_query(texts[0]), engine.embed(texts[0]), rtol=0, atol=1e-7)
