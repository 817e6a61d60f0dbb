"""A model that stays in memory: its plans, its deltas, its tokenizer, and the queue of what is asked of it."""

from __future__ import annotations

import os
import threading
from functools import cached_property
from pathlib import Path
from typing import Self, get_args

from lmrs import _rs
from lmrs.engine.loop import Load, Loop
from lmrs.engine.memory import Memory, memory
from lmrs.engine.plans import DType, KvDtype, Plans, held_as
from lmrs.errors import InputError
from lmrs.models.beside import find_tokenizer, fitting, tokenizer_of
from lmrs.models.model import LanguageModel
from lmrs.tokenizer import Tokenizer

CACHE_BYTES = 1 << 30
"""What keys and values may take if nothing else is said."""


class Resident:
    """What :class:`lmrs.Engine` runs; its options are the engine's."""

    def __init__(
        self,
        model: LanguageModel,
        *,
        tokenizer: Tokenizer | None = None,
        dtype: DType | None = None,
        kv_dtype: KvDtype = "f32",
        cache: str | os.PathLike[str] | None = None,
        cache_bytes: int = CACHE_BYTES,
        share_prefixes: bool = True,
        step_tokens: int = 512,
        sequences: int = 64,
        draft: LanguageModel | None = None,
    ) -> None:
        held = held_as(model, dtype)
        if kv_dtype not in get_args(KvDtype):
            raise InputError(f"kv_dtype is {kv_dtype!r}, expected one of {', '.join(get_args(KvDtype))}")
        for name, value in (("cache_bytes", cache_bytes), ("step_tokens", step_tokens), ("sequences", sequences)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**60:
                raise InputError(f"{name} is {value!r}, expected an integer, 1 or more")
        self.model, self.config = model, model.config
        self.dtype: DType = held
        self.kv_dtype: KvDtype = kv_dtype
        self._given = tokenizer
        self._cache_bytes, self._step_tokens, self._sequences = cache_bytes, step_tokens, sequences
        self._share_prefixes = share_prefixes
        packed = None if cache is None else Path(cache)
        self._base = Plans(model, dtype=held, kv_dtype=kv_dtype, cache=packed)
        self._draft = None if draft is None else Plans(draft, dtype=held_as(draft, dtype), kv_dtype=kv_dtype)
        self._deltas: dict[str, Plans] = {}
        self._running: Loop | None = None
        self._starting = threading.Lock()

    def __repr__(self) -> str:
        loaded = f" with {', '.join(self._deltas)}" if self._deltas else ""
        return f"<Engine of {self.model!r} as {self.dtype}{loaded}>"

    def __enter__(self) -> Self:
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
        from lmrs import delta

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

    # --- the queue ---

    @property
    def generates(self) -> bool:
        """Whether the model generates; one that reads texts whole only embeds them."""
        return self._base.causal

    @property
    def load(self) -> Load:
        """What the engine is generating now."""
        return Load() if self._running is None else self._running.load

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
                        cached_tokens=self._cached_tokens,
                        share_prefixes=self._share_prefixes,
                    )
                    self._running = running
        return running

    def plan(self) -> Memory:
        """What memory it will need, at most, with the limits it has: to generate, else to embed texts of any length."""
        # With prefixes kept, all of the budget is used in time.
        cache = self._cached_tokens * self._bytes_per_token if self.generates else 0
        return memory(self._base, cache=cache, step_tokens=self._step_tokens, sequences=self._sequences)

    @property
    def _cached_tokens(self) -> int:
        return max(self._cache_bytes // max(self._bytes_per_token, 1), 2) if self.generates else 2

    @property
    def _bytes_per_token(self) -> int:
        generators = [self._base.generator(self._native), *([] if self._draft is None else [self._drafter])]
        return sum(generator.bytes_per_token for generator in generators)

    @property
    def _drafter(self) -> _rs.Generator:
        assert self._draft is not None
        return self._draft.generator(None)

    @property
    def _native(self) -> _rs.Tokenizer | None:
        return None if self._tokenizer is None else self._tokenizer.native
