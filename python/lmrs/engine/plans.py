"""The Programs of one model, recorded and planned when they are first needed."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypedDict, cast, get_args

from lmrs import _rs, ops
from lmrs.backend.record import record
from lmrs.engine.packed import causal, lend_from
from lmrs.errors import ConfigError, InputError
from lmrs.models import packed
from lmrs.models.model import LanguageModel
from lmrs.ops import Pooling

KvDtype = Literal["f32", "bf16", "int8"]
DType = Literal["f32", "bf16", "int8", "int4"]
"""How an engine holds the weights of linear layers; see :class:`lmrs.Engine`."""


def held_as(model: LanguageModel, dtype: DType | None) -> DType:
    """``dtype``, or what the model was packed as. Raises InputError if there is no such dtype or it is another."""
    stored = packed.dtype_of(model)
    if dtype is not None and dtype not in get_args(DType):
        raise InputError(f"dtype is {dtype!r}, expected one of {', '.join(get_args(DType))}")
    if stored is not None and dtype not in (None, stored):
        raise InputError(f"dtype is {dtype!r}, but {model.source} was packed as {stored}")
    return cast(DType, stored or dtype or "f32")


class Bounds(TypedDict):
    """What ids are checked against."""

    vocabulary: int
    context: int | None


class Plans:
    """What an engine runs of ``model``. Plans of models that share weights share their packed form.

    With ``cache``, a directory, packed weights are taken from there, and written there the first time.
    """

    def __init__(self, model: LanguageModel, *, dtype: DType, kv_dtype: KvDtype, cache: Path | None = None) -> None:
        self.model = model
        self._cache = cache
        self.dtype = dtype
        self.kv_dtype = kv_dtype
        self._pools: dict[Pooling, _rs.Plan] = {}
        self._logprobs: dict[int | None, _rs.Plan] = {}
        self._generator: _rs.Generator | None = None
        self._tokenizer: _rs.Tokenizer | None = None

    @cached_property
    def bounds(self) -> Bounds:
        """The ids there are, and how many at once."""
        return {"vocabulary": self.model.config.vocabulary, "context": self.model.config.context}

    def generator(self, tokenizer: _rs.Tokenizer | None, base: _rs.Generator | None = None) -> _rs.Generator:
        """The model as it generates, in one batch with ``base`` if it only adds to that one.

        Raises ConfigError if it does not generate.
        """
        if self._generator is None:
            self._tokenizer = tokenizer
            self.expect_causal("generate")
            model, encode = self.model, self.encode
            encoder = None
            if encode is not None:
                config: Any = model.config
                encoder = (self.plan(encode), config.width, config.start)
            self._generator = _rs.Generator(
                self.logits,
                tokenizer=tokenizer,
                encoder=encoder,
                kv_dtype=self.kv_dtype,
                base=base,
                **self.bounds,
            )
        return self._generator

    @cached_property
    def logits(self) -> _rs.Plan:
        """Logits of selected rows."""
        widths = {} if self.encode is None else {"memory_width": self.model.config.width}
        return self.plan(self.model, **widths)

    @cached_property
    def contrast(self) -> _rs.Generator:
        """The model as contrastive search runs it, with the states of all tokens. Raises ConfigError if it cannot."""
        self.expect_causal("generate")
        if self.encode is not None:
            raise ConfigError(
                f"a {self.model.config.family} answers a text: contrastive search is of models that continue"
            )
        model = self.model

        def run(batch: Any) -> list[Any]:
            hidden = model.hidden(batch)
            return [model.head(ops.rows(hidden, batch.select)), hidden]

        return _rs.Generator(self.plan(run), tokenizer=self._tokenizer, kv_dtype=self.kv_dtype, **self.bounds)

    def logprob(self, top_k: int | None) -> _rs.Plan:
        """Log-probabilities of labels, with ``top_k`` more about each. Raises ConfigError if the model has none."""
        if top_k not in self._logprobs:
            self.expect_next_token()
            model = self.model
            self._logprobs[top_k] = self.plan(
                lambda batch: model.head.logprob(model.hidden(batch), batch.labels, top_k=top_k)
            )
        return self._logprobs[top_k]

    def pooled(self, kind: Pooling) -> _rs.Plan:
        """A vector a text. Raises InputError for another ``kind``."""
        if kind not in get_args(Pooling):
            raise InputError(f"pooling is {kind!r}, expected one of {', '.join(get_args(Pooling))}")
        if kind not in self._pools:
            model = self.model
            self._pools[kind] = self.plan(lambda batch: ops.pool(model.states(batch), batch.seqs, kind=kind))
        return self._pools[kind]

    @cached_property
    def labels(self) -> _rs.Plan:
        """The logits of a text's labels. Raises ConfigError if the model does not classify."""
        classify = getattr(self.model, "classify", None)
        if classify is None:
            raise ConfigError(f"a {self.model.config.family} has no head of sequence classification")
        return self.plan(classify)

    @cached_property
    def causal(self) -> bool:
        """Whether the model predicts the next token."""
        return causal(self.model)

    def expect_causal(self, what: str) -> None:
        """Raises ConfigError unless it does."""
        if not self.causal:
            raise ConfigError(f"a {self.model.config.family} reads texts whole: it cannot {what}, only embed")

    def expect_next_token(self) -> None:
        """Raises ConfigError unless the model predicts the next token of a text."""
        self.expect_causal("score")
        if self.encode is not None:
            said = f"a {self.model.config.family} predicts an answer to a text, not the text"
            raise ConfigError(f"{said}: it cannot score one")

    @property
    def encode(self) -> Callable[..., Any] | None:
        """The encoder of an encoder-decoder."""
        return getattr(self.model, "encode", None)

    def plan(self, run: Callable[..., Any], **options: int) -> _rs.Plan:
        """``run``, a call of the model, as a plan."""
        if self._cache is not None:
            lend_from(self._cache, self.model, self.dtype)
            self._cache = None
        return _rs.Plan(record(self.model, run, **options), self.dtype)
