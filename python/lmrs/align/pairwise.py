"""What DPO, ORPO, CPO and SimPO share: the log-probabilities of both replies of each pair, and a loss of these."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lmrs.align import vector
from lmrs.align.logprobs import as_numbers, backend_of, measured, predicted, states, through
from lmrs.align.preferences import Pair
from lmrs.align.vector import Floats, Vector
from lmrs.batch import Backend
from lmrs.errors import InputError
from lmrs.ops import Value
from lmrs.train.objective import IGNORED

Metrics = Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Replies:
    """``log p`` of the replies of some pairs, ``[pairs]`` each, and how many tokens each has.

    The reference's are zeros where there is none. ``certainty`` is, of both replies together, the mean over tokens of
    ``log p - log Σ p²``, the sum over the vocabulary: how likely a token is beside one drawn from the policy. It is
    known where a loss asks for it, a constant. ``memory`` are numbers that a loss goes on from, batch after batch.
    """

    chosen: Vector
    rejected: Vector
    chosen_reference: Floats
    rejected_reference: Floats
    chosen_tokens: Floats
    rejected_tokens: Floats
    certainty: Floats | None = None
    memory: dict[str, float] = field(default_factory=dict)

    def mean(self) -> "Replies":
        """The same a token."""
        n, m = self.chosen_tokens, self.rejected_tokens
        return replace(
            self,
            chosen=self.chosen / n,
            rejected=self.rejected / m,
            chosen_reference=self.chosen_reference / n,
            rejected_reference=self.rejected_reference / m,
        )


@dataclass(frozen=True, eq=False)
class Judged:
    """The loss of each pair, and the implicit reward of each reply."""

    losses: Vector
    chosen_rewards: Floats
    rejected_rewards: Floats


class Told:
    """Metrics by TRL's names, gathered over the batches of a step; :meth:`drain` gives their means and starts anew."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, **values: Floats) -> None:
        """Note each value of each metric; ``__`` in a name is written for ``/``."""
        for name, numbers in values.items():
            self._sums[name.replace("__", "/")] += float(np.sum(numbers))
            self._counts[name.replace("__", "/")] += int(np.size(numbers))

    def drain(self) -> dict[str, float]:
        """The mean of every metric since the last call."""
        means = {name: value / self._counts[name] for name, value in self._sums.items() if self._counts[name]}
        self._sums.clear()
        self._counts.clear()
        return means


class Pairwise:
    """The mean of ``judge`` over ``pairs``, an :class:`~lmrs.train.objective.Objective`.

    With a ``reference``, a model, its log-probabilities are taken once, here, before anything is trained: so it may be
    the policy itself, and the weights are never copied. With ``certain`` each batch is read for the certainty of its
    replies, too. ``told`` gathers TRL's metrics; ``memory`` is saved with a run. Raises InputError if there is no pair,
    one has a reply whose labels are all masked, or the reference gives one a log-probability that is not finite.
    """

    def __init__(
        self,
        model: Any,
        pairs: Sequence[Pair],
        judge: Callable[[Replies], Judged],
        *,
        reference: Any | None = None,
        certain: bool = False,
    ) -> None:
        if not pairs:
            raise InputError("there is no pair to learn from")
        for index, pair in enumerate(pairs):
            if not all(any(label != IGNORED for label in reply.labels) for reply in (pair.chosen, pair.rejected)):
                raise InputError(f"pair {index} has a reply without a token to predict: all its labels are {IGNORED}")
        self.model, self.pairs, self.judge, self.told = model, pairs, judge, Told()
        self.certain, self.memory = certain, dict[str, float]()
        self._reference = np.zeros((2, len(pairs)))
        if reference is not None:
            examples = [example for pair in pairs for example in (pair.chosen, pair.rejected)]
            parts = measured(reference, examples, backend=backend_of(reference))
            self._reference = np.array([part.sum() for part in parts]).reshape(-1, 2).T
            if not np.isfinite(self._reference).all():
                wrong = int(np.flatnonzero(~np.isfinite(self._reference).all(0))[0])
                raise InputError(f"the reference gives pair {wrong} a log-probability that is not finite")

    def __len__(self) -> int:
        return len(self.pairs)

    def tokens(self, index: int) -> int:
        """See :class:`~lmrs.train.objective.Objective`."""
        return len(self.pairs[index].chosen.ids) + len(self.pairs[index].rejected.ids)

    def loss(self, indices: Sequence[int], *, backend: Backend) -> tuple[Value, int]:
        """See :class:`~lmrs.train.objective.Objective`."""
        chosen = [self.pairs[index] for index in indices]
        examples = [pair.chosen for pair in chosen] + [pair.rejected for pair in chosen]
        counts = [sum(label != IGNORED for label in example.labels) for example in examples]
        hidden, labels = states(self.model, examples, backend=backend)
        values = predicted(self.model, hidden, labels)
        halved = None
        if self.certain:
            halved = as_numbers(predicted(self.model, hidden, labels, temperature=0.5), backend=backend)

        def of(logprobs: Vector) -> Vector:
            judged = self.judge(self._replies(logprobs, counts, indices, halved, self.memory))
            self._tell(judged, vector.sums(logprobs, counts).numbers)
            return vector.total(judged.losses)

        return through(values, of, backend=backend), len(indices)

    def judged(self) -> Metrics:
        """The metrics over all pairs with the model as it is, ``loss`` among them; nothing is differentiated."""
        told, self.told = self.told, Told()
        for index in range(len(self.pairs)):
            pair = self.pairs[index]
            both, backend = [pair.chosen, pair.rejected], backend_of(self.model)
            parts = measured(self.model, both, backend=backend)
            halved = None
            if self.certain:
                halved = np.concatenate(measured(self.model, both, backend=backend, temperature=0.5))
            counts = [len(part) for part in parts]
            # What is remembered stays as it is: to look is not to learn.
            memory = dict(self.memory)
            judged = self.judge(self._replies(vector.of(np.concatenate(parts)), counts, [index], halved, memory))
            self._tell(judged, np.array([part.sum() for part in parts]))
            self.told.add(loss=judged.losses.numbers)
        metrics, self.told = self.told.drain(), told
        return metrics

    def _replies(
        self,
        logprobs: Vector,
        counts: Sequence[int],
        indices: Sequence[int],
        halved: Floats | None,
        memory: dict[str, float],
    ) -> Replies:
        totals, half = vector.sums(logprobs, counts), len(indices)
        reference, tokens = self._reference[:, list(indices)], np.asarray(counts, np.float64)
        certainty = None
        if halved is not None:
            # At half the temperature log p is 2·logit - log Σ exp(2·logits), so this is log p - log Σ p².
            surplus = np.add.reduceat(halved - logprobs.numbers, np.cumsum([0, *counts[:-1]])) / tokens
            certainty = surplus[:half] + surplus[half:]
        numbers = (reference[0], reference[1], tokens[:half], tokens[half:], certainty)
        return Replies(totals[:half], totals[half:], *numbers, memory=memory)

    def _tell(self, judged: Judged, logps: Floats) -> None:
        half = len(logps) // 2
        chosen, rejected = judged.chosen_rewards, judged.rejected_rewards
        self.told.add(
            rewards__chosen=chosen,
            rewards__rejected=rejected,
            rewards__accuracies=np.asarray(chosen > rejected, np.float64),
            rewards__margins=chosen - rejected,
            logps__chosen=logps[:half],
            logps__rejected=logps[half:],
        )
