"""Prefix language modelling: the rest of a text predicted from its start (Raffel et al. 2020, §3.2.1; Liu et al. 2018).

An encoder reads the start, so every token of it sees all of it, and a decoder says the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmrs.batch import Backend
from lmrs.errors import InputError
from lmrs.ops import Value
from lmrs.tokenizer import Tokenizer
from lmrs.train.documents import Documents, Ids, Runs, encoded, length
from lmrs.train.order import generator
from lmrs.train.seq2seq import Pair, answers, expect_encoder_decoder


@dataclass(frozen=True)
class Rests:
    """``-Σ log p(rest | start)`` over ``texts``, each divided anew in every epoch, all places being as likely."""

    model: Any
    texts: Sequence[Ids]
    seed: int = 0
    epoch: int = 0

    @property
    def settings(self) -> str:
        """See :class:`~lmrs.train.objective.Dynamic`."""
        return repr(self.seed)

    def in_epoch(self, epoch: int) -> "Rests":
        """See :class:`~lmrs.train.objective.Dynamic`."""
        return replace(self, epoch=epoch)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Pair:
        """Text ``index`` as it is divided in this epoch."""
        ids = self.texts[index]
        place = int(generator(self.seed, self.epoch, index).integers(1, len(ids)))
        return Pair(ids[:place], ids[place:])

    def tokens(self, index: int) -> int:
        """See :class:`~lmrs.train.objective.Objective`."""
        return len(self.texts[index])

    def loss(self, indices: Sequence[int], *, backend: Backend) -> tuple[Value, int]:
        """See :class:`~lmrs.train.objective.Objective`."""
        return answers(self.model, [self[index] for index in indices], backend=backend)


def prefix_lm(
    model: Any, documents: Documents, *, context: int | None = None, tokenizer: Tokenizer | None = None, seed: int = 0
) -> Rests:
    """The objective ``-Σ log p(rest | start)`` over ``documents``: a text, or several texts or lists of token ids.

    A document is cut into runs of at most ``context`` tokens (by default what the model takes, at most 1024), and each
    of these in two. Texts are encoded by ``tokenizer``, by default the one beside the model's checkpoint, and end with
    its end-of-text token. Raises ConfigError if the model is no encoder-decoder (a decoder alone would have to see its
    prefix from both sides, which causal attention does not); InputError if no text has two tokens.
    """
    expect_encoder_decoder(model)
    size = length(context, model, least=2)
    runs = Runs(encoded(model, documents, tokenizer=tokenizer, end=True), size, least=2)
    if not runs:
        raise InputError("there is nothing to train on: no text has two tokens")
    return Rests(model, runs, seed)
