"""Templates that others wrote: PromptSource's YAML with Jinja in it (Bach et al. 2022), and OpenPrompt's language.

Both come from strangers. YAML is read by PyYAML's safe loader, without aliases; Jinja runs in its sandbox with few
filters, few methods, no loops in loops, and bounds on what it makes. Needs ``pip install lmrs[prompting]``.
"""

import ast
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lmrs.errors import FormatError, InputError, MissingFileError
from lmrs.prompting.task import Task
from lmrs.prompting.template import MASK, Template
from lmrs.prompting.verbalizer import Verbalizer

LARGEST = 1 << 20
"""Bytes of a file, and characters of a text that a template makes."""
PIECE = 1 << 16
"""Characters of what a filter makes; of a template's source a quarter."""
STEPS = 1000
"""Items of a range, and turns of a loop."""


def promptsource(path: str | os.PathLike[str]) -> dict[str, "Jinja"]:
    """The templates of a ``templates.yaml`` of PromptSource, by name.

    Raises MissingFileError, FormatError naming the template and what is wrong with it, InputError without the packages.
    """
    content = _yaml(path)
    found: dict[str, Jinja] = {}
    templates = content.get("templates")
    if not isinstance(templates, Mapping):
        raise FormatError(f"{path}: expected templates, a mapping of ids")
    for key, item in templates.items():
        where = f"{path} template {key}"
        if not isinstance(item, Mapping) or not isinstance(item.get("jinja"), str):
            raise FormatError(f"{where}: expected a mapping with a text jinja")
        name, choices = item.get("name", str(key)), item.get("answer_choices")
        if not isinstance(name, str) or not isinstance(choices, str | None):
            raise FormatError(f"{where}: expected texts for name and answer_choices")
        metadata = item.get("metadata") or {}
        try:
            found[name] = Jinja(item["jinja"], choices, dict(metadata) if isinstance(metadata, Mapping) else {})
        except FormatError as error:
            raise FormatError(f"{where}: {error}") from None
    return found


def openprompt(path: str | os.PathLike[str]) -> Task:
    """The task of a YAML file with a ``template`` in OpenPrompt's language, and a ``verbalizer`` if it has one.

    A template is text with ``{"placeholder": "text_a"}`` or ``{"meta": "premise"}`` for fields and ``{"mask"}``; a
    verbalizer maps each class to a word or a list of words, put behind a space. Soft tokens, ``{"soft"}``,
    ``{"soft": "It was"}`` or ``{"soft": None, "duplicate": 20}``, come first: see :class:`Template`. Raises as
    :func:`promptsource`; FormatError for soft tokens behind the text, or shared by ``soft_id``.
    """
    content = _yaml(path)
    template, words = content.get("template"), content.get("verbalizer")
    if not isinstance(template, str):
        raise FormatError(f"{path}: expected a text template")
    try:
        translated = Template(_SLOT.sub(lambda match: _slot(match[0], f"{path}"), template))
    except InputError as error:
        raise FormatError(f"{path}: {error}") from None
    if words is None:
        return Task(translated)
    if not isinstance(words, Mapping):
        raise FormatError(f"{path}: expected a mapping of classes for the verbalizer")
    given = {str(name): [of] if isinstance(of, str) else of for name, of in words.items()}
    for name, of in given.items():
        if not isinstance(of, list) or not all(isinstance(word, str) and word for word in of):
            raise FormatError(f"{path}: the class {name!r} has {of!r}, expected words")
    return Task(translated, Verbalizer({name: [f" {word}" for word in of] for name, of in given.items()}))


_SLOT = re.compile(r"\{[^{}]*\}")


