"""The engine: one model, maybe with deltas, for many requests at once.

What is not needed to generate is imported when it is: a small model starts in the time that those imports take.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

import numpy as np
import numpy.typing as npt

from lmrs import _rs
from lmrs.engine import vectors
from lmrs.engine.completion import Completion
from lmrs.engine.ends import special
from lmrs.engine.grammar import Compiled, Grammar
from lmrs.engine.options import Ids, Options, Reading, chosen
from lmrs.engine.prompts import Prompt, Prompts, ids_of, listed, prompts_of
from lmrs.engine.reply import AsyncReply, Reply
from lmrs.engine.resident import Resident
from lmrs.errors import InputError
from lmrs.models import sentence
from lmrs.ops import Pooling
from lmrs.tokenizer import Encoding

if TYPE_CHECKING:
    from lmrs.eval.continuations import Continuation
    from lmrs.eval.protocols import Frame, Protocol, Window
    from lmrs.eval.scores import Score

R = TypeVar("R", Reply, AsyncReply)


class Engine(Resident):
    """Generates, scores and embeds with ``model``.

    Texts are encoded and written by ``tokenizer``, by default the one beside the model's checkpoint; without one,
    prompts are token ids and completions have no text. Results are the same, bit for bit, for any company in a batch
    and any number of threads. An engine may be used from several threads at once: their requests join one batch. After
    a ``fork`` the child has a batch of its own.

    ``dtype`` is how the weights of linear layers are held, and with that how they are multiplied; the model is not
    changed, and everything else (norms, attention, deltas beside a layer, sums) stays float32. ``"f32"``: as they are.
    ``"bf16"``: weights and their inputs rounded to bfloat16. ``"int8"``: bytes, a bfloat16 scale for 64 weights and a
    scale for each row of inputs, after an orthogonal turn of both. ``"int4"``: four bits, a scale and a least value for
    32 weights, inputs in bytes, a scale for 32; the head in int8. None: what the model was packed as by
    :func:`lmrs.quantize`, else ``"f32"``. Raises InputError for another dtype, and for one that a packed model
    is not of.

    ``cache`` is a directory for packed weights: what a first start writes there, later ones and other processes map
    instead of packing again (see :mod:`lmrs.engine.packed`).

    ``kv_dtype`` is how the keys and values of earlier tokens are kept while generating: ``"f32"``, ``"bf16"`` (half the
    memory) or ``"int8"`` (a quarter, and a float32 scale a token and head). All of them together, those of prompts kept
    for requests that begin alike included, take at most ``cache_bytes``; when they would take more, the request that
    came last starts again later. Without ``share_prefixes`` nothing is kept of a prompt, so that how long a request
    takes says nothing of those before it. ``step_tokens`` are computed at once, and ``sequences`` requests (or beams of
    them) run at once. ``draft``, a smaller model of the same tokens, guesses for requests with ``draft_tokens``; its
    keys and values count as well.
    """

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

    def _submit(self, prompt: Prompt, reply: R, options: Options, *, at: int = 0) -> R:
        named, base = options.get("delta"), self._base.generator(self._native)
        generator = base if named is None else self._plans(named).generator(self._native, base)
        request = chosen(options, at=at, eos=self._eos, encode=self._bare)
        if request["penalty_alpha"]:
            generator = self._plans(named).contrast
        if request["grammar"] is not None:
            request["grammar"] = self._compiled(request["grammar"])
        negative = request["negative_prompt"]
        if isinstance(negative, str):
            request["negative_prompt"] = self.tokenizer.encode(negative).ids
        drafts = request["draft_tokens"] and self._draft is not None
        request["drafter"] = self._drafter if drafts else None
        loop, ids = self._loop, ids_of(prompt, lambda: self.tokenizer)
        number = loop.submit(generator, {"prompt": ids, **request}, options.get("timeout"), reply.sink)
        reply.cancel = lambda: loop.cancel(number)
        return reply

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
        from lmrs.engine import scoring

        plans = self._plans(reading.get("delta"))
        plans.logprob(None)
        many = [texts] if isinstance(texts, str) else texts
        frame = self._frame(window=reading.get("window"), stride=reading.get("stride"))
        encodings = self._encoded(many, "score", add_special_tokens=False)
        scores = scoring.score(plans, self._loop.score, many, encodings, frame=frame, reading=reading)
        return scores[0] if isinstance(texts, str) else scores

    def windows(
        self, text: str, *, protocol: Protocol = "rolling", window: int | None = None, stride: int | None = None
    ) -> list[Window]:
        """What :meth:`score` reads of a text, and which tokens it scores. Raises InputError as it does."""
        from lmrs.eval.protocols import windows

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
        from lmrs.eval.protocols import Frame

        return Frame(context=self.config.context, window=window, stride=stride, prefix=self.prefix)

    def continuations(self, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        """How likely each continuation is after its context; ``pairs`` are (context, continuation).

        The boundary between the two is drawn as lm-evaluation-harness draws it, and a context too long loses its start:
        see :mod:`lmrs.eval.continuations`. What the pairs of a call begin with in common is computed once, and changes
        no bit. Raises InputError for a continuation that is empty or longer than the
        context of the model; ConfigError if the model does not predict the next token.
        """
        from lmrs.engine import scoring

        self._base.logprob(0)
        return scoring.continuations(self._base, self.tokenizer, pairs, prefix=self.prefix)

    def following(self, ids: Ids, *, top_k: int = 0, delta: str | None = None) -> npt.NDArray[np.float32]:
        """What the model says of each id after the first, ``[len(ids) - 1, 4 + 2·top_k]``.

        The columns are those of :func:`lmrs.ops.token_logprob`: log-probability, log-sum-exp, entropy, rank, then the
        likeliest ids and their log-probabilities. Raises InputError for an id out of range.
        """
        from lmrs.engine import scoring

        return scoring.following(self._plans(delta), self._loop.score, list(ids), top_k=top_k)

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
        found = self.embed_pieces(rows, pooling=pooling, normalize=normalize, delta=delta)
        return found if several else found[0]

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
        return self._loop.embed(plan, pieces, normalize=unit, **plans.bounds)

    @property
    def labels(self) -> int:
        """How many labels :meth:`classify` tells apart; 0 if the model does not classify."""
        return int(getattr(self.config, "labels", 0))

    def classify(
        self, texts: Sequence[str | Ids | tuple[str, str]], *, truncate: bool = False, delta: str | None = None
    ) -> npt.NDArray[np.float32]:
        """The logits of each text's labels, ``[n, labels]``; a pair of texts is read as one, as a cross-encoder does.

        Options and errors are those of :meth:`embed`; ConfigError if the model has no head of sequence classification.
        """
        plans = self._plans(delta)
        plan, rows = plans.labels, self.pieces(texts, truncate=truncate)
        if not rows:
            return np.zeros((0, self.labels), np.float32)
        return self._loop.embed(plan, rows, normalize=False, **plans.bounds)

    def pieces(
        self, texts: Sequence[str | Ids | tuple[str, str]], *, truncate: bool = False
    ) -> list[tuple[list[int], list[int]]]:
        """The ids and segments of each text, as :meth:`embed` reads them. Raises InputError for one too long."""
        needed = any(isinstance(text, str | tuple) for text in texts)
        return vectors.pieces(self.tokenizer if needed else None, texts, most=self.longest, truncate=truncate)

    @property
    def longest(self) -> int | None:
        """The most tokens of a text that is embedded: the context, or less if the checkpoint's directory says so."""
        limits = (self.config.context, self._sentence.max_length if self._sentence else None)
        return min((limit for limit in limits if limit is not None), default=None)

    def _encoded(self, texts: list[str], what: str, **options: Any) -> list[Encoding]:
        if "" in texts:
            raise InputError(f"text {texts.index('')} to {what} is empty")
        return self.tokenizer.encode(texts, **options)

    def _bare(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    @cached_property
    def _sentence(self) -> sentence.Sentence | None:
        return None if self.model.source is None else sentence.read(self.model.source)

    @cached_property
    def _eos(self) -> list[int]:
        ends = special(self.model, "eos_token_id")
        tokenizer = self._tokenizer
        return ends or ([tokenizer.eos_id] if tokenizer is not None and tokenizer.eos_id is not None else [])
