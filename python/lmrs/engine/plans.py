"""The Programs of one model, recorded and planned when they are first needed."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal, TypedDict, get_args

from lmrs import _rs, ops
from lmrs.backend.record import record
from lmrs.errors import ConfigError, InputError
from lmrs.models.model import LanguageModel
from lmrs.nn.attention import Attention
from lmrs.ops import Pooling

KvDtype = Literal["f32", "bf16", "int8"]
DType = Literal["f32", "bf16", "int8", "int4"]
"""How an engine holds the weights of linear layers; see :class:`lmrs.Engine`."""


class Bounds(TypedDict):
    """What ids are checked against."""

    vocabulary: int
    context: int | None


class Plans:
    """What an engine runs of ``model``. Plans of models that share weights share their packed form."""

    def __init__(self, model: LanguageModel, *, dtype: DType, kv_dtype: KvDtype) -> None:
        self.model = model
        self.dtype = dtype
        self.kv_dtype = kv_dtype
        self._pools: dict[Pooling, _rs.Plan] = {}
        self._logprobs: dict[int | None, _rs.Plan] = {}
        self._generator: _rs.Generator | None = None

    @cached_property
    def bounds(self) -> Bounds:
        """The ids there are, and how many at once."""
        return {"vocabulary": self.model.config.vocabulary, "context": self.model.config.context}

    def generator(self, tokenizer: _rs.Tokenizer | None) -> _rs.Generator:
        """The model as it generates. Raises ConfigError if it does not."""
        if self._generator is None:
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
                **self.bounds,
            )
        return self._generator

    @cached_property
    def logits(self) -> _rs.Plan:
        """Logits of selected rows."""
        widths = {} if self.encode is None else {"memory_width": self.model.config.width}
        return self.plan(self.model, **widths)

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
    def causal(self) -> bool:
        """Whether the model predicts the next token."""
        return any(isinstance(module, Attention) and module.cache for _, module in self.model.named_modules())

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
        return _rs.Plan(record(self.model, run, **options), self.dtype)
