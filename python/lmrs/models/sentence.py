"""Sentence-embedding directories: how the states of an encoder become one vector a text.

Such a directory is a checkpoint with `modules.json` beside it, which lists what follows the encoder.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmrs.errors import ConfigError
from lmrs.models.config import Fields
from lmrs.ops import Pooling

_MODES: dict[str, Pooling] = {"mean": "mean", "cls": "first", "lasttoken": "last", "max": "max"}
_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class Sentence:
    """``pooling`` over all tokens of a text, special ones included; ``normalize`` to length 1 (L2).

    ``max_length`` is the number of tokens, special ones included, after which a text is cut (None: at the context).
    """

    pooling: Pooling
    normalize: bool
    max_length: int | None


def read(path: str | os.PathLike[str]) -> Sentence | None:
    """What ``modules.json`` in the directory ``path`` describes, None if there is none.

    Raises ConfigError for a module or a pooling that is not supported (a Dense layer, several modes at once).
    """
    directory = Path(path)
    if not (directory / "modules.json").is_file():
        return None
    modules = _json(directory / "modules.json")
    if not isinstance(modules, list) or not all(
        isinstance(m, dict) and isinstance(m.get("type"), str) for m in modules
    ):
        raise ConfigError(f"{directory / 'modules.json'}: expected a list of objects with a type")
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ConfigError(
            f"{directory / 'modules.json'}: modules are {kinds}, expected Transformer, Pooling, Normalize"
        )
    config = directory / str(modules[1].get("path", "")) / "config.json"
    limits = directory / "sentence_bert_config.json"
    limit = _object(limits).get("max_seq_length") if limits.is_file() else None
    max_length = None if limit is None else Fields({"max_seq_length": limit}).size("max_seq_length")
    return Sentence(_pooling(config, _object(config)), "Normalize" in kinds, max_length)


def _pooling(path: Path, fields: Mapping[str, Any]) -> Pooling:
    modes = fields.get("pooling_mode", [mode for field, mode in _OLD_MODES.items() if fields.get(field)])
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or len(modes) != 1 or modes[0] not in _MODES:
        raise ConfigError(f"{path}: pooling_mode is {modes!r}, expected one of {', '.join(_MODES)}")
    return _MODES[modes[0]]


def _object(path: Path) -> dict[str, Any]:
    value = _json(path)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected an object")
    return value


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from None
