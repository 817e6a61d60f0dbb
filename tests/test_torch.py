"""The torch interpreter: moving models there and back, and the gradients of whole models beside the native tape's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmrs import models, ops
from lmrs.backend import native
from lmrs.backend import torch as torch_backend
from lmrs.batch import Batch, Ragged
from lmrs.errors import InputError, ShapeError
from lmrs.nn.module import Module

FIXTURES = Path(__file__).parent / "fixtures" / "models"
TEXTS = [[5, 6, 7, 8, 9], [11, 12], [4, 4, 4, 90, 3, 2, 17]]
LABELS = [[6, 7, 8, 9, -100], [12, -100], [-100, 4, 90, 3, 2, 17, 1]]


def loss(model: Any, batch: Batch) -> Any:
    if not hasattr(model, "encode"):
        return model.head.loss(model.hidden(batch), batch.labels)
    memory = model.encode(batch)
    return model.head.loss(model.hidden(batch, memory, Ragged("memory", batch.seqs.starts)), batch.labels)


@pytest.mark.parametrize("name", sorted(path.name for path in FIXTURES.iterdir() if path.is_dir()))
def test_gradients_of_a_model_are_the_tapes(name: str) -> None:
    model = models.load(FIXTURES / name, dtype="float64")
    value, ours = native.value_and_grad(lambda: loss(model, Batch.of(TEXTS, labels=LABELS)), model)
    placed = torch_backend.place(model, dtype=torch.float64)
    expected, theirs = torch_backend.value_and_grad(
        lambda: loss(placed, Batch.of(TEXTS, labels=LABELS, backend="torch")), placed
    )
    assert value == pytest.approx(expected, rel=1e-10)
    assert ours.keys() == theirs.keys()
    largest = max(float(grad.abs().max()) for grad in theirs.values())
    for path, grad in theirs.items():
        assert np.abs(ours[path].numpy() - grad.numpy()).max() <= 1e-6 * largest, path


def test_the_loss_of_capped_logits_is_that_of_the_logits() -> None:
    """Gemma 2: what the head scores without storing logits, and what it generates from, are one distribution."""
    model = models.load(FIXTURES / "gemma2")
    assert model.head.cap == 5.0
    batch = Batch.of(TEXTS, labels=LABELS)
    hidden, labels = model.hidden(batch), batch.labels.numpy()
    logprobs = torch.from_numpy(model.head(hidden).numpy()).double().log_softmax(-1).numpy()
    expected = np.where(labels >= 0, logprobs[np.arange(len(labels)), np.maximum(labels, 0)], 0.0)
    assert np.abs(model.head.logprob(hidden, batch.labels).numpy()[:, 0] - expected).max() <= 1e-5
    assert model.head.loss(hidden, batch.labels, reduction="sum").item() == pytest.approx(-expected.sum(), rel=1e-5)
    ranked = model.head.logprob(hidden, batch.labels, top_k=3).numpy()
    assert np.abs(ranked[:, 0] - expected).max() <= 1e-5
    counted = labels >= 0
    assert np.abs(ranked[counted, 7:] - np.sort(logprobs[counted])[:, :-4:-1]).max() <= 1e-5


def test_there_and_back() -> None:
    model = models.load(FIXTURES / "qwen2")
    placed = torch_backend.place(model)
    assert placed.head.weight is placed.embed.weight
    assert placed.blocks[0].attn.rope.frequencies is placed.blocks[1].attn.rope.frequencies
    assert placed.embed.weight.data.requires_grad
    assert not placed.blocks[0].attn.rope.frequencies.data.requires_grad
    back = torch_backend.fetch(placed)
    assert back.head.weight is back.embed.weight
    for path, parameter in model.named_parameters().items():
        assert np.array_equal(back.named_parameters()[path].data.numpy(), parameter.data.numpy())
    batch = Batch.of(TEXTS)
    assert np.array_equal(back(batch).numpy(), model(batch).numpy())


def test_frozen_parameters_ask_for_no_gradient() -> None:
    placed = torch_backend.place(models.load(FIXTURES / "gpt2").frozen())
    assert not any(p.data.requires_grad for p in placed.named_parameters().values())


def test_placing_copies() -> None:
    """Training the placed model must not reach the one it came from, nor a second copy."""
    model = models.load(FIXTURES / "gpt2")
    first = torch_backend.place(model)
    second = torch_backend.place(first)
    with torch.no_grad():
        first.embed.weight.data.zero_()
    assert float(second.embed.weight.data.detach().abs().max()) > 0
    assert np.abs(model.embed.weight.data.numpy()).max() > 0


def test_errors_name_the_op() -> None:
    model = models.load(FIXTURES / "gpt2")
    batch = Batch.of(TEXTS, backend="torch")
    with pytest.raises(InputError, match=r"embed: a parameter \[99, 32\] is not on torch"):
        model(batch)
    placed = torch_backend.place(model)
    for ids in ([[99]], [[-1]]):
        with pytest.raises(InputError, match=r"embed: index in .* expected 0 … 98"):
            placed(Batch.of(ids, backend="torch"))
    with pytest.raises(InputError, match=r"embed: index in 0 … 64, expected 0 … 63"):
        placed(Batch.of([[1] * 65], backend="torch"))
    with pytest.raises(ShapeError, match=r"linear\(\[2, 3\], \[4, 5\], -\)"):
        ops.linear(torch.zeros(2, 3), torch.zeros(4, 5))
    with pytest.raises(InputError, match="not loaded"):
        torch_backend.place(type(model)(model.config))


def test_no_value_among_the_inputs() -> None:
    with pytest.raises(InputError, match=r"add: no input is a value .*ndarray, ndarray"):
        ops.add(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(InputError, match="linear: no input is a value"):
        ops.linear(np.zeros((2, 3)), np.zeros((4, 3)))


def test_dropout_drops_what_the_native_one_drops() -> None:
    x = np.ones((37, 51), np.float32)
    outputs: dict[str, Any] = {}

    def loss(backend: str, value: Any) -> Any:
        outputs[backend] = ops.dropout(value, rate=0.25, site="here")
        return ops.sum(outputs[backend])

    for randomness in ((1, 2), (1, 3), (2**63 + 5, 2)):
        torch_backend.value_and_grad(lambda: loss("torch", torch.from_numpy(x)), Module(), randomness=randomness)
        value = native.array(x)
        native.differentiate(lambda value=value: loss("native", value), [value], randomness=randomness)
        assert np.array_equal(outputs["torch"].numpy(), outputs["native"].numpy())
        assert 0.2 < (outputs["native"].numpy() == 0).mean() < 0.3
    assert torch.equal(ops.dropout(torch.from_numpy(x), rate=0.25, site="here"), torch.from_numpy(x))
