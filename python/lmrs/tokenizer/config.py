"""What the files beside a tokenizer say about it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from lmrs.errors import TokenizerError

__all__ = ["ROLES", "Config"]

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass(frozen=True)
class Config:
    """What tokenizer_config.json and its neighbours say."""

    path: Path
    values: Mapping[str, Any]

    @classmethod
    def of(cls, directory: Path) -> "Config":
        """What a directory's files say. Raises TokenizerError if one of them is not JSON."""
        path = directory / "tokenizer_config.json"
        values = _read_json(directory / "special_tokens_map.json") | _read_json(path)
        template = directory / "chat_template.jinja"
        if template.exists():
            values["chat_template"] = template.read_text(encoding="utf-8")
        return cls(path, values)

    @property
    def special_tokens(self) -> dict[str, str]:
        """Tokens by role."""
        tokens = {}
        for role in ROLES:
            token = self.values.get(f"{role}_token")
            if isinstance(token, Mapping):
                token = token.get("content")
            if isinstance(token, str):
                tokens[role] = token
            elif token is not None:
                raise TokenizerError(f"{self.path}: {role}_token is {token!r}, expected a token")
        return tokens

    @property
    def chat_template(self) -> str | None:
        """The template named default, if there are several."""
        template = self.values.get("chat_template")
        if isinstance(template, list):
            named = [entry for entry in template if isinstance(entry, Mapping)]
            template = next((entry.get("template") for entry in named if entry.get("name") == "default"), None)
        if template is None or isinstance(template, str):
            return template
        raise TokenizerError(f"{self.path}: chat_template is a {type(template).__name__}, expected text")

    @property
    def max_length(self) -> int | None:
        """The tokens that the model takes, if there is a limit."""
        length = self.values.get("model_max_length")
        # Without a limit, transformers writes 10^30.
        return length if isinstance(length, int) and 0 < length < 1 << 31 else None

    @overload
    def flag(self, name: str, *, default: bool) -> bool: ...

    @overload
    def flag(self, name: str, *, default: None) -> bool | None: ...

    def flag(self, name: str, *, default: bool | None) -> bool | None:
        """A value that is true or false. Raises TokenizerError for any other."""
        value = self.values.get(name)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        raise TokenizerError(f"{self.path}: {name} is {value!r}, expected true or false")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise TokenizerError(f"{path}: expected an object")
    return values
