"""Dropout for any family: what a block adds to its input loses some of its elements while training."""

from typing import Any, TypeVar

from lmrs import ops
from lmrs.errors import InputError
from lmrs.nn.module import Module
from lmrs.ops import Value

M = TypeVar("M", bound=Module)


class Dropped(Module):
    """``dropout(base(x))``; ``site`` names the place."""

    def __init__(self, base: Module, *, rate: float, site: str) -> None:
        self.base, self.rate, self.site = base, rate, site

    def forward(self, *args: Any) -> Value:
        """What ``base`` returns, of the same shape."""
        return ops.dropout(self.base(*args), rate=self.rate, site=self.site)

    def __getattr__(self, name: str) -> Any:
        if name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)


def dropout(model: M, rate: float = 0.1) -> M:
    """``model`` with dropout behind each attention, cross-attention and feed-forward network, and behind embeddings.

    The places of Vaswani et al. (2017, §5.4), which GPT-2, BERT and T5 keep; probabilities of attention stay.
    The tree shares its parameters with ``model``: train this one, then use and save ``model``. Raises InputError unless
    ``0 <= rate < 1``.
    """
    if not 0 <= rate < 1:
        raise InputError(f"rate is {rate}, expected 0 <= rate < 1")
    if rate == 0:
        return model
    changed = model.replace(r"re:(.*\.)?(attn|cross|ff)", lambda path, module: Dropped(module, rate=rate, site=path))
    # The embedding's table may be tied to the head, which is another module and keeps it.
    last = "embed_norm" if hasattr(model, "embed_norm") else "embed"
    return changed.replace(last, lambda path, module: Dropped(module, rate=rate, site=path))
