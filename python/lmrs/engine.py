"""The engine: a recorded model, run from Rust.

A model is recorded when it is first asked for something; from then on Python only passes texts in and results out.
"""

import json
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, get_args, overload

import numpy as np
import numpy.typing as npt

from lmrs import _rs, ops
from lmrs.backend.record import record
from lmrs.errors import ConfigError, InputError
from lmrs.eval.continuations import RANK, Continuation, boundary, fitted
from lmrs.eval.protocols import Frame, Protocol, Window, windows
from lmrs.eval.scores import Details, Score, count_words
from lmrs.models import sentence
from lmrs.models.beside import find_tokenizer, fitting, tokenizer_of
from lmrs.models.model import LanguageModel
from lmrs.nn.attention import Attention
from lmrs.ops import Pooling
from lmrs.tokenizer import Encoding, Tokenizer

Ids = Sequence[int]
FinishReason = Literal["eos", "stop", "length"]
KvDtype = Literal["f32", "bf16", "int8"]
DType = Literal["f32", "bf16", "int8", "int4"]
"""How an engine holds the weights of linear layers; see :class:`Engine`."""


class Options(TypedDict, total=False):
    """How a completion is made. Every option has a range; a value outside it raises InputError.

    ``max_tokens`` (128): at most so many new tokens. ``temperature`` (0, which takes the likeliest token; to 100),
    ``top_k`` (0: all), ``top_p`` (1), ``min_p`` (0) and ``repetition_penalty`` (1) are transformers' processors of
    these names, in its order. ``seed`` (0): with the number of the token all that a draw depends on, so that a
    prompt's completion does not depend on what runs beside it; a sequence gives each prompt its own. ``stop``: strings
    before which the text ends. ``ignore_eos`` (False): whether to go on after an end-of-sequence token.
    """

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int | Sequence[int]
    stop: str | Sequence[str]
    ignore_eos: bool


class Reading(TypedDict, total=False):
    """How a text is scored.

    ``protocol`` ("rolling", see :mod:`lmrs.eval.protocols`) cuts it into windows; ``window`` (the context) is the most
    tokens read at once, ``stride`` (half the window) that of strided protocols. ``top_k``, ``rank`` and ``entropy``
    (None, False, False) ask for these of each token's distribution: see :class:`lmrs.eval.Score`.
    """

    protocol: Protocol
    window: int | None
    stride: int | None
    top_k: int | None
    rank: bool
    entropy: bool


class _Bounds(TypedDict):
    vocabulary: int
    context: int | None


_DEFAULTS: Options = {
    "max_tokens": 128,
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "seed": 0,
    "stop": (),
    "ignore_eos": False,
}


@dataclass(frozen=True, eq=False)
class Completion:
    """What a model wrote.

    ``tokens`` are all it chose, those of an end or a stop string included; ``logprobs``, float32, are in nats and of
    the model's own distribution, before temperature and the like.
    """

    text: str
    tokens: list[int]
    logprobs: npt.NDArray[np.float32]
    finish_reason: FinishReason


