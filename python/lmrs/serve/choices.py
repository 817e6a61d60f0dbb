"""The part that completions and conversations share: prompts to choices."""

import asyncio
import contextlib
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from lmrs.engine import AsyncReply, Completion, Options, Token
from lmrs.serve.fields import Fields, stops
from lmrs.serve.server import Server

FINISH = {"eos": "stop", "stop": "stop", "length": "length", "deadline": "length"}
"""OpenAI's names of the reasons to end."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Choices that were asked for: ``count`` for each prompt, the ``best`` of which are wanted."""

    model: str
    prompts: Sequence[list[int]]
    count: int
    best: int
    options: Options
    stream: bool
    usage: bool

    @property
    def prompt_tokens(self) -> int:
        """Tokens that are read."""
        return sum(map(len, self.prompts))


def options(server: Server, fields: Fields, *, tokens: int, logprobs: int) -> Options:
    """How completions are made, as far as OpenAI's two routes agree, and what lmrs knows beyond them."""
    limits = server.limits
    seed = fields.value("seed")
    drawn = secrets.randbits(63) if seed is None else fields.integer("seed", 0, least=-(2**63), most=2**64 - 1)
    return {
        "max_tokens": tokens,
        "temperature": fields.number("temperature", 1.0, least=0, most=100),
        "top_p": fields.number("top_p", 1.0, least=0, most=1),
        "top_k": fields.integer("top_k", 0, least=0, most=2**31),
        "min_p": fields.number("min_p", 0.0, least=0, most=1),
        "typical_p": fields.number("typical_p", 1.0, least=0, most=1),
        "repetition_penalty": fields.number("repetition_penalty", 1.0, least=0.01, most=100),
        "presence_penalty": fields.number("presence_penalty", 0.0, least=-2, most=2),
        "frequency_penalty": fields.number("frequency_penalty", 0.0, least=-2, most=2),
        "logit_bias": fields.biases("logit_bias", vocabulary=server.engine.config.vocabulary),
        "no_repeat_ngram_size": fields.integer("no_repeat_ngram_size", 0, least=0, most=2**31),
        "min_tokens": fields.integer("min_tokens", 0, least=0, most=tokens),
        "ignore_eos": fields.flag("ignore_eos"),
        "stop": stops(fields, limits.stops),
        "seed": drawn % 2**64,
        "top_logprobs": logprobs,
        "delta": server.delta(fields.text("model")),
        "timeout": limits.seconds,
    }


def streamed(fields: Fields) -> tuple[bool, bool]:
    """Whether to stream, and whether to tell of the usage at the end."""
    stream, how = fields.flag("stream"), fields.value("stream_options")
    if how is None:
        return stream, False
    if not isinstance(how, dict) or how.keys() - {"include_usage", "include_obfuscation"}:
        raise fields.refuse("stream_options", "an object with include_usage")
    return stream, how.get("include_usage") is True


@contextlib.asynccontextmanager
async def started(server: Server, asked: Asked) -> AsyncIterator[list[AsyncReply]]:
    """Every choice, being written; what is not finished in the end is cancelled. Raises Refusal if there is no room."""
    with server.completions(len(asked.prompts) * asked.best):
        replies: list[AsyncReply] = []
        try:
            seed = asked.options.get("seed", 0)
            assert isinstance(seed, int)
            for prompt in asked.prompts:
                for at in range(asked.best):
                    drawn: Options = {**asked.options, "seed": (seed + at) % 2**64}
                    replies.append(server.engine.asubmit(prompt, **drawn))
            server.metrics.prompt_tokens.inc(asked.prompt_tokens)
            yield replies
        finally:
            for reply in replies:
                reply.cancel()


async def completed(server: Server, asked: Asked) -> list[list[Completion]]:
    """The choices of each prompt; of more than were wanted those whose tokens are likeliest on average."""
    async with started(server, asked) as replies:
        found = [await reply.result() for reply in replies]
    by_prompt = [found[at : at + asked.best] for at in range(0, len(found), asked.best)]
    if asked.best > asked.count:
        for choices in by_prompt:
            choices.sort(key=lambda choice: -float(choice.logprobs.mean()))
    return [choices[: asked.count] for choices in by_prompt]


async def merged(server: Server, replies: Sequence[AsyncReply]) -> AsyncIterator[tuple[int, Token | Completion]]:
    """What happens to any of ``replies``, by its number: its tokens and then its completion."""
    began, first = time.monotonic(), True
    queue: asyncio.Queue[tuple[int, Token | Completion | BaseException]] = asyncio.Queue()

    async def follow(number: int, reply: AsyncReply) -> None:
        try:
            async for token in reply:
                queue.put_nowait((number, token))
            queue.put_nowait((number, await reply.result()))
        except Exception as error:
            queue.put_nowait((number, error))

    tasks = [asyncio.create_task(follow(number, reply)) for number, reply in enumerate(replies)]
    try:
        left = len(tasks)
        while left:
            number, event = await queue.get()
            if isinstance(event, BaseException):
                raise event
            if first:
                server.metrics.first_token.observe(time.monotonic() - began)
                first = False
            left -= isinstance(event, Completion)
            yield number, event
    finally:
        for task in tasks:
            task.cancel()


def usage(asked: Asked, tokens: int) -> dict[str, int]:
    """Tokens read and written."""
    read = asked.prompt_tokens
    return {"prompt_tokens": read, "completion_tokens": tokens, "total_tokens": read + tokens}


def head(kind: str, asked: Asked, prefix: str) -> dict[str, Any]:
    """What every answer and every chunk of it begins with."""
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": asked.model}
