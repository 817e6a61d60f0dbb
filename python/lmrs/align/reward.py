"""Reward models: one number for a reply, learnt from preferences (Bradley & Terry 1952; Ouyang et al. 2022)."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import numpy as np

from lmrs import delta, ops
from lmrs.align import vector as v
from lmrs.align.logprobs import AT_ONCE, backend_of, through
from lmrs.align.pairwise import Told
from lmrs.align.preferences import Pair
from lmrs.align.vector import Floats, Vector
from lmrs.backend import native
from lmrs.batch import Backend, Batch
from lmrs.errors import FormatError, InputError
from lmrs.files import read_json, write_json
from lmrs.nn.layers import Linear
from lmrs.nn.module import Module
from lmrs.ops import Pooling, Value
from lmrs.weights import read_safetensors, write_safetensors

BINS = 10


class Scored(Module):
    """``model`` with a scalar head: ``score(hidden)`` of a sequence, by ``pooling`` its tokens, or of every token.

    The last token of a causal model has seen all of them; for an encoder ``"mean"`` is the better choice.

    The head starts from N(0, 1 / (width + 1)), its bias from 0 (Huang et al. 2024), drawn from ``seed``; it is trained
    together with whatever of ``model`` is: all, a delta, or with ``model.frozen()`` the head alone.
    """

    def __init__(self, model: Any, *, seed: int = 0, pooling: Pooling = "last") -> None:
        width = model.config.width
        self.model, self.pooling = model, pooling
        self.score = Linear(width, 1)
        drawn = np.random.Generator(np.random.Philox(key=seed)).normal(0.0, (width + 1) ** -0.5, (1, width))
        module = import_module(f"lmrs.backend.{backend_of(model)}")
        for parameter, numbers in ((self.score.weight, drawn), (self.score.bias, np.zeros(1))):
            array = module.array(numbers.astype(np.float32))
            parameter.data = array.tensor if isinstance(array, native.Array) else array.requires_grad_()  # type: ignore[union-attr]

    def forward(self, batch: Batch) -> Value:
        """The reward of each sequence, ``[sequences, 1]``."""
        return self.score(ops.pool(self.model.states(batch), batch.seqs, kind=self.pooling))

    def rewards(self, sequences: Sequence[Sequence[int]]) -> Floats:
        """The reward of each of ``sequences`` of token ids, as numbers."""
        backend = backend_of(self.model)
        module = import_module(f"lmrs.backend.{backend}")
        found: list[float] = []
        with module.still():
            for part in _parts(sequences):
                values = self(Batch.of(part, backend=backend))
                found += module.numpy(values.tensor if backend == "native" else values)[:, 0].tolist()
        return np.array(found)


@dataclass(frozen=True, kw_only=True)
class BradleyTerry:
    """``-log σ(r_chosen - r_rejected - margin) + centering·(r_chosen + r_rejected)²`` of each pair.

    The second term keeps rewards near 0 (Eisenstein et al. 2023), which the first does not determine.
    """

    centering: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.centering < math.inf:
            raise InputError(f"centering is {self.centering}, expected at least 0")

    def __call__(self, chosen: Vector, rejected: Vector, margins: Floats) -> Vector:
        """The loss of each pair."""
        losses = v.softplus(-(chosen - rejected - margins))
        return losses + self.centering * v.square(chosen + rejected) if self.centering else losses


_SETTING = BradleyTerry()


class Reward:
    """The mean of ``setting`` over ``pairs``: an :class:`~lmrs.train.objective.Objective`. ``told`` has the metrics."""

    def __init__(self, model: Scored, pairs: Sequence[Pair], setting: BradleyTerry) -> None:
        if not pairs:
            raise InputError("there is no pair to learn from")
        self.model, self.setting, self.told = model, setting, Told()
        self.margins = np.array([pair.margin for pair in pairs])
        self._whole = [tuple([*e.ids, e.labels[-1]] for e in (pair.chosen, pair.rejected)) for pair in pairs]
        longest = model.model.config.context
        for index, (chosen, rejected) in enumerate(self._whole):
            if longest is not None and max(len(chosen), len(rejected)) > longest:
                raise InputError(
                    f"pair {index} has {max(len(chosen), len(rejected))} tokens, the model takes {longest}"
                )

    def __len__(self) -> int:
        return len(self._whole)

    def tokens(self, index: int) -> int:
        """See :class:`~lmrs.train.objective.Objective`."""
        return sum(map(len, self._whole[index]))

    def loss(self, indices: Sequence[int], *, backend: Backend) -> tuple[Value, int]:
        """See :class:`~lmrs.train.objective.Objective`."""
        chosen = [self._whole[index] for index in indices]
        values = self.model(Batch.of([c for c, _ in chosen] + [r for _, r in chosen], backend=backend))
        margins = self.margins[list(indices)]

        def of(rewards: Vector) -> Vector:
            half = len(margins)
            self._tell(rewards.numbers)
            return v.total(self.setting(rewards[:half], rewards[half:], margins))

        return through(values, of, backend=backend), len(indices)

    def judged(self) -> Mapping[str, float]:
        """``accuracy``, ``margin``, ``loss`` and ``calibration`` over all pairs with the model as it is.

        ``calibration`` is the expected error of ``σ(r_chosen - r_rejected)`` as a probability of having ordered a pair
        rightly, over ten bins of equal width (Guo et al. 2017): 0 is right.
        """
        rewards = self.model.rewards([ids for pair in self._whole for ids in pair]).reshape(-1, 2)
        gaps = rewards[:, 0] - rewards[:, 1]
        sure, right = v.sigmoid(np.abs(gaps)).numbers, np.asarray(gaps > 0, np.float64)
        bins = np.minimum((sure * BINS).astype(int), BINS - 1)
        error = sum(abs((sure - right)[bins == b].sum()) for b in range(BINS)) / len(gaps)
        loss = self.setting(v.of(rewards[:, 0]), v.of(rewards[:, 1]), self.margins).numbers.mean()
        return {
            "accuracy": float(right.mean()),
            "margin": float(gaps.mean()),
            "loss": float(loss),
            "calibration": float(error),
        }

    def _tell(self, rewards: Floats) -> None:
        half = len(rewards) // 2
        gaps = rewards[:half] - rewards[half:]
        self.told.add(
            min_reward=rewards.min(),
            mean_reward=rewards,
            max_reward=rewards.max(),
            accuracy=np.asarray(gaps > 0, np.float64),
            margin=gaps,
        )


def reward(model: Scored, pairs: Sequence[Pair], *, setting: BradleyTerry = _SETTING) -> Reward:
    """The objective of ``setting`` over ``pairs``, for :func:`lmrs.train.fit`.

    A pair is read to the last token of its replies. Raises InputError if there is none, or one is longer than the model
    takes.
    """
    return Reward(model, pairs, setting)


def save_scored(scored: Scored, directory: str | os.PathLike[str]) -> None:
    """Write the head of ``scored``, how it pools, and the delta of its model if it has one, into ``directory``."""
    if delta.methods(scored.model):
        delta.save(scored.model, Path(directory) / "delta")
    Path(directory).mkdir(parents=True, exist_ok=True)
    tensors = {name: native.tensor(parameter) for name, parameter in scored.score.named_parameters().items()}
    write_json(Path(directory) / "score.json", {"pooling": scored.pooling})
    write_safetensors(Path(directory) / "score.safetensors", tensors)


def load_scored(model: Any, directory: str | os.PathLike[str]) -> Scored:
    """``model`` with the delta and the head that :func:`save_scored` wrote.

    Raises MissingFileError, or FormatError if they do not fit.
    """
    path = Path(directory)
    pooling = _pooling(path / "score.json")
    scored = Scored(delta.load(model, path / "delta") if (path / "delta").is_dir() else model, pooling=pooling)
    file = path / "score.safetensors"
    tensors = read_safetensors(file)
    for name, parameter in scored.score.named_parameters().items():
        if name not in tensors or tuple(tensors[name].shape) != parameter.shape:
            raise FormatError(f"{file}: expected {name} {list(parameter.shape)}")
        parameter.data = tensors[name]
    return scored


def _pooling(file: Path) -> Pooling:
    said = read_json(file).get("pooling")
    if said not in get_args(Pooling):
        raise FormatError(f"{file}: pooling is {said!r}, expected one of {', '.join(get_args(Pooling))}")
    pooling: Pooling = said  # type: ignore[assignment]
    return pooling


def _parts(sequences: Sequence[Sequence[int]]) -> list[list[Sequence[int]]]:
    parts: list[list[Sequence[int]]] = []
    room = 0
    for ids in sequences:
        if len(ids) > room:
            parts.append([])
            room = AT_ONCE
        parts[-1].append(ids)
        room -= len(ids)
    return parts
