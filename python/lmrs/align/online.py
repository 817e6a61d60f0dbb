"""The loop of reinforcement learning: draw, judge, and follow the gradient for a few epochs; then again.

What is learnt in an iteration is a function of the weights at its start and (seed, iteration). So a checkpoint at the
end of each is all that is needed: a run killed at any moment, in the middle of a rollout too, resumes to the same bits.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

from lmrs.align.logprobs import backend_of
from lmrs.align.rollout import Sample
from lmrs.backend import native
from lmrs.batch import Backend
from lmrs.errors import InputError
from lmrs.fingerprint import fingerprint
from lmrs.nn.module import Module, Parameter
from lmrs.ops import Value
from lmrs.train.checkpoint import Checkpoints
from lmrs.train.optimiser import AdamW, Optimiser, finite_norm
from lmrs.train.order import Shuffled
from lmrs.train.run import Run, Step
from lmrs.train.schedule import Linear, Schedule


class Batchful(Protocol):
    """The samples of an iteration, judged, as what a gradient is taken of."""

    samples: Sequence[Sample]

    def loss(self, indices: Sequence[int], *, backend: Backend) -> tuple[Value, int] | None:
        """The loss ``[1, 1]`` of these samples, summed over its terms, and how many; None: nothing can be learnt."""

    def metrics(self) -> dict[str, float]:
        """What is said of the iteration, once it has been learnt from."""


class Algorithm(Protocol):
    """PPO, GRPO and RLOO: how prompts become samples with advantages. ``control`` is state beside the weights."""

    model: Module
    control: float
    epochs: int
    minibatches: int

    def collect(self, iteration: int, *, seed: int) -> Batchful:
        """The samples of an iteration, judged."""

    def settings(self) -> str:
        """Everything a resumed run must have in common with this one."""


@dataclass(frozen=True)
class Iteration:
    """What one iteration was: its number, counted from 1, metrics by TRL's names, and the samples it learnt from."""

    number: int
    metrics: Mapping[str, float]
    samples: Sequence[Sample] = field(repr=False)


_OPTIMISER, _SCHEDULE = AdamW(learning_rate=1e-5, eps=1e-5), Linear()


def learn(
    algorithm: Algorithm,
    *,
    iterations: int,
    optimiser: AdamW = _OPTIMISER,
    schedule: Schedule = _SCHEDULE,
    clip: float | None = 1.0,
    seed: int = 0,
    on_iteration: Callable[[Iteration], object] | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    save_every: int = 1,
    resume: bool = False,
) -> list[Iteration]:
    """Train ``algorithm.model`` in place for ``iterations`` and return what they were, since the last resumption.

    Dropout does nothing, so that the first ratio of an iteration is exactly 1. A minibatch whose ratios have run away
    is skipped and counted; rewards, losses or gradients that are not finite raise InputError before any weight changes.
    Checkpoints are as for :func:`lmrs.train.fit`, an iteration in place of a step.
    """
    for name, value in {"iterations": iterations, "save_every": save_every}.items():
        if value < 1:
            raise InputError(f"{name} is {value}, expected at least 1")
    parameters = {path: p for path, p in algorithm.model.named_parameters().items() if p.trainable}
    if not parameters:
        raise InputError("the model has no trainable parameter; a delta brings some")
    backend = backend_of(algorithm.model)
    run = Run(Optimiser(optimiser, import_module(f"lmrs.backend.{backend}")))
    kept = None
    if checkpoints is not None:
        frozen = [(path, p) for path, p in sorted(algorithm.model.named_parameters().items()) if not p.trainable]
        settings = {
            "algorithm": algorithm.settings(),
            "iterations": str(iterations),
            **{"optimiser": str(optimiser), "schedule": str(schedule), "clip": str(clip), "seed": str(seed)},
            "frozen": fingerprint((path, run.optimiser.backend.numpy(p.data)) for path, p in frozen),
        }
        kept = Checkpoints(Path(checkpoints), settings)
        state = {**parameters, "control": _control(algorithm, run)}
        kept.start(run, state, resume=resume)
        algorithm.control = float(run.optimiser.backend.numpy(state["control"].data)[0])
    told: list[Iteration] = []
    for iteration in range(run.drawn, iterations):
        # As a checkpoint would keep it, so that a run without one has the same bits.
        algorithm.control = float(np.float32(algorithm.control))
        batch = algorithm.collect(iteration, seed=seed)
        factor = schedule(iteration, iterations)
        norms, skipped = _follow(algorithm, batch, parameters, run, (seed, iteration), factor, clip)
        run.drawn = iteration + 1
        said = {**batch.metrics(), "grad_norm": float(np.mean(norms or [0.0])), "skipped": float(skipped)}
        said["lr"] = factor * optimiser.learning_rate
        told.append(Iteration(run.drawn, said, batch.samples))
        run.steps.append(Step(step=run.drawn, loss=0.0, tokens=0, rate=said["lr"], norm=said["grad_norm"], seconds=0.0))
        if kept is not None and (run.drawn % save_every == 0 or run.drawn == iterations):
            kept.save(run, {**parameters, "control": _control(algorithm, run)})
        if on_iteration is not None:
            on_iteration(told[-1])
    return told


def _follow(
    algorithm: Algorithm,
    batch: Batchful,
    parameters: dict[str, Parameter],
    run: Run,
    randomness: tuple[int, int],
    factor: float,
    clip: float | None,
) -> tuple[list[float], int]:
    """The updates of one iteration: the norms of their gradients, and how many minibatches were skipped."""
    backend, name = run.optimiser.backend, backend_of(algorithm.model)
    seed, iteration = randomness
    count, norms, skipped = len(batch.samples), [], 0
    size = -(-count // algorithm.minibatches)
    for epoch in range(algorithm.epochs):
        shuffled = Shuffled(count, seed, iteration * algorithm.epochs + epoch)
        order = [shuffled[place] for place in range(count)]
        for start in range(0, count, size):
            terms = 0

            def loss(indices: Sequence[int] = order[start : start + size]) -> Value:
                nonlocal terms
                found = batch.loss(indices, backend=name)
                if found is None:
                    raise _Nothing
                value, terms = found
                return value

            try:
                _, gradients = backend.value_and_grad(loss, algorithm.model)
            except _Nothing:
                skipped += 1
                continue
            norm = finite_norm(backend, gradients) / terms
            shrink = 1.0 if clip is None else min(1.0, clip / (norm + 1e-6))
            run.optimiser.step(parameters, gradients, scale=shrink / terms, factor=factor)
            norms.append(norm)
    return norms, skipped


class _Nothing(Exception):
    """A minibatch has nothing to learn from."""


def _control(algorithm: Algorithm, run: Run) -> Parameter:
    """The state beside the weights as one more parameter, so that a checkpoint is one thing. Kept as float32."""
    array = run.optimiser.backend.array(np.array([algorithm.control], np.float32))
    return Parameter(shape=(1,), data=array.tensor if isinstance(array, native.Array) else array)
