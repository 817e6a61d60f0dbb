"""Weights of the base that a PEFT directory holds whole: trained biases, and the modules of ``modules_to_save``."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from lmrs.backend import native
from lmrs.delta.peft.names import START, Array, Tensors, known_name, pattern
from lmrs.delta.specified import Subset
from lmrs.delta.tree import canonical, deltas, methods, own_parameters, with_trained
from lmrs.errors import ConfigError, FormatError

BIASES = ("none", "all", "lora_only")


def divided(model: Any, config: Mapping[str, Any], tensors: Tensors) -> tuple[Tensors, Tensors]:
    """The tensors of a file that are a delta's, and those of the base by transformers' name.

    PEFT may write the tables of a model, too; those that are the model's are left out. Raises ConfigError for a tensor
    of the base that the settings do not announce or the model does not have, FormatError for a table that is another's.
    """
    saved = config.get("modules_to_save") or []
    bias = config.get("bias", "none")
    if bias not in BIASES:
        raise ConfigError(f"adapter_config.json: bias is {bias!r}, expected one of {', '.join(BIASES)}")
    if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
        raise ConfigError(f"adapter_config.json: modules_to_save is {saved!r}, expected names")
    parts = _parts(model)
    delta: Tensors = {}
    whole: Tensors = {}
    for key, values in tensors.items():
        module, _, kind = key.removeprefix(START).rpartition(".")
        if not key.startswith(START) or kind not in ("weight", "bias") or ".lora_" in f".{module}.":
            delta[key] = values
            continue
        if module.endswith(".original_module"):
            # With bias="all" PEFT also writes those of modules that its copies stand for.
            continue
        module = module.removesuffix(".base_layer").removesuffix(".modules_to_save")
        stored, again = _stored(f"{module}.{kind}", parts, model)
        if stored in whole:
            continue
        named = any(module.endswith(name) for name in saved)
        if named and again:
            raise ConfigError(f"modules_to_save has {module}, which is tied to {stored} here and cannot differ from it")
        announced = named or (kind == "bias" and bias != "none")
        if announced:
            whole[stored] = values
        elif not np.array_equal(values, _of(model, stored, parts[stored])):
            raise FormatError(f"tensor {key} is of another base, or is not announced by bias or modules_to_save")
    return delta, whole


def put(model: Any, config: Mapping[str, Any], whole: Tensors) -> tuple[Any, bool]:
    """``model`` with the weights ``whole`` trained and in place; whether a :class:`Subset` is among its methods now.

    Biases are LoRA's own by its setting ``bias``; what ``modules_to_save`` names is a subset of the base. Raises
    FormatError for a tensor of another shape.
    """
    parts = _parts(model)
    values = {
        path: source.read(native.array(np.ascontiguousarray(array, np.float32)).tensor)
        for name, array in whole.items()
        for path, source in _fitting(model, name, array, parts[name]).items()
    }
    tuned = with_trained(model, lambda path: path in values)
    for path, parameter in own_parameters(tuned).items():
        if canonical(path) in values and parameter.base is not None:
            parameter.data = values[canonical(path)]
    saved = [path for path in values if not (path.endswith(".bias") and config.get("bias", "none") != "none")]
    if saved:
        tuned.deltas = (*methods(model), Subset(parameters=pattern(saved)))
    return tuned, bool(saved)


def write(model: Any) -> tuple[Tensors, list[str]]:
    """The trained weights of the base under PEFT's names, and the modules that ``modules_to_save`` has to name.

    Raises ConfigError where one of transformers' tensors is several here of which not all are trained.
    """
    sources, wrapped = model.sources(), {canonical(path) for path in deltas(model)}
    trained = {canonical(path): p for path, p in own_parameters(model).items() if p.base is not None}
    tensors: Tensors = {}
    saved: list[str] = []
    values = {path: native.tensor(p).numpy().astype(np.float32) for path, p in trained.items() if path in sources}
    whole = _parts(model)
    for name, array in model.stored(values).items():
        if missing := whole[name].keys() - trained.keys():
            raise ConfigError(f"PEFT's files hold {name} whole, and {', '.join(sorted(missing))} of it is not trained")
        module, _, kind = name.rpartition(".")
        below = ".base_layer" if any(path.rpartition(".")[0] in wrapped for path in whole[name]) else ""
        tensors[f"{START}{module}{below}.{kind}"] = array
        if kind != "bias":
            saved.append(module)
    if lost := trained.keys() - sources.keys():
        raise ConfigError(f"transformers has no name for {', '.join(sorted(lost)[:4])}")
    return tensors, saved


def _stored(name: str, parts: Collection[str], model: Any) -> tuple[str, bool]:
    """The name here of a tensor of PEFT's file, and whether it is that of another one, which it repeats."""
    again = model.repeated()
    if name not in parts and again.get(name) in parts:
        return again[name], True
    return known_name(name, dict.fromkeys(parts)), False


def _parts(model: Any) -> dict[str, dict[str, Any]]:
    """By tensor of a checkpoint, the parameters it holds and where in it."""
    found: dict[str, dict[str, Any]] = {}
    for path, source in model.sources().items():
        found.setdefault(source.name, {})[path] = source
    return found


def _fitting(model: Any, name: str, values: Array, parts: Mapping[str, Any]) -> Mapping[str, Any]:
    expected = _of(model, name, parts).shape
    if values.shape != expected:
        raise FormatError(f"{name} is {list(values.shape)} in the adapter, expected {list(expected)}")
    return parts


def _of(model: Any, name: str, parts: Mapping[str, Any]) -> Array:
    """The tensor ``name`` of the model's own weights."""
    parameters = model.named_parameters()
    found: Array = model.stored({path: native.tensor(parameters[path]).numpy() for path in parts})[name]
    return found
