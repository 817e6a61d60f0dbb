"""What every family's model offers to training, evaluation and the engine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from lmrs import ops
from lmrs.batch import Batch
from lmrs.models.family import family
from lmrs.models.source import Array, Sources, by_tensor, written
from lmrs.nn.layers import Head
from lmrs.nn.module import Module
from lmrs.ops import Value


class Config(Protocol):
    """The part of a family's Config that all share. ``context`` is None where the family sets no limit."""

    @property
    def family(self) -> str: ...  # noqa: D102
    @property
    def vocabulary(self) -> int: ...  # noqa: D102
    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def context(self) -> int | None: ...  # noqa: D102

    def to_dict(self) -> dict[str, Any]:
        """The fields of a config.json that transformers reads as the same model."""


class LanguageModel(Module):
    """A model whose ``head`` turns ``hidden`` states into logits.

    ``config`` is the family's Config. ``metadata`` are all fields of the config.json it was loaded from (ids of special
    tokens among them), written back when the model is saved. ``source`` is the path it was loaded from, if it was.
    """

    config: Config
    metadata: Mapping[str, Any]
    head: Head
    source: Path | None = None
    fingerprint: str | None = None

    def __repr__(self) -> str:
        count = sum(parameter.size for parameter in self.named_parameters().values())
        on_it = "".join(f", {method}" for method in getattr(self, "deltas", ()))
        return f"<{self.config.family} of {count:,} parameters{on_it}>"

    def sources(self) -> Sources:
        """Where each parameter is in a checkpoint of this family, under the names transformers writes today."""
        return family(self.config.family).weights(self.config)

    def repeated(self) -> dict[str, str]:
        """The tensors that a checkpoint of this family may repeat, each with the one it repeats."""
        return family(self.config.family).copies(self.metadata, {source.name for source in self.sources().values()})

    def stored(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """The tensors of a checkpoint, by name, that hold the parameters whose ``values`` these are, by path."""
        groups = by_tensor({path: source for path, source in self.sources().items() if path in values})
        return {name: written({path: values[path] for path in parts}, parts) for name, parts in groups.items()}

    def hidden(self, batch: Batch) -> Value:
        """What goes into the head, ``[T, width]``."""
        raise NotImplementedError

    def states(self, batch: Batch) -> Value:
        """What embeddings are pooled from, ``[T, width]``."""
        return self.hidden(batch)

    def forward(self, batch: Batch, *memory: Any) -> Value:
        """The logits ``[N, V]`` of the rows ``batch.select``, of all rows if it is None; arguments as for hidden."""
        hidden = self.hidden(batch, *memory)
        return self.head(hidden if batch.select is None else ops.rows(hidden, batch.select))
