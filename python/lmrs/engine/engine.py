"""The engine: one model, maybe with deltas, for many requests at once."""

import os
import threading
from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from typing import Any, TypeVar, Unpack, get_args, overload

import numpy as np
import numpy.typing as npt

from lmrs import _rs, delta
from lmrs.engine import scoring
from lmrs.engine.completion import Completion
from lmrs.engine.ends import special
from lmrs.engine.grammar import Compiled, Grammar
from lmrs.engine.loop import Load, Loop
from lmrs.engine.memory import Memory, memory
from lmrs.engine.options import Ids, Options, Reading, chosen
from lmrs.engine.plans import DType, KvDtype, Plans
from lmrs.engine.prompts import Prompt, Prompts, ids_of, listed, prompts_of
from lmrs.engine.reply import AsyncReply, Reply
from lmrs.errors import InputError
from lmrs.eval.continuations import Continuation
from lmrs.eval.protocols import Frame, Protocol, Window, windows
from lmrs.eval.scores import Score
from lmrs.models import sentence
from lmrs.models.beside import find_tokenizer, fitting, tokenizer_of
from lmrs.models.model import LanguageModel
from lmrs.ops import Pooling
from lmrs.tokenizer import Encoding, Tokenizer

R = TypeVar("R", Reply, AsyncReply)

CACHE_BYTES = 1 << 30
"""What keys and values may take if nothing else is said."""


