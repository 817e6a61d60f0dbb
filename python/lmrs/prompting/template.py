"""Templates: a text with slots, filled from an example's fields."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lmrs.errors import InputError

MASK = "{mask}"
"""How a filled template says where the answer goes; :mod:`lmrs.prompting.reading` puts the model's own mark there."""

_SLOT = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


class Fillable(Protocol):
    """What a task needs of a template: the text of an example, with at most one :data:`MASK`."""

    @property
    def fields(self) -> list[str]:
        """The fields that are read."""

    def fill(self, example: Mapping[str, Any]) -> str:
        """The text of ``example``."""


@dataclass(frozen=True)
class Template:
    """``text`` with a slot ``{field}`` for each field of an example; ``{{`` and ``}}`` are braces.

    The answer goes where ``{mask}`` stands: the cloze form of BERT and of T5's sentinels. Without it the answer comes
    behind the text: the prefix form of GPT, and T5's text-to-text. Raises InputError for a slot without a name, a brace
    by itself, or a second mask.
    """

    text: str

    def __post_init__(self) -> None:
        rest = _SLOT.sub("", self.text)
        if "{" in rest or "}" in rest:
            raise InputError(f"the template {self.text!r} has a brace by itself; write {{{{ or }}}} for one")
        for name in self.fields:
            if not name.isidentifier():
                raise InputError(f"the template {self.text!r} has a slot {name!r}, expected a name")
        if self._slots.count("mask") > 1:
            raise InputError(f"the template {self.text!r} has {self._slots.count('mask')} masks, expected at most one")

    @property
    def _slots(self) -> list[str]:
        return [match[1] for match in _SLOT.finditer(self.text) if match[1] is not None]

    @property
    def fields(self) -> list[str]:
        """The names of the slots, in order, without the mask."""
        return [name for name in self._slots if name != "mask"]

    def fill(self, example: Mapping[str, Any]) -> str:
        """The text of ``example``. Raises InputError if it lacks a field, or has a mask in one."""
        missing = [name for name in self.fields if name not in example]
        if missing:
            raise InputError(f"the example has no {', '.join(missing)}; the template needs {', '.join(self.fields)}")
        if "mask" in self._slots and any(MASK in str(example[name]) for name in self.fields):
            raise InputError(f"a field of the example holds {MASK}, which says where the answer goes")
        filled = dict(example) | {"mask": MASK}
        return _SLOT.sub(lambda m: m[0][0] if m[1] is None else str(filled[m[1]]), self.text)
