"""Pretraining objectives: each corruption has the statistics its paper gives it, and packing changes nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrs import models, train
from lmrs.backend import native
from lmrs.backend import torch as torch_backend
from lmrs.errors import ConfigError, InputError
from lmrs.tokenizer import Tokenizer
from lmrs.train.mlm import Marks, Masking, continuing
from lmrs.train.objective import IGNORED, Dynamic
from lmrs.train.order import generator
from lmrs.train.span import Corruption, sentinels_of

FIXTURES = Path(__file__).parent / "fixtures" / "models"
MARKS = Marks(mask=2, cls=0, sep=1)
LENGTHS = (40, 7, 25, 64, 3)
DOCUMENTS = [np.random.default_rng(n).integers(3, 80, n).tolist() for n in LENGTHS]
SENTENCES = [[np.random.default_rng((n, k)).integers(3, 80, 3 + k).tolist() for k in range(n)] for n in (5, 4, 7)]
SENTINELS = list(range(98, 80, -1))


def base(family: str) -> Any:
    return models.load(FIXTURES / family)


OBJECTIVES: dict[str, Any] = {
    "mlm": lambda model: train.mlm(model, DOCUMENTS, context=24, marks=MARKS),
    "next": lambda model: train.sentence_pairs(model, SENTENCES, kind="next", context=20, marks=MARKS),
    "order": lambda model: train.sentence_pairs(model, SENTENCES, kind="order", context=20, marks=MARKS),
    "span": lambda model: train.span_corruption(model, DOCUMENTS, context=48, sentinels=SENTINELS, eos=1),
    "prefix": lambda model: train.prefix_lm(model, DOCUMENTS, context=24),
    "seq2seq": lambda model: train.seq2seq(model, list(zip(DOCUMENTS, DOCUMENTS[1:], strict=False))),
}
FAMILY = {"mlm": "bert", "next": "bert", "order": "bert", "span": "t5", "prefix": "t5", "seq2seq": "flan-t5"}


def total(objective: Any, indices: list[int], backend: Any = native) -> tuple[float, int, dict[str, Any]]:
    counts = []
    name: Any = "native" if backend is native else "torch"

    def loss() -> Any:
        value, count = objective.loss(indices, backend=name)
        counts.append(count)
        return value

    value, grads = backend.value_and_grad(loss, objective.model)
    return value, counts[0], {path: backend.numpy(grad) for path, grad in grads.items()}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_packed_is_the_sum_of_single_and_torch_agrees(name: str) -> None:
    objective = OBJECTIVES[name](base(FAMILY[name]))
    everything = list(range(len(objective)))
    value, count, grads = total(objective, everything)
    singles = [total(objective, [index]) for index in everything]
    assert count == sum(n for _, n, _ in singles)
    assert value == pytest.approx(sum(v for v, _, _ in singles), rel=1e-6)
    for path, grad in grads.items():
        summed = np.sum([g[path] for _, _, g in singles if path in g], axis=0)
        assert np.abs(grad - summed).max() <= 1e-5 * max(1.0, np.abs(summed).max()), path
    other = OBJECTIVES[name](torch_backend.place(objective.model))
    theirs, _, their_grads = total(other, everything, torch_backend)
    assert theirs == pytest.approx(value, rel=1e-5)
    for path, grad in grads.items():
        assert np.abs(grad - their_grads[path]).max() <= 1e-3 * max(1.0, np.abs(grad).max()), path


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_learns_and_the_backends_agree(name: str) -> None:
    settings: dict[str, Any] = {"steps": 12, "batch_tokens": 96, "optimiser": train.AdamW(learning_rate=1e-2)}
    ours = train.fit(OBJECTIVES[name](base(FAMILY[name])), **settings)
    placed = torch_backend.place(base(FAMILY[name]))
    theirs = train.fit(OBJECTIVES[name](placed), **settings)
    assert np.mean(ours.losses[-3:]) < np.mean(ours.losses[:3])
    assert theirs.losses == pytest.approx(ours.losses, rel=2e-3)
    assert theirs.losses[:4] == pytest.approx(ours.losses[:4], rel=1e-4)


@pytest.mark.parametrize("name", ["mlm", "next", "order", "span", "prefix"])
def test_an_epoch_draws_anew_and_a_draw_is_a_function(name: str) -> None:
    objective = OBJECTIVES[name](base(FAMILY[name]))
    assert isinstance(objective, Dynamic)
    for index in range(len(objective)):
        assert objective[index] == objective.in_epoch(0)[index]
        assert objective.tokens(index) >= 1
    differs = [objective[i] != objective.in_epoch(1)[i] for i in range(len(objective))]
    assert any(differs)


def test_a_resumed_run_draws_the_same(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"batch_tokens": 48, "accumulate": 2, "save_every": 3, "steps": 8}

    class Killed(Exception):
        pass

    def kill(step: train.Step) -> None:
        if step.step == 5:
            raise Killed

    whole = train.fit(OBJECTIVES["mlm"](base("bert")), **settings)
    with pytest.raises(Killed):
        train.fit(OBJECTIVES["mlm"](base("bert")), **settings, checkpoints=tmp_path, on_step=kill)
    resumed = train.fit(OBJECTIVES["mlm"](base("bert")), **settings, checkpoints=tmp_path, resume=True)
    assert resumed.losses == whole.losses
    other = train.mlm(base("bert"), DOCUMENTS, context=24, marks=MARKS, seed=1)
    with pytest.raises(InputError, match="drawn as"):
        train.fit(other, **settings, checkpoints=tmp_path, resume=True)


@given(st.integers(1, 300), st.floats(0.01, 0.9), st.integers(0, 2**32))
def test_as_many_tokens_are_hidden_as_said(n: int, rate: float, seed: int) -> None:
    ids = [MARKS.cls, *np.random.default_rng(seed).integers(3, 1000, n).tolist(), MARKS.sep]
    masked = Masking(marks=MARKS, vocabulary=1000, rate=rate)(ids, generator(seed))
    hidden = [at for at, label in enumerate(masked.labels) if label != IGNORED]
    assert len(hidden) == max(1, round(rate * n))
    assert 0 not in hidden
    assert n + 1 not in hidden
    for at, (shown, was) in enumerate(zip(masked.ids, ids, strict=True)):
        assert masked.labels[at] == was if at in hidden else shown == was


def test_eight_tenths_are_masks_a_tenth_others() -> None:
    masking, n = Masking(marks=MARKS, vocabulary=5000), 400
    ids = [MARKS.cls, *np.random.default_rng(0).integers(3, 5000, n).tolist(), MARKS.sep]
    counts, places = np.zeros(3), np.zeros(n + 2)
    for draw in range(400):
        masked = masking(ids, generator(0, draw))
        hidden = np.flatnonzero(np.array(masked.labels) != IGNORED)
        shown = np.array(masked.ids)[hidden]
        counts += [(shown == 2).sum(), ((shown != 2) & (shown != np.array(ids)[hidden])).sum(), 0]
        counts[2] += (shown == np.array(ids)[hidden]).sum()
        places[hidden] += 1
    # 24,000 draws: four standard deviations of a share are below 0.011.
    assert counts / counts.sum() == pytest.approx([0.8, 0.1, 0.1], abs=0.011)
    assert places[1:-1] / 400 == pytest.approx(0.15, abs=0.09)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=40), st.integers(0, 2**32))
def test_whole_words_are_hidden_whole(sizes: list[int], seed: int) -> None:
    words = [[3 + k % 2, *[10] * (size - 1)] for k, size in enumerate(sizes)]
    ids = [MARKS.cls, *[i for word in words for i in word], MARKS.sep]
    masking = Masking(marks=MARKS, vocabulary=20, continues=frozenset({10}))
    hidden = np.array(masking(ids, generator(seed)).labels)[1:-1] != IGNORED
    starts = np.cumsum([0, *sizes])
    chosen = [hidden[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True)]
    assert all(part.all() or not part.any() for part in chosen)
    count = max(1, round(0.15 * sum(sizes)))
    assert hidden.sum() <= count or sum(part.any() for part in chosen) == 1
    # Nothing that still fits is left out.
    room = count - hidden.sum()
    assert all(part.any() or len(part) > room for part in chosen)


def test_words_are_seen_in_the_tokens_of_every_kind(fixtures: Path) -> None:
    texts = ["unbelievable unbelievers believe in beliefs"] * 4
    for model, whole in (("wordpiece", {"believe"}), ("bpe", {"Ġbe"})):
        tokenizer = Tokenizer.train(texts, model=model, vocab_size=300 if model == "bpe" else 45)  # type: ignore[arg-type]
        goes_on = continuing(tokenizer)
        for token, number in tokenizer:
            if token in tokenizer.special_tokens.values():
                assert number not in goes_on
            elif model == "wordpiece":
                assert (number in goes_on) == token.startswith("##")
            else:
                assert (number in goes_on) != token.startswith("Ġ")
        assert whole <= {token for token, _ in tokenizer} | {"believe", "Ġbe"}


def test_pairs_are_half_and_half() -> None:
    for kind, index in (("next", 0), ("order", 0)):
        objective = train.sentence_pairs(base("bert"), SENTENCES, kind=kind, context=20, marks=MARKS)  # type: ignore[arg-type]
        index = next(i for i, (_, run) in enumerate(objective.runs) if len(run) > 1)
        labels = [objective.in_epoch(epoch)[index][1] for epoch in range(1000)]
        assert np.mean(labels) == pytest.approx(0.5, abs=0.065)
        original = [i for ids in objective.runs[index][1] for i in ids]
        for epoch in range(50):
            example, label = objective.in_epoch(epoch)[index]
            real = [i if label_ == IGNORED else label_ for i, label_ in zip(example.ids, example.labels, strict=True)]
            ends = [at for at, i in enumerate(real) if i == MARKS.sep]
            first, second = real[1 : ends[0]], real[ends[0] + 1 : ends[1]]
            assert real[0] == MARKS.cls
            assert example.segments == [0] * (len(first) + 2) + [1] * (len(second) + 1)
            assert len(real) <= 20
            if label == 0:
                assert first + second == original
            elif kind == "order":
                assert second + first == original
            else:
                assert second != original[len(first) :]


@given(st.integers(2, 700), st.floats(0.05, 0.5), st.floats(1, 8), st.integers(0, 2**32))
def test_spans_and_what_is_left_are_the_text(n: int, density: float, mean: float, seed: int) -> None:
    ids = np.random.default_rng(seed).integers(0, 10_000, n).tolist()
    sentinels = tuple(range(20_000, 19_000, -1))
    corruption = Corruption(sentinels=sentinels, eos=-1, density=density, mean=mean)
    pair = corruption(ids, generator(seed))
    noise, spans = corruption.counts(n)
    assert (len(pair.inputs), len(pair.targets)) == corruption.lengths(n) == (n - noise + spans + 1, noise + spans + 1)
    assert noise == min(max(round(n * density), 1), n - 1)
    told: dict[int, list[int]] = {}
    for token in pair.targets[:-1]:
        if token in sentinels:
            told[token] = []
        else:
            told[list(told)[-1]].append(token)
    assert list(told) == list(sentinels[:spans])
    assert all(told.values())
    assert pair.inputs[0] == ids[0]
    assert [part for token in pair.inputs[:-1] for part in told.get(token, [token])] == ids
    assert pair.inputs[-1] == pair.targets[-1] == -1


def test_the_lengths_of_t5() -> None:
    corruption = Corruption(sentinels=tuple(range(100)), eos=1)
    assert corruption.lengths(568) == (512, 114)
    assert corruption.fitting(512) == 568
    lengths = np.array([len(part) for part in _spans(corruption, 568, 300)])
    assert lengths.mean() == pytest.approx(85 / 28, rel=1e-9)
    # Uniform over the ways to cut 85 tokens into 28: P(length = 1) = (28 - 1) / (85 - 1).
    assert (lengths == 1).mean() == pytest.approx(27 / 84, abs=0.022)


def _spans(corruption: Corruption, n: int, draws: int) -> list[list[int]]:
    found: list[list[int]] = []
    for draw in range(draws):
        for token in corruption(range(1000, 1000 + n), generator(draw)).targets[:-1]:
            if token < 1000:
                found.append([])
            else:
                found[-1].append(token)
    return found


def test_prefixes_are_of_every_length() -> None:
    objective = train.prefix_lm(base("t5"), [list(range(3, 13))])
    lengths = [len(objective.in_epoch(epoch)[0].inputs) for epoch in range(1800)]
    assert np.bincount(lengths, minlength=10)[1:] / 1800 == pytest.approx(1 / 9, abs=0.03)
    for epoch in range(20):
        pair = objective.in_epoch(epoch)[0]
        assert [*pair.inputs, *pair.targets] == list(range(3, 13))


def test_texts_are_encoded_with_their_marks() -> None:
    tokenizer = Tokenizer.train(["a rose is a rose is a rose"] * 3, model="wordpiece", vocab_size=30)
    objective = train.mlm(base("bert"), ["a rose is a rose", "a rose"], tokenizer=tokenizer, whole_words=True)
    marks = Marks.of(tokenizer)
    assert [ids[0] for ids in objective.texts] == [marks.cls] * 2
    assert [ids[-1] for ids in objective.texts] == [marks.sep] * 2
    assert tokenizer.decode(objective.texts[1][1:-1]) == "a rose"
    assert sentinels_of(tokenizer) == []


@pytest.mark.parametrize(
    ("call", "error", "names"),
    [
        (lambda: train.mlm(base("gpt2"), DOCUMENTS, marks=MARKS), ConfigError, "does not attend to later tokens"),
        (lambda: train.mlm(base("bert"), [[]], marks=MARKS), InputError, "nothing to train on"),
        (lambda: train.mlm(base("bert"), [[99]], marks=MARKS), InputError, "document 0 holds the id 99"),
        (lambda: train.mlm(base("bert"), DOCUMENTS, marks=MARKS, rate=0.0), InputError, "rate is 0.0"),
        (lambda: train.mlm(base("bert"), DOCUMENTS, marks=MARKS, context=2), InputError, "context is 2, expected 3"),
        (lambda: train.span_corruption(base("bert"), DOCUMENTS), ConfigError, "no encoder-decoder"),
        (
            lambda: train.span_corruption(base("t5"), DOCUMENTS, context=64, sentinels=[98], eos=1),
            InputError,
            "loses 3 spans, but there are 1 sentinels",
        ),
        (lambda: train.span_corruption(base("t5"), [[3]], sentinels=SENTINELS, eos=1), InputError, "18 sentinels"),
        (lambda: Corruption(sentinels=(), eos=1, density=1.0), InputError, "density is 1.0"),
        (lambda: Corruption(sentinels=(), eos=1, mean=0.5), InputError, "mean is 0.5"),
        (lambda: train.prefix_lm(base("t5"), [[3]]), InputError, "no text has two tokens"),
        (lambda: train.seq2seq(base("t5"), [([3], [])]), InputError, "pair 0 has an empty answer"),
        (
            lambda: train.sentence_pairs(base("bert"), SENTENCES[:1], kind="next", marks=MARKS),
            InputError,
            "two documents",
        ),
        (
            lambda: train.sentence_pairs(base("bert"), [[[5]], [[6]]], kind="order", marks=MARKS),
            InputError,
            "a run of two sentences",
        ),
    ],
)
def test_bad_input_is_named(call: Any, error: type[Exception], names: str) -> None:
    with pytest.raises(error, match=names):
        call()
