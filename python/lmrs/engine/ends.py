"""The special tokens that a checkpoint names."""

import json
from collections.abc import Mapping
from typing import Any

from lmrs.errors import ConfigError
from lmrs.models.beside import companions
from lmrs.models.model import LanguageModel


def special(model: LanguageModel, name: str) -> list[int]:
    """The ids that the checkpoint's config calls ``name``, its generation_config.json first. Raises ConfigError."""
    found = _fields(model).get(name)
    ids = [] if found is None else found if isinstance(found, list) else [found]
    vocabulary = model.config.vocabulary
    for id_ in ids:
        if isinstance(id_, bool) or not isinstance(id_, int) or not 0 <= id_ < vocabulary:
            raise ConfigError(f"{name} is {found!r}, expected ids from 0 to {vocabulary - 1}")
    return ids


def _fields(model: LanguageModel) -> Mapping[str, Any]:
    """The checkpoint's config, overlaid by its generation_config.json."""
    beside = companions(model).get("generation_config.json")
    if beside is None:
        return model.metadata
    try:
        overlay = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{beside}: cannot be read as JSON: {error}") from None
    if not isinstance(overlay, dict):
        raise ConfigError(f"{beside}: expected an object")
    return {**model.metadata, **{name: value for name, value in overlay.items() if value is not None}}
