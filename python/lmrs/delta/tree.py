"""What all deltas have in common: how they are applied, where they are in a model, and the model without them."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from lmrs.errors import ConfigError, InputError
from lmrs.initialise import initialise
from lmrs.nn.module import Constant, Module, Parameter, matcher

M = TypeVar("M", bound=Module)


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A way of tuning: called with a model, it returns the tuned one.

    The new tree shares every weight with ``model``, which is unchanged; its base is frozen and what the method adds is
    trainable, as are the deltas that ``model`` already had (:meth:`~lmrs.nn.module.Module.frozen` freezes those). The
    tuned model keeps the methods that made it, in order, as ``deltas``. Every draw is a function of ``seed`` and its
    path alone.
    """

    seed: int = 0

    @abstractmethod
    def apply(self, model: Any) -> Any:
        """The tree with what this method adds, new weights without numbers if they start by their ``init``."""

    def __call__(self, model: M) -> M:
        """The tuned model."""
        tuned = copy.copy(self.apply(with_frozen_base(model)))
        tuned.deltas = (*methods(model), self)
        return initialise(tuned, seed=self.seed)  # type: ignore[no-any-return]


class Delta(Module):
    """A module that stands where ``base`` stood and changes what it computes."""

    base: Any

    def merged(self) -> Any:
        """One plain module that computes the same."""
        raise ConfigError(f"{type(self).__name__} cannot be merged into the weights of its base")


class Residual(Parameter):
    """What is left of the weight ``base`` of which a delta took a part: frozen, and not the delta's own."""


class Addition(Module):
    """A module that a delta hung onto one that stays as it is, which is as before without it."""

    def removed(self, host: Any) -> Any:
        """``host``, a copy already, without this module. Called with the root for what hangs there."""
        for name, value in vars(host).items():
            if value is self:
                setattr(host, name, None)
        return host


def methods(model: Module) -> tuple[Method, ...]:
    """The methods that made ``model``, in order of application."""
    return getattr(model, "deltas", ())


def deltas(model: Module) -> dict[str, Delta]:
    """The deltas in ``model`` by the path of the module each stands for. A delta inside another is not listed."""
    found: dict[str, Delta] = {}
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if isinstance(module, Delta) and not inside:
            found[path] = module
    return found


def canonical(path: str) -> str:
    """``path`` as it is in the model without deltas."""
    return ".".join(part for part in path.split(".") if part != "base")


def replaced(model: M, pattern: str, change: Callable[[str, Module], Module]) -> M:
    """:meth:`~lmrs.nn.module.Module.replace` by canonical path, whatever deltas are there already.

    Where deltas stand for a module, ``change`` gets the outermost. Raises ConfigError if nothing matches.
    """
    matches, count = matcher(pattern), 0

    def visit(path: str, module: Module) -> Module:
        nonlocal count
        if path.endswith(".base") or not matches(canonical(path)):
            return module
        count += 1
        return change(canonical(path), module)

    tuned = model.replace("*", visit)
    if not count:
        raise ConfigError(f"no module matches {pattern!r}; the paths here are {', '.join(stripped(model).kinds())}")
    return tuned


def own_parameters(model: Module, *, every_path: bool = False) -> dict[str, Parameter]:
    """What the deltas of ``model`` brought, by path: weights of their own, and those of the base that they train.

    One that several modules share comes once, under its first path, unless ``every_path``.
    """
    found: set[int] = set()

    def visit(path: str, module: Module, *, added: bool) -> Iterator[tuple[str, Parameter]]:
        added = added or isinstance(module, Delta | Addition)
        for name, value in vars(module).items():
            if not isinstance(value, Parameter) or isinstance(value, Constant | Residual):
                continue
            if (added or value.base is not None) and (every_path or id(value) not in found):
                found.add(id(value))
                yield f"{path}.{name}" if path else name, value
        for name, child in module.children():
            below = f"{path}.{name}" if path else name
            # Lists of base modules are named base.0, base.1, …
            is_base = isinstance(module, Delta) and name.split(".")[0] == "base"
            yield from visit(below, child, added=added and not is_base)

    return dict(visit("", model, added=False))


