"""A model whose weights were packed ahead, as ``lmrs quantize`` writes it."""

import json

from lmrs.backend.panels import Panels
from lmrs.errors import ConfigError, FormatError
from lmrs.initialise import place_constants
from lmrs.models.family import family
from lmrs.models.model import LanguageModel
from lmrs.weights import Checkpoint

METHOD = "lmrs"
"""What ``quantization_config.quant_method`` of its config.json says."""

PLAIN, PANELS = "model.safetensors", "panels.safetensors"
"""The weights that are read as they are, by canonical path, and the packed ones."""


def described(made_from: str, names: list[str]) -> dict[str, str]:
    """The metadata of the plain weights: the fingerprint of all, and the tensors that the checkpoint had."""
    return {"of": made_from, "names": json.dumps(names)}


def dtype_of(model: LanguageModel) -> str | None:
    """How the weights of a packed model are held; None for another, and for one that a delta was merged into."""
    if model.fingerprint is None:
        return None
    said = model.metadata.get("quantization_config")
    return str(said.get("dtype")) if isinstance(said, dict) and said.get("quant_method") == METHOD else None


def is_packed(checkpoint: Checkpoint) -> bool:
    """Whether this is the checkpoint of a packed model."""
    said = checkpoint.config.get("quantization_config")
    return isinstance(said, dict) and said.get("quant_method") == METHOD


def read(checkpoint: Checkpoint) -> LanguageModel:
    """The packed model. Raises ConfigError, FormatError, MissingFileError for files that are not one model's."""
    directory = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    file = Panels(directory / PANELS)
    if not file.of or file.of != checkpoint.metadata.get("of"):
        raise FormatError(f"{directory}: {PANELS} and {PLAIN} were not made from the same weights")
    try:
        names = set(json.loads(checkpoint.metadata.get("names", "")))
    except (ValueError, TypeError) as error:
        raise FormatError(f"{directory / PLAIN}: names is not a list in JSON: {error}") from None
    page = family(checkpoint.config.get("model_type"))
    config = page.Config.from_dict(checkpoint.config, names)
    model: LanguageModel = page.Model(config, checkpoint.config)
    for name, parameter in model.named_parameters().items():
        if name in checkpoint.dtypes:
            parameter.data = checkpoint.tensor(name)
            if name in file.panels:
                file.lend(name, parameter.data)
        elif name in file.panels:
            parameter.data = file.weight(name)
        else:
            raise ConfigError(f"{directory}: neither {PLAIN} nor {PANELS} holds {name}")
        if tuple(parameter.data.shape) != parameter.shape:
            shape = list(parameter.data.shape)
            raise ConfigError(f"{directory}: {name} is {shape}, expected {list(parameter.shape)}")
    model.fingerprint = file.of
    held = {panel.weights for panel in file.panels.values()}
    if (dtype := dtype_of(model)) not in held:
        raise ConfigError(
            f"{directory}: quantization_config.dtype is {dtype!r}, the panels hold {', '.join(sorted(held))}"
        )
    place_constants(model)
    return model
