"""Head, middle and tail of a web corpus by language, as CCNet divides it (Wenzek et al. 2020)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lmrs.errors import InputError
from lmrs.eval.ngram.model import NGramModel

Bucket = Literal["head", "middle", "tail", "all"]


def document_perplexity(
    model: NGramModel, document: str, *, pieces: Callable[[str], Iterable[str]] = str.split
) -> float:
    """``10^(-Σ score / Σ (pieces + 1))`` over the lines of a document that are not empty; ∞ if there is none.

    ``pieces`` cuts a line into the words of the model, in CCNet SentencePiece: ``lambda line:
    tokenizer.encode(line, add_special_tokens=False).tokens``. Any other function from a document to a number, such as
    ``lambda text: engine.score(text).perplexity``, may stand where this one does.
    """
    total, length = 0.0, 0
    for line in document.splitlines():
        words = list(pieces(line))
        if words:
            total += sum(word.log10_prob for word in model.words(words))
            length += len(words) + 1
    return float(10.0 ** (-total / length)) if length else float("inf")


@dataclass(frozen=True)
class Cutoffs:
    """For each language the perplexities below which a document is in the head, and in the middle."""

    by_language: Mapping[str, tuple[float, float]]

    def __post_init__(self) -> None:
        for language, (head, middle) in self.by_language.items():
            if not 0 < head <= middle:
                raise InputError(f"the cutoffs of {language} are {head} and {middle}, expected two growing numbers")

    @classmethod
    def of(cls, perplexities: Mapping[str, Iterable[float]], *, head: float = 30.0, middle: float = 60.0) -> "Cutoffs":
        """Those percentiles of what documents of each language were found to have."""
        found = {}
        for language, values in perplexities.items():
            numbers = np.fromiter(values, np.float64)
            if not numbers.size:
                raise InputError(f"there is no perplexity for {language}")
            low, high = np.percentile(numbers, [head, middle])
            found[language] = (float(low), float(high))
        return cls(found)

    def bucket(self, perplexity: float, *, language: str) -> Bucket:
        """Where a document belongs; ``all`` for a language without cutoffs."""
        if language not in self.by_language:
            return "all"
        head, middle = self.by_language[language]
        return "head" if perplexity < head else "middle" if perplexity < middle else "tail"
