"""The value of each state of a reply: the critic before each of its tokens is drawn."""

from collections.abc import Sequence
from importlib import import_module

import numpy as np

from lmrs.align.logprobs import AT_ONCE, states
from lmrs.align.reward import Scored
from lmrs.align.vector import Floats
from lmrs.batch import Backend
from lmrs.ops import Value
from lmrs.train.objective import Example


def token_values(critic: Scored, examples: Sequence[Example], *, backend: Backend) -> Value:
    """``V`` where ``examples`` predict something, ``[N, 1]``: row for row with their log-probabilities."""
    hidden, _ = states(critic.model, examples, backend=backend)
    return critic.score(hidden)


def values_of(critic: Scored, examples: Sequence[Example], *, backend: Backend) -> Floats:
    """The same as numbers, float64, of all examples one after another."""
    module = import_module(f"lmrs.backend.{backend}")
    found: list[Floats] = []
    with module.still():
        for start in range(0, len(examples), max(1, AT_ONCE // max(len(e.ids) for e in examples))):
            stop = start + max(1, AT_ONCE // max(len(e.ids) for e in examples))
            values = token_values(critic, examples[start:stop], backend=backend)
            found.append(module.numpy(values.tensor if backend == "native" else values)[:, 0].astype(np.float64))
    return np.concatenate(found)
