"""Sentence pairs beside masked tokens: does the second follow (Devlin et al. 2018), or are they swapped (ALBERT).

``-Σ log p(hidden token) - Σ log p(kind of the pair)``, the first a mean over hidden tokens, the second over pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal

import numpy as np

from lmrs import ops
from lmrs.batch import Backend
from lmrs.errors import ConfigError, InputError
from lmrs.models.beside import tokenizer_of
from lmrs.ops import Value
from lmrs.tokenizer import Tokenizer
from lmrs.train.documents import Ids, encoded, length
from lmrs.train.mlm import Marks, Masking, continuing
from lmrs.train.objective import Example, attends, packed, selected
from lmrs.train.order import generator

Kind = Literal["next", "order"]


@dataclass(frozen=True)
class SentencePairs:
    """Runs of sentences of one document each, as two segments ``[CLS] a [SEP] b [SEP]`` with tokens hidden.

    A run is cut between two of its sentences. ``next``: with probability ½, or if it has one sentence alone, what
    follows is replaced by the start of a run of another document (label 1, else 0). ``order``: with probability ½ the
    two segments change places (label 1, else 0). What exceeds ``most`` tokens is taken off the longer segment, each
    token from its start or its end with probability ½. Each pair weighs as much as the tokens hidden in it together,
    so that the mean over the terms of a step is the mean over tokens plus the mean over pairs.
    """

    model: Any
    runs: Sequence[tuple[int, Sequence[Ids]]]
    masking: Masking
    kind: Kind
    most: int
    seed: int = 0
    epoch: int = 0

    @property
    def settings(self) -> str:
        """See :class:`~lmrs.train.objective.Dynamic`."""
        return repr((self.masking, self.kind, self.most, self.seed))

    def in_epoch(self, epoch: int) -> "SentencePairs":
        """See :class:`~lmrs.train.objective.Dynamic`."""
        return replace(self, epoch=epoch)

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, index: int) -> tuple[Example, int]:
        """The pair of run ``index`` in this epoch, masked, and its label."""
        random = generator(self.seed, self.epoch, index)
        document, sentences = self.runs[index]
        place = int(random.integers(1, len(sentences))) if len(sentences) > 1 else 1
        first, second = ([i for ids in part for i in ids] for part in (sentences[:place], sentences[place:]))
        label = int(random.random() < 0.5)
        if self.kind == "order":
            first, second = (second, first) if label else (first, second)
        elif label or not second:
            label, second = 1, self._elsewhere(document, random)
        first, second = _shortened(first, second, self.most - 3, random)
        marks = self.masking.marks
        ids = [marks.cls, *first, marks.sep, *second, marks.sep]
        masked = self.masking(ids, random)
        segments = [0] * (len(first) + 2) + [1] * (len(second) + 1)
        return Example(masked.ids, masked.labels, segments), label

    def _elsewhere(self, document: int, random: np.random.Generator) -> list[int]:
        while self.runs[other := int(random.integers(len(self.runs)))][0] == document:
            pass
        sentences = self.runs[other][1]
        return [i for ids in sentences[int(random.integers(len(sentences))) :] for i in ids]

    def tokens(self, index: int) -> int:
        """See :class:`~lmrs.train.objective.Objective`; where another document comes in, an upper bound."""
        if self.kind == "next":
            return self.most
        return min(self.most, 3 + sum(len(ids) for ids in self.runs[index][1]))

    def loss(self, indices: Sequence[int], *, backend: Backend) -> tuple[Value, int]:
        """See :class:`~lmrs.train.objective.Objective`."""
        examples, kinds = zip(*(self[index] for index in indices), strict=True)
        batch, labels, terms = packed(examples, backend=backend)
        states = self.model.states(batch)
        tokens = self.model.head.loss(selected(batch, self.model.transformed(states)), labels, reduction="sum")
        array = import_module(f"lmrs.backend.{backend}").array
        head = self.model.pair_head
        logprob = ops.token_logprob(
            self.model.pooled_of(states, batch.seqs), head.weight, array(np.array(kinds, np.int32)), head.bias
        )
        hidden = [[-float(sum(label >= 0 for label in example.labels))] for example in examples]
        pairs = ops.sum(ops.mul(logprob, array(np.array(hidden, np.float32))))
        return ops.add(tokens, pairs), terms


def sentence_pairs(
    model: Any,
    documents: Sequence[Sequence[str | Ids]],
    *,
    kind: Kind,
    context: int | None = None,
    tokenizer: Tokenizer | None = None,
    marks: Marks | None = None,
    rate: float = 0.15,
    whole_words: bool = False,
    seed: int = 0,
) -> SentencePairs:
    """Masked tokens and sentence pairs over ``documents``, each a sequence of sentences, texts or lists of token ids.

    Sentences of a document are gathered into runs of at most ``context`` tokens with their marks. ``kind`` says what is
    asked about a pair: see :class:`SentencePairs`; the rest is as for :func:`lmrs.train.mlm`. Raises ConfigError if the
    model is causal or has no head for pairs; InputError if ``next`` has fewer than two documents or ``order`` no run of
    two sentences.
    """
    attends(model, causally=False)
    if getattr(model, "pair_head", None) is None:
        raise ConfigError(f"this {model.config.family} has no head for sentence pairs")
    most = length(context, model, least=5)
    if marks is None or whole_words:
        tokenizer = tokenizer or tokenizer_of(model)
    if marks is None:
        assert tokenizer is not None
        marks = Marks.of(tokenizer)
    known = continuing(tokenizer) if whole_words and tokenizer is not None else None
    masking = Masking(marks=marks, vocabulary=model.config.vocabulary, rate=rate, continues=known)
    runs: list[tuple[int, Sequence[Ids]]] = []
    for number, document in enumerate(documents):
        sentences = [ids for ids in encoded(model, document, tokenizer=tokenizer) if len(ids)]
        runs += [(number, run) for run in _gathered(sentences, most - 3)]
    if kind == "order":
        runs = [run for run in runs if len(run[1]) > 1]
    if not runs or (kind == "next" and len({document for document, _ in runs}) < 2):
        needed = "two documents with sentences" if kind == "next" else "a run of two sentences"
        raise InputError(f"there is nothing to train on: the documents need {needed}")
    return SentencePairs(model, runs, masking, kind, most, seed)


def _gathered(sentences: Sequence[Ids], most: int) -> list[list[Ids]]:
    runs: list[list[Ids]] = []
    room = 0
    for ids in sentences:
        if not runs or len(ids) > room:
            runs.append([])
            room = most
        runs[-1].append(ids)
        room -= len(ids)
    return runs


def _shortened(
    first: list[int], second: list[int], most: int, random: np.random.Generator
) -> tuple[list[int], list[int]]:
    first, second = list(first), list(second)
    while len(first) + len(second) > most:
        longer = first if len(first) > len(second) else second
        longer.pop(0 if random.random() < 0.5 else -1)
    return first, second
