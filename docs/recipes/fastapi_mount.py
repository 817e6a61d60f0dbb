"""lmrs inside a FastAPI service: its own routes beside OpenAI's, one engine for both.

MODEL=smollm2.gguf uvicorn fastapi_mount:app
"""

import contextlib
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI

import lmrs
from lmrs.serve import create_app

engine = lmrs.Engine(lmrs.load(os.environ["MODEL"]), dtype="int8")
openai = create_app(engine, name="model")


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Start and end the mounted app with this one."""
    # A mounted app is not told when the service starts and ends, unless it is told here.
    async with openai.router.lifespan_context(openai):
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/lm", openai)


@app.get("/continue")
async def continue_(text: str) -> dict[str, str]:
    """What comes after a text."""
    # Joins the batch of whatever else runs; a client that leaves cancels it.
    async with engine.asubmit(text, max_tokens=16) as reply:
        return {"text": (await reply.result()).text}
