"""`/v1/chat/completions`: conversations."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lmrs.engine import Completion, Token
from lmrs.serve.choices import FINISH, Asked, completed, head, merged, options, started, streamed, usage
from lmrs.serve.errors import Refusal
from lmrs.serve.fields import read
from lmrs.serve.messages import messages as messages_of
from lmrs.serve.messages import prompt as prompt_of
from lmrs.serve.server import Server, unless_gone
from lmrs.serve.sse import Stream
from lmrs.serve.tools import Form, form

DEFAULT_TOKENS = 512
"""New tokens if nothing is said of them."""


async def chat(request: Request) -> Response:
    """What the assistant says next, by the chat template of the model's tokenizer."""
    server: Server = request.app.state.server
    fields, limits = await read(request, server.limits), server.limits
    messages = messages_of(fields, limits.messages)
    older = fields.integer("max_tokens", min(DEFAULT_TOKENS, limits.tokens), least=1, most=limits.tokens)
    tokens = fields.integer("max_completion_tokens", older, least=1, most=limits.tokens)
    wanted = fields.flag("logprobs")
    top = fields.integer("top_logprobs", 0, least=0, most=limits.logprobs)
    if top and not wanted:
        raise Refusal("top_logprobs needs logprobs to be true", field="top_logprobs")
    count = fields.integer("n", 1, least=1, most=limits.choices)
    stream, with_usage = streamed(fields)
    how = options(server, fields, tokens=tokens, logprobs=top)
    shape = form(fields, limits.tools)
    fields.done()
    server.expect_room(count)
    await server.warm()
    if shape.grammar is not None:
        await server.work(server.engine.prepare, shape.grammar)
        how["grammar"] = shape.grammar
    prompt = await server.work(prompt_of, server.engine.tokenizer, messages, shape.tools)
    asked = Asked(
        model=fields.text("model"),
        prompts=[prompt],
        count=count,
        best=count,
        options=how,
        stream=stream,
        usage=with_usage,
    )
    writer = Writer(server, asked, shape, logprobs=wanted)
    if stream:
        stack = contextlib.AsyncExitStack()
        replies = await stack.enter_async_context(started(server, asked))
        return Stream(writer.chunks(replies), stack)
    return JSONResponse(await unless_gone(request, writer.answer()))


class Writer:
    """Writes choices as OpenAI has them."""

    def __init__(self, server: Server, asked: Asked, form: Form, *, logprobs: bool) -> None:
        self.server, self.asked, self.form, self.logprobs = server, asked, form, logprobs
        self.decode = server.engine.tokenizer.decode

    async def answer(self) -> dict[str, Any]:
        """The whole."""
        (found,) = await completed(self.server, self.asked)
        choices = [self._choice(at, completion) for at, completion in enumerate(found)]
        written = sum(len(completion.tokens) for completion in found)
        start = head("chat.completion", self.asked, "chatcmpl")
        return {**start, "choices": choices, "usage": usage(self.asked, written)}

    def _choice(self, at: int, completion: Completion) -> dict[str, Any]:
        logprobs = None
        if self.logprobs:
            tops = completion.top_logprobs or [[]] * len(completion.tokens)
            each = zip(completion.tokens, completion.logprobs.tolist(), tops, strict=True)
            logprobs = {"content": [self._told(*token) for token in each]}
        calls = self.form.calls(completion.text)
        said = {"content": completion.text} if calls is None else {"content": None, "tool_calls": calls}
        return {
            "index": at,
            "message": {"role": "assistant", **said},
            "finish_reason": FINISH[completion.finish_reason] if calls is None else "tool_calls",
            "logprobs": logprobs,
        }

    async def chunks(self, replies: Sequence[Any]) -> AsyncIterator[dict[str, Any]]:
        """The same, piece by piece."""
        start, written = head("chat.completion.chunk", self.asked, "chatcmpl"), 0

        def chunk(at: int, delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> dict[str, Any]:
            choice = {"index": at, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
            return {**start, "choices": [choice]}

        for at in range(len(replies)):
            yield chunk(at, {"role": "assistant", "content": ""})
        async for at, event in merged(self.server, replies):
            if isinstance(event, Token):
                written += 1
                told = None
                if self.logprobs:
                    told = {"content": [self._told(event.id, event.logprob, event.top_logprobs)]}
                # Whether a text is a call shows at its end.
                text = "" if self.form.tools else event.text
                if text or told:
                    yield chunk(at, {"content": text}, logprobs=told)
            else:
                calls = self.form.calls(event.text)
                if calls is not None:
                    yield chunk(at, {"tool_calls": [{"index": n, **call} for n, call in enumerate(calls)]})
                elif self.form.tools:
                    yield chunk(at, {"content": event.text})
                yield chunk(at, {}, FINISH[event.finish_reason] if calls is None else "tool_calls")
        if self.asked.usage:
            yield {**start, "choices": [], "usage": usage(self.asked, written)}

    def _told(self, id_: int, logprob: float, top: Any) -> dict[str, Any]:
        return {**self._token(id_, logprob), "top_logprobs": [self._token(*other) for other in top]}

    def _token(self, id_: int, logprob: float) -> dict[str, Any]:
        text = self.decode([id_], skip_special_tokens=False)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
