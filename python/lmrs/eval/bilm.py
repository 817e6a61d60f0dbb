"""How likely sentences are to a bidirectional language model: ELMo's, once forwards and once backwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lmrs.backend import native
from lmrs.errors import ConfigError, InputError, MissingFileError
from lmrs.eval.plans import batches
from lmrs.files import lines
from lmrs.models.elmo import DIRECTIONS, END, START, Direction, Model, Words

UNKNOWN = "<UNK>"


@dataclass(frozen=True, eq=False, kw_only=True)
class BothWaysScore:
    """Log-probabilities in nats, float32, of a sentence of ``n`` words.

    ``forward_logprobs [n + 1]``: of each word after those before it, then of the end. ``backward_logprobs [n + 1]``: of
    the start, then of each word before those behind it. ``unknown`` words are not in the head's vocabulary and count as
    one unknown word, which makes numbers of different vocabularies incomparable.
    """

    words: int
    unknown: int
    forward_logprobs: npt.NDArray[np.float32]
    backward_logprobs: npt.NDArray[np.float32]

    @property
    def forward(self) -> float:
        """The sum of ``forward_logprobs``."""
        return float(self.forward_logprobs.sum(dtype=np.float64))

    @property
    def backward(self) -> float:
        """The sum of ``backward_logprobs``."""
        return float(self.backward_logprobs.sum(dtype=np.float64))


def vocabulary_of(model: Model) -> list[str]:
    """The words of the head in order, from the ``vocab.txt`` beside the model's checkpoint, a word a line.

    Raises MissingFileError if there is none, InputError if it does not fit the head.
    """
    path = (model.source or Path()) / "vocab.txt"
    if model.source is None or not path.is_file():
        raise MissingFileError(f"{path}: no such file; it has the words of the head, one a line")
    words = [word for _, word in lines(path)]
    _expect_fit(model, words, str(path))
    return words


def _expect_fit(model: Model, words: Sequence[str], where: str) -> None:
    missing = {START, END, UNKNOWN} - set(words)
    if len(words) != model.config.vocabulary or missing:
        lacking = f", and {', '.join(sorted(missing))} not among them" if missing else ""
        raise InputError(f"{where} has {len(words)} words, the head {model.config.vocabulary}{lacking}")


def score_both_ways(
    model: Model, sentences: Sequence[Sequence[str]], *, vocabulary: Sequence[str] | None = None
) -> list[BothWaysScore]:
    """Each sentence of words by itself, between ``<S>`` and ``</S>``, both directions from a state of zeros.

    ``vocabulary`` are the words of the head in order, by default those beside the checkpoint. Raises ConfigError for a
    model that is no ELMo or has no head, InputError for an empty sentence or a vocabulary that does not fit.
    """
    if not isinstance(model, Model):
        raise ConfigError(f"a {model.config.family} is no bidirectional language model; `pseudo_loglikelihood` masks")
    if not model.config.vocabulary:
        raise ConfigError("this elmo has no head over words: its file holds none")
    if vocabulary is None:
        vocabulary = vocabulary_of(model)
    _expect_fit(model, vocabulary, "the vocabulary")
    numbers = {word: number for number, word in enumerate(vocabulary)}
    for number, sentence in enumerate(sentences):
        if not sentence:
            raise InputError(f"sentence {number} is empty")
    marked = [[START, *sentence, END] for sentence in sentences]
    found = []
    for batch in batches(marked, len):
        ids = [[numbers.get(word, numbers[UNKNOWN]) for word in sentence] for sentence in batch]
        both = _logprobs(model, batch, ids)
        for sentence, forward, backward in zip(batch, *both, strict=True):
            unknown = sum(word not in numbers for word in sentence)
            found.append(
                BothWaysScore(
                    words=len(sentence) - 2, unknown=unknown, forward_logprobs=forward, backward_logprobs=backward
                )
            )
    return found


def _logprobs(
    model: Model, sentences: Sequence[Sequence[str]], ids: Sequence[Sequence[int]]
) -> list[list[npt.NDArray[np.float32]]]:
    """By direction, of each sentence, what each word but the last in the direction of reading says of its neighbour."""
    words = Words.of(sentences, letters=model.config.letters)
    x = model.tokens(words)
    ends = np.cumsum([len(sentence) for sentence in ids])
    found = []
    for direction in DIRECTIONS:
        states = model.read(x, words.seqs, direction)[0][-1]
        labels = np.concatenate([_labels(sentence, direction) for sentence in ids])
        rows = model.head.logprob(states, native.array(labels.astype(np.int32))).tensor.numpy()[:, 0]
        inner = slice(None, -1) if direction == "forward" else slice(1, None)
        found.append([np.ascontiguousarray(part[inner]) for part in np.split(rows, ends[:-1])])
    return found


def _labels(ids: Sequence[int], direction: Direction) -> npt.NDArray[np.int64]:
    return np.array([*ids[1:], -1] if direction == "forward" else [-1, *ids[:-1]])
