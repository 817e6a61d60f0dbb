"""From a model to the log-probabilities of its tokens, and from a loss of those back to the model."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from lmrs import ops
from lmrs.align import vector
from lmrs.align.vector import Floats, Vector
from lmrs.batch import Backend
from lmrs.delta.tree import methods, stripped
from lmrs.errors import InputError
from lmrs.ops import Value
from lmrs.train.objective import IGNORED, Example, packed, selected

AT_ONCE = 2048
"""Tokens that go through a model together where nothing is differentiated."""


def states(model: Any, examples: Sequence[Example], *, backend: Backend) -> tuple[Value, Value]:
    """What goes into the head where ``examples`` predict something, ``[N, d]``, and what they predict, ``[N]``."""
    batch, labels, _ = packed(examples, backend=backend)
    return selected(batch, model.hidden(batch)), labels


def predicted(model: Any, hidden: Value, labels: Value, *, temperature: float = 1.0) -> Value:
    """``log p(label)`` of each of :func:`states`, ``[N, 1]`` in nats, under ``softmax(logits / temperature)``."""
    if temperature != 1.0:
        # The logits are linear in the states: dividing these divides those, and no logits are stored.
        if getattr(model.head, "bias", None) is not None:
            raise InputError(f"temperature is {temperature}, expected 1: the head has a bias")
        hidden = ops.scale(hidden, by=1 / temperature)
    return model.head.logprob(hidden, labels)


def token_logprobs(
    model: Any, examples: Sequence[Example], *, backend: Backend, temperature: float = 1.0
) -> tuple[Value, list[int]]:
    """``log p`` of every label of ``examples``, ``[N, 1]`` in nats, and how many labels each example has."""
    counts = [sum(label != IGNORED for label in example.labels) for example in examples]
    return predicted(model, *states(model, examples, backend=backend), temperature=temperature), counts


def through(values: Value, loss: Callable[[Vector], Vector], *, backend: Backend) -> Value:
    """``loss`` of ``values [N, 1]``, one number, as a value ``[1, 1]`` of the backend that is differentiated onward.

    With ``g = ∂loss/∂values`` it is ``loss + Σ g·(values - constant(values))``: the second term is 0 and has the
    derivative. Raises InputError if the loss or its derivative is not finite.
    """
    module = import_module(f"lmrs.backend.{backend}")
    numbers = module.numpy(values.tensor if backend == "native" else values)
    leaf = vector.of(numbers[:, 0])
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        value = loss(leaf)
        # As the model's numbers are held, in which a loss can overflow that is finite here.
        slope = vector.gradient(value, leaf).astype(numbers.dtype)
        total = np.full((1, 1), value.numbers).astype(numbers.dtype)
    if not np.isfinite(total).all() or not np.isfinite(slope).all():
        raise InputError(f"the loss is {float(value.numbers)} of log-probabilities down to {numbers.min():.4g}")

    def constant(array: npt.NDArray[Any]) -> Value:
        made = module.array(np.ascontiguousarray(array))
        return made if backend == "native" else made.to(values.device)

    moved = ops.mul(ops.add(values, constant(-numbers)), constant(slope[:, None]))
    return ops.add(ops.sum(moved), constant(total))


def as_numbers(values: Value, *, backend: Backend) -> Floats:
    """The first column of ``values [N, 1]``, float64."""
    found = import_module(f"lmrs.backend.{backend}").numpy(values.tensor if backend == "native" else values)
    numbers: Floats = found[:, 0].astype(np.float64)
    return numbers


def measured(model: Any, examples: Sequence[Example], *, backend: Backend, temperature: float = 1.0) -> list[Floats]:
    """:func:`token_logprobs` as numbers, float64, an array an example. Nothing is noted for a gradient."""
    module = import_module(f"lmrs.backend.{backend}")
    found: list[Floats] = []
    start = 0
    while start < len(examples):
        stop, room = start + 1, AT_ONCE - len(examples[start].ids)
        while stop < len(examples) and (room := room - len(examples[stop].ids)) >= 0:
            stop += 1
        with module.still():
            values, counts = token_logprobs(model, examples[start:stop], backend=backend, temperature=temperature)
        found += np.split(as_numbers(values, backend=backend), np.cumsum(counts)[:-1])
        start = stop
    return found


def sequence_logprobs(model: Any, examples: Sequence[Example], *, backend: Backend) -> Floats:
    """``log p`` of all labels of each example together, ``[examples]``."""
    return np.array([part.sum() for part in measured(model, examples, backend=backend)])


def backend_of(model: Any) -> Backend:
    """Where the numbers of ``model`` are. Raises InputError if it is not loaded."""
    for path, parameter in model.named_parameters().items():
        if parameter.data is None:
            raise InputError(f"the parameter {path} is not loaded")
        return "torch" if type(parameter.data).__module__.partition(".")[0] == "torch" else "native"
    raise InputError("the model has no parameter")


def reference_of(policy: Any) -> Any:
    """What ``policy`` is held to: the same weights with its deltas off; ``policy`` as it is now if it has none."""
    return stripped(policy) if methods(policy) else policy
