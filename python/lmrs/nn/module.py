"""The tree that a model is: modules with names, parameters with owners, and surgery that returns a new tree."""

import copy
import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, TypeVar

from lmrs.errors import ConfigError

Init = Literal["normal", "residual", "uniform", "zeros", "ones", "forget"]
M = TypeVar("M", bound="Module")

_entered: ContextVar[tuple["Module", ...]] = ContextVar("entered", default=())


@dataclasses.dataclass(eq=False, kw_only=True)
class Parameter:
    """A weight: its shape, how it starts (``init``, see :mod:`lmrs.initialise`), and where its numbers are.

    ``data`` is a native tensor, a torch tensor, or None before loading. Two modules that hold the same Parameter object
    are tied. Surgery on a tree shares Parameters and never copies ``data``. ``base`` is the Parameter that this one
    took the place of when a delta made it trainable.
    """

    shape: tuple[int, ...]
    init: Init = "normal"
    trainable: bool = True
    data: Any = None
    base: "Parameter | None" = None

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


class Constant(Parameter):
    """Numbers that a config determines, such as rotary frequencies.

    Given to ops like a weight, but never trained, not in a checkpoint and not among :meth:`Module.named_parameters`.
    """


class Module:
    """A node of a model.

    Its children are the attributes that are modules or lists of modules, its parameters the attributes that are
    Parameters; attribute names, joined by dots, are canonical paths (``blocks.3.attn.q.weight``). A module is not
    changed once built: :meth:`replace`, :meth:`frozen` and :meth:`map_parameters` return a new tree that shares what is
    the same.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The equation of this module; called through :meth:`__call__`."""
        raise NotImplementedError

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """:meth:`forward`, as a call that :func:`entered` knows about."""
        with self.entered():
            return self.forward(*args, **kwargs)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """While this holds, ops belong to this module: *record* labels them with its path."""
        token = _entered.set((*_entered.get(), self))
        try:
            yield
        finally:
            _entered.reset(token)

    def children(self) -> Iterator[tuple[str, "Module"]]:
        """``(name, module)`` of each child, in the order of assignment; ``blocks.0`` for the first of a list."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list):
                yield from ((f"{name}.{i}", item) for i, item in enumerate(value) if isinstance(item, Module))

    def named_modules(self, path: str = "") -> Iterator[tuple[str, "Module"]]:
        """``(path, module)`` of this module (its path is ``path``) and of all below it, parents first."""
        yield path, self
        for name, child in self.children():
            yield from child.named_modules(f"{path}.{name}" if path else name)

    def named_leaves(self) -> dict[str, Parameter]:
        """Every Parameter and Constant by path, a shared one once, under its first path."""
        found: dict[int, tuple[str, Parameter]] = {}
        for path, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter):
                    found.setdefault(id(value), (f"{path}.{name}" if path else name, value))
        return dict(found.values())

    def named_parameters(self) -> dict[str, Parameter]:
        """The weights by canonical path, a tied one once, under its first path."""
        return {path: leaf for path, leaf in self.named_leaves().items() if not isinstance(leaf, Constant)}

    def map_parameters(self: M, change: Callable[[Parameter], Parameter]) -> M:
        """The tree with every Parameter (Constants too) replaced by ``change`` of it; tied ones stay tied."""
        changed: dict[int, Parameter] = {}

        def visit(module: Module) -> Module:
            new = _with_children(module, {name: visit(child) for name, child in module.children()})
            for name, value in vars(module).items():
                if isinstance(value, Parameter):
                    if id(value) not in changed:
                        changed[id(value)] = change(value)
                    setattr(new, name, changed[id(value)])
            return new

        return visit(self)  # type: ignore[return-value]

    def replace(self: M, pattern: str, change: Callable[[str, "Module"], "Module"]) -> M:
        """The tree with every module below this one whose path matches replaced by ``change(path, module)``.

        ``pattern`` is a glob over the whole path: ``*`` any run of characters (dots too), ``?`` one, ``{q,v}`` one of
        these; or, after ``re:``, a regular expression. Weights are shared, ties kept. ``change`` sees a module whose
        own children are already replaced and must not modify it.

            model.replace("*.attn.{q,v}", lambda path, module: LowRank(module, rank=8))

        Raises ConfigError if nothing matches.
        """
        matches = matcher(pattern)
        count = 0

        def visit(path: str, module: Module) -> Module:
            nonlocal count
            children = {name: visit(f"{path}.{name}" if path else name, child) for name, child in module.children()}
            if any(children[name] is not child for name, child in module.children()):
                module = _with_children(module, children)
            if path and matches(path):
                count += 1
                module = change(path, module)
            return module

        new = visit("", self)
        if not count:
            raise ConfigError(f"no module matches {pattern!r}; the paths here are {', '.join(self.kinds())}")
        return new  # type: ignore[return-value]

    def kinds(self) -> list[str]:
        """The paths below this module with ``*`` for every number, sorted."""
        return sorted({re.sub(r"\.\d+(?=\.|$)", ".*", path) for path, _ in self.named_modules() if path})

    def frozen(self: M) -> M:
        """The tree with no parameter trainable, over the same numbers."""
        return self.map_parameters(lambda parameter: dataclasses.replace(parameter, trainable=False))


def entered() -> tuple[Module, ...]:
    """The modules whose calls are in progress here, outermost first."""
    return _entered.get()


def matcher(pattern: str) -> Callable[[str], object]:
    """Whether a whole path matches ``pattern``, a glob or ``re:`` and a regular expression (see Module.replace).

    Raises ConfigError if it is neither.
    """
    try:
        return re.compile(pattern[3:] if pattern.startswith("re:") else _regex(pattern)).fullmatch
    except re.error as error:
        raise ConfigError(f"the pattern {pattern!r} is not a regular expression: {error}") from None


def _with_children(module: Module, children: dict[str, Module]) -> Module:
    new = copy.copy(module)
    for name, child in children.items():
        attribute, _, index = name.partition(".")
        if not index:
            setattr(new, attribute, child)
            continue
        if getattr(new, attribute) is getattr(module, attribute):
            setattr(new, attribute, list(getattr(module, attribute)))
        getattr(new, attribute)[int(index)] = child
    return new


def _regex(pattern: str) -> str:
    depth, regex = 0, ""
    for sign in pattern:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth not in (0, 1):
            break
        signs = {"*": ".*", "?": ".", "{": "(?:", "}": ")"} | ({",": "|"} if depth else {})
        regex += signs.get(sign) or re.escape(sign)
    if depth:
        raise ConfigError(f"the braces of the pattern {pattern!r} do not match")
    return regex
