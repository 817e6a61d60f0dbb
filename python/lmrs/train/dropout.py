"""Dropout for any family: what a block adds to its input loses some of its elements while training."""

import copy
from typing import Any, TypeVar

from lmrs import ops
from lmrs.errors import InputError
from lmrs.nn.module import Module
from lmrs.ops import Value

M = TypeVar("M", bound=Module)
_ATTENTION = r"re:(.*\.)?(attn|cross)"
_SUBLAYER = r"re:(.*\.)?(attn|cross|ff)"


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


def dropout(model: M, rate: float = 0.1, *, attention: float | None = None) -> M:
    """``model`` with dropout of what attentions and feed-forward networks add, of embeddings, and of attention weights.

    The places of Vaswani et al. (2017, §5.4), and the probabilities of ``attention`` (by default at the same ``rate``),
    which GPT-2, BERT and T5 have. The tree shares its parameters with ``model``: train this one, then use and save
    ``model``. Raises InputError unless the rates are in ``[0, 1)``.
    """
    within = rate if attention is None else attention
    for name, value in (("rate", rate), ("attention", within)):
        if not 0 <= value < 1:
            raise InputError(f"{name} is {value}, expected 0 <= {name} < 1")

    def weights(path: str, module: Module) -> Module:
        changed = copy.copy(module)
        vars(changed)["dropout"] = (within, f"{path}.weights")
        return changed

    changed = model.replace(_ATTENTION, weights) if within else model
    if rate == 0:
        return changed
    changed = changed.replace(_SUBLAYER, lambda path, module: Dropped(module, rate=rate, site=path))
    # The embedding's table may be tied to the head, which is another module and keeps it.
    last = "embed_norm" if hasattr(model, "embed_norm") else "embed"
    return changed.replace(last, lambda path, module: Dropped(module, rate=rate, site=path))