def with_frozen_base(model: M) -> M:
    """The tree with nothing trainable but what deltas brought, over the same numbers."""
    own = {id(parameter) for parameter in own_parameters(model).values()}
    return model.map_parameters(lambda p: replace(p, trainable=p.trainable and id(p) in own))


def with_trained(model: M, wanted: Callable[[str], bool]) -> M:
    """The tree in which every weight of the base at a ``wanted`` canonical path is trained, from where it is.

    Each is a new Parameter that knows what it replaced; tied weights stay tied.
    """
    own = {id(parameter) for parameter in own_parameters(model).values()}
    chosen = {id(p) for path, p in model.named_parameters().items() if id(p) not in own and wanted(canonical(path))}
    return model.map_parameters(lambda p: replace(p, trainable=True, base=p) if id(p) in chosen else p)


def stripped(model: M) -> M:
    """The model without its deltas, of the weights it had before."""

    def change(_: str, module: Module) -> Module:
        return module.base if isinstance(module, Delta) else _without_additions(module)

    plain = _without_additions(model.replace("*", change))
    plain = plain.map_parameters(_before)
    vars(plain).pop("deltas", None)
    return plain


def detach(model: M, pattern: str) -> M:
    """The model without the deltas at the paths that match ``pattern``; its other deltas stay.

    Paths and patterns are those of :meth:`lmrs.nn.module.Module.replace`, of the modules that deltas stand for or hang
    on. Weights that a delta trains in place return to what they were. Raises ConfigError if nothing matches. What is
    left can no longer be saved by the methods that made it.
    """
    matches, count = matcher(pattern), 0

    def change(path: str, module: Module) -> Module:
        nonlocal count
        if not matches(canonical(path)):
            return module
        plain = module.base if isinstance(module, Delta) else _without_additions(module)
        held = {name: value for name, value in vars(plain).items() if isinstance(value, Parameter) and value.base}
        if held:
            plain = copy.copy(plain)
            for name, value in held.items():
                setattr(plain, name, _before(value))
        count += plain is not module
        return plain

    found = model.replace("*", change)
    if not count:
        places = ", ".join(sorted({canonical(path) for path in deltas(model)})[:8]) or "nowhere"
        raise ConfigError(f"no delta at {pattern!r}; there are deltas at {places}")
    return found


def merge(model: M) -> M:
    """A plain model, all of it trainable, that computes what the tuned ``model`` computes outside training.

    Raises ConfigError if ``model`` has no delta, or one that no weight can express.
    """
    if not own_parameters(model):
        raise ConfigError("there is no delta to merge in this model")
    for path, module in model.named_modules():
        if isinstance(module, Addition):
            raise ConfigError(f"{type(module).__name__} at {path} cannot be merged into the weights of its base")
    plain = model.replace("*", lambda _, module: module.merged() if isinstance(module, Delta) else module)
    plain = plain.map_parameters(_trainable)
    vars(plain).pop("deltas", None)
    # Its weights are no longer those that it was packed from, if it was.
    vars(plain).pop("fingerprint", None)
    return plain


def checked_positive(**values: int) -> None:
    """Raises InputError naming the first of ``values`` that is less than 1."""
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{name} is {value}, expected at least 1")


def _without_additions(module: M) -> M:
    added = [child for _, child in module.children() if isinstance(child, Addition)]
    if not added:
        return module
    plain = copy.copy(module)
    for addition in added:
        plain = addition.removed(plain)
    return plain


def _before(parameter: Parameter) -> Parameter:
    while parameter.base is not None:
        parameter = parameter.base
    return parameter


def _trainable(parameter: Parameter) -> Parameter:
    if isinstance(parameter, Constant):
        return parameter
    return Parameter(shape=parameter.shape, init=parameter.init, data=parameter.data)
