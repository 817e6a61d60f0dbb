"""A model from nothing but text: a tokenizer trained on it, weights drawn at random, the paradigm's own objective."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from lmrs.data import Shards
from lmrs.errors import InputError
from lmrs.eval import rows
from lmrs.files import replace_file
from lmrs.initialise import initialise
from lmrs.models import bert, elmo, gpt2, save, t5
from lmrs.models.model import LanguageModel
from lmrs.nn.attention import Heads
from lmrs.ops import Value
from lmrs.tokenizer import Tokenizer
from lmrs.train import bilm, clm, mlm, span_corruption
from lmrs.train.loop import backend_of
from lmrs.train.objective import Objective

Family = Literal["gpt2", "bert", "t5", "elmo"]
HELD_OUT, MOST_HELD_OUT = 0.1, 1000
_SENTINELS = [f"<extra_id_{n}>" for n in range(100)]
_MARKS = ["<S>", "</S>", "<UNK>"]


@dataclass(frozen=True, kw_only=True)
class Size:
    """``layers`` blocks (in T5 of each stack) of ``width``, with heads of 32; examples of at most ``context`` tokens.

    ELMo's LSTMs have ``4·width`` cells. Raises InputError for a width that is no multiple of 32, or a size of 0.
    """

    layers: int = 4
    width: int = 128
    context: int = 128
    vocabulary: int = 4096

    def __post_init__(self) -> None:
        if self.width < 32 or self.width % 32:
            raise InputError(f"width is {self.width}, expected a multiple of 32")
        if min(self.layers, self.context - 3, self.vocabulary) < 1:
            raise InputError(f"{self}: expected at least one layer, 4 tokens of context and a vocabulary")


@dataclass(frozen=True)
class Task:
    """What is trained: ``objective`` on the text and ``held_out`` on its rest; ``save`` writes model and words."""

    model: LanguageModel
    objective: Objective
    held_out: Objective
    save: Callable[[Path], None]


def documents(path: Path, *, column: str = "text") -> tuple[Sequence[Any], Sequence[Any]]:
    """The documents to train on and those held out, the last tenth: texts, or the ids of packed shards.

    A ``.txt`` file (or ``.txt.gz``) is one text, cut at the end of a line; each row of ``.jsonl``, ``.parquet`` or a
    saved dataset is one. These are read whole; a directory that ``lmrs data pack`` wrote is mapped, so that it may be
    larger than memory, and its held-out part is at most the last 1,000 documents. Raises InputError if there is too
    little to hold some of it out, and what :func:`lmrs.eval.rows.texts` and :class:`lmrs.data.Shards` raise.
    """
    if (path / "shards.json").is_file():
        packed = Shards(path)
        judged = min(int(len(packed) * HELD_OUT), MOST_HELD_OUT)
        if not judged:
            raise InputError(f"{path} has {len(packed)} documents, expected at least 10: the last tenth is held out")
        return packed[:-judged], packed[-judged:]
    found = list(rows.texts(path, column=column))
    cut = math.ceil(len(found) * (1 - HELD_OUT))
    if not 0 < cut < len(found):
        raise InputError(f"{path} has {len(found)} lines or rows, expected at least 10: the last tenth is held out")
    if ".txt" in path.suffixes:
        return ["\n".join(found[:cut])], ["\n".join(found[cut:])]
    return found[:cut], found[cut:]


def task(
    family: Family,
    train: Sequence[Any],
    held_out: Sequence[Any],
    *,
    size: Size,
    tokenizer: Tokenizer | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Task:
    """GPT-2 with causal, BERT with masked, T5 (v1.1) with span-corrupted, ELMo with bidirectional language modelling.

    Without ``tokenizer`` one is trained on ``train``: byte-level BPE, for BERT WordPiece; ELMo has words, what is
    between spaces, the most frequent ones in its head. Shards bring the tokenizer they were packed with. With
    ``device`` the model is trained by torch on it (``cpu``, ``cuda``), under ``torchrun`` by all its processes. Raises
    InputError if a text or the vocabulary is too small, for a tokenizer or shards with ELMo, a tokenizer without the
    tokens that the family needs, or shards with special tokens where the objective puts its own.
    """
    if isinstance(train, Shards):
        tokenizer = _packed_for(family, train, tokenizer)
    if family == "elmo":
        return _elmo(train, held_out, size=size, tokenizer=tokenizer, seed=seed, device=device)
    if tokenizer is None:
        lines = (line for text in train for line in text.splitlines(keepends=True))
        special = ["<pad>", "</s>", "<unk>", *_SENTINELS] if family == "t5" else None
        tokenizer = Tokenizer.train(
            lines,
            model="wordpiece" if family == "bert" else "bpe",
            vocab_size=size.vocabulary,
            special_tokens=special,
            progress=progress,
        )
        if family == "t5":
            tokenizer = replace(tokenizer, special_tokens={"pad": "<pad>", "eos": "</s>", "unk": "<unk>"})
    built = {"gpt2": _gpt2, "bert": _bert, "t5": _t5}[family](len(tokenizer), size)
    model = _placed(initialise(built, seed=seed), device)
    options: dict[str, Any] = {"context": size.context, "tokenizer": tokenizer}
    if family == "t5":
        eos = tokenizer.token_to_id("</s>")
        if eos is None:
            raise InputError("the tokenizer has no </s> and <extra_id_0> …, which span corruption needs")
        options |= {"eos": eos}
    objectives: dict[str, Callable[..., Objective]] = {"gpt2": clm, "bert": mlm, "t5": span_corruption}
    objective = objectives[family]

    def write(directory: Path) -> None:
        save(_fetched(model, device), directory, tokenizer=tokenizer)

    return Task(model, objective(model, train, **options), objective(model, held_out, **options), write)


def _packed_for(family: Family, shards: Shards, tokenizer: Tokenizer | None) -> Tokenizer:
    if family == "elmo":
        raise InputError("an elmo reads the letters of words, and shards hold token ids: give it the text")
    if tokenizer is not None:
        raise InputError(f"{shards.directory} brings the tokenizer it was packed with: give no other")
    if family != "gpt2" and shards.special:
        raise InputError(f"{shards.directory} has special tokens around each text: for {family} pack with --no-special")
    return shards.tokenizer()


def _gpt2(vocabulary: int, size: Size) -> LanguageModel:
    config = gpt2.Config(
        vocabulary=vocabulary,
        width=size.width,
        layers=size.layers,
        heads=size.width // 32,
        context=size.context,
        inner=4 * size.width,
    )
    return gpt2.Model(config)


def _bert(vocabulary: int, size: Size) -> LanguageModel:
    config = bert.Config(
        vocabulary=vocabulary,
        width=size.width,
        layers=size.layers,
        heads=size.width // 32,
        context=size.context,
        inner=4 * size.width,
    )
    return bert.Model(config)


def _t5(vocabulary: int, size: Size) -> LanguageModel:
    count = size.width // 32
    config = t5.Config(
        vocabulary=vocabulary,
        width=size.width,
        layers=size.layers,
        decoder_layers=size.layers,
        heads=Heads(count, count, 32),
        inner=2 * size.width,
        kind="gelu_tanh",
        gated=True,
        tied=False,
        scaled=False,
    )
    return t5.Model(config)


def _placed(model: LanguageModel, device: str | None) -> LanguageModel:
    return model if device is None else import_module("lmrs.backend.torch").place(model, device=device)


def _fetched(model: LanguageModel, device: str | None) -> LanguageModel:
    return model if device is None else import_module("lmrs.backend.torch").fetch(model)


def _elmo(
    train: Sequence[str],
    held_out: Sequence[str],
    *,
    size: Size,
    tokenizer: Tokenizer | None,
    seed: int,
    device: str | None,
) -> Task:
    if tokenizer is not None:
        raise InputError("an elmo reads the letters of words: it takes no tokenizer")
    sentences, judged = ([line.split() for text in texts for line in text.splitlines() if line.split()]
                         for texts in (train, held_out))  # fmt: skip
    counts = Counter(word for sentence in sentences for word in sentence)
    # The most frequent first, of equals the first in the alphabet.
    common = sorted(counts, key=lambda word: (-counts[word], word))[: size.vocabulary - len(_MARKS)]
    words = [*_MARKS, *(word for word in common if word not in _MARKS)]
    config = elmo.Config(
        vocabulary=len(words),
        width=size.width,
        cells=4 * size.width,
        layers=size.layers,
        letter_width=16,
        filters=tuple((n, min(8 * 2**n, 8 * size.width // n)) for n in range(1, 6)),
        highways=1,
        letters=25,
    )
    model = _placed(initialise(elmo.Model(config), seed=seed), device)
    vocabulary = {word: number for number, word in enumerate(words)}

    def write(directory: Path) -> None:
        save(_fetched(model, device), directory)
        replace_file(directory / "vocab.txt", "".join(f"{word}\n" for word in words).encode())

    objective, rest = (bilm(model, part, vocabulary, context=size.context) for part in (sentences, judged))
    return Task(model, objective, rest, write)


def mean_loss(objective: Objective, *, batch_tokens: int = 4096) -> float:
    """The mean loss in nats over all terms of ``objective`` as it is in epoch 0."""
    total, terms, at = 0.0, 0, 0
    name = backend_of(objective.model.named_parameters())
    backend = import_module(f"lmrs.backend.{name}")

    def loss(chosen: Sequence[int]) -> Value:
        nonlocal terms
        value, count = objective.loss(chosen, backend=name)
        terms += count
        return value

    while at < len(objective):
        room = batch_tokens
        chosen: list[int] = []
        while at < len(objective) and (not chosen or objective.tokens(at) <= room):
            room -= objective.tokens(at)
            chosen.append(at)
            at += 1
        total += backend.value(lambda chosen=chosen: loss(chosen), objective.model)
    return total / terms
