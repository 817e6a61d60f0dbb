"""Chat templates: the Jinja program a checkpoint carries that turns messages into the text it was trained on.

The program comes with the weights, from strangers: it runs in Jinja's immutable sandbox, which has no way to files,
modules or attributes of Python objects.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lmrs.errors import ConfigError, Error, InputError

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Message:
    """One turn. `role` is system, user, assistant or tool."""

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InputError(f"role is {self.role!r}, expected one of {', '.join(ROLES)}")


@dataclass(frozen=True)
class ChatTemplate:
    """A template and the special tokens it may write, by name (`bos_token`, `eos_token`)."""

    source: str
    tokens: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, directory: Path) -> "ChatTemplate | None":
        """The template of a checkpoint directory; None if it has none.

        `chat_template.jinja` goes before the field of `tokenizer_config.json`, where of several named templates the
        one named `default` is meant. Raises ConfigError if the field is neither text nor such a list.
        """
        path = directory / "tokenizer_config.json"
        config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        tokens = {name: _text(config[name]) for name in ("bos_token", "eos_token", "unk_token") if config.get(name)}
        alone = directory / "chat_template.jinja"
        source = alone.read_text(encoding="utf-8") if alone.exists() else config.get("chat_template")
        if isinstance(source, list):
            source = next((entry.get("template") for entry in source if entry.get("name") == "default"), None)
        if source is None:
            return None
        if not isinstance(source, str):
            raise ConfigError(f"{path}: chat_template is a {type(source).__name__}, expected text")
        return cls(source, tokens)

    def render(self, messages: Sequence[Message], *, generate: bool = True) -> str:
        """The text of a conversation, ready for the assistant's turn if `generate`.

        The special tokens are in the text: tokenise it without adding more. Raises InputError if there is no message
        or the template refuses them, ConfigError if the template itself is broken.
        """
        if not messages:
            raise InputError("a conversation needs at least one message")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            template = environment.from_string(self.source)
            return template.render(messages=turns, add_generation_prompt=generate, **self.tokens)
        except Error:
            raise
        except Exception as error:  # a stranger's program may fail in any way
            raise ConfigError(f"the chat template cannot be run: {error}") from error


def _text(token: Any) -> str:
    return str(token["content"]) if isinstance(token, Mapping) else str(token)


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise InputError(f"the chat template refuses the conversation: {message}")
