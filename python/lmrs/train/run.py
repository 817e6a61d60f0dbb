"""What a training run has come to."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from lmrs.errors import InputError
from lmrs.nn.module import Module, Parameter
from lmrs.train.optimiser import Optimiser

M = TypeVar("M", bound=Module)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one step was.

    ``loss`` is the mean over the ``tokens`` terms of the step, before it; ``rate`` the learning rate, ``norm`` that of
    the gradient before clipping, ``seconds`` the time since the run (or its part in this process) began.
    """

    step: int
    loss: float
    tokens: int
    rate: float
    norm: float
    seconds: float


@dataclass(frozen=True)
class History:
    """The ``steps`` of a run, those before it was resumed included; ``average`` are weights by path, if kept."""

    steps: list[Step]
    average: Mapping[str, Any] = field(default_factory=dict)

    def averaged(self, model: M) -> M:
        """``model`` with the averages in place of its weights, which keep what they are in ``model`` itself.

        Raises InputError if none were kept.
        """
        if not self.average:
            raise InputError("this run kept no average: fit(average=0.999) does")
        paths = {id(parameter): path for path, parameter in model.named_parameters().items()}

        def taken(parameter: Parameter) -> Parameter:
            path = paths.get(id(parameter), "")
            return replace(parameter, data=self.average[path]) if path in self.average else parameter

        return model.map_parameters(taken)

    @property
    def losses(self) -> list[float]:
        """The mean loss of each step."""
        return [step.loss for step in self.steps]


@dataclass
class Run:
    """The state of a run beside the weights.

    The optimiser, the steps made, how many examples were ``drawn``, the weights' ``average`` if one is kept, and what
    an objective remembers.
    """

    optimiser: Optimiser
    drawn: int = 0
    average: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
