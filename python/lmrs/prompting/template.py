"""Templates: a text with slots, filled from an example's fields."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmrs.errors import InputError

_SLOT = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


@dataclass(frozen=True)
class Template:
    """``text`` with a slot ``{field}`` for each field of an example; ``{{`` and ``}}`` are braces.

    What a model adds comes at its end: the prefix form of GPT and T5. Raises InputError for a slot without a name or a
    brace by itself.
    """

    text: str

    def __post_init__(self) -> None:
        rest = _SLOT.sub("", self.text)
        if "{" in rest or "}" in rest:
            raise InputError(f"the template {self.text!r} has a brace by itself; write {{{{ or }}}} for one")
        for name in self.fields:
            if not name.isidentifier():
                raise InputError(f"the template {self.text!r} has a slot {name!r}, expected a name")

    @property
    def fields(self) -> list[str]:
        """The names of the slots, in order."""
        return [match[1] for match in _SLOT.finditer(self.text) if match[1] is not None]

    def fill(self, example: Mapping[str, Any]) -> str:
        """The text of ``example``. Raises InputError if it lacks a field."""
        missing = [name for name in self.fields if name not in example]
        if missing:
            raise InputError(f"the example has no {', '.join(missing)}; the template needs {', '.join(self.fields)}")
        return _SLOT.sub(lambda m: m[0][0] if m[1] is None else str(example[m[1]]), self.text)
