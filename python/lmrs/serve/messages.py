"""The messages of a conversation, and how they become a prompt."""

import json
from collections.abc import Sequence
from typing import Any

from lmrs.serve.errors import Refusal
from lmrs.serve.fields import Fields
from lmrs.serve.tools import Tool, instructions
from lmrs.tokenizer import Tokenizer

ROLES = ("system", "developer", "user", "assistant", "tool")
Message = dict[str, Any]


def messages(fields: Fields, most: int) -> list[Message]:
    """The conversation so far, at least one message. Raises Refusal."""
    given = fields.value("messages")
    if not isinstance(given, list) or not given:
        raise fields.refuse("messages", "a list of messages, at least one")
    if len(given) > most:
        raise Refusal(f"messages has {len(given)} items, expected at most {most}", field="messages")
    return [_message(at, item) for at, item in enumerate(given)]


def prompt(tokenizer: Tokenizer, conversation: Sequence[Message], tools: Sequence[Tool]) -> list[int]:
    """The ids of the conversation by the template of the model, ready for what the assistant says next."""
    described = [tool.described for tool in tools]
    text = tokenizer.apply_chat_template(list(conversation), add_generation_prompt=True, tools=described or None)
    plain = _plain(conversation)
    # A template that does not know of tools leaves them out: then they are told of in words.
    if tools and text == tokenizer.apply_chat_template(list(conversation), add_generation_prompt=True, tools=None):
        first, rest = plain[0], plain[1:]
        told = instructions(tools)
        if first["role"] == "system":
            plain = [{"role": "system", "content": f"{told}\n\n{first['content']}"}, *rest]
        else:
            plain = [{"role": "system", "content": told}, *plain]
        text = tokenizer.apply_chat_template(plain, add_generation_prompt=True)
    elif not tools and any(message["role"] == "tool" for message in conversation):
        text = tokenizer.apply_chat_template(plain, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False).ids


def _plain(conversation: Sequence[Message]) -> list[Message]:
    """Calls and their results as the assistant and the user would write them."""
    plain = []
    for message in conversation:
        role, content = message["role"], message["content"]
        if role == "tool":
            role, content = "user", f"Result: {content}"
        calls = [json.dumps(call["function"]) for call in message.get("tool_calls", ())]
        plain.append({"role": role, "content": "\n".join([*([content] if content else []), *calls])})
    return plain


def _message(at: int, item: object) -> Message:
    name = f"messages[{at}]"
    if not isinstance(item, dict):
        raise Refusal(f"{name} is not an object", field=name)
    fields = Fields(item)
    role, content, calls = fields.text("role"), fields.value("content"), fields.value("tool_calls")
    if role not in ROLES:
        raise Refusal(f"{name}.role is not one of {', '.join(ROLES)}", field=name)
    if content is None and role == "assistant" and calls:
        content = ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
        raise Refusal(f"{name}.content is not a string or a list of parts of type text", field=name)
    found: Message = {
        "role": "system" if role == "developer" else role,
        "content": "".join(Fields(part).text("text") for part in parts),
    }
    if calls is not None:
        if role != "assistant" or not isinstance(calls, list):
            raise Refusal(f"{name}.tool_calls is not a list of calls of an assistant", field=name)
        found["tool_calls"] = [_call(f"{name}.tool_calls[{number}]", call) for number, call in enumerate(calls)]
    for ignored in ("name", "tool_call_id", "refusal", "annotations"):
        fields.value(ignored)
    fields.done()
    return found


def _call(name: str, call: object) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Refusal(f"{name} has no function with a name", field=name)
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except (TypeError, ValueError, RecursionError):
        raise Refusal(f"{name}.function.arguments is not JSON", field=name) from None
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
