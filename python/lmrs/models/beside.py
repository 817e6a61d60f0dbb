"""What lies beside a model's checkpoint."""

from lmrs.errors import ConfigError, InputError, MissingFileError
from lmrs.models.model import LanguageModel
from lmrs.tokenizer import Tokenizer


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
