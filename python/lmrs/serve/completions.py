"""`/v1/completions`: texts continued, and scored by the way."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lmrs.engine import Completion, Token
from lmrs.serve.choices import FINISH, Asked, completed, head, merged, options, started, streamed, usage
from lmrs.serve.errors import Refusal
from lmrs.serve.fields import read
from lmrs.serve.server import Server, unless_gone
from lmrs.serve.sse import Stream

TOP = 4
"""The first of the columns of :meth:`lmrs.Engine.following` that hold the likeliest ids."""


async def completions(request: Request) -> Response:
    """Continue each prompt; with ``echo`` the prompt comes first, and with ``logprobs`` its own are told."""
    server: Server = request.app.state.server
    fields = await read(request, server.limits)
    limits = server.limits
    given = fields.prompts("prompt", most=limits.prompts)
    echo = fields.flag("echo")
    tokens = fields.integer("max_tokens", 16, least=0 if echo else 1, most=limits.tokens)
    wanted = fields.value("logprobs") is not None
    top = fields.integer("logprobs", 0, least=0, most=limits.logprobs)
    count = fields.integer("n", 1, least=1, most=limits.choices)
    best = fields.integer("best_of", count, least=count, most=limits.choices)
    stream, with_usage = streamed(fields)
    how = options(server, fields, tokens=max(tokens, 1), logprobs=top)
    fields.done()
    if stream and (best > count or (echo and wanted)):
        raise Refusal("a stream goes without best_of, and without echo of logprobs", field="stream")
    server.expect_room(len(given) * best)
    await server.warm()
    encode = server.engine.tokenizer.encode
    prompts = [await server.work(_ids, encode, prompt) for prompt in given]
    asked = Asked(
        model=fields.text("model"),
        prompts=prompts,
        count=count,
        best=best,
        options=how,
        stream=stream,
        usage=with_usage,
    )
    writer = Writer(server, asked, echo=echo, logprobs=wanted, top=top)
    if stream:
        stack = contextlib.AsyncExitStack()
        replies = await stack.enter_async_context(started(server, asked))
        return Stream(writer.chunks(replies), stack)
    return JSONResponse(await unless_gone(request, writer.answer(nothing=tokens == 0)))


def _ids(encode: Any, prompt: str | list[int]) -> list[int]:
    if isinstance(prompt, list):
        return prompt
    ids: list[int] = encode(prompt).ids
    return ids


class Writer:
    """Writes choices as OpenAI has them."""

    def __init__(self, server: Server, asked: Asked, *, echo: bool, logprobs: bool, top: int) -> None:
        self.server, self.asked, self.echo, self.logprobs, self.top = server, asked, echo, logprobs, top
        self.decode = server.engine.tokenizer.decode
        self.head = head("text_completion", asked, "cmpl")

    async def answer(self, *, nothing: bool) -> dict[str, Any]:
        """The whole; with ``nothing`` to write only the prompts are told of."""
        asked, written = self.asked, 0
        found: list[list[Completion]] = [[] for _ in asked.prompts]
        if nothing:
            empty = Completion("", [], np.zeros(0, np.float32), "length")
            found = [[empty] * asked.count for _ in asked.prompts]
        else:
            found = await completed(self.server, asked)
        choices: list[dict[str, Any]] = []
        for prompt, group in zip(asked.prompts, found, strict=True):
            said = await self.server.work(self._told, prompt) if self.echo and self.logprobs else []
            before = self.decode(prompt) if self.echo else ""
            for completion in group:
                written += len(completion.tokens)
                choice: dict[str, Any] = {
                    "index": len(choices),
                    "text": before + completion.text,
                    "finish_reason": FINISH[completion.finish_reason],
                    "logprobs": None,
                }
                if self.logprobs:
                    tops = completion.top_logprobs or [[]] * len(completion.tokens)
                    own = zip(completion.tokens, completion.logprobs.tolist(), tops, strict=True)
                    choice["logprobs"] = self._logprobs([*said, *own])
                choices.append(choice)
        return {**self.head, "choices": choices, "usage": usage(asked, written)}

    async def chunks(self, replies: Sequence[Any]) -> AsyncIterator[dict[str, Any]]:
        """The same, piece by piece."""
        written, offsets = 0, [0] * len(replies)
        if self.echo:
            for number in range(len(replies)):
                yield self._chunk(number, self.decode(self.asked.prompts[number // self.asked.best]))
        async for number, event in merged(self.server, replies):
            if isinstance(event, Token):
                written += 1
                logprobs = None
                if self.logprobs:
                    logprobs = self._logprobs([(event.id, event.logprob, event.top_logprobs)], offset=offsets[number])
                    offsets[number] += len(event.text)
                if event.text or logprobs:
                    yield self._chunk(number, event.text, logprobs=logprobs)
            else:
                yield self._chunk(number, "", finish=FINISH[event.finish_reason])
        if self.asked.usage:
            yield {**self.head, "choices": [], "usage": usage(self.asked, written)}

    def _chunk(self, number: int, text: str, *, finish: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        choice = {"index": number, "text": text, "finish_reason": finish, "logprobs": logprobs}
        return {**self.head, "choices": [choice]}

    def _told(self, prompt: list[int]) -> list[tuple[int, float | None, list[tuple[int, float]]]]:
        """Each id of a prompt, its log-probability and the likeliest in its place; of the first there is none."""
        told: list[tuple[int, float | None, list[tuple[int, float]]]] = [(prompt[0], None, [])]
        if len(prompt) > 1:
            table = self.server.engine.following(prompt, top_k=self.top, delta=self.asked.options.get("delta"))
            for id_, row in zip(prompt[1:], table.tolist(), strict=True):
                likeliest = zip(row[TOP : TOP + self.top], row[TOP + self.top :], strict=True)
                told.append((id_, row[0], [(int(other), logprob) for other, logprob in likeliest]))
        return told

    def _logprobs(self, told: Sequence[tuple[int, float | None, Any]], *, offset: int = 0) -> dict[str, Any]:
        texts = [self.decode([id_], skip_special_tokens=False) for id_, _, _ in told]
        offsets = np.cumsum([offset, *map(len, texts)])[:-1].tolist()
        tops = [
            None
            if logprob is None
            else {self.decode([i], skip_special_tokens=False): p for i, p in reversed(list(top))}
            for _, logprob, top in told
        ]
        return {
            "tokens": texts,
            "token_logprobs": [logprob for _, logprob, _ in told],
            "top_logprobs": tops if self.top else None,
            "text_offset": offsets,
        }
