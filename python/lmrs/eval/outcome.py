"""What judging a model by items gives: means with bootstrapped errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmrs.errors import InputError

RESAMPLES = 1000
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A mean over items and its standard error."""

    value: float
    error: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """The ``metrics`` of a task over ``items`` items, and what each item gave: float64 ``[items]`` by metric."""

    items: int
    metrics: Mapping[str, Metric]
    each: Mapping[str, Floats]

    @classmethod
    def of(cls, each: Mapping[str, Sequence[float] | Floats]) -> "Outcome":
        """From what each item gave: means, and the deviation of the means of 1000 samples drawn with replacement.

        Raises InputError if there is no item.
        """
        arrays = {name: np.asarray(values, np.float64) for name, values in each.items()}
        items = len(next(iter(arrays.values())))
        if not items:
            raise InputError("there is no item to judge by")
        ones = np.ones(items)
        return cls(items=items, metrics={name: ratio(of, ones) for name, of in arrays.items()}, each=arrays)

    def with_perplexity(self) -> "Outcome":
        """With ``perplexity``, the exponential of the mean of the metric ``nll``."""
        found = perplexity(self.each["nll"], np.ones(self.items))
        return Outcome(items=self.items, metrics={**self.metrics, "perplexity": found}, each=self.each)


def ratio(above: Floats, below: Floats) -> Metric:
    """``Σ above / Σ below`` over items, and its deviation over 1000 samples of them drawn with replacement.

    The same draws for every metric of as many items.
    """
    random, count = np.random.default_rng(0), len(above)
    found = []
    # A sample at a time: [samples, items] would not fit for a large file.
    for _ in range(RESAMPLES):
        drawn = random.integers(0, count, count)
        found.append(above[drawn].sum() / below[drawn].sum())
    return Metric(value=float(above.sum() / below.sum()), error=float(np.std(found, ddof=1)))


def perplexity(nll: Floats, tokens: Floats) -> Metric:
    """``exp(Σ nll / Σ tokens)`` over texts and its bootstrapped error, that of an exponential while both are small."""
    mean = ratio(nll, tokens)
    value = float(np.exp(min(mean.value, 700.0)))
    return Metric(value=value, error=value * mean.error)


def pooled(outcomes: Sequence[Outcome]) -> Outcome:
    """All items of outcomes of one task as one. Raises InputError if there is none or their metrics differ."""
    if not outcomes or any(one.each.keys() != outcomes[0].each.keys() for one in outcomes):
        raise InputError("expected outcomes of one task, with the same metrics")
    whole = Outcome.of({name: np.concatenate([one.each[name] for one in outcomes]) for name in outcomes[0].each})
    return whole.with_perplexity() if "perplexity" in outcomes[0].metrics else whole
