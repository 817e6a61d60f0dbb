"""Reading the fields of a request, each with its type and range."""

import asyncio
import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from lmrs.serve.errors import Refusal
from lmrs.serve.limits import Limits

HARMLESS = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
"""Fields of OpenAI's API that change nothing here."""

NEUTRAL: dict[str, Any] = {
    "suffix": "",
    "tools": [],
    "tool_choice": "none",
}
"""Fields of OpenAI's API that are not offered, with the value that asks for nothing: clients send it unasked."""


async def read(request: Request, limits: Limits) -> "Fields":
    """The JSON object in the body of ``request``. Raises Refusal."""
    length = request.headers.get("content-length", "0")
    too_large = Refusal(f"the body is larger than {limits.body_bytes} bytes", status=413)
    if length.isdecimal() and (len(length) > 18 or int(length) > limits.body_bytes):
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body_bytes:
                    raise too_large
    except TimeoutError:
        raise Refusal(f"the body did not come within {limits.body_seconds} seconds", status=408) from None
    except ClientDisconnect:
        raise Refusal("the client is gone", status=499) from None
    return parse(bytes(body))


def parse(body: bytes) -> "Fields":
    """The JSON object ``body``. Raises Refusal."""
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_once)
    except RecursionError:
        raise Refusal("the body is nested too deeply") from None
    except ValueError as error:
        raise Refusal(f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Refusal("the body is not a JSON object")
    return Fields(found)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


class Fields:
    """The fields of one request. What is read is ticked off; :meth:`done` refuses what nobody asked for.

    Every method raises Refusal, naming the field and what was expected.
    """

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = {name: value for name, value in given.items() if value is not None}
        self._read = set(HARMLESS)

    def value(self, name: str) -> Any:
        """The field as it is, None if it is not there."""
        self._read.add(name)
        return self._given.get(name)

    def refuse(self, name: str, expected: str) -> Refusal:
        """A refusal of what the field holds."""
        shown = json.dumps(self._given.get(name), ensure_ascii=True)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return Refusal(f"{name} is {shown}, expected {expected}", field=name)

    def integer(self, name: str, default: int, *, least: int, most: int) -> int:
        """An integer from ``least`` to ``most``."""
        value = self.value(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.refuse(name, f"an integer from {least} to {most}")
        return value

    def number(self, name: str, default: float, *, least: float, most: float) -> float:
        """A number from ``least`` to ``most``."""
        value = self.value(name)
        if value is None:
            return default
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        if not fits or not least <= value <= most or not math.isfinite(value):
            raise self.refuse(name, f"a number from {least:g} to {most:g}")
        return float(value)

    def flag(self, name: str) -> bool:
        """A truth value; false if it is not there."""
        value = self.value(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.refuse(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string; needed if there is no ``default``."""
        value = self.value(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.refuse(name, "a string")
        return _written(name, value)

    def texts(self, name: str, *, most: int) -> list[str]:
        """A string or several."""
        value = self.value(name)
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise self.refuse(name, "a string or a list of strings")
        if len(found) > most:
            raise Refusal(f"{name} has {len(found)} items, expected at most {most}", field=name)
        return [_written(name, item) for item in found]

    def prompts(self, name: str, *, most: int) -> list[str | list[int]]:
        """A text, token ids, or a list of either; at least one."""
        value = self.value(name)
        if isinstance(value, str) or (isinstance(value, list) and value and all(map(_is_id, value))):
            value = [value]
        if not isinstance(value, list) or not value:
            raise self.refuse(name, "a string, token ids, or a list of either")
        if len(value) > most:
            raise Refusal(f"{name} has {len(value)} items, expected at most {most}", field=name)
        for at, item in enumerate(value):
            if not isinstance(item, str) and not (isinstance(item, list) and item and all(map(_is_id, item))):
                raise self.refuse(f"{name}[{at}]", "a string or token ids")
        return [_written(name, item) if isinstance(item, str) else item for item in value]

    def biases(self, name: str, *, vocabulary: int) -> dict[int, float]:
        """An object from token ids, written as strings, to numbers from -100 to 100."""
        value = self.value(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or len(value) > vocabulary:
            raise self.refuse(name, f"an object of at most {vocabulary} token ids")
        found = {}
        for id_, by in value.items():
            if not (id_.isascii() and id_.isdecimal() and len(id_) < 11 and int(id_) < vocabulary):
                raise self.refuse(name, f"an object whose keys are token ids, 0 to {vocabulary - 1}")
            if isinstance(by, bool) or not isinstance(by, int | float) or not -100 <= by <= 100:
                raise self.refuse(name, "an object whose values are numbers from -100 to 100")
            found[int(id_)] = float(by)
        return found

    def done(self) -> None:
        """Refuses fields that were not read, unless they ask for nothing."""
        unread = self._given.keys() - self._read
        for name in sorted(unread & NEUTRAL.keys()):
            if isinstance(self._given[name], bool) or self._given[name] != NEUTRAL[name]:
                raise self.refuse(name, f"{json.dumps(NEUTRAL[name])}, since it is not offered here")
        unknown = sorted(unread - NEUTRAL.keys())
        if unknown:
            shown = ", ".join(name[:40] for name in unknown[:8]).encode("ascii", "backslashreplace").decode()
            raise Refusal(f"unknown field {shown}", field=unknown[0][:40])


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _written(name: str, text: str) -> str:
    # JSON can write half of a surrogate pair; UTF-8 cannot.
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise Refusal(f"{name} has a lone surrogate, expected a text that UTF-8 can write", field=name)
    return text


def stops(fields: Fields, most: int) -> Sequence[str]:
    """The stop strings."""
    if fields.value("stop") is None:
        return ()
    found = fields.texts("stop", most=most)
    if "" in found:
        raise Refusal("stop has an empty string", field="stop")
    return found
