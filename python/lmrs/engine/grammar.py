"""What a text must be."""

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lmrs import _rs
from lmrs.errors import InputError

KEPT = 64
"""So many grammars stay compiled."""


@dataclass(frozen=True)
class Grammar:
    """What a completion must be, whole: nothing else can be written, whatever the model says.

    A completion that reaches ``max_tokens`` is cut, and then only the beginning of such a text.
    """

    notation: Literal["regex", "json_schema", "lark"]
    description: str

    @classmethod
    def regex(cls, pattern: str) -> "Grammar":
        """A regular expression, of the whole text, in the syntax of Rust's `regex` without look-around."""
        return cls("regex", pattern)

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | str) -> "Grammar":
        """A JSON document that a schema allows; the schema as an object or as it is written."""
        return cls("json_schema", schema if isinstance(schema, str) else json.dumps(schema))

    @classmethod
    def json(cls) -> "Grammar":
        """Any JSON object."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def lark(cls, grammar: str) -> "Grammar":
        """A context-free grammar in Lark's notation."""
        return cls("lark", grammar)


class Compiled:
    """The grammars of one tokenizer that were asked for last, compiled; of ids below ``vocabulary``."""

    def __init__(self, tokenizer: _rs.Tokenizer, *, vocabulary: int, eos: list[int]) -> None:
        self._of = tokenizer, vocabulary, eos
        self._grammars: _rs.Grammars | None = None
        self._kept: OrderedDict[Grammar, _rs.Grammar] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, grammar: object) -> _rs.Grammar:
        """``grammar``, compiled. Raises InputError if it cannot be, or is none."""
        if not isinstance(grammar, Grammar):
            raise InputError(f"grammar is {grammar!r}, expected an lmrs.Grammar")
        with self._lock:
            found = self._kept.pop(grammar, None)
            if found is None:
                if self._grammars is None:
                    tokenizer, vocabulary, eos = self._of
                    self._grammars = _rs.Grammars(tokenizer, vocabulary=vocabulary, eos=eos)
                found = self._grammars.compile(grammar.notation, grammar.description)
            self._kept[grammar] = found
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found
