"""ELMo (Peters et al. 2018): words read letter by letter, and a language model from each side.

A word's characters are convolved (Kim et al. 2016), pass highways (Srivastava et al. 2015) and are projected to
``width``; stacked LSTMs with projection and clipping (Sak et al. 2014) read these words forwards and, with weights of
their own, backwards. One head over a vocabulary of words serves both directions; a file without it only represents.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Literal

import numpy as np

from lmrs import ops
from lmrs.batch import Backend, Ragged
from lmrs.errors import ConfigError, InputError
from lmrs.models.config import MOST_LAYERS, Fields
from lmrs.models.model import LanguageModel
from lmrs.models.source import Source, Sources
from lmrs.nn.layers import Embedding, Head, Linear
from lmrs.nn.module import Module, Parameter
from lmrs.ops import Activation, Value

IGNORED = re.compile(r"(?!)")
START, END = "<S>", "</S>"
_TEXT_START, _TEXT_END, _WORD_START, _WORD_END, _NOTHING = range(256, 261)
CHARACTERS = 261
"""256 bytes; the start and end of a text; the start and end of a word; nothing, behind a word."""

Direction = Literal["forward", "backward"]
DIRECTIONS: tuple[Direction, Direction] = ("forward", "backward")
State = list[tuple[Value, Value]]
"""The hidden ``[sequences, width]`` and cell ``[sequences, cells]`` of each layer of a direction, once it has read."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """``filters``: (characters, outputs) of each convolution; ``letters``: how many characters a word is filled up to.

    ``vocabulary`` is that of the head, 0 if there is none; ``skip``: a layer but the first adds its input.
    """

    family: ClassVar[str] = "elmo"
    context: ClassVar[int | None] = None
    vocabulary: int
    width: int
    cells: int
    layers: int
    letter_width: int
    filters: tuple[tuple[int, int], ...]
    highways: int
    letters: int = 50
    kind: Activation = "relu"
    cell_clip: float | None = 3.0
    output_clip: float | None = 3.0
    skip: bool = True

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], names: Collection[str] | None = None) -> "Config":
        """From config.json, which has the fields of this class, or from an ``options.json`` of bilm-tf or AllenNLP."""
        if "lstm" in fields:
            return cls.from_options(fields)
        read = Fields(fields)
        filters = read.get("filters")
        if not isinstance(filters, list) or not filters or not all(_is_filter(pair) for pair in filters):
            raise ConfigError(f"filters is {filters!r}, expected pairs of a width and a number of outputs")
        vocabulary = read.get("vocab_size", 0)
        if isinstance(vocabulary, bool) or not isinstance(vocabulary, int) or vocabulary < 0:
            raise ConfigError(f"vocab_size is {vocabulary!r}, expected the number of words, or 0 without a head")
        return cls(
            vocabulary=vocabulary if names is None or "head.weight" in names else 0,
            width=read.size("hidden_size"),
            cells=read.size("cell_size"),
            layers=read.size("num_hidden_layers", most=MOST_LAYERS),
            letter_width=read.size("letter_size"),
            filters=tuple((size, count) for size, count in filters),
            highways=read.size("num_highways"),
            letters=read.size("letters", 50),
            kind=read.activation("hidden_act", "relu"),
            cell_clip=None if read.get("cell_clip") is None else read.number("cell_clip"),
            output_clip=None if read.get("output_clip") is None else read.number("output_clip"),
            skip=read.flag("use_skip_connections", True),
        )

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "Config":
        """From an ``options.json``. Raises ConfigError naming what is missing or makes no sense."""
        lstm, cnn = options.get("lstm"), options.get("char_cnn")
        if not isinstance(lstm, Mapping) or not isinstance(cnn, Mapping):
            raise ConfigError("options need an object lstm and an object char_cnn")
        known = Fields(cnn)
        known.expect("activation", "relu", "tanh")
        letters = cnn.get("embedding")
        return cls.from_dict(
            {
                "hidden_size": lstm.get("projection_dim"),
                "cell_size": lstm.get("dim"),
                "num_hidden_layers": lstm.get("n_layers"),
                "letter_size": letters.get("dim") if isinstance(letters, Mapping) else None,
                "filters": cnn.get("filters"),
                "num_highways": cnn.get("n_highway"),
                "letters": cnn.get("max_characters_per_token", 50),
                "hidden_act": cnn.get("activation", "relu"),
                "cell_clip": lstm.get("cell_clip"),
                "output_clip": lstm.get("proj_clip"),
                "use_skip_connections": lstm.get("use_skip_connections", False),
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """The inverse of :meth:`from_dict`."""
        return {
            "model_type": self.family,
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "cell_size": self.cells,
            "num_hidden_layers": self.layers,
            "letter_size": self.letter_width,
            "filters": [list(pair) for pair in self.filters],
            "num_highways": self.highways,
            "letters": self.letters,
            "hidden_act": self.kind,
            "cell_clip": self.cell_clip,
            "output_clip": self.output_clip,
            "use_skip_connections": self.skip,
        }


def _is_filter(pair: object) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(n, int) and n > 0 for n in pair)


@dataclass(frozen=True, eq=False)
class Words:
    """Sentences as the characters of their words: ``characters [T·letters]`` int32, word after word."""

    characters: Value
    words: Ragged
    seqs: Ragged

    @classmethod
    def of(cls, sentences: Sequence[Sequence[str]], *, letters: int = 50, backend: Backend = "native") -> "Words":
        """Pack sentences of words. ``<S>`` and ``</S>`` stand for the start and end of a text.

        Raises InputError if there is no sentence or one is empty.
        """
        lengths = [len(sentence) for sentence in sentences]
        if not lengths or 0 in lengths:
            empty = f"sentence {lengths.index(0)} is empty" if lengths else "there is no sentence"
            raise InputError(f"ELMo needs at least one word a sentence: {empty}")
        spelt = np.array([spell(word, letters) for sentence in sentences for word in sentence], np.int32)
        array = import_module(f"lmrs.backend.{backend}").array
        words = Ragged.of("characters", [letters] * len(spelt))
        return cls(array(spelt.reshape(-1)), words, Ragged.of("tokens", lengths))


def spell(word: str, letters: int) -> list[int]:
    """The characters of ``word``: its UTF-8 bytes, at most ``letters - 2``, between marks, filled up to ``letters``."""
    marks = {START: [_TEXT_START], END: [_TEXT_END]}
    inside = marks.get(word) or list(word.encode("utf-8", "ignore")[: letters - 2])
    spelt = [_WORD_START, *inside, _WORD_END]
    return spelt + [_NOTHING] * (letters - len(spelt))


class CharConv(Module):
    """``kind(max over places of a convolution)`` of each word's characters (see :func:`lmrs.ops.char_conv`)."""

    def __init__(self, inputs: int, size: int, outputs: int, *, kind: Activation) -> None:
        self.weight = Parameter(shape=(outputs, size * inputs), init="uniform")
        self.bias = Parameter(shape=(outputs,), init="zeros")
        self.kind: Activation = kind

    def forward(self, x: Value, words: Ragged) -> Value:
        """``[T·letters, inputs]`` to ``[T, outputs]``."""
        return ops.activation(ops.char_conv(x, self.weight, words, self.bias), kind=self.kind)


