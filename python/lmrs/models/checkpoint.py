"""From a checkpoint to a model and back, for every family; a family page only says where its numbers are."""

import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from lmrs.backend import native
from lmrs.errors import ConfigError, InputError
from lmrs.files import replaced_directory, write_json
from lmrs.initialise import place_constants
from lmrs.models import packed
from lmrs.models.beside import companions
from lmrs.models.family import family
from lmrs.models.model import Config, LanguageModel
from lmrs.models.source import Sources, by_tensor, stored_shape, written
from lmrs.tokenizer import Tokenizer
from lmrs.weights import Checkpoint, open_checkpoint, write_safetensors

# Fields that an older transformers or a packed model has and that would contradict what is written now.
_REPLACED = ("quantization_config", "rope_scaling", "torch_dtype")


def load(path: str | os.PathLike[str], *, dtype: Literal["float32", "float64"] = "float32") -> LanguageModel:
    """The model of a checkpoint: a directory, a safetensors file, a GGUF file or a name of the Hugging Face hub.

    Such a name is ``org/name`` or ``org/name/FILE.gguf``, either with ``@revision``; it needs ``lmrs[hub]``.
    The family follows from ``model_type``; its Model has ``hidden``, ``head`` and ``config``. Weights are widened to
    ``dtype``. What the file holds decides over what the config says: a head of its own is used, an absent one is tied.
    Raises ConfigError naming every tensor that is missing, unexpected or of another shape than the config implies;
    MissingFileError, FormatError as the file deserves.
    """
    if dtype not in ("float32", "float64"):
        raise InputError(f"dtype is {dtype!r}, expected float32 or float64")
    checkpoint = open_checkpoint(path)
    if packed.is_packed(checkpoint):
        if dtype != "float32":
            raise InputError(f"{os.fspath(path)} holds packed weights, which are read as float32, not {dtype}")
        model = packed.read(checkpoint)
        model.source = checkpoint.path
        return model
    try:
        model, sources, problems = _plan(checkpoint)
    except ConfigError as error:
        raise ConfigError(f"{os.fspath(path)}: {error}") from None
    if problems:
        raise ConfigError(f"{os.fspath(path)}: the config does not fit the tensors: {_listed(problems)}")
    _fill(model, sources, checkpoint, dtype)
    model.source = checkpoint.path
    return model


def inspect(path: str | os.PathLike[str]) -> tuple[LanguageModel, Checkpoint, list[str]]:
    """A checkpoint without its numbers: the model, unloaded; the open file; and every mismatch of config and tensors.

    Raises as :func:`load` does, but for the mismatches.
    """
    checkpoint = open_checkpoint(path)
    if packed.is_packed(checkpoint):
        return packed.read(checkpoint), checkpoint, []
    try:
        model, _, problems = _plan(checkpoint)
    except ConfigError as error:
        raise ConfigError(f"{os.fspath(path)}: {error}") from None
    return model, checkpoint, problems


def save(model: LanguageModel, path: str | os.PathLike[str], *, tokenizer: Tokenizer | None = None) -> None:
    """Write ``model`` as a directory that transformers reads, ``config.json`` and ``model.safetensors``, whole or not.

    With them go the ``tokenizer``, if there is one, and what the checkpoint it came from says of its use
    (:data:`lmrs.models.beside.COMPANIONS`). Raises ConfigError if the model carries deltas, which are merged or saved
    on their own, InputError if a parameter is not native (see :func:`lmrs.backend.torch.fetch`) or the directory holds
    other files, and TokenizerError for a tokenizer that cannot be saved.
    """
    parameters = model.named_parameters()
    sources = model.sources()
    if parameters.keys() != sources.keys():
        extra = _listed(parameters.keys() - sources.keys()) or _listed(sources.keys() - parameters.keys())
        raise ConfigError(f"only a plain {model.config.family} model is saved whole; this one differs in {extra}")
    tensors = {}
    for name, parts in by_tensor(sources).items():
        data = {part: native.tensor(parameters[part]) for part in parts}
        if len(parts) == 1 and not ((only := next(iter(parts.values()))).transposed or only.plus):
            (tensors[name],) = data.values()
        else:
            whole = written({part: tensor.numpy() for part, tensor in data.items()}, parts)
            tensors[name] = native.array(whole).tensor
    kept = {name: value for name, value in model.metadata.items() if name not in _REPLACED}
    config = kept | model.config.to_dict() | {"dtype": next(iter(tensors.values())).dtype}
    beside = companions(model)
    names = {"config.json", "model.safetensors", *(Path(name).parts[0] for name in beside)}
    if tokenizer is not None:
        names |= {"tokenizer.json", "tokenizer_config.json"}
    with replaced_directory(Path(path), names=names) as directory:
        write_safetensors(directory / "model.safetensors", tensors, metadata={"format": "pt"})
        write_json(directory / "config.json", config)
        for name, file in beside.items():
            (directory / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, directory / name)
        if tokenizer is not None:
            tokenizer.save(directory)


def _plan(checkpoint: Checkpoint) -> tuple[LanguageModel, Sources, list[str]]:
    """The model without numbers, where they are, and what does not fit."""
    page = family(checkpoint.config.get("model_type"))
    names = {name for name in checkpoint.names if not page.IGNORED.fullmatch(name)}
    for copy, original in page.copies(checkpoint.config, names).items():
        if {copy, original} <= names and _equal(checkpoint, copy, original):
            names.remove(copy)
    config: Config = page.Config.from_dict(checkpoint.config, names)
    model: LanguageModel = page.Model(config, checkpoint.config)
    sources = page.weights(config, names)
    shapes = {path: parameter.shape for path, parameter in model.named_parameters().items()}
    groups = by_tensor(sources)
    problems = [f"missing {name}" for name in sorted(groups.keys() - names)]
    problems += [f"unexpected {name}" for name in sorted(names - groups.keys())]
    for name in sorted(names & groups.keys()):
        shape, expected = checkpoint.shapes[name], stored_shape(shapes, groups[name])
        if shape != expected:
            problems.append(f"{name} is {list(shape)}, expected {list(expected)}")
    return model, sources, problems


def _fill(model: LanguageModel, sources: Sources, checkpoint: Checkpoint, dtype: str) -> None:
    parameters = model.named_parameters()
    for name, parts in by_tensor(sources).items():
        tensor = checkpoint.tensor(name)
        for path, source in parts.items():
            part = source.read(tensor)
            parameters[path].data = part if part.dtype == dtype else part.cast(dtype)
    place_constants(model, dtype=dtype)


def _equal(checkpoint: Checkpoint, one: str, other: str) -> bool:
    a, b = checkpoint.tensor(one), checkpoint.tensor(other)
    return tuple(a.shape) == tuple(b.shape) and bool((a.numpy() == b.numpy()).all())


def _listed(parts: Collection[str]) -> str:
    return ", ".join(sorted(parts)[:16]) + (f" and {len(parts) - 16} more" if len(parts) > 16 else "")