class Engine:
    """Generates, scores and embeds with ``model``.

    Texts are encoded and written by ``tokenizer``, by default the one beside the model's checkpoint; without one,
    prompts are token ids and completions have no text. Results are the same, bit for bit, for any company in a batch
    and any number of threads. An engine may be used from several threads at once.

    ``dtype`` is how the weights of linear layers are held, and with that how they are multiplied; the model is not
    changed, and everything else (norms, attention, deltas beside a layer, sums) stays float32. ``"f32"``: as they are.
    ``"bf16"``: weights and their inputs rounded to bfloat16. ``"int8"``: bytes, a scale for each output and for each
    row of inputs. ``"int4"``: four bits, a scale for 32 weights, inputs in bytes; the head in int8. Raises InputError
    for another dtype.

    ``kv_dtype`` is how the keys and values of earlier tokens are kept while generating: ``"f32"``, ``"bf16"`` (half the
    memory) or ``"int8"`` (a quarter, and a float32 scale a token and head).
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        tokenizer: Tokenizer | None = None,
        dtype: DType = "f32",
        kv_dtype: KvDtype = "f32",
    ) -> None:
        if dtype not in get_args(DType):
            raise InputError(f"dtype is {dtype!r}, expected one of {', '.join(get_args(DType))}")
        if kv_dtype not in get_args(KvDtype):
            raise InputError(f"kv_dtype is {kv_dtype!r}, expected one of {', '.join(get_args(KvDtype))}")
        self.kv_dtype = kv_dtype
        self.model = model
        self.config = model.config
        self.dtype = dtype
        self._given = tokenizer
        self._pools: dict[Pooling, _rs.Plan] = {}
        self._logprobs: dict[int | None, _rs.Plan] = {}

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises InputError if none was given and none lies beside the model's checkpoint."""
        return self._tokenizer or tokenizer_of(self.model)

    @cached_property
    def _tokenizer(self) -> Tokenizer | None:
        return find_tokenizer(self.model) if self._given is None else fitting(self._given, self.model)

    @overload
    def generate(self, prompt: str | Ids, **options: Unpack[Options]) -> Completion: ...
    @overload
    def generate(self, prompt: list[str] | list[list[int]], **options: Unpack[Options]) -> list[Completion]: ...
    def generate(
        self, prompt: str | Ids | list[str] | list[list[int]], **options: Unpack[Options]
    ) -> Completion | list[Completion]:
        """The continuation of a prompt, a text or token ids; a list of prompts gives a list. See :class:`Options`.

        An encoder-decoder answers the prompt instead. Raises InputError for an empty prompt, one longer than the
        context, an id out of range, or an option out of range; ConfigError if the model does not generate.
        """
        prompts, many = _listed(prompt)
        requests = [self._request(prompt, at, options) for at, prompt in enumerate(prompts)]
        completions = [_completion(*parts) for parts in self._generator.generate(requests)]
        return completions if many else completions[0]

    def stream(self, prompt: str | Ids, **options: Unpack[Options]) -> Generator[str, None, Completion]:
        """The text of :meth:`generate`, piece by piece, never half a character. Returns the Completion."""
        for piece, whole in self._generator.stream(self._request(prompt, 0, options)):
            if piece:
                yield piece
            if whole is not None:
                return _completion(*whole)
        raise AssertionError("a stream ends with a completion")

    @overload
    def score(self, texts: str, **reading: Unpack[Reading]) -> Score: ...
    @overload
    def score(self, texts: list[str], **reading: Unpack[Reading]) -> list[Score]: ...
    def score(self, texts: str | list[str], **reading: Unpack[Reading]) -> Score | list[Score]:
        """How well the model predicts a text. See :class:`Reading`.

        Raises InputError for an empty text, one with too few tokens, or an option out of range; ConfigError if the
        model does not predict the next token.
        """
        top_k, protocol = self._top_k(reading), reading.get("protocol", "rolling")
        plan = self._logprob(top_k)
        many = [texts] if isinstance(texts, str) else texts
        frame = self._frame(window=reading.get("window"), stride=reading.get("stride"))
        encodings = self._encoded(many, "score", add_special_tokens=False)
        cut = [windows(encoding.ids, protocol=protocol, frame=frame) for encoding in encodings]
        flat = [(window.inputs, window.labels()) for part in cut for window in part]
        rows = iter(_rs.score(plan, flat, **self._bounds))
        scores = []
        for text, part in zip(many, cut, strict=True):
            found = [next(rows).reshape(len(window.targets), -1) for window in part]
            sums = (table[:, 0].sum(dtype=np.float64) for table in found)
            weighted = [s * w.counted / len(w.targets) for s, w in zip(sums, part, strict=True)]
            table = np.concatenate(found)
            scores.append(
                Score.of(
                    protocol=protocol,
                    tokens=sum(window.counted for window in part),
                    words=count_words(text),
                    bytes=len(text.encode()),
                    sum_logprob=math.fsum(weighted),
                    token_logprobs=np.ascontiguousarray(table[:, 0]),
                    **_details(table, reading),
                )
            )
        return scores[0] if isinstance(texts, str) else scores

    def windows(
        self, text: str, *, protocol: Protocol = "rolling", window: int | None = None, stride: int | None = None
    ) -> list[Window]:
        """What :meth:`score` reads of a text, and which tokens it scores. Raises InputError as it does."""
        (encoding,) = self._encoded([text], "score", add_special_tokens=False)
        return windows(encoding.ids, protocol=protocol, frame=self._frame(window=window, stride=stride))

    def plan(self, run: Callable[..., Any], **options: int) -> _rs.Plan:
        """``run``, a call of the model as in :func:`lmrs.backend.record.record`, over weights held as ``dtype``."""
        return _rs.Plan(record(self.model, run, **options), self.dtype)

    def expect_next_token(self) -> None:
        """Raise ConfigError if the model does not predict the next token of a text."""
        self._expect_causal("score")
        if self._encode is not None:
            said = f"a {self.config.family} predicts an answer to a text, not the text"
            raise ConfigError(f"{said}: it cannot score one")

    @property
    def prefix(self) -> int | None:
        """The token before a text that is scored from its first token on."""
        begin = self.tokenizer.bos_id
        return next(iter(self._eos), None) if begin is None else begin

    def continuations(self, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        """How likely each continuation is after its context; ``pairs`` are (context, continuation).

        The boundary between the two is drawn as lm-evaluation-harness draws it, and a context too long loses its start:
        see :mod:`lmrs.eval.continuations`. What the pairs of a call begin with in common is computed once, and changes
        no bit. Raises InputError for a continuation that is empty or longer than the
        context of the model; ConfigError if the model does not predict the next token.
        """
        plan = self._logprob(0)
        frames = [
            fitted(*boundary(self.tokenizer, context, text, prefix=self.prefix), context=self.config.context)
            for context, text in pairs
        ]
        cut = [(window.inputs, window.labels()) for window, _ in frames]
        rows = _rs.score(plan, cut, shared=True, **self._bounds)
        found = []
        for (window, dropped), row in zip(frames, rows, strict=True):
            table = row.reshape(len(window.targets), -1)
            found.append(
                Continuation(
                    sum_logprob=float(table[:, 0].sum(dtype=np.float64)),
                    tokens=len(window.targets),
                    greedy=bool((table[:, RANK] == 1).all()),
                    token_logprobs=np.ascontiguousarray(table[:, 0]),
                    dropped=dropped,
                )
            )
        return found

    def embed(
        self,
        texts: str | Ids | list[str] | list[list[int]],
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        truncate: bool = False,
    ) -> npt.NDArray[np.float32]:
        """One vector a text, ``[n, d]``; one text gives ``[d]``. Token ids in place of a text are taken as they are.

        ``pooling`` and ``normalize`` (to length 1) are by default what the checkpoint's ``modules.json`` says, else
        ``"mean"`` and False. A text longer than the model takes raises InputError, unless ``truncate`` cuts it.
        """
        given, several = _listed(texts)
        said = self._sentence
        kind: Pooling = pooling or (said.pooling if said else "mean")
        limits = [limit for limit in (self.config.context, said.max_length if said else None) if limit is not None]
        most = min(limits) if limits else None
        written = [text for text in given if isinstance(text, str)]
        encodings = iter(self._encoded(written, "embed", max_length=most if truncate else None) if written else ())
        rows: list[tuple[list[int], list[int]]] = []
        for text in given:
            if isinstance(text, str):
                encoding = next(encodings)
                rows.append((encoding.ids, encoding.type_ids))
            else:
                ids = list(text)[: most if truncate else None]
                rows.append((ids, [0] * len(ids)))
        for at, (ids, _) in enumerate(rows):
            if most is not None and len(ids) > most:
                raise InputError(f"text {at} has {len(ids)} tokens, expected at most {most}; truncate=True cuts it")
        if not rows:
            return np.zeros((0, self.config.width), np.float32)
        unit = bool(said and said.normalize) if normalize is None else normalize
        vectors: npt.NDArray[np.float32] = _rs.embed(self._pooled(kind), rows, normalize=unit, **self._bounds).numpy()
        return vectors if several else vectors[0]

    def _encoded(self, texts: list[str], what: str, **options: Any) -> list[Encoding]:
        if "" in texts:
            raise InputError(f"text {texts.index('')} to {what} is empty")
        return self.tokenizer.encode(texts, **options)

    def _request(self, prompt: str | Ids, at: int, options: Options) -> dict[str, Any]:
        unknown = options.keys() - _DEFAULTS.keys()
        if unknown:
            raise InputError(f"unknown option {', '.join(sorted(unknown))}; the options are {', '.join(_DEFAULTS)}")
        chosen: dict[str, Any] = {**_DEFAULTS, **options}
        seeds = chosen["seed"]
        chosen["seed"] = seeds if isinstance(seeds, int) else seeds[at] if at < len(seeds) else -1
        for name, least, most in (("max_tokens", 1, 2**31), ("top_k", 0, 2**31), ("seed", 0, 2**64 - 1)):
            value = chosen[name]
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise InputError(f"{name} is {value!r}, expected an integer from {least} to {most}")
        stop = chosen["stop"]
        chosen["stop"] = [stop] if isinstance(stop, str) else list(stop)
        chosen["eos"] = [] if chosen.pop("ignore_eos") else self._eos
        ids = self.tokenizer.encode(prompt).ids if isinstance(prompt, str) else prompt
        return {"prompt": list(ids), **chosen}

    @property
    def _bounds(self) -> _Bounds:
        return {"vocabulary": self.config.vocabulary, "context": self.config.context}

    @cached_property
    def _generator(self) -> _rs.Generator:
        self._expect_causal("generate")
        model, encode = self.model, self._encode
        if encode is None:
            return _rs.Generator(self.plan(model), tokenizer=self._native, kv_dtype=self.kv_dtype, **self._bounds)
        config: Any = model.config
        width = config.width
        encoder = (self.plan(encode), width, config.start)
        logits = self.plan(model, memory_width=width)
        return _rs.Generator(logits, tokenizer=self._native, encoder=encoder, kv_dtype=self.kv_dtype, **self._bounds)

    def _frame(self, *, window: int | None, stride: int | None) -> Frame:
        return Frame(context=self.config.context, window=window, stride=stride, prefix=self.prefix)

    def _logprob(self, top_k: int | None) -> _rs.Plan:
        if top_k not in self._logprobs:
            self.expect_next_token()
            model = self.model
            self._logprobs[top_k] = self.plan(
                lambda batch: model.head.logprob(model.hidden(batch), batch.labels, top_k=top_k)
            )
        return self._logprobs[top_k]

    def _top_k(self, reading: Reading) -> int | None:
        """What the head is asked for; None if log-probabilities are enough."""
        unknown = reading.keys() - Reading.__annotations__.keys()
        if unknown:
            known = ", ".join(Reading.__annotations__)
            raise InputError(f"unknown option {', '.join(sorted(unknown))}; the options are {known}")
        top_k, vocabulary = reading.get("top_k"), self.config.vocabulary
        if top_k is None:
            return 0 if reading.get("rank") or reading.get("entropy") else None
        if isinstance(top_k, bool) or not isinstance(top_k, int) or not 0 <= top_k <= vocabulary:
            raise InputError(f"top_k is {top_k!r}, expected an integer from 0 to {vocabulary}")
        return top_k

    def _pooled(self, kind: Pooling) -> _rs.Plan:
        if kind not in get_args(Pooling):
            raise InputError(f"pooling is {kind!r}, expected one of {', '.join(get_args(Pooling))}")
        if kind not in self._pools:
            model = self.model
            self._pools[kind] = self.plan(lambda batch: ops.pool(model.states(batch), batch.seqs, kind=kind))
        return self._pools[kind]

    def _expect_causal(self, what: str) -> None:
        if not any(isinstance(module, Attention) and module.cache for _, module in self.model.named_modules()):
            raise ConfigError(f"a {self.config.family} reads texts whole: it cannot {what}, only embed")

    @property
    def _encode(self) -> Callable[..., Any] | None:
        """The encoder of an encoder-decoder."""
        return getattr(self.model, "encode", None)

    @property
    def _native(self) -> _rs.Tokenizer | None:
        return None if self._tokenizer is None else self._tokenizer.native

    @cached_property
    def _sentence(self) -> sentence.Sentence | None:
        return None if self.model.source is None else sentence.read(self.model.source)

    @cached_property
    def _fields(self) -> Mapping[str, Any]:
        """The checkpoint's config, overlaid by its generation_config.json."""
        beside = None if self.model.source is None else Path(self.model.source) / "generation_config.json"
        if beside is None or not beside.is_file():
            return self.model.metadata
        try:
            overlay = json.loads(beside.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{beside}: cannot be read as JSON: {error}") from None
        if not isinstance(overlay, dict):
            raise ConfigError(f"{beside}: expected an object")
        return {**self.model.metadata, **{name: value for name, value in overlay.items() if value is not None}}

    def _special(self, name: str) -> list[int]:
        found = self._fields.get(name)
        ids = [] if found is None else found if isinstance(found, list) else [found]
        for id_ in ids:
            if isinstance(id_, bool) or not isinstance(id_, int) or not 0 <= id_ < self.config.vocabulary:
                raise ConfigError(f"{name} is {found!r}, expected ids from 0 to {self.config.vocabulary - 1}")
        return ids

    @cached_property
    def _eos(self) -> list[int]:
        ends = self._special("eos_token_id")
        tokenizer = self._tokenizer
        return ends or ([tokenizer.eos_id] if tokenizer is not None and tokenizer.eos_id is not None else [])


def _details(table: npt.NDArray[np.float32], reading: Reading) -> Details:
    """What was asked for of the columns of :func:`lmrs.ops.token_logprob`."""
    details: Details = {}
    if reading.get("entropy"):
        details["token_entropies"] = np.ascontiguousarray(table[:, 2])
    if reading.get("rank"):
        details["token_ranks"] = table[:, RANK].astype(np.int32)
    top_k = reading.get("top_k")
    if top_k is not None:
        details["top_tokens"] = table[:, 4 : 4 + top_k].astype(np.int32)
        details["top_logprobs"] = np.ascontiguousarray(table[:, 4 + top_k :])
    return details


def _listed(prompt: str | Ids | list[str] | list[list[int]]) -> tuple[list[str | Ids], bool]:
    """The prompts, and whether there were several: a text or a run of ids is one."""
    if isinstance(prompt, str):
        return [prompt], False
    prompts: list[Any] = list(prompt)
    if prompts and _are_ids(prompts):
        return [[int(item) for item in prompts]], False
    for at, item in enumerate(prompts):
        if not isinstance(item, str) and not _are_ids(item):
            raise InputError(f"item {at} is {item!r}, expected a text or token ids")
    return prompts, True


def _are_ids(item: object) -> bool:
    if not isinstance(item, Sequence | np.ndarray):
        return False
    return all(isinstance(id_, int | np.integer) and not isinstance(id_, bool) for id_ in item)


def _completion(text: str, tokens: list[int], logprobs: list[float], finish: FinishReason) -> Completion:
    return Completion(text, tokens, np.asarray(logprobs, np.float32), finish)