def _slot(text: str, where: str) -> str:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise FormatError(f"{where}: the slot {text} is not OpenPrompt's") from None
    kind = next(iter(value), None) if isinstance(value, set | dict) else None
    name = value.get(kind) if isinstance(value, dict) else None
    if kind == "mask" and name is None:
        return MASK
    if kind in ("placeholder", "meta") and isinstance(name, str) and name.isidentifier():
        return f"{{{name}}}"
    if kind == "soft" and isinstance(name, str | None):
        rest = {key: of for key, of in value.items() if key != "soft"} if isinstance(value, dict) else {}
        if not rest:
            return "{soft}" if name is None else f"{{soft:{name}}}"
        if name is None and rest.keys() == {"duplicate"} and type(rest["duplicate"]) is int:
            return f"{{soft*{rest['duplicate']}}}"
    raise FormatError(f"{where}: the slot {text} is not read: expected a placeholder, meta, mask or soft")


@dataclass(frozen=True)
class Jinja:
    """A template of PromptSource: ``source`` makes a prompt and, behind ``|||``, its target.

    ``answer_choices``, if there are, make the texts to choose from, ``|||`` between them. ``metadata`` is as the file
    has it. :meth:`task` chooses among the choices, or writes. Raises FormatError if it does not parse or may not run.
    """

    source: str
    answer_choices: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for source in filter(None, (self.source, self.answer_choices)):
            if len(source) > PIECE // 4:
                raise FormatError(f"the template has {len(source)} characters, expected at most {PIECE // 4}")
            try:
                _allowed(self._environment.parse(source))
            except (RecursionError, self._failure) as error:
                raise FormatError(f"{source[:40]!r} is not a Jinja template: {error}") from None

    @property
    def fields(self) -> list[str]:
        """The fields that are read, in alphabetical order."""
        from jinja2 import meta

        names = meta.find_undeclared_variables(self._environment.parse(self.source))
        return sorted(names - {"answer_choices"})

    def fill(self, example: Mapping[str, Any]) -> str:
        """The prompt of ``example``. Raises InputError if it lacks a field, or the template does too much."""
        return self._parts(example)[0]

    def target(self, example: Mapping[str, Any]) -> str:
        """What should follow. Raises as :meth:`fill`, and InputError if the template names no target."""
        parts = self._parts(example)
        if len(parts) < 2:
            raise InputError("the template names no target: it has no |||")
        return parts[1]

    def choices(self, example: Mapping[str, Any]) -> list[str]:
        """What there is to choose from. Raises as :meth:`fill`, and InputError without answer choices."""
        if self.answer_choices is None:
            raise InputError("the template has no answer choices")
        return [choice.strip() for choice in self._made(self.answer_choices, example).split("|||")]

    def task(self) -> Task:
        """One of its choices if it has any, else what the model writes."""
        return Task(self, choices=None if self.answer_choices is None else self.choices)

    def _parts(self, example: Mapping[str, Any]) -> list[str]:
        given = dict(example)
        if self.answer_choices is not None:
            given["answer_choices"] = self.choices(example)
        return [part.strip() for part in self._made(self.source, given).split("|||")]

    def _made(self, source: str, example: Mapping[str, Any]) -> str:
        pieces, length = [], 0
        try:
            for piece in self._environment.from_string(source).generate(dict(example)):
                pieces.append(piece)
                if (length := length + len(piece)) > LARGEST:
                    raise InputError(f"a template made more than {LARGEST} characters")
        except (self._failure, TypeError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
            raise InputError(f"the template cannot be filled from {', '.join(example)}: {error}") from None
        return "".join(pieces)

    @cached_property
    def _environment(self) -> Any:
        return _sandbox()

    @property
    def _failure(self) -> type[Exception]:
        from jinja2 import TemplateError

        return TemplateError


_FILTERS = {"capitalize", "first", "float", "int", "join", "last", "length", "list", "lower", "replace", "reverse",
            "round", "sort", "string", "title", "trim", "unique", "upper"}  # fmt: skip
_METHODS = {"capitalize", "count", "endswith", "find", "get", "index", "items", "keys", "lower", "lstrip", "rstrip",
            "split", "splitlines", "startswith", "strip", "title", "upper", "values"}  # fmt: skip
_REFUSED = {"Macro", "CallBlock", "Include", "Import", "FromImport", "Extends", "Block", "Mul", "Pow", "Mod"}


def _allowed(tree: Any, known: set[str] | None = None, *, loops: int = 0) -> None:
    """Raises FormatError for what a template may not have: what grows without bound, or reads other files.

    What is set may not be made of what was set before, or a few lines that double a text would fill the memory.
    """
    from jinja2 import nodes

    known = set() if known is None else known
    for node in tree.iter_child_nodes():
        name = type(node).__name__
        if name in _REFUSED:
            raise FormatError(f"line {node.lineno}: {name} is not allowed in a template")
        if name == "For" and (loops or node.recursive):
            raise FormatError(f"line {node.lineno}: a loop in a loop is not allowed in a template")
        if name in ("Assign", "AssignBlock"):
            names = {found.name: found.ctx for found in node.find_all(nodes.Name)}
            if again := known & {found for found, use in names.items() if use == "load"}:
                raise FormatError(f"line {node.lineno}: sets a name from {', '.join(again)}, which was set itself")
            known |= {found for found, use in names.items() if use == "store"}
        _allowed(node, known, loops=loops + (name == "For"))


def _sandbox() -> Any:
    try:
        from jinja2 import StrictUndefined
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise InputError("templates of PromptSource need jinja2: pip install 'lmrs[prompting]'") from None

    class Sandbox(ImmutableSandboxedEnvironment):
        def wrap_str_format(self, value: Any) -> None:
            """Formatting is not wrapped but refused, as an attribute: a width makes a text of any length."""

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            plain = isinstance(obj, str | list | tuple | dict) and attr in _METHODS
            return (plain or type(obj).__name__ == "LoopContext") and super().is_safe_attribute(obj, attr, value)

    def ranged(*bounds: int) -> range:
        found = range(*bounds)
        if len(found) > STEPS:
            raise ValueError(f"a range of {len(found)}, expected at most {STEPS}")
        return found

    def joined(values: Any, between: str = "", attribute: str | None = None) -> str:
        if attribute is not None:
            raise ValueError("join takes no attribute here")
        parts = [str(value) for value in values]
        _expect_bounded(sum(map(len, parts)) + len(between) * len(parts))
        return between.join(parts)

    def replaced(text: str, old: str, new: str) -> str:
        text, old, new = str(text), str(old), str(new)
        _expect_bounded(len(text) + text.count(old) * len(new))
        return text.replace(old, new)

    sandbox = Sandbox(undefined=StrictUndefined, keep_trailing_newline=True)
    sandbox.filters = {name: made for name, made in sandbox.filters.items() if name in _FILTERS}
    sandbox.filters |= {"join": joined, "replace": replaced}
    sandbox.globals = {"range": ranged, "enumerate": enumerate, "zip": zip}
    return sandbox


def _expect_bounded(length: int) -> None:
    if length > PIECE:
        raise ValueError(f"a text of {length} characters, expected at most {PIECE}")


def _yaml(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file") from None
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > LARGEST:
        raise FormatError(f"{path}: has {len(data)} bytes, expected at most {LARGEST}")
    try:
        import yaml
    except ImportError:
        raise InputError("templates in YAML need PyYAML: pip install 'lmrs[prompting]'") from None

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                raise yaml.YAMLError("aliases are not allowed")
            return super().compose_node(parent, index)

    # PromptSource tags what it wrote by the name of its class; the fields are all there is to read.
    for tag in ("!Template", "!TemplateMetadata"):
        Loader.add_constructor(tag, lambda loader, node: loader.construct_mapping(node, deep=True))
    try:
        content = yaml.load(data.decode(), Loader=Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise FormatError(f"{path}: not safe YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, Mapping):
        raise FormatError(f"{path}: is a {type(content).__name__}, expected a mapping")
    return content
