"""What an n-gram model says of a text, whatever holds its numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
Entry = tuple[float, float]
"""log₁₀ p of the last word of an n-gram after the others, and the log₁₀ weight of backing off from the whole of it."""


class NGrams(Protocol):
    """The n-grams of a model, words as ids; 0 is the unknown word."""

    @property
    def order(self) -> int:
        """The words of the longest n-gram."""

    def id(self, word: str) -> int:
        """The id of a word, 0 if it is unknown."""

    def find(self, words: tuple[int, ...]) -> Entry | None:
        """The entry of an n-gram, None if the model has none."""


@dataclass(frozen=True)
class Table:
    """N-grams in a dict, as an ARPA file lists them."""

    order: int
    ids: Mapping[str, int]
    entries: Mapping[tuple[int, ...], Entry]

    def id(self, word: str) -> int:
        """See :class:`NGrams`."""
        return self.ids.get(word, 0)

    def find(self, words: tuple[int, ...]) -> Entry | None:
        """See :class:`NGrams`."""
        return self.entries.get(words)


@dataclass(frozen=True)
class WordScore:
    """``log10_prob`` of a word, the words of the n-gram it was found in, and whether the model does not know it."""

    log10_prob: float
    ngram: int
    unknown: bool


@dataclass(frozen=True)
class NGramModel:
    """``log₁₀ p(w | context)``: that of the longest n-gram found, and the back-off weights of the contexts above it."""

    ngrams: NGrams

    @property
    def order(self) -> int:
        """The words of the longest n-gram."""
        return self.ngrams.order

    def words(self, words: Sequence[str], *, bos: bool = True, eos: bool = True) -> list[WordScore]:
        """Of each word, and of the end of the sentence if ``eos``; with ``bos`` the first word follows its start."""
        find, numbers = self.ngrams.find, [self.ngrams.id(word) for word in (*words, *([END] if eos else []))]
        context: tuple[int, ...] = (self.ngrams.id(START),) if bos else ()
        found = []
        for number in numbers:
            total, length = 0.0, len(context) + 1
            while (entry := find((*context[len(context) + 1 - length :], number))) is None and length > 1:
                # Not there: the next shorter context, at the weight of leaving this one.
                above = find(context[len(context) + 1 - length :])
                total += above[1] if above is not None else 0.0
                length -= 1
            # A model without <unk> gives unknown words nothing.
            total += entry[0] if entry is not None else -100.0
            found.append(WordScore(total, length, number == 0))
            context = (*context, number)[max(0, len(context) + 2 - self.order) :] if self.order > 1 else ()
        return found

    def score(self, sentence: str, *, bos: bool = True, eos: bool = True) -> float:
        """``log₁₀ p`` of a sentence of words between white space, as ``kenlm.Model.score``."""
        return sum(word.log10_prob for word in self.words(sentence.split(), bos=bos, eos=eos))

    def perplexity(self, sentence: str) -> float:
        """``10^(-score / (words + 1))``, the end of the sentence being counted, as ``kenlm.Model.perplexity``."""
        return float(10.0 ** (-self.score(sentence) / (len(sentence.split()) + 1)))
