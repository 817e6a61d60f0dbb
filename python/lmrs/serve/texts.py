"""Texts that are not continued: embedded, ranked, scored, cut into tokens and put together again."""

import base64
import dataclasses
from typing import Any, get_args

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lmrs.eval.protocols import Protocol
from lmrs.serve.errors import Refusal
from lmrs.serve.fields import Fields, read
from lmrs.serve.server import Server


async def _asked(request: Request) -> tuple[Server, Fields, str | None]:
    """The server, the fields of the request and the delta it asks for."""
    server: Server = request.app.state.server
    fields = await read(request, server.limits)
    delta = server.delta(fields.text("model", server.name))
    return server, fields, delta


async def embeddings(request: Request) -> Response:
    """`/v1/embeddings`: a vector for each text."""
    server, fields, delta = await _asked(request)
    texts = fields.prompts("input", most=server.limits.texts)
    form = fields.text("encoding_format", "float")
    if form not in ("float", "base64"):
        raise fields.refuse("encoding_format", '"float" or "base64"')
    fields.integer(
        "dimensions", server.engine.config.width, least=server.engine.config.width, most=server.engine.config.width
    )
    fields.done()
    vectors, tokens = await server.work(_embed, server, texts, delta)
    data = [
        {
            "object": "embedding",
            "index": at,
            "embedding": vector.tolist() if form == "float" else base64.b64encode(vector.tobytes()).decode(),
        }
        for at, vector in enumerate(vectors)
    ]
    spent = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "data": data, "model": fields.text("model", server.name), "usage": spent})


def _embed(server: Server, texts: list[Any], delta: str | None) -> tuple[Any, int]:
    ids = server.engine.pieces(texts)
    tokens = sum(len(row) for row, _ in ids)
    server.metrics.prompt_tokens.inc(tokens)
    return server.engine.embed_pieces(ids, delta=delta), tokens


async def rerank(request: Request) -> Response:
    """`/rerank`: documents by what a cross-encoder says of query and document, else by the cosine of their vectors."""
    server, fields, delta = await _asked(request)
    query = fields.text("query")
    documents = fields.texts("documents", most=server.limits.texts - 1)
    if not documents:
        raise fields.refuse("documents", "at least one")
    most = fields.integer("top_n", len(documents), least=1, most=server.limits.texts)
    fields.flag("return_documents")
    fields.done()
    judge = _judged if server.engine.labels == 1 else _compared
    scores, tokens = await server.work(judge, server, query, documents, delta)
    order = sorted(range(len(documents)), key=lambda at: (-scores[at], at))[:most]
    results = [{"index": at, "relevance_score": float(scores[at]), "document": {"text": documents[at]}} for at in order]
    return JSONResponse({"results": results, "usage": {"total_tokens": tokens}})


def _judged(server: Server, query: str, documents: list[str], delta: str | None) -> tuple[Any, int]:
    """The probability that a cross-encoder of one label gives each pair."""
    pairs = [(query, document) for document in documents]
    tokens = sum(len(row) for row, _ in server.engine.pieces(pairs))
    server.metrics.prompt_tokens.inc(tokens)
    logits = server.engine.classify(pairs, delta=delta)[:, 0].astype(np.float64)
    return 1 / (1 + np.exp(-logits)), tokens


def _compared(server: Server, query: str, documents: list[str], delta: str | None) -> tuple[Any, int]:
    vectors, tokens = _embed(server, [query, *documents], delta)
    lengths = np.linalg.norm(vectors, axis=1).clip(1e-12)
    return (vectors[1:] @ vectors[0]) / (lengths[1:] * lengths[0]), tokens


async def score(request: Request) -> Response:
    """`/score`: how well the model predicts each text."""
    server, fields, delta = await _asked(request)
    texts = fields.texts("input", most=server.limits.texts)
    protocol: Any = fields.text("protocol", "rolling")
    if protocol not in get_args(Protocol):
        raise fields.refuse("protocol", f"one of {', '.join(get_args(Protocol))}")
    fields.done()
    scores: Any = await server.work(server.engine.score, texts, protocol=protocol, delta=delta)
    found = [{k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in _shown(s).items()} for s in scores]
    return JSONResponse({"scores": found})


def _shown(score: Any) -> dict[str, Any]:
    fields = {field.name: getattr(score, field.name) for field in dataclasses.fields(score)}
    return {name: value for name, value in fields.items() if value is not None}


async def tokenize(request: Request) -> Response:
    """`/tokenize`: the ids of a text."""
    server, fields, _ = await _asked(request)
    text, special = fields.text("prompt"), fields.value("add_special_tokens")
    if special not in (None, True, False):
        raise fields.refuse("add_special_tokens", "true or false")
    fields.done()
    encoding = await server.work(server.engine.tokenizer.encode, text, add_special_tokens=special is not False)
    return JSONResponse({"tokens": encoding.ids, "count": len(encoding.ids)})


async def detokenize(request: Request) -> Response:
    """`/detokenize`: the text of ids."""
    server, fields, _ = await _asked(request)
    ids = fields.value("tokens")
    if not isinstance(ids, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise fields.refuse("tokens", "a list of token ids")
    vocabulary = server.engine.config.vocabulary
    for at, id_ in enumerate(ids):
        if not 0 <= id_ < vocabulary:
            raise Refusal(f"tokens[{at}] is out of range, expected 0 to {vocabulary - 1}", field="tokens")
    fields.done()
    return JSONResponse({"prompt": await server.work(server.engine.tokenizer.decode, ids)})
