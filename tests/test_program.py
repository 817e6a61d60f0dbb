"""Programs of every family: recorded twice they are equal, and a plan gives what its program gives, bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmrs import _rs, models, ops
from lmrs.backend.record import record
from lmrs.batch import Batch
from lmrs.delta import LoRA
from lmrs.models import LanguageModel

FIXTURES = Path(__file__).parent / "fixtures" / "models"
SEQ2SEQ = ["t5", "flan-t5"]
ALL = ["gpt2", "llama", "mistral", "qwen2", "qwen3", "bert", *SEQ2SEQ]
TEXTS = [[5, 6, 7, 8, 9], [11], [4] * 9 + [90, 3], [8, 8, 7]]


def programs(model: LanguageModel) -> list[_rs.Program]:
    """All that the engine records of a model."""
    pooled = record(model, lambda batch: ops.pool(model.states(batch), batch.seqs, kind="mean"))
    if hasattr(model, "encode"):
        return [pooled, record(model, model.encode), record(model, model, memory_width=model.config.width)]
    logprob = record(model, lambda batch: model.head.logprob(model.hidden(batch), batch.labels))
    return [pooled, logprob, record(model, model)]


def bound(program: _rs.Program, batch: Batch, width: int) -> tuple[dict[str, _rs.Tensor], list[tuple[str, list[int]]]]:
    starts = batch.seqs.starts
    assert starts is not None
    memory = np.random.default_rng(0).normal(size=(starts[-1], width)).astype(np.float32)
    values: dict[str, Any] = {"memory": _rs.Tensor.from_numpy(memory)}
    for name in program.inputs:
        values.setdefault(name, getattr(batch, name, None))
    inputs = {name: getattr(values[name], "tensor", values[name]) for name in program.inputs}
    return inputs, [("tokens", starts.tolist()), ("memory", starts.tolist())]


@pytest.mark.parametrize("name", ALL)
def test_recording_twice_gives_equal_programs(name: str) -> None:
    once, again = models.load(FIXTURES / name), models.load(FIXTURES / name)
    assert programs(once) == programs(again)
    assert programs(once)[0] != programs(once)[1]


@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_fused_is_unfused_to_the_bit(name: str, *, tuned: bool) -> None:
    model = models.load(FIXTURES / name)
    if tuned:
        model = LoRA(rank=3)(model)
    labels = [[-100, *text[1:]] for text in TEXTS]
    batch = Batch.of(TEXTS, select=[0, 4, 5, 19], labels=labels)
    for program in programs(model):
        inputs, streams = bound(program, batch, model.config.width)
        plan = _rs.Plan(program)
        (expected,), (fused,) = program.run(inputs, streams), plan.run(inputs, streams)
        assert np.array_equal(fused.numpy(), expected.numpy())
        assert len(plan) < len(program) * (0.95 if tuned else 0.8)


def test_a_program_holds_only_the_inputs_its_model_reads() -> None:
    assert {tuple(program.inputs) for program in programs(models.load(FIXTURES / "llama"))} == {
        ("ids", "positions"),
        ("ids", "positions", "labels"),
        ("ids", "positions", "select"),
    }
