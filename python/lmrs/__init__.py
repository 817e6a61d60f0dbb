"""lmrs carries a language model through its life on ordinary machines.

    import lmrs

    model = lmrs.load("path/to/checkpoint")
    engine = lmrs.Engine(model)
    engine.generate("Once upon a time", max_tokens=64)

Names are resolved when first used, so that `import lmrs` costs nothing and never imports torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmrs import align, delta, eval, prompting, scaling, train
    from lmrs.engine import Completion, Engine, Grammar, SentenceEncoder, quantize
    from lmrs.errors import (
        ConfigError,
        Error,
        FileError,
        FormatError,
        InputError,
        InternalError,
        MissingFileError,
        ShapeError,
        TokenizerError,
    )
    from lmrs.eval import Score
    from lmrs.eval.corpus import perplexity
    from lmrs.models import load
    from lmrs.tokenizer import Encoding, Tokenizer

    __version__: str

__all__ = [
    "Completion",
    "ConfigError",
    "Encoding",
    "Engine",
    "Error",
    "FileError",
    "FormatError",
    "Grammar",
    "InputError",
    "InternalError",
    "MissingFileError",
    "Score",
    "SentenceEncoder",
    "ShapeError",
    "Tokenizer",
    "TokenizerError",
    "__version__",
    "align",
    "delta",
    "eval",
    "load",
    "perplexity",
    "prompting",
    "quantize",
    "scaling",
    "train",
]

_MODULES = {"align", "delta", "eval", "prompting", "scaling", "train"}
_HOME = {
    "Completion": "lmrs.engine",
    "Encoding": "lmrs.tokenizer",
    "Engine": "lmrs.engine",
    "Grammar": "lmrs.engine",
    "SentenceEncoder": "lmrs.engine",
    "Score": "lmrs.eval",
    "Tokenizer": "lmrs.tokenizer",
    "load": "lmrs.models",
    "perplexity": "lmrs.eval",
    "quantize": "lmrs.engine",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from lmrs.backend.machine import version

        value: object = version()
    elif name in _MODULES:
        value = importlib.import_module(f"lmrs.{name}")
    elif name in __all__:
        value = getattr(importlib.import_module(_HOME.get(name, "lmrs.errors")), name)
    else:
        raise AttributeError(f"module 'lmrs' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
