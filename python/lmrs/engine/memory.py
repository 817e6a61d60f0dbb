"""What memory an engine will need."""

from dataclasses import dataclass
from pathlib import Path

from lmrs.backend import machine
from lmrs.engine.plans import Plans

SAMPLING = 3 * 8
"""Bytes a token of the vocabulary takes while one is drawn: its score, its weight, and its place among the others."""


def weight_files(source: Path) -> list[Path]:
    """The files of a checkpoint that hold weights."""
    if source.is_file():
        return [source]
    return sorted(source.glob("*.safetensors"))


@dataclass(frozen=True)
class Memory:
    """Bytes an engine needs while it works, beyond what its process held before the model was loaded.

    ``weights`` are the packed ones; ``checkpoint`` are weights as the model holds them: pages of its file, which the
    system takes back when it needs them, or memory if they were made or changed. ``cache`` is the most that keys and
    values take, ``values`` those between layers in a step, ``sampling`` what choosing tokens takes.
    """

    weights: int
    checkpoint: int
    cache: int
    values: int
    sampling: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.checkpoint + self.cache + self.values + self.sampling


def memory(plans: Plans, *, cache: int, step_tokens: int, sequences: int) -> Memory:
    """What an engine over ``plans`` needs with these limits."""
    threads = machine.threads()
    plan, vocabulary = (plans.logits, plans.bounds["vocabulary"]) if plans.causal else (plans.pooled("mean"), 0)
    # A text longer than a step is embedded whole.
    rows = step_tokens if plans.causal else max(step_tokens, plans.bounds["context"] or 0)
    source = plans.model.source
    files = [] if source is None else weight_files(Path(source))
    held = sum(file.stat().st_size for file in files)
    return Memory(
        weights=plan.bytes,
        checkpoint=held or 4 * sum(parameter.size for parameter in plans.model.named_parameters().values()),
        cache=cache,
        values=plan.working_bytes(rows, min(sequences, rows)),
        sampling=threads * SAMPLING * vocabulary,
    )
