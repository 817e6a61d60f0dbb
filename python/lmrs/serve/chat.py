"""`/v1/chat/completions`: conversations."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lmrs.engine import Completion, Token
from lmrs.serve.choices import FINISH, Asked, completed, head, merged, options, started, streamed, usage
from lmrs.serve.errors import Refusal
from lmrs.serve.fields import Fields, read
from lmrs.serve.server import Server, unless_gone
from lmrs.serve.sse import Stream
from lmrs.tokenizer import Tokenizer

DEFAULT_TOKENS = 512
"""New tokens if nothing is said of them."""


async def chat(request: Request) -> Response:
    """What the assistant says next, by the chat template of the model's tokenizer."""
    server: Server = request.app.state.server
    fields, limits = await read(request, server.limits), server.limits
    messages = _messages(fields, limits.messages)
    older = fields.integer("max_tokens", min(DEFAULT_TOKENS, limits.tokens), least=1, most=limits.tokens)
    tokens = fields.integer("max_completion_tokens", older, least=1, most=limits.tokens)
    wanted = fields.flag("logprobs")
    top = fields.integer("top_logprobs", 0, least=0, most=limits.logprobs)
    if top and not wanted:
        raise Refusal("top_logprobs needs logprobs to be true", field="top_logprobs")
    count = fields.integer("n", 1, least=1, most=limits.choices)
    stream, with_usage = streamed(fields)
    how = options(server, fields, tokens=tokens, logprobs=top)
    form = fields.value("response_format")
    if form is not None and form != {"type": "text"}:
        raise fields.refuse("response_format", '{"type": "text"}')
    fields.done()
    server.expect_room(count)
    await server.warm()
    prompt = await server.work(_prompt, server.engine.tokenizer, messages)
    asked = Asked(
        model=fields.text("model"),
        prompts=[prompt],
        count=count,
        best=count,
        options=how,
        stream=stream,
        usage=with_usage,
    )
    writer = Writer(server, asked, logprobs=wanted)
    if stream:
        stack = contextlib.AsyncExitStack()
        replies = await stack.enter_async_context(started(server, asked))
        return Stream(writer.chunks(replies), stack)
    return JSONResponse(await unless_gone(request, writer.answer()))


def _messages(fields: Fields, most: int) -> list[dict[str, str]]:
    given = fields.value("messages")
    if not isinstance(given, list) or not given:
        raise fields.refuse("messages", "a list of messages, at least one")
    if len(given) > most:
        raise Refusal(f"messages has {len(given)} items, expected at most {most}", field="messages")
    return [_message(at, item) for at, item in enumerate(given)]


def _message(at: int, item: object) -> dict[str, str]:
    name = f"messages[{at}]"
    if not isinstance(item, dict):
        raise Refusal(f"{name} is not an object", field=name)
    fields = Fields(item)
    role, content = fields.text("role"), fields.value("content")
    if role not in ("system", "developer", "user", "assistant"):
        raise Refusal(f"{name}.role is not one of system, developer, user, assistant", field=name)
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
        raise Refusal(f"{name}.content is not a string or a list of parts of type text", field=name)
    text = "".join(Fields(part).text("text") for part in parts)
    fields.value("name")
    fields.done()
    return {"role": "system" if role == "developer" else role, "content": text}


def _prompt(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> list[int]:
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False).ids


class Writer:
    """Writes choices as OpenAI has them."""

    def __init__(self, server: Server, asked: Asked, *, logprobs: bool) -> None:
        self.server, self.asked, self.logprobs = server, asked, logprobs
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
        return {
            "index": at,
            "message": {"role": "assistant", "content": completion.text},
            "finish_reason": FINISH[completion.finish_reason],
            "logprobs": logprobs,
        }

    async def chunks(self, replies: Sequence[Any]) -> AsyncIterator[dict[str, Any]]:
        """The same, piece by piece."""
        start, written = head("chat.completion.chunk", self.asked, "chatcmpl"), 0

        def chunk(at: int, delta: dict[str, str], finish: str | None = None, logprobs: Any = None) -> dict[str, Any]:
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
                if event.text or told:
                    yield chunk(at, {"content": event.text}, logprobs=told)
            else:
                yield chunk(at, {}, FINISH[event.finish_reason])
        if self.asked.usage:
            yield {**start, "choices": [], "usage": usage(self.asked, written)}

    def _told(self, id_: int, logprob: float, top: Any) -> dict[str, Any]:
        return {**self._token(id_, logprob), "top_logprobs": [self._token(*other) for other in top]}

    def _token(self, id_: int, logprob: float) -> dict[str, Any]:
        text = self.decode([id_], skip_special_tokens=False)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
