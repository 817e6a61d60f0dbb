"""Deltas as directories: what PEFT reads, and beside it which base they belong to."""

import os
from pathlib import Path

from lmrs.backend import native
from lmrs.delta import peft
from lmrs.delta.tree import M, stripped
from lmrs.errors import ConfigError, FormatError
from lmrs.files import read_json, replaced_directory, write_json
from lmrs.fingerprint import fingerprint
from lmrs.nn.module import Module
from lmrs.weights import read_safetensors, write_safetensors

_CONFIG, _WEIGHTS, _ORIGIN = "adapter_config.json", "adapter_model.safetensors", "lmrs.json"
_FORMAT = "lmrs delta 1"


def save(tuned: Module, path: str | os.PathLike[str]) -> None:
    """Write the LoRA of ``tuned`` as a directory that PEFT reads.

    `adapter_config.json` and `adapter_model.safetensors` are PEFT's; `lmrs.json` holds the fingerprint of the base,
    which :func:`load` checks. An earlier delta at ``path`` is replaced whole, once everything is written.
    Raises ConfigError if the model has no delta or one that PEFT's files cannot hold, or if the base was trained too;
    InputError if ``path`` holds something else.
    """
    config, tensors, parts = peft.write(tuned)
    trained = [name for name, parameter in stripped(tuned).named_parameters().items() if parameter.trainable]
    if trained:
        raise ConfigError(f"a delta cannot hold the base, of which {', '.join(trained[:8])} is trainable")
    origin = {"format": _FORMAT, "base_sha256": _base(tuned), "parts": parts}
    with replaced_directory(Path(path), names={_CONFIG, _WEIGHTS, _ORIGIN, "README.md"}) as directory:
        data = {name: native.array(values).tensor for name, values in tensors.items()}
        write_safetensors(directory / _WEIGHTS, data, metadata={"format": "pt"})
        write_json(directory / _CONFIG, config)
        write_json(directory / _ORIGIN, origin)


def load(model: M, path: str | os.PathLike[str], *, any_base: bool = False) -> M:
    """The frozen ``model`` with the LoRA saved at ``path``, by :func:`save` or by PEFT.

    A delta that :func:`save` wrote must be for exactly these base weights, unless ``any_base``. The new weights are
    float32 and trainable. Raises ConfigError for another base, for a PEFT setting that is on but not supported and for
    modules the model does not have; MissingFileError and FormatError as the files deserve.
    """
    directory = Path(path)
    config, origin = read_json(directory / _CONFIG), {}
    if (directory / _ORIGIN).exists():
        origin = read_json(directory / _ORIGIN)
        if origin.get("format") != _FORMAT or not _are_parts(origin.get("parts")):
            raise FormatError(f"{directory / _ORIGIN} is not what lmrs {_FORMAT!r} writes")
        if not any_base and origin.get("base_sha256") != (found := _base(model)):
            trained_on = str(origin.get("base_sha256"))[:12]
            raise ConfigError(f"{directory} was trained on weights {trained_on}…, this model has {found[:12]}…")
    tensors = {name: tensor.cast("float32").numpy() for name, tensor in read_safetensors(directory / _WEIGHTS).items()}
    try:
        return peft.read(model, config, tensors, origin.get("parts", {}))
    except (ConfigError, FormatError) as error:
        raise type(error)(f"{directory}: {error}") from None


def _base(model: Module) -> str:
    """The fingerprint of the weights under the deltas."""
    weights = sorted(stripped(model).named_parameters().items())
    return fingerprint((path, native.tensor(parameter).numpy()) for path, parameter in weights)


def _are_parts(parts: object) -> bool:
    def is_span(span: object) -> bool:
        return isinstance(span, list) and len(span) == 2 and all(isinstance(n, int) and n >= 0 for n in span)

    return isinstance(parts, dict) and all(
        isinstance(group, dict) and all(map(is_span, group.values())) for group in parts.values()
    )
