"""Weights packed ahead: a model written as an engine holds it, and a cache of what was packed before."""

import hashlib
import os
import shutil
from pathlib import Path

from lmrs import _rs
from lmrs.backend import native, panels
from lmrs.backend.record import record
from lmrs.errors import ConfigError, FileError, FormatError, InputError, MissingFileError
from lmrs.files import replaced_directory, write_json
from lmrs.fingerprint import fingerprint
from lmrs.models import packed
from lmrs.models.beside import COMPANIONS, companions, directory_of, find_tokenizer
from lmrs.models.model import LanguageModel
from lmrs.nn.attention import Attention
from lmrs.weights import write_safetensors

TOKENIZERS = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "merges.txt", "vocab.txt"),
)
"""The files that a tokenizer is read from."""


def causal(model: LanguageModel) -> bool:
    """Whether the model predicts the next token."""
    return any(isinstance(module, Attention) and module.cache for _, module in model.named_modules())


def packable(model: LanguageModel, dtype: str) -> dict[str, tuple[_rs.Tensor, str, bool]]:
    """The weights of the model's products by path: each, how ``dtype`` holds it, and whether it is also read plain."""
    encode = getattr(model, "encode", None)
    if encode is not None:
        programs = [record(model, model, memory_width=model.config.width), record(model, encode)]
    else:
        programs = [record(model, model if causal(model) else model.states)]
    found: dict[str, tuple[_rs.Tensor, str, bool]] = {}
    for program in programs:
        for path, weight, held, read in _rs.packed_weights(program, dtype):
            found[path] = (weight, held, read or (path in found and found[path][2]))
    # What was computed while recording is computed again.
    parameters = model.named_parameters()
    return {path: found[path] for path in found if path in parameters}


def quantize(model: LanguageModel, path: str | os.PathLike[str], *, dtype: str) -> None:
    """Write ``model`` as a directory that holds its weights as an engine of ``dtype`` does, whole or not at all.

    :func:`lmrs.load` reads it, and an engine over it gives the bits of one that packs the model itself, without its
    time and memory: the file is mapped, and its pages are shared by all processes. ``panels.safetensors`` has the
    packed weights (see :mod:`lmrs.backend.panels`), ``model.safetensors`` all others as float32, the embedding too;
    tokenizer and settings are taken along. Raises ConfigError if the model carries deltas or is packed already,
    InputError for another dtype, a weight that it cannot hold, or a directory that holds other files; FileError.
    """
    if dtype not in ("f32", "bf16", "int8", "int4"):
        raise InputError(f"dtype is {dtype!r}, expected f32, bf16, int8 or int4")
    if packed.dtype_of(model) is not None:
        raise ConfigError(
            f"{model.source} is packed as {packed.dtype_of(model)} already: quantize what it was made from"
        )
    parameters, sources = model.named_parameters(), model.sources()
    if parameters.keys() != sources.keys():
        extra = ", ".join(sorted(parameters.keys() ^ sources.keys())[:4])
        raise ConfigError(f"only a plain {model.config.family} model is packed; this one differs in {extra}")
    tensors = {name: native.tensor(parameter) for name, parameter in parameters.items()}
    weights = packable(model, dtype)
    made_from = fingerprint((name, tensors[name].numpy()) for name in sorted(tensors))
    read = {name: tensor for name, tensor in tensors.items() if name not in weights or weights[name][2]}
    names = sorted({source.name for source in sources.values()})
    config = dict(model.metadata) | model.config.to_dict()
    config |= {"dtype": "float32", "quantization_config": {"quant_method": packed.METHOD, "dtype": dtype}}
    beside = {Path(name).parts[0] for name in (*TOKENIZERS, *COMPANIONS)}
    with replaced_directory(Path(path), names={"config.json", packed.PLAIN, packed.PANELS, *beside}) as directory:
        panels.write(directory / packed.PANELS, {n: (w, held) for n, (w, held, _) in weights.items()}, of=made_from)
        write_safetensors(directory / packed.PLAIN, read, metadata=packed.described(made_from, names))
        write_json(directory / "config.json", config)
        _take_along(model, directory)


def _take_along(model: LanguageModel, directory: Path) -> None:
    """The tokenizer, and what the checkpoint says of its use."""
    files = companions(model)
    beside = directory_of(model)
    if beside is not None:
        files |= {name: beside / name for name in TOKENIZERS if (beside / name).is_file()}
    for name, file in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(file, directory / name)
    if model.source is not None and not any((directory / name).exists() for name in TOKENIZERS):
        # One that is part of a GGUF file.
        tokenizer = find_tokenizer(model)
        if tokenizer is not None:
            tokenizer.save(directory)


def lend_from(cache: Path, model: LanguageModel, dtype: str) -> None:
    """Have the products of ``model`` use panels in the directory ``cache``; what is not there yet is written first.

    There is one file a checkpoint and dtype. One that was made from another state of the checkpoint, or that cannot be
    read, is replaced; weights that are not as a file holds them are packed as always. Raises FileError if it cannot be
    written.
    """
    source = model.source
    if source is None or packed.dtype_of(model) is not None:
        return
    place = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:16]
    path = cache / f"{source.stem}-{place}-{dtype}.safetensors"
    try:
        if _lent(path, model):
            return
    except (MissingFileError, FormatError):
        pass
    weights = {
        name: (weight, held)
        for name, (weight, held, _) in packable(model, dtype).items()
        if weight.origin is not None and weight.dtype == "float32"
    }
    if not weights:
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{cache} cannot be made: {error.strerror}") from error
    panels.write(path, weights)


def _lent(path: Path, model: LanguageModel) -> bool:
    """Whether the panels at ``path`` are those of ``model``, and are used from now on."""
    file, parameters = panels.Panels(path), model.named_parameters()
    found = {name: parameters[name].data for name in file.panels if name in parameters}
    weights = {name: data for name, data in found.items() if isinstance(data, _rs.Tensor)}
    current = all(name in weights and weights[name].origin == panel.origin for name, panel in file.panels.items())
    if current:
        for name, weight in weights.items():
            file.lend(name, weight)
    return current
