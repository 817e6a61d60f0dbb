"""An objective with a term for the weights themselves."""

from collections.abc import Callable, Sequence

from lmrs import ops
from lmrs.batch import Backend
from lmrs.nn.module import Module
from lmrs.ops import Value
from lmrs.train.objective import Dynamic, Objective


class Penalised:
    """``objective + weight·penalty(model)``, the penalty once a step whatever is in it.

    ``penalty`` returns ``[1, 1]``: :func:`lmrs.delta.orthogonality` of AdaLoRA, :func:`lmrs.delta.expected_count` of
    diff pruning.
    """

    def __init__(self, objective: Objective, penalty: Callable[[Module], Value], *, weight: float) -> None:
        self.objective, self.penalty, self.weight = objective, penalty, weight

    @property
    def model(self) -> Module:
        """See :class:`~lmrs.train.objective.Objective`."""
        return self.objective.model

    def __len__(self) -> int:
        return len(self.objective)

    def tokens(self, index: int) -> int:
        """See :class:`~lmrs.train.objective.Objective`."""
        return self.objective.tokens(index)

    @property
    def settings(self) -> str:
        """See :class:`~lmrs.train.objective.Dynamic`."""
        return self.objective.settings if isinstance(self.objective, Dynamic) else "they are"

    def in_epoch(self, epoch: int) -> "Penalised":
        """See :class:`~lmrs.train.objective.Dynamic`."""
        if not isinstance(self.objective, Dynamic):
            return self
        return Penalised(self.objective.in_epoch(epoch), self.penalty, weight=self.weight)

    def loss(self, indices: Sequence[int], *, backend: Backend) -> tuple[Value, int]:
        """See :class:`~lmrs.train.objective.Objective`."""
        value, terms = self.objective.loss(indices, backend=backend)
        # The mean over all terms of a step has the penalty once, however the step is cut into batches.
        return ops.add(value, ops.scale(self.penalty(self.model), by=self.weight * terms)), terms
