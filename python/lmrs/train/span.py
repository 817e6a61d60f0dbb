"""Span corruption: runs of tokens cut out of a text and told by the decoder (Raffel et al. 2020, §3.1.4)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lmrs.batch import Backend
from lmrs.errors import InputError
from lmrs.models.beside import tokenizer_of
from lmrs.ops import Value
from lmrs.tokenizer import Tokenizer
from lmrs.train.documents import Documents, Ids, Runs, encoded, length
from lmrs.train.order import generator
from lmrs.train.seq2seq import Pair, answers, expect_encoder_decoder


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """How spans are cut out of ``n`` tokens.

    ``noise = round(density·n)`` tokens, at least one and not all, in ``max(1, round(noise / mean))`` spans; the spans,
    and the runs kept between them, are uniform among all ways to cut so many tokens into so many pieces, and a text
    begins with a kept one. The input is what is kept, with ``sentinels[i]`` where span ``i`` was; the target is each
    sentinel with the span behind it; both end with ``eos``. So they have ``n - noise + spans + 1`` and
    ``noise + spans + 1`` tokens whatever was drawn: 568 tokens become 512 and 114. Raises InputError for a setting
    outside its range.
    """

    sentinels: tuple[int, ...]
    eos: int
    density: float = 0.15
    mean: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.density < 1:
            raise InputError(f"density is {self.density}, expected 0 < density < 1")
        if not self.mean >= 1:
            raise InputError(f"mean is {self.mean}, expected at least 1 token a span")

    def counts(self, n: int) -> tuple[int, int]:
        """How many of ``n`` tokens are cut out, and in how many spans."""
        noise = min(max(round(n * self.density), 1), n - 1)
        return noise, max(1, min(round(noise / self.mean), noise, n - noise))

    def lengths(self, n: int) -> tuple[int, int]:
        """How many tokens the input and the target have that ``n`` tokens become."""
        noise, spans = self.counts(n)
        return n - noise + spans + 1, noise + spans + 1

    def fitting(self, inputs: int) -> int:
        """The most tokens whose input has at most ``inputs`` of them. Raises InputError if there is none."""
        n = 2
        if self.lengths(n)[0] > inputs:
            raise InputError(f"context is {inputs}, expected at least {self.lengths(n)[0]} tokens")
        while self.lengths(n + 1)[0] <= inputs:
            n += 1
        return n

    def __call__(self, ids: Ids, random: np.random.Generator) -> Pair:
        """``ids``, at least two, with spans cut out. Raises InputError if there are fewer sentinels than spans."""
        noise, spans = self.counts(len(ids))
        if spans > len(self.sentinels):
            raise InputError(f"{len(ids)} tokens lose {spans} spans, but there are {len(self.sentinels)} sentinels")
        lost, kept = _pieces(noise, spans, random), _pieces(len(ids) - noise, spans, random)
        inputs: list[int] = []
        targets: list[int] = []
        at = 0
        for sentinel, keep, lose in zip(self.sentinels, kept.tolist(), lost.tolist(), strict=False):
            inputs += [*ids[at : at + keep], sentinel]
            targets += [sentinel, *ids[at + keep : at + keep + lose]]
            at += keep + lose
        return Pair([*inputs, self.eos], [*targets, self.eos])


def _pieces(total: int, count: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """``total`` as an ordered sum of ``count`` positive numbers, each such sum as likely."""
    cuts = np.sort(random.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]])).astype(np.int64)


@dataclass(frozen=True)
class Spans:
    """``-Σ log p(spans | the text without them)`` over ``texts``, cut anew in every epoch."""

    model: Any
    texts: Sequence[Ids]
    corruption: Corruption
    seed: int = 0
    epoch: int = 0

    @property
    def settings(self) -> str:
        """See :class:`~lmrs.train.objective.Dynamic`."""
        return repr((self.corruption, self.seed))

    def in_epoch(self, epoch: int) -> "Spans":
        """See :class:`~lmrs.train.objective.Dynamic`."""
        return replace(self, epoch=epoch)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Pair:
        """Text ``index`` as it is cut in this epoch."""
        return self.corruption(self.texts[index], generator(self.seed, self.epoch, index))

    def tokens(self, index: int) -> int:
        """See :class:`~lmrs.train.objective.Objective`."""
        return sum(self.corruption.lengths(len(self.texts[index])))

    def loss(self, indices: Sequence[int], *, backend: Backend) -> tuple[Value, int]:
        """See :class:`~lmrs.train.objective.Objective`."""
        return answers(self.model, [self[index] for index in indices], backend=backend)


def span_corruption(
    model: Any,
    documents: Documents,
    *,
    context: int | None = None,
    tokenizer: Tokenizer | None = None,
    sentinels: Sequence[int] | None = None,
    eos: int | None = None,
    density: float = 0.15,
    mean: float = 3.0,
    seed: int = 0,
) -> Spans:
    """T5's denoising over ``documents``: texts, or without special tokens lists of token ids or packed shards.

    A document is cut into the longest runs whose inputs have at most ``context`` tokens (512 by default). See
    :class:`Corruption`. ``sentinels`` are by default ``<extra_id_0>``, ``<extra_id_1>`` … of ``tokenizer``, by default
    the one beside the model's checkpoint, and ``eos`` its end-of-text token. Raises ConfigError if the model is no
    encoder-decoder; InputError if there are no texts of two tokens, too few sentinels, or a setting outside its range.
    """
    expect_encoder_decoder(model)
    if sentinels is None or eos is None:
        tokenizer = tokenizer or tokenizer_of(model)
        sentinels = sentinels_of(tokenizer) if sentinels is None else sentinels
        eos = tokenizer.eos_id if eos is None else eos
    if eos is None:
        raise InputError("the tokenizer has no end-of-text token: pass eos=")
    corruption = Corruption(sentinels=tuple(sentinels), eos=eos, density=density, mean=mean)
    size = corruption.fitting(length(512 if context is None else context, model))
    if corruption.counts(size)[1] > len(sentinels):
        needed = corruption.counts(size)[1]
        raise InputError(f"a run of {size} tokens loses {needed} spans, but there are {len(sentinels)} sentinels")
    runs = Runs(encoded(model, documents, tokenizer=tokenizer), size, least=2)
    if not runs:
        raise InputError("there is nothing to train on: no text has two tokens")
    return Spans(model, runs, corruption, seed)


def sentinels_of(tokenizer: Tokenizer) -> list[int]:
    """The ids of ``<extra_id_0>``, ``<extra_id_1>`` … as far as there are."""
    found: list[int] = []
    while (token := tokenizer.token_to_id(f"<extra_id_{len(found)}>")) is not None:
        found.append(token)
    return found
