"""The bidirectional language model of ELMo: each word predicted from those before it, and from those behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from lmrs import ops
from lmrs.batch import Backend, Ragged
from lmrs.errors import ConfigError, InputError
from lmrs.models.elmo import DIRECTIONS, Direction, State, Words
from lmrs.ops import Value


@dataclass(frozen=True)
class BothWays:
    """``-Σ log p(wₜ | w₁ … wₜ₋₁) - Σ log p(wₜ | wₜ₊₁ … wₙ)`` over ``runs`` of words; the mean is over both sums.

    ``ids`` are the words' numbers in the head. A run is read in pieces of ``truncate`` words: the state of the LSTMs is
    carried from a piece to the next (backwards, to the one before), gradients are not.
    """

    model: Any
    runs: Sequence[Sequence[str]]
    ids: Sequence[Sequence[int]]
    truncate: int

    def __len__(self) -> int:
        return len(self.runs)

    def tokens(self, index: int) -> int:
        """See :class:`~lmrs.train.objective.Objective`."""
        return len(self.runs[index])

    def loss(self, indices: Sequence[int], *, backend: Backend) -> tuple[Value, int]:
        """See :class:`~lmrs.train.objective.Objective`."""
        runs, ids = [self.runs[index] for index in indices], [self.ids[index] for index in indices]
        words = Words.of(runs, letters=self.model.config.letters, backend=backend)
        x, starts = self.model.tokens(words), [start for start, _ in words.seqs.spans()]
        array = import_module(f"lmrs.backend.{backend}").array
        total, terms = None, 0
        for direction in DIRECTIONS:
            for rows, hidden in self._pieces(direction, x, starts, [len(run) for run in runs], backend):
                # A word predicts its neighbour ahead in the direction of reading; the last one has none.
                step = 1 if direction == "forward" else -1
                known = [(at, n, k + step) for at, (n, k) in enumerate(rows) if 0 <= k + step < len(runs[n])]
                if not known:
                    continue
                labels = array(np.array([ids[n][k] for _, n, k in known], np.int32))
                chosen = ops.rows(hidden, array(np.array([at for at, _, _ in known], np.int32)))
                value = self.model.head.loss(chosen, labels, reduction="sum")
                total, terms = value if total is None else ops.add(total, value), terms + len(known)
        return total, terms

    def _pieces(
        self, direction: Direction, x: Value, starts: list[int], lengths: list[int], backend: Backend
    ) -> list[tuple[list[tuple[int, int]], Value]]:
        """For each piece, which (run, word) its rows are, and the top layer's rows."""
        module = import_module(f"lmrs.backend.{backend}")
        count = -(-max(lengths) // self.truncate)
        carried: dict[int, list[tuple[Any, Any]]] = {}
        found = []
        for piece in range(count) if direction == "forward" else reversed(range(count)):
            first = piece * self.truncate
            present = [n for n, length in enumerate(lengths) if length > first]
            sizes = [min(self.truncate, lengths[n] - first) for n in present]
            rows = [(n, first + k) for n, size in zip(present, sizes, strict=True) for k in range(size)]
            index = module.array(np.array([starts[n] + k for n, k in rows], np.int32))
            state = self._entering(carried, present, module)
            outputs, after = self.model.read(ops.rows(x, index), Ragged.of("tokens", sizes), direction, state)
            for n, layers in zip(present, _by_run(after, len(present), module), strict=True):
                carried[n] = layers
            found.append((rows, outputs[-1]))
        return found

    def _entering(self, carried: Mapping[int, Any], present: list[int], module: Any) -> State | None:
        if not any(n in carried for n in present):
            return None
        config = self.model.config
        zero = [(np.zeros(config.width, np.float32), np.zeros(config.cells, np.float32))] * config.layers
        layers = zip(*(carried.get(n, zero) for n in present), strict=True)
        return [tuple(module.array(np.stack(part)) for part in zip(*layer, strict=True)) for layer in layers]


def _by_run(after: State, count: int, module: Any) -> list[list[tuple[Any, Any]]]:
    """The state of each sequence as plain numbers, which no gradient goes through."""
    states = [(module.detached(hidden), module.detached(cell)) for hidden, cell in after]
    return [[(hidden[n], cell[n]) for hidden, cell in states] for n in range(count)]


def bilm(
    model: Any,
    sentences: Sequence[Sequence[str]],
    vocabulary: Mapping[str, int],
    *,
    context: int = 200,
    truncate: int = 20,
) -> BothWays:
    """The objective of ELMo over ``sentences`` of words: cross-entropies forwards and backwards, with one softmax.

    ``vocabulary`` numbers the words of the head, ``<S>``, ``</S>`` and ``<UNK>`` among them. Sentences, each between
    ``<S>`` and ``</S>``, are strung together and cut into runs of ``context`` words; see :class:`BothWays` for
    ``truncate``. Raises ConfigError if the model has no head, InputError if the vocabulary does not fit it, a setting
    is outside its range, or there are no words.
    """
    if not model.config.vocabulary:
        raise ConfigError("this elmo has no head over words: its file holds none")
    if len(vocabulary) != model.config.vocabulary or not {"<S>", "</S>", "<UNK>"} <= vocabulary.keys():
        raise InputError(f"the vocabulary has {len(vocabulary)} words, the head {model.config.vocabulary}, and <UNK>")
    if context < 2 or truncate < 1:
        raise InputError(f"context and truncate are {context} and {truncate}, expected at least 2 words and 1")
    words = [word for sentence in sentences for word in ("<S>", *sentence, "</S>")]
    runs = [words[start : start + context] for start in range(0, len(words), context)]
    runs = [run for run in runs if len(run) > 1]
    if not runs:
        raise InputError("there is nothing to train on: no sentence")
    unknown = vocabulary["<UNK>"]
    return BothWays(model, runs, [[vocabulary.get(word, unknown) for word in run] for run in runs], truncate)
