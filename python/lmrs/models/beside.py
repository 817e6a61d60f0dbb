"""What lies beside a model's checkpoint."""

from pathlib import Path

from lmrs.errors import ConfigError, InputError, MissingFileError
from lmrs.models.model import LanguageModel
from lmrs.tokenizer import Tokenizer

COMPANIONS = (
    *("generation_config.json", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    *("1_Pooling/config.json", "2_Normalize/config.json"),
)
"""Files of a checkpoint that say how its model is used, not what it is: ends of texts, how sentences are pooled."""


def directory_of(model: LanguageModel) -> Path | None:
    """Where the checkpoint of ``model`` lies, None if it came from none."""
    if model.source is None:
        return None
    return model.source if model.source.is_dir() else model.source.parent


def companions(model: LanguageModel) -> dict[str, Path]:
    """The files of ``COMPANIONS`` that the model's checkpoint has; a GGUF file, which is whole in itself, has none."""
    directory = directory_of(model)
    if directory is None or model.source is None or model.source.suffix == ".gguf":
        return {}
    return {name: directory / name for name in COMPANIONS if (directory / name).is_file()}


def find_tokenizer(model: LanguageModel) -> Tokenizer | None:
    """The tokenizer beside the checkpoint of ``model``; None if it came from no file or none lies there.

    Raises TokenizerError if it cannot be used, ConfigError if it does not fit the model.
    """
    if model.source is None:
        return None
    try:
        found = Tokenizer.load(model.source.parent if model.source.suffix == ".safetensors" else model.source)
    except MissingFileError:
        return None
    return fitting(found, model)


def tokenizer_of(model: LanguageModel) -> Tokenizer:
    """The same; raises InputError if there is none."""
    found = find_tokenizer(model)
    if found is None:
        raise InputError("there is no tokenizer beside this model: pass tokenizer= to give texts, or give token ids")
    return found


def fitting(tokenizer: Tokenizer, model: LanguageModel) -> Tokenizer:
    """``tokenizer`` itself. Raises ConfigError if it has tokens that ``model`` has no embedding of."""
    tokens, rows = len(tokenizer), model.config.vocabulary
    if tokens > rows:
        raise ConfigError(f"the tokenizer has {tokens} tokens, the model's embedding {rows} rows")
    return tokenizer
