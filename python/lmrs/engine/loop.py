"""The long-lived step loop: a native thread computes, a Python thread hands out what happened."""

import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from lmrs import _rs
from lmrs.engine.completion import Beam, Completion, Event, Token
from lmrs.engine.plans import Bounds

Sink = Callable[[Event], None]


@dataclass(frozen=True)
class Load:
    """What an engine is doing.

    ``running`` and ``waiting`` are requests, and calls that embed or score among those that run; ``cached_bytes`` the
    memory of their keys and values, ``prefix_bytes`` of those of prompts kept for later (blocks shared between them
    count for both); ``steps`` and ``tokens`` are since the engine started.
    """

    running: int = 0
    waiting: int = 0
    cached_bytes: int = 0
    prefix_bytes: int = 0
    steps: int = 0
    tokens: int = 0


class Loop:
    """Requests from any thread, computed together. It ends when it is closed, dropped, or the interpreter ends.

    ``step_tokens`` are computed at once, ``sequences`` run at once and hold ``cached_tokens`` together; with
    ``share_prefixes`` prompts are kept for those that begin alike.
    """

    def __init__(self, *, step_tokens: int, sequences: int, cached_tokens: int, share_prefixes: bool) -> None:
        self.process = os.getpid()
        self._service = _rs.Service(
            step_tokens=step_tokens,
            sequences=sequences,
            cached_tokens=cached_tokens,
            share_prefixes=share_prefixes,
        )
        self._sinks: dict[int, Sink] = {}
        self._lock = threading.Lock()
        work = (self._service, self._sinks, self._lock)
        thread = threading.Thread(target=_deliver, args=work, name="lmrs-events", daemon=True)
        thread.start()
        # Before the interpreter ends, so that no thread comes back from native code to find it gone.
        self.close = weakref.finalize(self, _close, self._service, thread, self.process)

    def submit(self, generator: _rs.Generator, request: Mapping[str, Any], timeout: float | None, sink: Sink) -> int:
        """Hand in a request; ``sink`` is called with each of its events, on another thread. Raises InputError."""
        # Events of a request come after it is known who wants them.
        with self._lock:
            number = self._service.submit(generator, request, timeout)
            self._sinks[number] = sink
        return number

    def cancel(self, number: int) -> None:
        """End a request; its memory is free before the next step. Nothing happens if it is over."""
        with self._lock:
            known = self._sinks.pop(number, None)
        if known is not None:
            self._service.cancel(number)

    def score(
        self, plan: _rs.Plan, windows: Sequence[tuple[Sequence[int], Sequence[int]]], **bounds: Unpack[Bounds]
    ) -> list[npt.NDArray[np.float32]]:
        """What ``plan`` says of the rows of each window (ids, labels) that have a label; -1 is none.

        Like those of :meth:`embed`, its texts share steps with those of other calls, in turn with those of requests.
        """
        return self._service.score(plan, windows, **bounds)

    def embed(
        self,
        plan: _rs.Plan,
        texts: Sequence[tuple[Sequence[int], Sequence[int]]],
        *,
        normalize: bool,
        **bounds: Unpack[Bounds],
    ) -> npt.NDArray[np.float32]:
        """What ``plan`` makes of each text (ids, segments), a row each, of length 1 if ``normalize``."""
        vectors: npt.NDArray[np.float32] = self._service.embed(plan, texts, normalize=normalize, **bounds).numpy()
        return vectors

    @property
    def load(self) -> Load:
        """What it is doing."""
        return Load(*self._service.load())


def _deliver(service: _rs.Service, sinks: dict[int, Sink], lock: threading.Lock) -> None:
    while (happened := service.wait(3600.0)) is not None:
        for number, text, chosen, whole, error in happened:
            over = whole is not None or error is not None
            with lock:
                sink = sinks.pop(number, None) if over else sinks.get(number)
            if sink is not None:
                sink(_event(text, chosen, whole, error))
    with lock:
        left = list(sinks.values())
        sinks.clear()
    for sink in left:
        sink(Event("", None, None, RuntimeError("the engine was closed")))


def _event(text: str, chosen: Any, whole: Any, error: BaseException | None) -> Event:
    token = None if chosen is None else Token(text, *chosen)
    completion = None
    if whole is not None:
        written, tokens, logprobs, top, finish, found = whole
        beams = [Beam(ids, np.asarray(each, np.float32), score) for ids, each, score in found]
        completion = Completion(written, tokens, np.asarray(logprobs, np.float32), finish, top, beams)
    return Event(text, token, completion, error)


def _close(service: _rs.Service, thread: threading.Thread, process: int) -> None:
    # In a forked child there is no such thread, and its locks may be held for ever.
    if os.getpid() != process:
        return
    service.close()
    if thread is not threading.current_thread():
        thread.join(timeout=30)
