"""The perplexity of a model on a corpus."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmrs.errors import InputError
from lmrs.eval.protocols import Protocol
from lmrs.eval.scores import Score, total

if TYPE_CHECKING:
    from lmrs.models import LanguageModel
    from lmrs.tokenizer import Tokenizer


def perplexity(
    model: "LanguageModel",
    texts: str | Sequence[str],
    *,
    tokenizer: "Tokenizer | None" = None,
    protocol: Protocol = "rolling",
    window: int | None = None,
    stride: int | None = None,
) -> Score:
    """One :class:`Score` for all ``texts`` together, each scored on its own.

    The options are those of :meth:`lmrs.Engine.score`. Raises InputError if there is no text or one is empty.
    """
    # The engine imports the protocols of this package.
    from lmrs.engine import Engine

    many = [texts] if isinstance(texts, str) else list(texts)
    if not many:
        raise InputError("there is no text to score")
    return total(Engine(model, tokenizer=tokenizer).score(many, protocol=protocol, window=window, stride=stride))
