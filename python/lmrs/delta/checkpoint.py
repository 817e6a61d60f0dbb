"""Deltas as directories: what PEFT reads where it has the method, and beside it which base they belong to."""

import os
from pathlib import Path

import numpy as np

from lmrs import hub
from lmrs.backend import native
from lmrs.delta import own, peft
from lmrs.delta.tree import M, methods, stripped
from lmrs.errors import ConfigError, FormatError
from lmrs.files import read_json, replaced_directory, write_json
from lmrs.fingerprint import fingerprint
from lmrs.nn.module import Module
from lmrs.weights import read_safetensors, write_safetensors

CONFIG, WEIGHTS, ORIGIN = "adapter_config.json", "adapter_model.safetensors", "lmrs.json"
_FORMAT = "lmrs delta 1"


def save(tuned: Module, path: str | os.PathLike[str]) -> None:
    """Write the deltas of ``tuned`` as a directory: one that PEFT reads if PEFT has the method, else in that shape.

    `adapter_config.json` holds the settings and `adapter_model.safetensors` the weights; `lmrs.json` the fingerprint of
    the base, which :func:`load` checks. A method that PEFT does not have, and several on one model, are written under
    the `peft_type` LMRS, weights by canonical path. An earlier delta at ``path`` is replaced whole, once everything is
    written. Raises ConfigError if the model has no delta, if one is detached or frozen away, or if the base was
    trained by other means than a delta; InputError if ``path`` holds something else.
    """
    if not methods(tuned):
        raise ConfigError("this model has no delta to save")
    plain = stripped(tuned)
    trained = [name for name, parameter in plain.named_parameters().items() if parameter.trainable]
    if trained:
        raise ConfigError(f"a delta cannot hold the base, of which {', '.join(trained[:8])} is trainable")
    config, tensors, parts = peft.write(tuned) if peft.holds(tuned) else own.write(tuned)
    origin = {"format": _FORMAT, "base_sha256": _base(plain), "parts": parts}
    with replaced_directory(Path(path), names={CONFIG, WEIGHTS, ORIGIN, "README.md"}) as directory:
        data = {name: native.array(values).tensor for name, values in tensors.items()}
        write_safetensors(directory / WEIGHTS, data, metadata={"format": "pt"})
        write_json(directory / CONFIG, config)
        write_json(directory / ORIGIN, origin)


def load(model: M, path: str | os.PathLike[str], *, any_base: bool = False) -> M:
    """The frozen ``model`` with the deltas saved at ``path`` (or under that name of the hub), by :func:`save` or PEFT.

    A delta that :func:`save` wrote must be for exactly these base weights, unless ``any_base``. The new weights are
    float32 and trainable. Raises ConfigError for another base, for a PEFT setting that is on but not supported and for
    modules the model does not have; MissingFileError and FormatError as the files deserve, FormatError also for a
    weight that is not finite.
    """
    directory = hub.local(path, hub.MODEL)
    config, origin = read_json(directory / CONFIG), {}
    if (directory / ORIGIN).exists():
        origin = read_json(directory / ORIGIN)
        if origin.get("format") != _FORMAT or not _are_parts(origin.get("parts")):
            raise FormatError(f"{directory / ORIGIN} is not what lmrs {_FORMAT!r} writes")
        if not any_base and origin.get("base_sha256") != (found := _base(stripped(model))):
            trained_on = str(origin.get("base_sha256"))[:12]
            raise ConfigError(f"{directory} was trained on weights {trained_on}…, this model has {found[:12]}…")
    tensors = {name: tensor.cast("float32").numpy() for name, tensor in read_safetensors(directory / WEIGHTS).items()}
    read = own.read if config.get("peft_type") == own.PEFT_TYPE else peft.read
    try:
        finite(tensors)
        return read(model, config, tensors, origin.get("parts", {}))
    except (ConfigError, FormatError) as error:
        raise type(error)(f"{directory}: {error}") from None


def finite(tensors: peft.Tensors) -> None:
    """Raises FormatError naming the first of ``tensors`` that holds a number that is not finite."""
    for name, values in tensors.items():
        # A sum is finite only if all of its terms are.
        if not np.isfinite(values.sum(dtype=np.float64)):
            raise FormatError(f"tensor {name} holds a number that is not finite")


def _base(plain: Module) -> str:
    """The fingerprint of the weights under the deltas; of packed ones, that of those they were packed from."""
    known = getattr(plain, "fingerprint", None)
    if known is not None:
        return str(known)
    weights = sorted(plain.named_parameters().items())
    return fingerprint((path, native.tensor(parameter).numpy()) for path, parameter in weights)


def _are_parts(parts: object) -> bool:
    def is_span(span: object) -> bool:
        return isinstance(span, list) and len(span) == 2 and all(isinstance(n, int) and n >= 0 for n in span)

    return isinstance(parts, dict) and all(
        isinstance(group, dict) and all(map(is_span, group.values())) for group in parts.values()
    )
