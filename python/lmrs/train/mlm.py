"""Masked language modelling: some tokens hidden, and guessed from what stands on both sides (Devlin et al. 2018)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lmrs.batch import Backend
from lmrs.errors import InputError
from lmrs.models.beside import tokenizer_of
from lmrs.ops import Value
from lmrs.tokenizer import Tokenizer
from lmrs.train.documents import Documents, Each, Ids, Runs, encoded, length
from lmrs.train.objective import IGNORED, Example, attends, packed, selected
from lmrs.train.order import generator


@dataclass(frozen=True, kw_only=True)
class Marks:
    """The ids that stand for a hidden token, the start of a text and its end."""

    mask: int
    cls: int
    sep: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Marks":
        """Those of ``tokenizer``; where it has no ``cls`` and ``sep``, its ``bos`` and ``eos``. Raises InputError."""
        start = tokenizer.bos_id if tokenizer.cls_id is None else tokenizer.cls_id
        end = tokenizer.eos_id if tokenizer.sep_id is None else tokenizer.sep_id
        found = {"mask": tokenizer.mask_id, "cls": start, "sep": end}
        if lacking := [role for role, token in found.items() if token is None]:
            raise InputError(f"the tokenizer has no {', '.join(lacking)} token, which masked texts need: pass marks=")
        return cls(**found)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Masking:
    """What is hidden, and how.

    Of the tokens that are no marks, ``rate`` (at least one) are to be guessed: the first of a random order. Each is
    shown as the mask with probability ``shown_as_mask``, as a token drawn from all ``vocabulary`` with probability
    ``shown_as_other``, else as itself. ``continues``, the ids that go on a word, hides whole words: words are taken in
    a random order, a word that would exceed the count is passed over, and if all would, the first is taken.
    Raises InputError for a setting outside its range.
    """

    marks: Marks
    vocabulary: int
    rate: float = 0.15
    shown_as_mask: float = 0.8
    shown_as_other: float = 0.1
    continues: frozenset[int] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise InputError(f"rate is {self.rate}, expected 0 < rate <= 1")
        if min(self.shown_as_mask, self.shown_as_other) < 0 or self.shown_as_mask + self.shown_as_other > 1:
            shown = f"{self.shown_as_mask} and {self.shown_as_other}"
            raise InputError(f"shown_as_mask and shown_as_other are {shown}, expected parts of 1")

    def __call__(self, ids: Ids, random: np.random.Generator) -> Example:
        """``ids``, marks included, with some hidden; the labels are what was there. They need one that is no mark."""
        shown = np.array(ids, np.int64)
        chosen = self._chosen(shown, random)
        labels = np.full(len(shown), IGNORED)
        labels[chosen] = shown[chosen]
        fate = random.random(len(chosen))
        other = random.integers(0, self.vocabulary, len(chosen))
        shown[chosen] = np.where(
            fate < self.shown_as_mask,
            self.marks.mask,
            np.where(fate < self.shown_as_mask + self.shown_as_other, other, shown[chosen]),
        )
        return Example(shown.tolist(), labels.tolist())

    def _chosen(self, ids: Any, random: np.random.Generator) -> Any:
        free = np.flatnonzero(~np.isin(ids, [self.marks.mask, self.marks.cls, self.marks.sep]))
        count = max(1, round(self.rate * len(free)))
        if self.continues is None:
            return random.permutation(free)[:count]
        after = np.array([int(ids[at]) in self.continues for at in free])
        # A word also ends where a mark stands between.
        first = ~after | (np.diff(free, prepend=-2) > 1)
        words = np.split(free, np.flatnonzero(first)[1:])
        chosen: list[Any] = []
        order = random.permutation(len(words))
        for word in order:
            if sum(map(len, chosen)) + len(words[word]) <= count:
                chosen.append(words[word])
        return np.concatenate(chosen or [words[order[0]]])


def continuing(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids of tokens that go on a word: those with ``##`` in front, or, where words begin with a sign, without it.

    Raises InputError for a tokenizer that shows neither, in whose tokens words cannot be seen.
    """
    tokens = [(token, number) for token, number in tokenizer if token not in tokenizer.special_tokens.values()]
    if tokenizer.kind == "WordPiece":
        return frozenset(number for token, number in tokens if token.startswith("##"))
    begins = next((sign for sign in "Ġ▁" if any(token.startswith(sign) for token, _ in tokens)), None)
    if begins is None:
        raise InputError("no token shows where a word begins, so whole words cannot be masked")
    return frozenset(number for token, number in tokens if not token.startswith(begins))


@dataclass(frozen=True)
class MaskedTokens:
    """``-Σ log p(hidden token | the text with some hidden)`` over ``texts``, hidden anew in every epoch."""

    model: Any
    texts: Sequence[Ids]
    masking: Masking
    seed: int = 0
    epoch: int = 0

    @property
    def settings(self) -> str:
        """See :class:`~lmrs.train.objective.Dynamic`."""
        return repr((self.masking, self.seed))

    def in_epoch(self, epoch: int) -> "MaskedTokens":
        """See :class:`~lmrs.train.objective.Dynamic`."""
        return replace(self, epoch=epoch)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Example:
        """Text ``index`` as it is masked in this epoch."""
        return self.masking(self.texts[index], generator(self.seed, self.epoch, index))

    def tokens(self, index: int) -> int:
        """See :class:`~lmrs.train.objective.Objective`."""
        return len(self.texts[index])

    def loss(self, indices: Sequence[int], *, backend: Backend) -> tuple[Value, int]:
        """See :class:`~lmrs.train.objective.Objective`."""
        batch, labels, terms = packed([self[index] for index in indices], backend=backend)
        hidden = selected(batch, self.model.hidden(batch))
        return self.model.head.loss(hidden, labels, reduction="sum"), terms


def mlm(
    model: Any,
    documents: Documents,
    *,
    context: int | None = None,
    tokenizer: Tokenizer | None = None,
    marks: Marks | None = None,
    rate: float = 0.15,
    whole_words: bool = False,
    seed: int = 0,
) -> MaskedTokens:
    """Masked language modelling over ``documents``: texts, or without marks lists of token ids or packed shards.

    A document is cut into runs that with a ``cls`` before and a ``sep`` behind have at most ``context`` tokens. See
    :class:`Masking` for what is hidden; ``whole_words`` needs a tokenizer. ``tokenizer`` is by default the one beside
    the model's checkpoint, ``marks`` are by default the tokenizer's. Raises ConfigError if the model is causal,
    InputError if there is no text, an id is not the model's, or a setting is outside its range.
    """
    attends(model, causally=False)
    context = length(context, model, least=3)
    if marks is None or whole_words:
        tokenizer = tokenizer or tokenizer_of(model)
    if marks is None:
        assert tokenizer is not None
        marks = Marks.of(tokenizer)
    known = continuing(tokenizer) if whole_words and tokenizer is not None else None
    masking = Masking(marks=marks, vocabulary=model.config.vocabulary, rate=rate, continues=known)
    runs = Runs(encoded(model, documents, tokenizer=tokenizer), context - 2)
    if not runs:
        raise InputError("there is nothing to train on: every text is empty")
    cls, sep = marks.cls, marks.sep
    return MaskedTokens(model, Each(lambda run: [cls, *run, sep], runs), masking, seed)
