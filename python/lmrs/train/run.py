"""What a training run has come to."""

from dataclasses import dataclass, field

from lmrs.train.optimiser import Optimiser


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
    """The ``steps`` of a run, those before it was resumed included."""

    steps: list[Step]

    @property
    def losses(self) -> list[float]:
        """The mean loss of each step."""
        return [step.loss for step in self.steps]


@dataclass
class Run:
    """The state of a run beside the weights: the optimiser, the steps made and how many examples were ``drawn``."""

    optimiser: Optimiser
    drawn: int = 0
    steps: list[Step] = field(default_factory=list)
