"""The server as a process of its own."""

import uvicorn
from starlette.applications import Starlette

DRAIN_SECONDS = 30
"""How long requests may take to finish once the process is told to end."""


def run(app: Starlette, *, host: str, port: int) -> None:
    """Serve ``app`` until told to end (SIGTERM, Ctrl-C); then take no more requests, and finish those there are."""
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        server_header=False,
        limit_concurrency=2048,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
