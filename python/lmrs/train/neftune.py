"""NEFTune (Jain et al. 2023): noise on the embeddings of an instruction while it is learnt, none when it is used."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from lmrs import ops
from lmrs.batch import Backend
from lmrs.errors import InputError
from lmrs.nn.module import Module
from lmrs.ops import Value
from lmrs.train.objective import NextToken
from lmrs.train.order import generator


class _Noisy(Module):
    """``base(ids)`` and what was drawn for the batch in progress."""

    def __init__(self, base: Module, drawn: list[Value]) -> None:
        self.base, self.drawn = base, drawn

    def forward(self, ids: Value) -> Value:
        """Embeddings ``[T, d]``."""
        x = self.base(ids)
        for noise in self.drawn:
            x = ops.add(x, noise)
        return x


@dataclass(frozen=True)
class Noised:
    """``objective`` with noise on the embeddings, a :class:`~lmrs.train.objective.Dynamic`; see :func:`neftune`."""

    objective: NextToken
    alpha: float
    seed: int
    drawn: list[Value]
    epoch: int = 0

    @property
    def model(self) -> Any:
        """The model whose embeddings are disturbed; it shares its parameters with the one that was given."""
        return self.objective.model

    @property
    def settings(self) -> str:
        """See :class:`~lmrs.train.objective.Dynamic`."""
        return f"neftune alpha {self.alpha} seed {self.seed}"

    def in_epoch(self, epoch: int) -> "Noised":
        """See :class:`~lmrs.train.objective.Dynamic`."""
        return Noised(self.objective, self.alpha, self.seed, self.drawn, epoch)

    def __len__(self) -> int:
        return len(self.objective)

    def tokens(self, index: int) -> int:
        """See :class:`~lmrs.train.objective.Objective`."""
        return self.objective.tokens(index)

    def noise(self, index: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """That of example ``index`` in this epoch, float32 ``[L, d]``: ``U(-1, 1)·alpha / √(L·d)``."""
        shape = (self.tokens(index), self.model.config.width)
        drawn = generator(self.seed, self.epoch, index).uniform(-1, 1, shape)
        return (drawn * (self.alpha / math.sqrt(shape[0] * shape[1]))).astype(np.float32)

    def loss(self, indices: Sequence[int], *, backend: Backend) -> tuple[Value, int]:
        """See :class:`~lmrs.train.objective.Objective`."""
        array = import_module(f"lmrs.backend.{backend}").array
        self.drawn[:] = [array(np.concatenate([self.noise(index) for index in indices]))]
        try:
            return self.objective.loss(indices, backend=backend)
        finally:
            self.drawn.clear()


def neftune(objective: NextToken, *, alpha: float = 5.0, seed: int = 0) -> Noised:
    """``objective`` with noise drawn anew each epoch, a function of (``seed``, epoch, example), for ``fit``.

    Each sequence of L tokens of width d has ``U(-1, 1)·alpha / √(L·d)`` added to its embeddings; 5, 10 and 15 are the
    paper's ``alpha``. The model trained shares its parameters with that of ``objective``, which is the one to save and
    to use. Raises InputError unless ``alpha`` is more than 0.
    """
    if not 0 < alpha < math.inf:
        raise InputError(f"alpha is {alpha}, expected more than 0")
    drawn: list[Value] = []
    noisy = objective.model.replace("embed", lambda path, module: _Noisy(module, drawn))
    return Noised(NextToken(noisy, objective.examples), alpha, seed, drawn)