class Highway(Module):
    """``g·relu(transform(x)) + (1 - g)·x`` with ``g = σ(gate(x))``."""

    def __init__(self, width: int) -> None:
        self.transform = Linear(width, width, init="uniform")
        self.gate = Linear(width, width, init="uniform")

    def forward(self, x: Value) -> Value:
        """``[T, width]`` to ``[T, width]``."""
        gate = ops.activation(self.gate(x), kind="sigmoid")
        new = ops.activation(self.transform(x), kind="relu")
        return x + ops.mul(gate, new + ops.scale(x, by=-1.0))


class Layer(Module):
    """One LSTM with projection (see :func:`lmrs.ops.lstm`); ``bias`` holds the forget gate's 1 (Gers et al. 2000)."""

    def __init__(self, config: Config, *, reverse: bool) -> None:
        self.input = Parameter(shape=(4 * config.cells, config.width), init="uniform")
        self.state = Parameter(shape=(4 * config.cells, config.width), init="uniform")
        self.bias = Parameter(shape=(4 * config.cells,), init="forget")
        self.projection = Parameter(shape=(config.width, config.cells), init="uniform")
        self.config, self.reverse = config, reverse

    def forward(self, x: Value, seqs: Ragged, carried: tuple[Value, Value] | None) -> tuple[Value, tuple[Value, Value]]:
        """``[T, width]`` to ``[T, width]``, and the hidden and cell after each sequence."""
        hidden, cell = carried or (None, None)
        config = self.config
        both = ops.lstm(
            *(x, self.input, self.state, seqs),
            bias=self.bias,
            projection=self.projection,
            hidden=hidden,
            cell=cell,
            reverse=self.reverse,
            memory=True,
            cell_clip=config.cell_clip,
            output_clip=config.output_clip,
        )
        width, whole = self.config.width, self.config.width + self.config.cells
        last = ops.pool(both, seqs, kind="first" if self.reverse else "last")
        after = ops.columns(last, start=0, stop=width), ops.columns(last, start=width, stop=whole)
        return ops.columns(both, start=0, stop=width), after


