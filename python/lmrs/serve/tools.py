"""Functions that a model may call, and answers of a form: what is asked for, and how it is read from the text."""

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmrs.engine import Grammar
from lmrs.serve.errors import Refusal
from lmrs.serve.fields import Fields

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
TAGGED = re.compile(r"\s*<tool_call>(.*?)(?:</tool_call>)?\s*", re.DOTALL)


@dataclass(frozen=True)
class Tool:
    """A function: ``parameters`` is the JSON schema of its arguments."""

    name: str
    described: dict[str, Any]
    parameters: dict[str, Any]

    @property
    def call(self) -> dict[str, Any]:
        """The JSON schema of a call."""
        arguments = {"name": {"const": self.name}, "arguments": self.parameters}
        return {
            "type": "object",
            "properties": arguments,
            "required": list(arguments),
            "additionalProperties": False,
        }


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a reply may be: the tools it may call, whether it ``must``, and the grammar that sees to it."""

    tools: tuple[Tool, ...] = ()
    must: bool = False
    grammar: Grammar | None = None

    def calls(self, text: str) -> list[dict[str, Any]] | None:
        """The call that ``text`` is, as OpenAI writes it; None if it is a text."""
        tagged = TAGGED.fullmatch(text)
        try:
            said = json.loads(tagged[1] if tagged else text)
        except (ValueError, RecursionError):
            return None
        known = {tool.name for tool in self.tools}
        if not isinstance(said, dict) or said.get("name") not in known or "arguments" not in said:
            return None
        function = {"name": said["name"], "arguments": json.dumps(said["arguments"])}
        return [{"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}]


def form(fields: Fields, most: int) -> Form:
    """What `tools`, `tool_choice` and `response_format` ask for; at most so many tools. Raises Refusal."""
    tools, answer = _tools(fields, most), _answer(fields)
    choice = fields.value("tool_choice")
    fields.flag("parallel_tool_calls")
    if choice is None:
        choice = "auto" if tools else "none"
    named = _named(fields, choice)
    if named is not None:
        tools = tuple(tool for tool in tools if tool.name == named)
        if not tools:
            raise fields.refuse("tool_choice", "a function that is among tools")
    if choice == "none":
        return Form(grammar=answer)
    if choice == "auto":
        return Form(tools=tools, grammar=answer)
    if not tools or answer is not None:
        raise fields.refuse("tool_choice", '"none" or "auto" without tools or with a response_format')
    schemas = [tool.call for tool in tools]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return Form(tools=tools, must=True, grammar=Grammar.json_schema(schema))


def _named(fields: Fields, choice: object) -> str | None:
    if choice in ("none", "auto", "required"):
        return None
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise fields.refuse("tool_choice", '"none", "auto", "required" or a function by its name')
    return name


def _tools(fields: Fields, most: int) -> tuple[Tool, ...]:
    given = fields.value("tools")
    if given is None:
        return ()
    if not isinstance(given, list) or len(given) > most:
        raise fields.refuse("tools", f"a list of at most {most} functions")
    tools = []
    for at, item in enumerate(given):
        function = item.get("function") if isinstance(item, dict) and item.get("type") == "function" else None
        if not isinstance(function, dict):
            raise Refusal(f"tools[{at}] is not an object of type function", field="tools")
        name, parameters = function.get("name"), function.get("parameters") or {"type": "object"}
        if not isinstance(name, str) or not NAME.fullmatch(name) or not isinstance(parameters, dict):
            raise Refusal(f"tools[{at}].function has no name of letters, or no object of parameters", field="tools")
        tools.append(Tool(name, item, parameters))
    if len({tool.name for tool in tools}) < len(tools):
        raise Refusal("tools has a name twice", field="tools")
    return tuple(tools)


def _answer(fields: Fields) -> Grammar | None:
    """The grammar of the `response_format`."""
    given = fields.value("response_format")
    if given is None or given == {"type": "text"}:
        return None
    if given == {"type": "json_object"}:
        return Grammar.json()
    kind = given.get("type") if isinstance(given, dict) else None
    if kind == "json_schema" and isinstance(given.get("json_schema"), dict):
        schema = given["json_schema"].get("schema")
        if isinstance(schema, dict):
            return Grammar.json_schema(schema)
    # Beyond OpenAI's, as vLLM and llama.cpp have them.
    if kind in ("regex", "lark") and isinstance(given.get(kind), str):
        return Grammar(kind, given[kind])
    raise fields.refuse("response_format", 'of type "text", "json_object", "json_schema", "regex" or "lark"')


def instructions(tools: Sequence[Tool]) -> str:
    """What a model is told whose template does not tell it of tools."""
    described = "\n".join(json.dumps(tool.described["function"]) for tool in tools)
    call = '{"name": <its name>, "arguments": <its arguments>}'
    return f"You may call a function by answering with {call} alone. The functions are:\n{described}"
