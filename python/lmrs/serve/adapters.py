"""Deltas loaded and unloaded while serving, if the server allows it."""

import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lmrs.serve.errors import Refusal
from lmrs.serve.fields import Fields, read
from lmrs.serve.server import Server

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a delta may be called."""


async def load(request: Request) -> Response:
    """Load the delta in a directory below the server's root, under a name."""
    server, fields, root = await _allowed(request)
    name, path = fields.text("lora_name"), fields.text("lora_path")
    fields.done()
    if NAME.fullmatch(name) is None:
        raise fields.refuse("lora_name", "letters, digits, dots, dashes and underscores, at most 64")
    try:
        found = (root / path).resolve()
    except (OSError, ValueError):
        raise fields.refuse("lora_path", "a directory") from None
    if not found.is_relative_to(root.resolve()) or not found.is_dir():
        raise fields.refuse("lora_path", "a directory inside the server's own for deltas")
    await server.work(server.engine.load_delta, name, found)
    return JSONResponse({"id": f"{server.name}:{name}", "object": "model"})


async def unload(request: Request) -> Response:
    """Unload a delta; what runs with it finishes with it."""
    server, fields, _ = await _allowed(request)
    name = fields.text("lora_name")
    fields.done()
    server.engine.unload_delta(name)
    return JSONResponse({"id": f"{server.name}:{name}", "object": "model", "deleted": True})


async def _allowed(request: Request) -> tuple[Server, Fields, Path]:
    server: Server = request.app.state.server
    if server.delta_root is None:
        raise Refusal("this server loads no deltas on demand", status=403)
    return server, await read(request, server.limits), server.delta_root