class Model(LanguageModel):
    """The bidirectional language model."""

    config: Config

    def __init__(self, config: Config, metadata: Mapping[str, Any] | None = None) -> None:
        self.config, self.metadata = config, metadata or {}
        self.embed = Embedding(CHARACTERS, config.letter_width)
        self.convolutions = [
            CharConv(config.letter_width, size, count, kind=config.kind) for size, count in config.filters
        ]
        total = sum(count for _, count in config.filters)
        self.highways = [Highway(total) for _ in range(config.highways)]
        self.project = Linear(total, config.width, init="uniform")
        self.forwards = [Layer(config, reverse=False) for _ in range(config.layers)]
        self.backwards = [Layer(config, reverse=True) for _ in range(config.layers)]
        if config.vocabulary:
            self.head = Head(config.width, config.vocabulary, bias=True)

    def tokens(self, words: Words) -> Value:
        """What a word is by itself, whatever stands around it: ``[T, width]``."""
        letters = self.embed(words.characters)
        x = ops.concat(*(convolution(letters, words.words) for convolution in self.convolutions))
        for highway in self.highways:
            x = highway(x)
        return self.project(x)

    def read(
        self, x: Value, seqs: Ragged, direction: Direction, carried: State | None = None
    ) -> tuple[list[Value], State]:
        """The output ``[T, width]`` of each layer of one direction for words ``x [T, width]``, and its state after.

        A sequence goes on from ``carried``, the state after the text before it (behind it, read backwards).
        """
        outputs, after = [], []
        for number, layer in enumerate(self.forwards if direction == "forward" else self.backwards):
            y, state = layer(x, seqs, carried[number] if carried else None)
            x = y + x if self.config.skip and number else y
            outputs.append(x)
            after.append(state)
        return outputs, after

    def layers(
        self, words: Words, carried: Mapping[Direction, State] | None = None
    ) -> tuple[list[Value], dict[Direction, State]]:
        """ELMo's layers, each ``[T, 2·width]``, forward beside backward, the first the words themselves; and states."""
        x = self.tokens(words)
        outputs: list[list[Value]] = []
        after: dict[Direction, State] = {}
        for direction in DIRECTIONS:
            found, after[direction] = self.read(x, words.seqs, direction, carried[direction] if carried else None)
            outputs.append([x, *found])
        return [ops.concat(*pair) for pair in zip(*outputs, strict=True)], after

    def states(self, batch: Any) -> Value:
        """The top layer ``[T, 2·width]``. Raises ConfigError if ``batch`` is of token ids and not :class:`Words`."""
        if not isinstance(batch, Words):
            raise ConfigError("an elmo reads the characters of words, not token ids: call it with elmo.Words")
        return self.layers(batch)[0][-1]


class ScalarMix(Module):
    """``γ·Σ softmax(w)ₖ·hₖ`` over layers (Peters et al. 2018, eq. 1); ``weight [layers, 1]``, ``gamma [1, 1]``."""

    def __init__(self, layers: int) -> None:
        self.weight = Parameter(shape=(layers, 1), init="zeros")
        self.gamma = Parameter(shape=(1, 1), init="ones")

    def forward(self, layers: Sequence[Value], array: Any) -> Value:
        """``layers``, each ``[T, d]``, to ``[T, d]``; ``array`` makes values of the backend they are on."""
        count, d = len(layers), layers[0].shape[1]
        # A softmax is what attention does: one query that scores key k as w_k, and the unit vectors as values.
        ones, one = array(np.ones((1, count), np.float32)), Ragged.of("tokens", [1])
        keys = ops.linear(self.weight, array(np.ones((count, 1), np.float32)))
        values, keyed = array(np.eye(count, dtype=np.float32)), Ragged.of("memory", [count])
        share = ops.attention(
            *(ones, keys, values), queries=one, keys=keyed, heads=1, kv_heads=1, scale=1 / count, causal=False
        )
        every = ops.kron(ops.kron(self.gamma, share), array(np.eye(d, dtype=np.float32)))
        return ops.linear(ops.concat(*layers), every)


def copies(_fields: Mapping[str, Any], _names: Collection[str]) -> dict[str, str]:
    """Tensors that a file may repeat: none."""
    return {}


def weights(config: Config, names: Collection[str] = ()) -> Sources:
    """Where each parameter is in a checkpoint, which :func:`lmrs.models.bilm.convert` or lmrs itself wrote."""
    return {path: Source(path) for path in Model(config).named_parameters()}
