"""The app: routes, and who may use them."""

import contextlib
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmrs.engine import Engine
from lmrs.errors import Error
from lmrs.serve import adapters, errors, page, texts
from lmrs.serve.chat import chat
from lmrs.serve.completions import completions
from lmrs.serve.limits import Limits
from lmrs.serve.openapi import openapi
from lmrs.serve.server import Server

OPEN = frozenset({"/health", "/ready"}) | page.PATHS
"""Where no key is asked for."""


def create_app(
    engine: Engine,
    *,
    name: str,
    api_key: str | None = None,
    limits: Limits | None = None,
    delta_root: Path | None = None,
) -> Starlette:
    """An ASGI app that serves ``engine`` under ``name``, its deltas as ``name:delta``.

    With an ``api_key`` every route but `/health`, `/ready` and the page at `/` asks for it as a bearer token. With a
    ``delta_root`` clients may load deltas from directories inside it, and unload them; without one they may not.
    """
    server = Server(engine, name=name, limits=limits or Limits(), delta_root=delta_root)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await server.warm()
        yield
        server.ready = False
        engine.close()

    app = Starlette(
        routes=[
            Route("/", page.file),
            Route("/page/{name}", page.file),
            Route("/health", _health),
            Route("/ready", _ready),
            Route("/metrics", _metrics),
            Route("/openapi.json", openapi),
            Route("/v1/models", _models),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/embeddings", texts.embeddings, methods=["POST"]),
            Route("/v1/load_lora_adapter", adapters.load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", adapters.unload, methods=["POST"]),
            Route("/rerank", texts.rerank, methods=["POST"]),
            Route("/score", texts.score, methods=["POST"]),
            Route("/tokenize", texts.tokenize, methods=["POST"]),
            Route("/detokenize", texts.detokenize, methods=["POST"]),
        ],
        exception_handlers={errors.Refusal: errors.refused, Error: errors.wrong, HTTPException: _http},
        lifespan=lifespan,
    )
    app.state.server = server
    app.add_middleware(Counted, server=server)
    if api_key is not None:
        app.add_middleware(Keyed, key=api_key)
    app.add_middleware(Bounded, most=server.limits.header_bytes)
    return app


class Keyed:
    """Asks for a bearer token; how long that takes says nothing of how much of it was right."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._key = app, hashlib.sha256(key.encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and scope["path"].removeprefix(scope.get("root_path", "")) not in OPEN:
            given = dict(scope["headers"]).get(b"authorization", b"")
            scheme, _, token = given.partition(b" ")
            right = hmac.compare_digest(hashlib.sha256(token.strip()).digest(), self._key)
            if scheme.lower() != b"bearer" or not right:
                said = errors.body("the API key is missing or wrong", status=401)
                refusal = JSONResponse(said, status_code=401, headers={"WWW-Authenticate": "Bearer"})
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Bounded:
    """Refuses headers of more than so many bytes."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and sum(len(n) + len(v) for n, v in scope["headers"]) > self._most:
            said = errors.body(f"the headers are larger than {self._most} bytes", status=431)
            await JSONResponse(said, status_code=431)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class Counted:
    """Counts requests by route and status."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app, self._server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = 499, time.monotonic()

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            # A path that is no route must not become a label: clients choose paths.
            route: Any = scope.get("route")
            path = getattr(route, "path", "other")
            self._server.metrics.requests.labels(path, str(status)).inc()
            self._server.metrics.seconds.labels(path).observe(time.monotonic() - began)


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _ready(request: Request) -> Response:
    ready = request.app.state.server.ready
    return JSONResponse({"status": "ready" if ready else "not ready"}, status_code=200 if ready else 503)


async def _metrics(request: Request) -> Response:
    return Response(request.app.state.server.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _models(request: Request) -> Response:
    server: Server = request.app.state.server
    data = [{"id": model, "object": "model", "created": 0, "owned_by": "lmrs"} for model in server.models]
    return JSONResponse({"object": "list", "data": data})


def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = errors.body(error.detail, status=error.status_code)
    return JSONResponse(said, status_code=error.status_code, headers=error.headers)
