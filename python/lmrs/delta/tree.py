"""What all deltas have in common: where they are in a model, and the model without them."""

from dataclasses import replace
from typing import TypeVar

from lmrs.errors import ConfigError
from lmrs.nn.module import Constant, Module, Parameter

M = TypeVar("M", bound=Module)


class Delta(Module):
    """A module that stands where ``base`` stood and changes what it computes."""

    base: Module

    def merged(self) -> Module:
        """One plain module that computes the same."""
        raise ConfigError(f"{type(self).__name__} cannot be merged into the weights of its base")


def deltas(model: Module) -> dict[str, Delta]:
    """The deltas in ``model`` by the path of the module each stands for. A delta inside another is not listed."""
    found: dict[str, Delta] = {}
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if isinstance(module, Delta) and not inside:
            found[path] = module
    return found


def stripped(model: M) -> M:
    """The model without its deltas."""
    return model.replace("*", lambda _, module: module.base if isinstance(module, Delta) else module)


def merge(model: M) -> M:
    """A plain model, all of it trainable, that computes what the tuned ``model`` computes outside training.

    Raises ConfigError if ``model`` has no delta, or one that no weight can express.
    """
    if not deltas(model):
        raise ConfigError("there is no delta to merge in this model")
    plain = model.replace("*", lambda _, module: module.merged() if isinstance(module, Delta) else module)
    return plain.map_parameters(_trainable)


def _trainable(parameter: Parameter) -> Parameter:
    return parameter if isinstance(parameter, Constant) else replace(parameter, trainable=True)
