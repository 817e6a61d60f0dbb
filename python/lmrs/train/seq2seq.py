"""An answer predicted from a text by an encoder-decoder: the text-to-text objective (Raffel et al. 2020)."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from lmrs.batch import Backend, Batch, Ragged
from lmrs.errors import ConfigError, InputError
from lmrs.ops import Value
from lmrs.tokenizer import Tokenizer
from lmrs.train.documents import Ids, encoded


@dataclass(frozen=True)
class Pair:
    """What an encoder reads, and what a decoder should say to it."""

    inputs: Ids
    targets: Ids


def answers(model: Any, pairs: Sequence[Pair], *, backend: Backend) -> tuple[Value, int]:
    """``-Σ log p(targetₜ | inputs, target₁ … targetₜ₋₁)`` ``[1, 1]`` and the number of its terms.

    A decoder reads ``config.start`` and then the targets but the last.
    """
    source = Batch.of([pair.inputs for pair in pairs], backend=backend)
    read = [[model.config.start, *pair.targets[:-1]] for pair in pairs]
    hidden = model.hidden(Batch.of(read, backend=backend), model.encode(source), Ragged("memory", source.seqs.starts))
    labels = np.concatenate([np.asarray(pair.targets, np.int32) for pair in pairs])
    wanted = import_module(f"lmrs.backend.{backend}").array(labels)
    return model.head.loss(hidden, wanted, reduction="sum"), len(labels)


def expect_encoder_decoder(model: Any) -> None:
    """Raises ConfigError if ``model`` is none."""
    if not hasattr(model, "encode"):
        raise ConfigError(f"a {model.config.family} is no encoder-decoder, which this objective needs")


@dataclass(frozen=True)
class Answers:
    """``-Σ log p(targets | inputs)`` over ``pairs``."""

    model: Any
    pairs: Sequence[Pair]

    def __len__(self) -> int:
        return len(self.pairs)

    def tokens(self, index: int) -> int:
        """See :class:`~lmrs.train.objective.Objective`."""
        return len(self.pairs[index].inputs) + len(self.pairs[index].targets)

    def loss(self, indices: Sequence[int], *, backend: Backend) -> tuple[Value, int]:
        """See :class:`~lmrs.train.objective.Objective`."""
        return answers(self.model, [self.pairs[index] for index in indices], backend=backend)


def seq2seq(model: Any, pairs: Sequence[tuple[str | Ids, str | Ids]], *, tokenizer: Tokenizer | None = None) -> Answers:
    """The objective ``-Σ log p(answer | text)`` over ``pairs`` of a text and an answer, texts or lists of token ids.

    Texts are encoded with their special tokens by ``tokenizer``, by default the one beside the model's checkpoint.
    Raises ConfigError if the model is no encoder-decoder; InputError for no pair, an empty text or answer, or an id
    that the model lacks.
    """
    expect_encoder_decoder(model)
    sides = [encoded(model, [pair[side] for pair in pairs], tokenizer=tokenizer, special=True) for side in (0, 1)]
    made = [Pair(inputs, targets) for inputs, targets in zip(*sides, strict=True)]
    if not made:
        raise InputError("there is nothing to train on: no pair")
    for index, pair in enumerate(made):
        if not len(pair.inputs) or not len(pair.targets):
            raise InputError(f"pair {index} has an empty {'answer' if len(pair.inputs) else 'text'}")
    return Answers(model, made)
