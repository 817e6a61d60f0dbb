"""Answers that come in pieces: server-sent events."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from lmrs.errors import Error
from lmrs.serve.errors import body


class Stream(StreamingResponse):
    """Each of ``chunks`` as an event, then ``[DONE]``; ``stack`` is closed when it ends, however it ends."""

    def __init__(self, chunks: AsyncIterator[dict[str, Any]], stack: contextlib.AsyncExitStack) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(_events(chunks), media_type="text/event-stream", headers=headers)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        async with self._stack:
            await super().__call__(scope, receive, send)


async def _events(chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    try:
        async for chunk in chunks:
            yield _event(chunk)
    except (Error, RuntimeError) as error:
        # The status is sent already; the clients of OpenAI look for this.
        yield _event(body(str(error), status=500))
    yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n"
