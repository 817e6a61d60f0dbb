"""ELMo's original files, ``options.json`` and ``weights.hdf5`` of bilm-tf and AllenNLP, turned into a checkpoint."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmrs.backend import native
from lmrs.errors import ConfigError, FormatError, MissingFileError
from lmrs.files import read_json
from lmrs.models import elmo

Array = npt.NDArray[np.float32]


def load(options: str | os.PathLike[str], weights: str | os.PathLike[str]) -> elmo.Model:
    """The model of an ``options.json`` and its HDF5 file. It can be saved by :func:`lmrs.models.save`.

    TensorFlow keeps ``[in, out]``, has the gates in the order i, g, f, o, and adds 1 to the forget gate, which the file
    does not say. A head is in the file of a trained model of which AllenNLP's lack it. Needs h5py (``lmrs[elmo]``).
    Raises ConfigError for options that make no sense or tensors that do not fit them, and without h5py; FormatError if
    a file is not what it claims to be; MissingFileError.
    """
    try:
        import h5py
    except ImportError:
        raise ConfigError("reading HDF5 needs h5py: pip install 'lmrs[elmo]'") from None
    given, path = read_json(Path(options)), Path(weights)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            tensors: dict[str, Array] = {}
            file.visititems(
                lambda name, node: (
                    tensors.__setitem__(name, np.asarray(node[()], np.float32))
                    if isinstance(node, h5py.Dataset)
                    else None
                )
            )
    except OSError as error:
        raise FormatError(f"{path}: not an HDF5 file: {error}") from None
    try:
        config = elmo.Config.from_options(given)
    except ConfigError as error:
        raise ConfigError(f"{Path(options)}: {error}") from None
    if "softmax/W" in tensors:
        config = elmo.Config(**{**vars(config), "vocabulary": len(tensors["softmax/W"])})
    model = elmo.Model(config)
    problems = []
    expected = model.named_parameters()
    for name, parameter in expected.items():
        stored = _name(name)
        if stored not in tensors:
            problems.append(f"missing {stored}")
            continue
        values = _turned(name, tensors[stored], config)
        if values is None or values.shape != parameter.shape:
            problems.append(f"{stored} is {list(tensors[stored].shape)}, which does not make {list(parameter.shape)}")
        else:
            parameter.data = native.array(np.ascontiguousarray(values)).tensor
    if problems:
        raise ConfigError(f"{path}: the options do not fit the tensors: {', '.join(problems[:16])}")
    return model


def _name(path: str) -> str:
    """The dataset that holds the parameter at ``path``."""
    first, *rest = path.split(".")
    if first == "embed":
        return "char_embed"
    if first == "convolutions":
        return f"CNN/{'W' if rest[1] == 'weight' else 'b'}_cnn_{rest[0]}"
    kind = "W" if rest[-1] == "weight" else "b"
    if first == "highways":
        return f"CNN_high_{rest[0]}/{kind}_{'carry' if rest[1] == 'gate' else 'transform'}"
    if first == "project":
        return f"CNN_proj/{kind}_proj"
    if first == "head":
        return f"softmax/{kind}"
    side = 0 if first == "forwards" else 1
    last = {"input": "W_0", "state": "W_0", "bias": "B", "projection": "W_P_0"}[rest[1]]
    return f"RNN_{side}/RNN/MultiRNNCell/Cell{rest[0]}/LSTMCell/{last}"


def _turned(path: str, values: Array, config: elmo.Config) -> Array | None:
    """The values of the parameter at ``path`` from its dataset; None if that has a shape that cannot be turned."""
    first, last = path.split(".")[0], path.rsplit(".", 1)[-1]
    try:
        if first in ("embed", "head"):
            return values
        if first == "convolutions":
            return values.reshape(-1, values.shape[-1]).T if last == "weight" else values
        if last == "input":
            return _gates(values[: config.width].T)
        if last == "state":
            return _gates(values[config.width :].T)
        if first in ("forwards", "backwards") and last == "bias":
            bias = _gates(values)
            bias[config.cells : 2 * config.cells] += 1
            return bias
        return values.T if last in ("weight", "projection") else values
    except (IndexError, ValueError):
        return None


def _gates(values: Any) -> Array:
    """Rows in TensorFlow's order i, g, f, o as i, f, g, o."""
    i, g, f, o = np.split(values, 4)
    return np.concatenate([i, f, g, o])
