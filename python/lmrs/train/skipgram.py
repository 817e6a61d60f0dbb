"""The skip-gram: words predicted from one word near them (Mikolov et al. 2013), with the softmax over all words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np

from lmrs.batch import Backend, Batch
from lmrs.errors import InputError
from lmrs.ops import Value
from lmrs.tokenizer import Tokenizer
from lmrs.train.documents import Documents, Ids, Runs, encoded
from lmrs.train.order import generator


@dataclass(frozen=True)
class Neighbours:
    """``-Σ log p(word around | word)`` over ``texts``.

    As in word2vec, each word looks as far to both sides as a number drawn anew in every epoch from 1 … ``window``.
    """

    model: Any
    texts: Sequence[Ids]
    window: int
    seed: int = 0
    epoch: int = 0

    @property
    def settings(self) -> str:
        """See :class:`~lmrs.train.objective.Dynamic`."""
        return repr((self.window, self.seed))

    def in_epoch(self, epoch: int) -> "Neighbours":
        """See :class:`~lmrs.train.objective.Dynamic`."""
        return replace(self, epoch=epoch)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> tuple[list[int], list[int]]:
        """The words of text ``index``, one for each pair, and those around them."""
        ids = np.asarray(self.texts[index], np.int32)
        reach = generator(self.seed, self.epoch, index).integers(1, self.window + 1, len(ids))
        near, far = np.indices((len(ids), len(ids)))
        distance = np.abs(near - far)
        at, around = np.nonzero((distance > 0) & (distance <= reach[:, None]))
        return ids[at].tolist(), ids[around].tolist()

    def tokens(self, index: int) -> int:
        """See :class:`~lmrs.train.objective.Objective`."""
        return len(self.texts[index]) * (self.window + 1)

    def loss(self, indices: Sequence[int], *, backend: Backend) -> tuple[Value, int]:
        """See :class:`~lmrs.train.objective.Objective`."""
        words, around = zip(*(self[index] for index in indices), strict=True)
        labels = np.array([label for labels in around for label in labels], np.int32)
        hidden = self.model.hidden(Batch.of(words, backend=backend))
        wanted = import_module(f"lmrs.backend.{backend}").array(labels)
        return self.model.head.loss(hidden, wanted, reduction="sum"), len(labels)


def skipgram(
    model: Any, documents: Documents, *, window: int = 5, tokenizer: Tokenizer | None = None, seed: int = 0
) -> Neighbours:
    """The skip-gram over ``documents``: a text, or several texts or lists of token ids, for :mod:`lmrs.models.static`.

    Raises InputError if ``window`` is less than 1, no text has two tokens, or an id is not the model's.
    """
    if window < 1:
        raise InputError(f"window is {window}, expected at least 1")
    runs = Runs(encoded(model, documents, tokenizer=tokenizer), 128, least=2)
    if not runs:
        raise InputError("there is nothing to train on: no text has two tokens")
    return Neighbours(model, runs, window, seed)
