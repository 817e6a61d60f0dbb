"""`/openapi.json`: the routes and their fields, for tools that read OpenAPI."""

from typing import Any, get_args

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lmrs.eval.protocols import Protocol
from lmrs.serve.limits import Limits
from lmrs.serve.server import Server

Schema = dict[str, Any]


async def openapi(request: Request) -> Response:
    """The document."""
    server: Server = request.app.state.server
    return JSONResponse(document(server.limits, models=server.models, vocabulary=server.engine.config.vocabulary))


def document(limits: Limits, *, models: list[str], vocabulary: int) -> Schema:
    """What a server with these limits takes, as OpenAPI 3.1 says it."""
    model = {"type": "string", "enum": models}
    id_ = {"type": "integer", "minimum": 0, "maximum": vocabulary - 1}
    ids = {"type": "array", "items": id_, "minItems": 1}
    text = {"type": "string", "minLength": 1}
    texts = {"type": "array", "items": text, "minItems": 1, "maxItems": limits.texts}
    prompts = _some(text, ids, {"type": "array", "items": text, "minItems": 1, "maxItems": limits.prompts})
    completions = {
        "prompt": prompts,
        "max_tokens": _integer(1, limits.tokens),
        "logprobs": _integer(0, limits.logprobs),
        "best_of": _integer(1, limits.choices),
        "echo": {"type": "boolean"},
        **_sampling(limits, vocabulary),
    }
    chat = {
        "messages": {"type": "array", "items": _message(), "minItems": 1, "maxItems": limits.messages},
        "max_tokens": _integer(1, limits.tokens),
        "max_completion_tokens": _integer(1, limits.tokens),
        "logprobs": {"type": "boolean"},
        "top_logprobs": _integer(0, limits.logprobs),
        "response_format": _form(),
        "tools": {"type": "array", "items": _tool(), "maxItems": limits.tools},
        "tool_choice": _some({"enum": ["none", "auto", "required"]}, {"type": "object"}),
        "parallel_tool_calls": {"type": "boolean"},
        **_sampling(limits, vocabulary),
    }
    named = {"lora_name": text, "lora_path": text}
    posts: dict[str, tuple[Schema, list[str]]] = {
        "/v1/completions": ({"model": model, **completions}, ["model", "prompt"]),
        "/v1/chat/completions": ({"model": model, **chat}, ["model", "messages"]),
        "/v1/embeddings": (
            {"model": model, "input": _some(text, ids, texts), "encoding_format": {"enum": ["float", "base64"]}},
            ["model", "input"],
        ),
        "/rerank": (
            {"model": model, "query": text, "documents": texts, "top_n": _integer(1, limits.texts)},
            ["query", "documents"],
        ),
        "/score": (
            {"model": model, "input": _some(text, texts), "protocol": {"enum": list(get_args(Protocol))}},
            ["input"],
        ),
        "/tokenize": ({"model": model, "prompt": text, "add_special_tokens": {"type": "boolean"}}, ["prompt"]),
        "/detokenize": ({"model": model, "tokens": {"type": "array", "items": id_}}, ["tokens"]),
        "/v1/load_lora_adapter": (named, list(named)),
        "/v1/unload_lora_adapter": ({"lora_name": text}, ["lora_name"]),
    }
    paths: Schema = {path: {"post": _post(path, *fields)} for path, fields in posts.items()}
    for path in ("/v1/models", "/health", "/ready", "/metrics"):
        paths[path] = {
            "get": {"operationId": _called(path), "responses": {"200": {"description": "What is asked for."}}}
        }
    return {"openapi": "3.1.0", "info": {"title": "lmrs", "version": "1"}, "paths": paths}


def _post(path: str, properties: Schema, required: list[str]) -> Schema:
    body = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    said = {
        "200": "The answer.",
        "400": "A field is not as it must be; the error names it.",
        "401": "The key is missing or wrong.",
        "403": "Not allowed here.",
        "404": "There is no such model.",
        "413": "The body is too large.",
        "429": "Too much to do; Retry-After says when to come back.",
    }
    return {
        "operationId": _called(path),
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {status: {"description": what} for status, what in said.items()},
    }


def _called(path: str) -> str:
    return path.strip("/").replace("/", "_")


def _integer(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


def _number(least: float, most: float) -> Schema:
    return {"type": "number", "minimum": least, "maximum": most}


def _some(*kinds: Schema) -> Schema:
    return {"anyOf": list(kinds)}


def _sampling(limits: Limits, vocabulary: int) -> Schema:
    stop = {"type": "string", "minLength": 1}
    return {
        "n": _integer(1, limits.choices),
        "temperature": _number(0, 100),
        "top_p": _number(0, 1),
        "top_k": _integer(0, 2**31),
        "min_p": _number(0, 1),
        "typical_p": _number(0, 1),
        "repetition_penalty": _number(0.01, 100),
        "presence_penalty": _number(-2, 2),
        "frequency_penalty": _number(-2, 2),
        "logit_bias": {
            "type": "object",
            "patternProperties": {f"^[0-9]{{1,{len(str(vocabulary)) - 1}}}$": _number(-100, 100)},
            "additionalProperties": False,
        },
        "no_repeat_ngram_size": _integer(0, 2**31),
        "min_tokens": _integer(0, limits.tokens),
        "seed": _integer(-(2**63), 2**64 - 1),
        "stop": _some(stop, {"type": "array", "items": stop, "maxItems": limits.stops}),
        "ignore_eos": {"type": "boolean"},
        "stream": {"type": "boolean"},
        "stream_options": {
            "type": "object",
            "properties": {"include_usage": {"type": "boolean"}},
            "additionalProperties": False,
        },
    }


def _message() -> Schema:
    part = {
        "type": "object",
        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
        "required": ["type", "text"],
        "additionalProperties": False,
    }
    content = _some({"type": "string"}, {"type": "array", "items": part})
    return {
        "type": "object",
        "properties": {
            "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
            "content": content,
            "name": {"type": "string"},
        },
        "required": ["role", "content"],
        "additionalProperties": False,
    }


def _form() -> Schema:
    schema = {"type": "object", "properties": {"schema": {"type": "object"}}, "required": ["schema"]}
    kinds: dict[str, Schema] = {
        "text": {},
        "json_object": {},
        "json_schema": {"json_schema": schema},
        "regex": {"regex": {"type": "string"}},
    }
    return _some(
        *(
            {
                "type": "object",
                "properties": {"type": {"const": kind}, **more},
                "required": ["type", *more],
                "additionalProperties": False,
            }
            for kind, more in kinds.items()
        )
    )


def _tool() -> Schema:
    function = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
            "description": {"type": "string"},
            "parameters": {"type": "object"},
        },
        "required": ["name"],
    }
    return {
        "type": "object",
        "properties": {"type": {"const": "function"}, "function": function},
        "required": ["type", "function"],
    }
