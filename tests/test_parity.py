"""Curves: the native backend's are torch's over fifty steps, and those of T5 and ELMo are their peers'."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmrs import models, pretrain, train
from lmrs.backend import torch as torch_backend
from lmrs.demo import texts
from lmrs.models import bert, elmo, gpt2, t5
from lmrs.train.mlm import Marks

EXAMPLES = Path(__file__).parent.parent / "examples"
IDS = [5 + byte for byte in texts.shakespeare().train[:6000].encode()]
WORDS = [line.split() for line in texts.shakespeare().train[:6000].splitlines() if line.split()]
SIZES = {"width": 32, "layers": 2, "heads": 2, "context": 24, "inner": 64, "vocabulary": 300}


def made(family: str) -> tuple[Any, Any]:
    """A model from random weights, and what makes its objective."""
    if family == "gpt2":
        return gpt2.Model(gpt2.Config(**SIZES)), lambda model: train.clm(model, [IDS])
    if family == "bert":
        marks = Marks(mask=2, cls=0, sep=1)
        return bert.Model(bert.Config(**SIZES)), lambda model: train.mlm(model, [IDS], marks=marks)
    if family == "t5":
        fields = {"vocab_size": 300, "d_model": 32, "num_layers": 2, "num_heads": 2, "d_kv": 16, "d_ff": 64}
        page = t5
        cut = {"sentinels": list(range(299, 270, -1)), "eos": 1, "context": 48}
        return page.Model(page.Config.from_dict(fields)), lambda model: train.span_corruption(model, [IDS], **cut)
    known = {word: n for n, word in enumerate(["<S>", "</S>", "<UNK>", *sorted({w for s in WORDS for w in s})[:297]])}
    size = {"width": 32, "cells": 48, "layers": 2, "letter_width": 8, "highways": 1, "letters": 12}
    config = elmo.Config(vocabulary=300, filters=((1, 8), (2, 12), (3, 16)), **size)
    return elmo.Model(config), lambda model: train.bilm(model, WORDS, known, context=40, truncate=15)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "bert", "t5", "elmo"])
def test_fifty_steps_on_both_backends(family: str) -> None:
    """In float32, with dropout off: losses within 1e-4."""
    built, objective = made(family)
    model = models.initialise(built, seed=1)
    settings: dict[str, Any] = {"steps": 50, "batch_tokens": 120, "schedule": train.Cosine(warmup=5)}
    settings["optimiser"] = train.AdamW(learning_rate=2e-3, weight_decay=0.01)
    theirs = train.fit(objective(torch_backend.place(model)), **settings).losses
    ours = train.fit(objective(model), **settings).losses
    assert np.mean(ours[-5:]) < np.mean(ours[:5]) - 0.3
    assert np.abs(np.array(ours) - theirs).max() <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "bert", "t5"])
def test_fifty_steps_in_bfloat16(family: str) -> None:
    """Within one part in a hundred of float32 and of torch under autocast."""
    built, objective = made(family)
    model = models.initialise(built, seed=1)
    settings: dict[str, Any] = {"steps": 50, "batch_tokens": 120, "schedule": train.Cosine(warmup=5)}
    settings["optimiser"] = train.AdamW(learning_rate=2e-3, weight_decay=0.01)
    copy = models.initialise(made(family)[0], seed=1)
    theirs = train.fit(objective(torch_backend.place(model)), **settings, dtype="bf16").losses
    wide = train.fit(objective(copy), **settings).losses
    ours = train.fit(objective(model), **settings, dtype="bf16").losses
    assert np.mean(ours[-5:]) < np.mean(ours[:5]) - 0.3
    assert ours != wide
    assert ours == pytest.approx(wide, rel=0.01)
    assert ours == pytest.approx(theirs, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "elmo"])
def test_the_first_losses_are_those_of_the_peer(family: str) -> None:
    """T5 beside transformers, ELMo beside plain torch: weights, examples, AdamW, clipping and cosine are the same."""
    found = importlib.util.spec_from_file_location("pretraining_peers", EXAMPLES / "pretraining_peers.py")
    assert found is not None
    assert found.loader is not None
    peers = importlib.util.module_from_spec(found)
    found.loader.exec_module(peers)
    text = texts.shakespeare().train[:20_000]
    size = pretrain.Size(layers=2, width=32, context=48, vocabulary=400)
    task = pretrain.task(family, [text], [text[:2000]], size=size)  # type: ignore[arg-type]
    peer, loss_of = getattr(peers, family)(task.model)
    settings: dict[str, Any] = {"steps": 20, "batch_tokens": 300, "seed": 3}
    rule, schedule = train.AdamW(learning_rate=2e-3, beta2=0.98, weight_decay=0.01), train.Cosine(warmup=2, floor=0.1)
    ours = train.fit(task.objective, **settings, optimiser=rule, schedule=schedule).losses
    theirs = peers.follow(peer, loss_of, task.objective, **settings, rule=rule, schedule=schedule)
    assert ours[-1] < ours[0] - 0.3
    assert np.abs(np.array(ours) - theirs).max() <= 1e-4
    assert pretrain.mean_loss(task.held_out) == pytest.approx(peers.judged(loss_of, task.held_out), abs=1e-4)
