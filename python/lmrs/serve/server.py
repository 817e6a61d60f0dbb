"""What every route works with: the engine, its limits, and what is going on."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from lmrs.engine import Engine
from lmrs.serve.errors import Refusal, busy
from lmrs.serve.limits import Limits
from lmrs.serve.metrics import Metrics

R = TypeVar("R")


class Server:
    """One engine, served under ``name``; a delta on it is ``name:delta``."""

    def __init__(self, engine: Engine, *, name: str, limits: Limits, delta_root: Path | None) -> None:
        self.engine, self.name, self.limits, self.delta_root = engine, name, limits, delta_root
        self.metrics = Metrics(engine)
        self.ready = False
        self._completions = 0
        self._work = 0
        self._warming = asyncio.Lock()

    @property
    def models(self) -> list[str]:
        """Everything that ``model`` may be."""
        return [self.name, *(f"{self.name}:{delta}" for delta in self.engine.deltas)]

    def delta(self, model: str) -> str | None:
        """The delta that ``model`` asks for. Raises Refusal if there is no such model."""
        if model not in self.models:
            shown = model[:80].encode("ascii", "backslashreplace").decode()
            raise Refusal(f"there is no model {shown}; there are {', '.join(self.models)}", status=404, field="model")
        _, _, delta = model.removeprefix(self.name).partition(":")
        return delta or None

    async def warm(self) -> None:
        """Does once what is slow the first time."""
        if not self.ready:
            async with self._warming:
                if not self.ready:
                    await run_in_threadpool(self._warm)
                    self.ready = True

    def _warm(self) -> None:
        if self.engine.generates:
            self.engine.generate([0], max_tokens=1)
        else:
            self.engine.embed([0])

    def expect_room(self, count: int) -> None:
        """Raises Refusal unless there is room for ``count`` completions."""
        if self._completions + count > self.limits.requests:
            raise busy(self.limits.retry_seconds)

    @contextlib.contextmanager
    def completions(self, count: int) -> Iterator[None]:
        """Room for ``count`` completions while it lasts. Raises Refusal if there is none."""
        self.expect_room(count)
        self._completions += count
        try:
            yield
        finally:
            self._completions -= count

    async def work(self, call: Callable[..., R], *arguments: Any, **options: Any) -> R:
        """Runs ``call`` on a thread, if not too many wait for one. Raises Refusal if they do."""
        if self._work >= self.limits.work:
            raise busy(self.limits.retry_seconds)
        self._work += 1
        try:
            return await run_in_threadpool(call, *arguments, **options)
        finally:
            self._work -= 1


async def unless_gone(request: Request, work: Coroutine[Any, Any, R]) -> R:
    """What ``work`` gives, which is cancelled when the client of ``request`` is gone. Raises Refusal then."""
    ours, theirs = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({ours, theirs}, return_when=asyncio.FIRST_COMPLETED)
        if ours.done():
            return ours.result()
        raise Refusal("the client is gone", status=499)
    finally:
        theirs.cancel()
        ours.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await ours


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
