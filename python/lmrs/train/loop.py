"""The training loop: the gradient of an objective, clipped, into AdamW, step after step."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lmrs.batch import Backend, Dtype
from lmrs.errors import InputError
from lmrs.fingerprint import fingerprint
from lmrs.train.checkpoint import Checkpoints
from lmrs.train.objective import IGNORED, Dynamic, Objective, Remembering
from lmrs.train.optimiser import AdamW, Optimiser, finite_norm
from lmrs.train.order import Shuffled
from lmrs.train.rule import Rule
from lmrs.train.run import History, Run, Step
from lmrs.train.schedule import Cosine, Schedule

_OPTIMISER, _SCHEDULE = AdamW(), Cosine()


def fit(
    objective: Objective,
    *,
    steps: int,
    batch_tokens: int = 2048,
    accumulate: int = 1,
    optimiser: Rule = _OPTIMISER,
    schedule: Schedule = _SCHEDULE,
    clip: float | None = 1.0,
    average: float | None = None,
    dtype: Dtype = "f32",
    seed: int = 0,
    on_step: Callable[[Step], object] | None = None,
    on_gradient: Callable[[int, Mapping[str, Any]], object] | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    save_every: int = 100,
    resume: bool = False,
) -> History:
    """Minimise ``objective`` over the trainable parameters of its model, in place, and return how it went.

    A step takes ``accumulate`` batches, each of as many examples as fit into ``batch_tokens`` tokens (at least one, at
    most an epoch), and follows the mean over all their terms, however these are spread over the batches. Examples come
    in an order that is a function of (``seed``, epoch), dropout is one of (``seed``, batch, site, element), and the
    number of threads changes nothing. A gradient longer than ``clip`` is scaled to that norm. ``on_step`` hears of
    every step; ``on_gradient`` gets its number, from 1, and its gradients by path once the weights have followed them.

    ``average``, the decay d of ``a ← d·a + (1-d)·θ`` after each step, keeps a mean of the weights, from those of the
    first step on: see :meth:`History.averaged`.

    ``dtype`` is that of products: in ``bf16`` their operands are rounded, and weights, moments and gradients stay
    float32; see ``value_and_grad`` of :mod:`lmrs.backend.native` and :mod:`lmrs.backend.torch`.

    Under ``torchrun`` each of its processes calls this with the same arguments. They share the examples of every batch
    and make the same step, that of one process but for the order of sums and the elements that dropout leaves out; the
    first writes the checkpoints.

    With ``checkpoints``, a directory, the run is saved there every ``save_every`` steps and at its end; ``resume``
    continues the latest one there, if any, and ends with the same bits as a run that was never interrupted.

    Raises InputError for an impossible setting, a model without trainable parameters, a gradient that is not finite
    (naming its parameters; the model is as before the step), or a directory of another run; FileError if a checkpoint
    cannot be written; and what the model raises.
    """
    at_least_one = {"steps": steps, "batch_tokens": batch_tokens, "accumulate": accumulate, "save_every": save_every}
    for name, value in at_least_one.items():
        if value < 1:
            raise InputError(f"{name} is {value}, expected at least 1")
    if clip is not None and not clip > 0:
        raise InputError(f"clip is {clip}, expected more than 0, or None")
    if average is not None and not 0 <= average < 1:
        raise InputError(f"average is {average}, expected a decay 0 <= average < 1, or None")
    parameters = {path: p for path, p in objective.model.named_parameters().items() if p.trainable}
    if not parameters:
        raise InputError("the model has no trainable parameter; a delta brings some")
    name = backend_of(parameters)
    run = Run(Optimiser(optimiser, import_module(f"lmrs.backend.{name}")))
    if isinstance(objective, Remembering):
        run.memory = objective.memory
    kept = None
    if checkpoints is not None:
        settings: dict[str, object] = {"steps": steps, "batch_tokens": batch_tokens, "accumulate": accumulate}
        settings |= {"clip": clip, "average": average, "seed": seed, "optimiser": optimiser, "schedule": schedule}
        settings |= {"dtype": dtype}
        settings |= {"examples": len(objective), "frozen": _frozen(objective, run)}
        settings |= {"drawn as": objective.settings if isinstance(objective, Dynamic) else "they are"}
        kept = Checkpoints(Path(checkpoints), {setting: str(value) for setting, value in settings.items()})
        kept.start(run, parameters, resume=resume)
    start = time.perf_counter()
    with run.optimiser.backend.reusing():
        while (done := run.optimiser.steps) < steps:
            batches = [_draw(objective, run, batch_tokens, seed) for _ in range(accumulate)]
            loss, terms, gradients = _gradient(batches, run.optimiser.backend, name, (seed, done * accumulate), dtype)
            if not terms:
                raise InputError(f"the examples of step {done + 1} have nothing to predict: every label is {IGNORED}")
            norm = finite_norm(run.optimiser.backend, gradients) / terms
            shrink = 1.0 if clip is None else min(1.0, clip / (norm + 1e-6))
            factor = schedule(done, steps)
            run.optimiser.step(parameters, gradients, scale=shrink / terms, factor=factor)
            if average is not None:
                _averaged(run, parameters, average)
            if on_gradient is not None:
                on_gradient(done + 1, gradients)
            # The next step computes gradients in the memory of these.
            del gradients
            rate, seconds = factor * optimiser.learning_rate, time.perf_counter() - start
            step = Step(step=done + 1, loss=loss / terms, tokens=terms, rate=rate, norm=norm, seconds=seconds)
            run.steps.append(step)
            if kept is not None and (step.step % save_every == 0 or step.step == steps):
                kept.save(run, parameters)
            if on_step is not None:
                on_step(step)
    return History(run.steps, run.average)


def _averaged(run: Run, parameters: Mapping[str, Any], decay: float) -> None:
    def mixed(mean: Any, weight: Any) -> Any:
        return decay * mean + (1 - decay) * weight, ()

    backend = run.optimiser.backend
    for path, parameter in parameters.items():
        before = run.average.get(path)
        # Weights are replaced and never written over, so that the first average is the weights themselves.
        run.average[path] = (
            parameter.data if before is None else backend.updated(mixed, before, parameter.data, None)[0]
        )


def backend_of(parameters: Mapping[str, Any]) -> Backend:
    """Which backend holds ``parameters``. Raises InputError naming one that is not loaded."""
    for path, parameter in parameters.items():
        if parameter.data is None:
            raise InputError(f"the parameter {path} is not loaded")
    module = type(next(iter(parameters.values())).data).__module__
    return "torch" if module.partition(".")[0] == "torch" else "native"


def _frozen(objective: Objective, run: Run) -> str:
    """Which weights the trained ones stand on."""
    frozen = sorted((path, p) for path, p in objective.model.named_parameters().items() if not p.trainable)
    return fingerprint((path, run.optimiser.backend.numpy(parameter.data)) for path, parameter in frozen)


def _draw(objective: Objective, run: Run, batch_tokens: int, seed: int) -> tuple[Objective, list[int]]:
    """The next examples, as many as fit, all of one epoch, and the objective as it is in that epoch."""
    chosen: list[int] = []
    room = batch_tokens
    epoch = run.drawn // len(objective)
    current = objective.in_epoch(epoch) if isinstance(objective, Dynamic) else objective
    while True:
        index = run.drawn - epoch * len(objective)
        if index == len(objective):
            return current, chosen
        example = Shuffled(len(objective), seed, epoch)[index]
        room -= current.tokens(example)
        if chosen and room < 0:
            return current, chosen
        chosen.append(example)
        run.drawn += 1


def _gradient(
    batches: Sequence[tuple[Objective, Sequence[int]]],
    backend: Any,
    name: Backend,
    randomness: tuple[int, int],
    dtype: Dtype,
) -> tuple[float, int, dict[str, Any]]:
    """The loss of all batches, summed, how many terms it has, and its gradient."""
    total, terms = 0.0, 0
    gradients: dict[str, Any] = {}

    def loss(objective: Objective, indices: Sequence[int]) -> Any:
        nonlocal terms
        value, count = objective.loss(indices, backend=name)
        terms += count
        return value

    rank, workers = backend.workers()
    seed, first = randomness
    for turn, (objective, indices) in enumerate(batches):
        if not (mine := indices[rank::workers]):
            continue
        value, part = backend.value_and_grad(
            lambda objective=objective, mine=mine: loss(objective, mine),
            objective.model,
            randomness=(seed, (first + turn) * workers + rank),
            dtype=dtype,
        )
        total += value
        for path, gradient in part.items():
            gradients[path] = backend.added(gradients[path], gradient) if path in gradients else gradient
    if workers > 1:
        return backend.summed(total, terms, gradients, batches[0][0].model)  # type: ignore[no-any-return]
    return total, terms, gradients
