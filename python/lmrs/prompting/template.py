"""Templates: a text with slots, filled from an example's fields."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from lmrs.delta import Prompt
from lmrs.errors import InputError
from lmrs.models.beside import tokenizer_of
from lmrs.tokenizer import Tokenizer

MASK = "{mask}"
"""How a filled template says where the answer goes; :mod:`lmrs.prompting.reading` puts the model's own mark there."""

_SOFT = r"\{soft(?:\*([1-9]\d{0,3})|:([^{}]*[^{}\s][^{}]*))?\}"
_LEADING = re.compile(rf"(?:\s*{_SOFT})+\s*")
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
    behind the text: the prefix form of GPT, and T5's text-to-text.

    A template may begin with soft tokens, which are trained and have no text: ``{soft}`` is one, ``{soft*20}`` are
    twenty, ``{soft:It was}`` as many as these words have, starting as they are embedded. :meth:`prompt` makes them; the
    white space behind them is left out. Raises InputError for a slot without a name, a brace by itself, a second mask,
    or a soft token elsewhere.
    """

    text: str

    def __post_init__(self) -> None:
        rest = _SLOT.sub("", self._hard)
        if "{" in rest or "}" in rest:
            raise InputError(f"the template {self.text!r} has a brace by itself; write {{{{ or }}}} for one")
        for name in self.fields:
            if re.match(r"soft\b", name):
                raise InputError(
                    f"the template {self.text!r} has {{{name}}}: soft tokens are {{soft}}, {{soft*20}} or"
                    " {soft:words} and stand before the text"
                )
            if not name.isidentifier():
                raise InputError(f"the template {self.text!r} has a slot {name!r}, expected a name")
        if self._slots.count("mask") > 1:
            raise InputError(f"the template {self.text!r} has {self._slots.count('mask')} masks, expected at most one")

    @property
    def _hard(self) -> str:
        """The text without its soft tokens."""
        found = _LEADING.match(self.text)
        return self.text[found.end() :] if found else self.text

    @property
    def soft(self) -> list[str | int]:
        """The soft tokens: the words that some start as, or how many start as any."""
        leading = self.text[: len(self.text) - len(self._hard)]
        return [match[2] or int(match[1] or 1) for match in re.finditer(_SOFT, leading)]

    def prompt(self, model: Any, *, tokenizer: Tokenizer | None = None, seed: int = 0) -> Prompt:
        """The delta that puts the soft tokens before every text of ``model``: ``template.prompt(model)(model)``.

        Those without words start as tokens drawn from the vocabulary by ``seed`` (Lester et al. 2021, §3.2). Raises
        InputError if the template has none.
        """
        if not self.soft:
            raise InputError(f"the template {self.text!r} has no soft token")
        random = np.random.Generator(np.random.Philox(key=seed))
        ids: list[int] = []
        for tokens in self.soft:
            if isinstance(tokens, int):
                ids += random.integers(0, model.config.vocabulary, tokens).tolist()
            else:
                tokenizer = tokenizer or tokenizer_of(model)
                ids += tokenizer.encode(tokens, add_special_tokens=False).ids
        return Prompt(length=len(ids), ids=tuple(ids))

    @property
    def _slots(self) -> list[str]:
        return [match[1] for match in _SLOT.finditer(self._hard) if match[1] is not None]

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
        return _SLOT.sub(lambda m: m[0][0] if m[1] is None else str(filled[m[1]]), self._hard)