class Engine:
    """Generates, scores and embeds with ``model``.

    Texts are encoded and written by ``tokenizer``, by default the one beside the model's checkpoint; without one,
    prompts are token ids and completions have no text. Results are the same, bit for bit, for any company in a batch
    and any number of threads. An engine may be used from several threads at once: their requests join one batch. After
    a ``fork`` the child has a batch of its own.

    ``dtype`` is how the weights of linear layers are held, and with that how they are multiplied; the model is not
    changed, and everything else (norms, attention, deltas beside a layer, sums) stays float32. ``"f32"``: as they are.
    ``"bf16"``: weights and their inputs rounded to bfloat16. ``"int8"``: bytes, a scale for each output and for each
    row of inputs, after an orthogonal turn of both. ``"int4"``: four bits, a scale and a least value for 32 weights,
    inputs in bytes, a scale for 32; the head in int8. Raises InputError
    for another dtype.

    ``kv_dtype`` is how the keys and values of earlier tokens are kept while generating: ``"f32"``, ``"bf16"`` (half the
    memory) or ``"int8"`` (a quarter, and a float32 scale a token and head). All of them together, those of prompts kept
    for requests that begin alike included, take at most ``cache_bytes``; when they would take more, the request that
    came last starts again later. Without ``share_prefixes`` nothing is kept of a prompt, so that how long a request
    takes says nothing of those before it. ``step_tokens`` are computed at once, and ``sequences`` requests (or beams of
    them) run at once. ``draft``, a smaller model of the same tokens, guesses for requests with ``draft_tokens``; its
    keys and values count as well.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        tokenizer: Tokenizer | None = None,
        dtype: DType = "f32",
        kv_dtype: KvDtype = "f32",
        cache_bytes: int = CACHE_BYTES,
        share_prefixes: bool = True,
        step_tokens: int = 512,
        sequences: int = 64,
        draft: LanguageModel | None = None,
    ) -> None:
        if dtype not in get_args(DType):
            raise InputError(f"dtype is {dtype!r}, expected one of {', '.join(get_args(DType))}")
        if kv_dtype not in get_args(KvDtype):
            raise InputError(f"kv_dtype is {kv_dtype!r}, expected one of {', '.join(get_args(KvDtype))}")
        for name, value in (("cache_bytes", cache_bytes), ("step_tokens", step_tokens), ("sequences", sequences)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**60:
                raise InputError(f"{name} is {value!r}, expected an integer, 1 or more")
        self.model, self.config = model, model.config
        self.dtype: DType = dtype
        self.kv_dtype: KvDtype = kv_dtype
        self._given = tokenizer
        self._cache_bytes, self._step_tokens, self._sequences = cache_bytes, step_tokens, sequences
        self._share_prefixes = share_prefixes
        self._base = Plans(model, dtype=dtype, kv_dtype=kv_dtype)
        self._draft = None if draft is None else Plans(draft, dtype=dtype, kv_dtype=kv_dtype)
        self._deltas: dict[str, Plans] = {}
        self._running: Loop | None = None
        self._starting = threading.Lock()

    def __repr__(self) -> str:
        loaded = f" with {', '.join(self._deltas)}" if self._deltas else ""
        return f"<Engine of {self.model!r} as {self.dtype}{loaded}>"

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads that generate; requests that are not finished raise RuntimeError. It may be used again."""
        running, self._running = self._running, None
        if running is not None:
            running.close()

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises InputError if none was given and none lies beside the model's checkpoint."""
        return self._tokenizer or tokenizer_of(self.model)

    @cached_property
    def _tokenizer(self) -> Tokenizer | None:
        return find_tokenizer(self.model) if self._given is None else fitting(self._given, self.model)

    # --- deltas ---

    def load_delta(self, name: str, source: LanguageModel | str | os.PathLike[str]) -> None:
        """Have requests choose ``delta=name``: a delta directory, or the engine's model with a delta on it.

        Several may be there at once and requests of all run together; weights they share with the model are held once.
        Raises InputError if the name is taken or a model has other weights, and what :func:`lmrs.delta.load` raises.
        """
        if name in self._deltas:
            raise InputError(f"delta {name!r} is loaded already; unload it first")
        tuned = delta.load(self.model, source) if isinstance(source, str | os.PathLike) else source
        if delta.stripped(tuned).config != self.config:
            raise InputError(f"delta {name!r} is of a model with another config")
        plans = Plans(tuned, dtype=self.dtype, kv_dtype=self.kv_dtype)
        self._deltas = {**self._deltas, name: plans}

    def unload_delta(self, name: str) -> None:
        """Forget a delta; requests that run with it finish with it. Raises InputError if there is none of the name."""
        self._plans(name)
        self._deltas = {other: plans for other, plans in self._deltas.items() if other != name}

    @property
    def deltas(self) -> tuple[str, ...]:
        """The names of the deltas that are loaded."""
        return tuple(self._deltas)

    def _plans(self, name: str | None) -> Plans:
        if name is None:
            return self._base
        found = self._deltas.get(name)
        if found is None:
            known = ", ".join(self._deltas) or "none"
            raise InputError(f"delta is {name!r}, expected one that is loaded: {known}")
        return found

    # --- generation ---

    @overload
    def generate(self, prompt: Prompt, **options: Unpack[Options]) -> Completion: ...
    @overload
    def generate(self, prompt: Prompts, **options: Unpack[Options]) -> list[Completion]: ...
    def generate(self, prompt: Prompt | Prompts, **options: Unpack[Options]) -> Completion | list[Completion]:
        """The continuation of a prompt; a list of prompts gives a list. See :class:`Options`.

        A prompt is a text, token ids, or a conversation, ``[{"role": "user", "content": "Hi"}, …]``, which the model's
        chat template writes and the assistant's next turn continues. An encoder-decoder answers the prompt instead.
        Raises InputError for an empty prompt, one longer than the context, an id out of range, or an option out of
        range; TokenizerError for a conversation that the template refuses; ConfigError if the model does not generate.
        """
        prompts, many = prompts_of(prompt)
        replies: list[Reply] = []
        try:
            for at, item in enumerate(prompts):
                replies.append(self._submit(item, Reply(), options, at=at))
            completions = [reply.result() for reply in replies]
        finally:
            for reply in replies:
                reply.cancel()
        return completions if many else completions[0]

    def stream(self, prompt: Prompt, **options: Unpack[Options]) -> Generator[str, None, Completion]:
        """The text of :meth:`generate`, piece by piece, never half a character. Returns the Completion."""
        with self.submit(prompt, **options) as reply:
            for token in reply:
                if token.text:
                    yield token.text
            return reply.result()

    def submit(self, prompt: Prompt, **options: Unpack[Options]) -> Reply:
        """Start a completion and return at once. Options and errors are those of :meth:`generate`."""
        return self._submit(prompt, Reply(), options)

    def asubmit(self, prompt: Prompt, **options: Unpack[Options]) -> AsyncReply:
        """:meth:`submit` for a coroutine: what it returns is read with ``await`` and ``async for``."""
        return self._submit(prompt, AsyncReply(), options)

    @property
    def generates(self) -> bool:
        """Whether the model generates; one that reads texts whole only embeds them."""
        return self._base.causal

    @property
    def load(self) -> Load:
        """What the engine is generating now."""
        return Load() if self._running is None else self._running.load

    def _submit(self, prompt: Prompt, reply: R, options: Options, *, at: int = 0) -> R:
        generator = self._plans(options.get("delta")).generator(self._native)
        request = chosen(options, at=at, eos=self._eos, encode=self._bare)
        if request["grammar"] is not None:
            request["grammar"] = self._compiled(request["grammar"])
        negative = request["negative_prompt"]
        if isinstance(negative, str):
            request["negative_prompt"] = self.tokenizer.encode(negative).ids
        drafts = request["draft_tokens"] and self._draft is not None
        request["drafter"] = self._drafter if drafts else None
        loop = self._loop
        number = loop.submit(
            generator, {"prompt": ids_of(prompt, lambda: self.tokenizer), **request}, options.get("timeout"), reply.sink
        )
        reply.cancel = lambda: loop.cancel(number)
        return reply

    @property
    def _loop(self) -> Loop:
        running = self._running
        if running is None or running.process != os.getpid():
            with self._starting:
                running = self._running
                if running is None or running.process != os.getpid():
                    running = Loop(
                        step_tokens=self._step_tokens,
                        sequences=self._sequences,
                        cached_tokens=max(self._cache_bytes // max(self._bytes_per_token, 1), 2),
                        share_prefixes=self._share_prefixes,
                    )
                    self._running = running
        return running

    def plan(self) -> Memory:
        """What memory it will need, at most, to generate with the limits it has. Raises ConfigError if it does not."""
        # With prefixes kept, all of the budget is used in time.
        tokens = self._cache_bytes // max(self._bytes_per_token, 1)
        return memory(
            self._base, cache=tokens * self._bytes_per_token, step_tokens=self._step_tokens, sequences=self._sequences
        )

    @property
    def _bytes_per_token(self) -> int:
        generators = [self._base.generator(self._native), *([] if self._draft is None else [self._drafter])]
        return sum(generator.bytes_per_token for generator in generators)

    @property
    def _drafter(self) -> _rs.Generator:
        assert self._draft is not None
        return self._draft.generator(None)

    def prepare(self, grammar: Grammar) -> None:
        """Compile a grammar, or find it compiled: a request that has it then starts at once. Raises InputError."""
        self._compiled(grammar)

    @cached_property
    def _compiled(self) -> Compiled:
        return Compiled(self.tokenizer.native, vocabulary=self.config.vocabulary, eos=self._eos)

    # --- scores ---

    @overload
    def score(self, texts: str, **reading: Unpack[Reading]) -> Score: ...
    @overload
    def score(self, texts: list[str], **reading: Unpack[Reading]) -> list[Score]: ...
    def score(self, texts: str | list[str], **reading: Unpack[Reading]) -> Score | list[Score]:
        """How well the model predicts a text. See :class:`Reading`.

        Raises InputError for an empty text, one with too few tokens, or an option out of range; ConfigError if the
        model does not predict the next token.
        """
        plans = self._plans(reading.get("delta"))
        plans.logprob(None)
        many = [texts] if isinstance(texts, str) else texts
        frame = self._frame(window=reading.get("window"), stride=reading.get("stride"))
        encodings = self._encoded(many, "score", add_special_tokens=False)
        scores = scoring.score(plans, many, encodings, frame=frame, reading=reading)
        return scores[0] if isinstance(texts, str) else scores

    def windows(
        self, text: str, *, protocol: Protocol = "rolling", window: int | None = None, stride: int | None = None
    ) -> list[Window]:
        """What :meth:`score` reads of a text, and which tokens it scores. Raises InputError as it does."""
        (encoding,) = self._encoded([text], "score", add_special_tokens=False)
        return windows(encoding.ids, protocol=protocol, frame=self._frame(window=window, stride=stride))

    def planned(self, run: Callable[..., Any], **options: int) -> _rs.Plan:
        """``run``, a call of the model as in :func:`lmrs.backend.record.record`, over weights held as ``dtype``."""
        return self._base.plan(run, **options)

    def expect_next_token(self) -> None:
        """Raise ConfigError if the model does not predict the next token of a text."""
        self._base.expect_next_token()

    @property
    def prefix(self) -> int | None:
        """The token before a text that is scored from its first token on."""
        begin = self.tokenizer.bos_id
        return next(iter(self._eos), None) if begin is None else begin

    def _frame(self, *, window: int | None, stride: int | None) -> Frame:
        return Frame(context=self.config.context, window=window, stride=stride, prefix=self.prefix)

    def continuations(self, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        """How likely each continuation is after its context; ``pairs`` are (context, continuation).

        The boundary between the two is drawn as lm-evaluation-harness draws it, and a context too long loses its start:
        see :mod:`lmrs.eval.continuations`. What the pairs of a call begin with in common is computed once, and changes
        no bit. Raises InputError for a continuation that is empty or longer than the
        context of the model; ConfigError if the model does not predict the next token.
        """
        self._base.logprob(0)
        return scoring.continuations(self._base, self.tokenizer, pairs, prefix=self.prefix)

    def following(self, ids: Ids, *, top_k: int = 0, delta: str | None = None) -> npt.NDArray[np.float32]:
        """What the model says of each id after the first, ``[len(ids) - 1, 4 + 2·top_k]``.

        The columns are those of :func:`lmrs.ops.token_logprob`: log-probability, log-sum-exp, entropy, rank, then the
        likeliest ids and their log-probabilities. Raises InputError for an id out of range.
        """
        return scoring.following(self._plans(delta), list(ids), top_k=top_k)

    # --- embeddings ---

    def embed(
        self,
        texts: str | Ids | list[str] | list[list[int]],
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        truncate: bool = False,
        delta: str | None = None,
    ) -> npt.NDArray[np.float32]:
        """One vector a text, ``[n, d]``; one text gives ``[d]``. Token ids in place of a text are taken as they are.

        ``pooling`` and ``normalize`` (to length 1) are by default what the checkpoint's ``modules.json`` says, else
        ``"mean"`` and False. A text longer than the model takes raises InputError, unless ``truncate`` cuts it.
        ``delta`` names a delta loaded with :meth:`load_delta`.
        """
        given, several = listed(texts)
        rows = self.pieces(given, truncate=truncate)
        vectors = self.embed_pieces(rows, pooling=pooling, normalize=normalize, delta=delta)
        return vectors if several else vectors[0]

    def embed_pieces(
        self,
        pieces: Sequence[tuple[list[int], list[int]]],
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        delta: str | None = None,
    ) -> npt.NDArray[np.float32]:
        """:meth:`embed` of texts that :meth:`pieces` has encoded: ids and segments."""
        plans, said = self._plans(delta), self._sentence
        if not pieces:
            return np.zeros((0, self.config.width), np.float32)
        plan = plans.pooled(pooling or (said.pooling if said else "mean"))
        unit = bool(said and said.normalize) if normalize is None else normalize
        vectors: npt.NDArray[np.float32] = _rs.embed(plan, pieces, normalize=unit, **plans.bounds).numpy()
        return vectors

    @property
    def longest(self) -> int | None:
        """The most tokens of a text that is embedded: the context, or less if the checkpoint's directory says so."""
        limits = (self.config.context, self._sentence.max_length if self._sentence else None)
        return min((limit for limit in limits if limit is not None), default=None)

    def pieces(self, texts: Sequence[str | Ids], *, truncate: bool = False) -> list[tuple[list[int], list[int]]]:
        """The ids and segments of each text, as :meth:`embed` reads them. Raises InputError for one too long."""
        most = self.longest
        written = [text for text in texts if isinstance(text, str)]
        encodings = iter(self._encoded(written, "embed", max_length=most if truncate else None) if written else ())
        rows: list[tuple[list[int], list[int]]] = []
        for text in texts:
            if isinstance(text, str):
                encoding = next(encodings)
                rows.append((encoding.ids, encoding.type_ids))
            else:
                ids = list(text)[: most if truncate else None]
                rows.append((ids, [0] * len(ids)))
        for at, (ids, _) in enumerate(rows):
            if most is not None and len(ids) > most:
                raise InputError(f"text {at} has {len(ids)} tokens, expected at most {most}; truncate=True cuts it")
        return rows

    def _encoded(self, texts: list[str], what: str, **options: Any) -> list[Encoding]:
        if "" in texts:
            raise InputError(f"text {texts.index('')} to {what} is empty")
        return self.tokenizer.encode(texts, **options)

    def _bare(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    @property
    def _native(self) -> _rs.Tokenizer | None:
        return None if self._tokenizer is None else self._tokenizer.native

    @cached_property
    def _sentence(self) -> sentence.Sentence | None:
        return None if self.model.source is None else sentence.read(self.model.source)

    @cached_property
    def _eos(self) -> list[int]:
        ends = special(self.model, "eos_token_id")
        tokenizer = self._tokenizer
        return ends or ([tokenizer.eos_id] if tokenizer is not None and tokenizer.eos_id is not None else [])
