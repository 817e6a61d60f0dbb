"""ELMo: the published fixture of bilm-tf, torch's own layers, training, and what vectors with context are worth."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lmrs import models, ops, train
from lmrs.backend import native
from lmrs.backend import torch as torch_backend
from lmrs.errors import ConfigError, FormatError, InputError, MissingFileError
from lmrs.eval import score_both_ways
from lmrs.eval.contextual import senses
from lmrs.models import bilm, elmo, static
from lmrs.models.elmo import DIRECTIONS, Words

FIXTURE = Path(__file__).parent / "fixtures" / "elmo"
CONFIG = elmo.Config(
    vocabulary=20, width=6, cells=9, layers=2, letter_width=4, filters=((1, 3), (2, 5), (3, 4)), highways=1, letters=12
)
SENTENCES = [["the", "bank", "of", "the", "river"], ["a", "bank"], ["the", "river", "flows"] * 4]
WORDS = ["<S>", "</S>", "<UNK>", *sorted({word for sentence in SENTENCES for word in sentence})]
VOCABULARY = {word: number for number, word in enumerate([*WORDS, *(f"filler{n}" for n in range(20 - len(WORDS)))])}


def fresh(seed: int = 3) -> elmo.Model:
    return models.initialise(elmo.Model(CONFIG), seed=seed)


def carried_on(after: Any) -> Any:
    return {side: [tuple(native.array(part.numpy()) for part in layer) for layer in after[side]] for side in DIRECTIONS}


def test_the_fixture_of_bilm_tf() -> None:
    """All sentences of three streams, the state carried from each to the next: the published top layer."""
    model = bilm.load(FIXTURE / "options.json", FIXTURE / "weights.hdf5")
    streams = json.loads((FIXTURE / "sentences.json").read_text())
    expected = np.load(FIXTURE / "expected.npz")
    carried = None
    for number in range(len(streams[0])):
        sentences = [["<S>", *stream[number].split(), "</S>"] for stream in streams]
        words = Words.of(sentences, letters=model.config.letters)
        layers, after = model.layers(words, carried)
        carried = carried_on(after)
        top = layers[-1].numpy()
        for stream, (start, stop) in enumerate(words.seqs.spans()):
            theirs = expected[f"{stream}_{number}"]
            ours = top[start + 1 : stop - 1]
            assert np.abs(ours - np.concatenate([theirs[0], theirs[1]], -1)).max() <= 1e-5
    assert np.array_equal(layers[0].numpy()[:, :16], layers[0].numpy()[:, 16:])


def by_torch(model: elmo.Model, sentence: list[str]) -> list[npt.NDArray[Any]]:
    """ELMo's layers in float64 from torch's convolution and LSTM with projection, without clipping."""
    weights = {
        path: torch.tensor(np.asarray(p.data.numpy(), np.float64)) for path, p in model.named_parameters().items()
    }
    config = model.config
    spelt = torch.tensor([elmo.spell(word, config.letters) for word in sentence])
    letters = weights["embed.weight"][spelt].transpose(1, 2)
    parts = []
    for n, (size, count) in enumerate(config.filters):
        kernel = weights[f"convolutions.{n}.weight"].view(count, size, config.letter_width).transpose(1, 2)
        y = torch.conv1d(letters, kernel, weights[f"convolutions.{n}.bias"]).amax(-1)
        parts.append(y.relu())
    x = torch.cat(parts, -1)
    for n in range(config.highways):
        gate = (x @ weights[f"highways.{n}.gate.weight"].T + weights[f"highways.{n}.gate.bias"]).sigmoid()
        new = (x @ weights[f"highways.{n}.transform.weight"].T + weights[f"highways.{n}.transform.bias"]).relu()
        x = gate * new + (1 - gate) * x
    x = x @ weights["project.weight"].T + weights["project.bias"]
    sides = []
    for side in ("forwards", "backwards"):
        found = [x]
        for n in range(config.layers):
            layer = torch.nn.LSTM(config.width, config.cells, proj_size=config.width).double()
            with torch.no_grad():
                layer.weight_ih_l0.copy_(weights[f"{side}.{n}.input"])
                layer.weight_hh_l0.copy_(weights[f"{side}.{n}.state"])
                layer.bias_ih_l0.copy_(weights[f"{side}.{n}.bias"])
                layer.bias_hh_l0.zero_()
                layer.weight_hr_l0.copy_(weights[f"{side}.{n}.projection"])
            entering = found[-1] if side == "forwards" else found[-1].flip(0)
            out = layer(entering)[0]
            out = out if side == "forwards" else out.flip(0)
            found.append(out + found[-1] if n else out)
        sides.append(found)
    return [torch.cat(pair, -1).detach().numpy() for pair in zip(*sides, strict=True)]


def test_it_is_torchs_layers() -> None:
    model = fresh()
    for sentence in SENTENCES:
        layers, _ = model.layers(Words.of([sentence], letters=CONFIG.letters))
        for ours, theirs in zip(layers, by_torch(model, sentence), strict=True):
            assert np.abs(ours.numpy() - theirs).max() <= 1e-5


def test_packed_is_one_by_one_and_torch_agrees() -> None:
    model = fresh()
    packed = Words.of(SENTENCES, letters=CONFIG.letters)
    alone = [model.states(Words.of([sentence], letters=CONFIG.letters)).numpy() for sentence in SENTENCES]
    assert np.array_equal(model.states(packed).numpy(), np.concatenate(alone))
    placed = torch_backend.place(model)
    theirs = placed.states(Words.of(SENTENCES, letters=CONFIG.letters, backend="torch"))
    assert np.abs(torch_backend.numpy(theirs) - np.concatenate(alone)).max() <= 1e-5


def test_carried_states_are_one_long_text() -> None:
    model, text = fresh(), SENTENCES[2]
    whole = model.layers(Words.of([text], letters=CONFIG.letters))[0]
    first, after = model.layers(Words.of([text[:5]], letters=CONFIG.letters))
    second, _ = model.layers(Words.of([text[5:]], letters=CONFIG.letters), carried_on(after))
    for a, b, c in zip(first, second, whole, strict=True):
        together = np.concatenate([a.numpy(), b.numpy()])[:, : CONFIG.width]
        assert np.abs(together - c.numpy()[:, : CONFIG.width]).max() <= 1e-6


def test_the_mix_of_layers() -> None:
    mix = models.initialise(elmo.ScalarMix(3), seed=0)
    weights = np.array([[0.3], [-1.0], [0.7]], np.float32)
    mix.weight.data, mix.gamma.data = native.array(weights).tensor, native.array(np.array([[1.7]], np.float32)).tensor
    layers = [np.random.default_rng(n).normal(size=(5, 8)).astype(np.float32) for n in range(3)]
    seen = [torch.tensor(weights, dtype=torch.float64, requires_grad=True), torch.tensor([[1.7]]).double()]
    shares = (seen[1] * seen[0].softmax(0)).flatten()
    expected = torch.einsum("k,kij->ij", shares, torch.tensor(np.stack(layers)).double())
    ours = mix([native.array(layer) for layer in layers], native.array).numpy()
    assert np.abs(ours - expected.detach().numpy()).max() <= 1e-6

    def loss() -> Any:
        return ops.sum(mix([native.array(layer) for layer in layers], native.array))

    _, grads = native.value_and_grad(loss, mix)
    expected.sum().backward()
    assert seen[0].grad is not None
    assert np.abs(grads["weight"].numpy() - seen[0].grad.numpy()).max() <= 1e-5
    assert grads["gamma"].numpy() == pytest.approx(float(expected.detach().sum()) / 1.7, rel=1e-5)


def value(model: Any, truncate: int, indices: list[int], context: int = 6) -> tuple[float, int, dict[str, Any]]:
    objective = train.bilm(model, SENTENCES, VOCABULARY, context=context, truncate=truncate)
    counts = []

    def loss() -> Any:
        found, count = objective.loss(indices, backend="native")
        counts.append(count)
        return found

    total, grads = native.value_and_grad(loss, model)
    return total, counts[0], {path: grad.numpy() for path, grad in grads.items()}


def test_the_objective_is_both_cross_entropies() -> None:
    model = fresh()
    objective = train.bilm(model, SENTENCES, VOCABULARY, context=6)
    everything = list(range(len(objective)))
    total, count, grads = value(model, 20, everything)
    singles = [value(model, 20, [index]) for index in everything]
    assert total == pytest.approx(sum(v for v, _, _ in singles), rel=1e-6)
    assert count == sum(2 * (len(run) - 1) for run in objective.runs) == sum(n for _, n, _ in singles)
    expected = 0.0
    head = model.named_parameters()["head.weight"].data.numpy().astype(np.float64)
    for run, ids in zip(objective.runs, objective.ids, strict=True):
        top = by_torch(model, list(run))[-1]
        for rows, labels in ((top[:-1, :6], ids[1:]), (top[1:, 6:], ids[:-1])):
            logits = rows @ head.T
            logprob = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            expected -= logprob[np.arange(len(labels)), labels].sum()
    assert total == pytest.approx(expected, rel=1e-5)
    # Cut into pieces the value is the same, since states are carried; the gradient is not.
    cut, same, cut_grads = value(model, 2, everything)
    assert (cut, same) == (pytest.approx(total, rel=1e-6), count)
    differs = [path for path, grad in grads.items() if np.abs(grad - cut_grads[path]).max() > 1e-6]
    assert "forwards.0.state" in differs
    assert "head.weight" not in differs


def test_scores_both_ways() -> None:
    """Against torch's layers in float64; a sentence's score knows nothing of its company."""
    model = fresh()
    table = model.named_parameters()["head.weight"]
    table.data = native.array(table.data.numpy() * 8).tensor
    sentences = [*SENTENCES, ["an", "unknown", "bank"]]
    head = table.data.numpy().astype(np.float64)
    found = score_both_ways(model, sentences, vocabulary=list(VOCABULARY))
    for sentence, score in zip(sentences, found, strict=True):
        run = ["<S>", *sentence, "</S>"]
        ids = [VOCABULARY.get(word, VOCABULARY["<UNK>"]) for word in run]
        top = by_torch(model, run)[-1]
        for logprobs, rows, labels in (
            (score.forward_logprobs, top[:-1, :6], ids[1:]),
            (score.backward_logprobs, top[1:, 6:], ids[:-1]),
        ):
            logits = rows @ head.T
            expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            np.testing.assert_allclose(logprobs, expected[np.arange(len(labels)), labels], atol=1e-5)
        assert score.words == len(sentence)
        (alone,) = score_both_ways(model, [sentence], vocabulary=list(VOCABULARY))
        assert alone.forward_logprobs.tobytes() == score.forward_logprobs.tobytes()
        assert alone.backward_logprobs.tobytes() == score.backward_logprobs.tobytes()
    assert [score.unknown for score in found] == [0, 0, 0, 2]
    # The same sums as the objective of training, which has one run for each sentence here.
    objective = train.bilm(model, SENTENCES[2:], VOCABULARY)
    total, count = objective.loss([0], backend="native")
    assert (count, -found[2].forward - found[2].backward) == (26, pytest.approx(total.item(), rel=1e-5))


def test_it_trains_and_torch_agrees(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 30, "batch_tokens": 24, "optimiser": train.AdamW(learning_rate=3e-2)}
    ours, placed = fresh(), torch_backend.place(fresh())
    history = train.fit(train.bilm(ours, SENTENCES, VOCABULARY, context=8, truncate=3), **settings)
    theirs = train.fit(train.bilm(placed, SENTENCES, VOCABULARY, context=8, truncate=3), **settings)
    assert history.losses[0] == pytest.approx(np.log(20), abs=0.2)
    assert history.losses[-1] < history.losses[0] - 1
    assert theirs.losses == pytest.approx(history.losses, rel=5e-3)
    models.save(ours, tmp_path / "saved")
    again = models.load(tmp_path / "saved")
    assert again.config == ours.config
    words = Words.of(SENTENCES, letters=CONFIG.letters)
    assert np.array_equal(again.states(words).numpy(), ours.states(words).numpy())


SENSES = {
    "money": ["the money in the bank grew", "she paid the bank her money", "money from the bank was paid"],
    "river": ["the river and the bank flooded", "fish swim by the bank of a river", "the river bank had fish"],
}


def test_one_word_two_senses() -> None:
    """A static vector is one for both; a network that reads the sentence gives each place its own."""
    sentences = {sense: [text.split() for text in texts] for sense, texts in SENSES.items()}
    everything = [sentence for group in sentences.values() for sentence in group]
    words = ["<S>", "</S>", "<UNK>", *sorted({word for sentence in everything for word in sentence})]
    vocabulary = {word: number for number, word in enumerate(words)}
    plain = models.initialise(static.Model(static.Config(vocabulary=len(words), width=16)), seed=0)
    ids = [[vocabulary[word] for word in sentence] for sentence in everything]
    history = train.fit(
        train.skipgram(plain, ids, window=3), steps=60, optimiser=train.AdamW(learning_rate=5e-2), batch_tokens=200
    )
    assert history.losses[-1] < history.losses[0] - 0.5
    table = plain.embed.weight.data.numpy()
    without = senses(lambda given: [table[[vocabulary[word] for word in s]] for s in given], "bank", sentences)
    assert without.within == pytest.approx(0, abs=1e-6)
    assert without.across == pytest.approx(0, abs=1e-6)
    assert without.nearest == 0
    config = elmo.Config(**{**vars(CONFIG), "vocabulary": len(words), "width": 16, "cells": 24})
    model = models.initialise(elmo.Model(config), seed=0)
    train.fit(
        train.bilm(model, everything, vocabulary, context=9),
        steps=80,
        optimiser=train.AdamW(learning_rate=1e-2),
        batch_tokens=64,
    )

    def represent(given: Any) -> Any:
        batch = Words.of(given, letters=config.letters)
        top = model.states(batch).numpy()
        return [top[start:stop] for start, stop in batch.seqs.spans()]

    found = senses(represent, "bank", sentences)
    assert found.within > 0.01
    assert found.distances.shape == (6, 6)
    assert np.allclose(found.distances, found.distances.T)
    with pytest.raises(InputError, match="does not hold 'bank'"):
        senses(represent, "bank", {**sentences, "none": [["a"], ["b"]]})


@pytest.mark.parametrize(
    ("edit", "error", "names"),
    [
        (lambda o, _: o.pop("lstm"), ConfigError, "an object lstm"),
        (lambda o, _: o["lstm"].update(dim="64"), ConfigError, "cell_size is '64'"),
        (lambda o, _: o["char_cnn"].update(activation="gelu"), ConfigError, "activation is 'gelu'"),
        (lambda o, _: o["char_cnn"].update(filters=[[1]]), ConfigError, "filters is"),
        (lambda o, _: o["lstm"].update(n_layers=3), ConfigError, "missing RNN_0/RNN/MultiRNNCell/Cell2"),
        (lambda o, _: o["lstm"].update(dim=32), ConfigError, "W_P_0 is [64, 16]"),
        (lambda _, path: path.write_bytes(b"not hdf5"), FormatError, "not an HDF5 file"),
        (lambda _, path: path.unlink(), MissingFileError, "no such file"),
    ],
)
def test_files_that_do_not_fit(edit: Any, error: type[Exception], names: str, tmp_path: Path) -> None:
    shutil.copy(FIXTURE / "weights.hdf5", tmp_path / "weights.hdf5")
    options = json.loads((FIXTURE / "options.json").read_text())
    edit(options, tmp_path / "weights.hdf5")
    (tmp_path / "options.json").write_text(json.dumps(options))
    with pytest.raises(error) as raised:
        bilm.load(tmp_path / "options.json", tmp_path / "weights.hdf5")
    assert names in str(raised.value)


def test_without_h5py_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"lmrs\[elmo\]"):
        bilm.load(FIXTURE / "options.json", FIXTURE / "weights.hdf5")


@pytest.mark.parametrize(
    ("call", "error", "names"),
    [
        (lambda: Words.of([["a"], []]), InputError, "sentence 1 is empty"),
        (lambda: fresh().states("ids"), ConfigError, "characters of words"),
        (lambda: train.bilm(fresh(), SENTENCES, {"a": 0}), InputError, "vocabulary has 1 words"),
        (lambda: train.bilm(fresh(), [], VOCABULARY), InputError, "no sentence"),
        (lambda: train.bilm(fresh(), SENTENCES, VOCABULARY, truncate=0), InputError, "200 and 0"),
        (lambda: score_both_ways(fresh(), SENTENCES), MissingFileError, "vocab.txt: no such file"),
        (lambda: score_both_ways(fresh(), SENTENCES, vocabulary=["<S>"]), InputError, "has 1 words, the head 20, and"),
        (lambda: score_both_ways(fresh(), [["a"], []], vocabulary=list(VOCABULARY)), InputError, "sentence 1 is empty"),
    ],
)
def test_bad_input_is_named(call: Any, error: type[Exception], names: str) -> None:
    with pytest.raises(error, match=names):
        call()
