"""A completion that is being written."""

from collections.abc import AsyncIterator, Callable, Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING

from lmrs.engine.completion import Completion, Event, Token

if TYPE_CHECKING:
    pass

Cancel = Callable[[], None]


class Reply:
    """A completion as it is written: an iterator over its :class:`Token` s, and :meth:`result`.

    It may be used from one thread at a time. Leaving a ``with`` block, like :meth:`cancel`, ends what is not finished.
    """

    def __init__(self) -> None:
        self.cancel: Cancel = lambda: None
        """End it; the memory it holds is free before the engine's next step."""
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._completion: Completion | None = None

    @property
    def sink(self) -> Callable[[Event], None]:
        """Takes the events in, on whatever thread."""
        return self._events.put

    def __iter__(self) -> Iterator[Token]:
        while self._completion is None:
            event = self._next()
            if event.token is not None:
                yield event.token

    def result(self) -> Completion:
        """The whole, waited for. Raises what the engine raised."""
        while self._completion is None:
            self._next()
        return self._completion

    def _next(self) -> Event:
        event = self._events.get()
        if event.error is not None:
            raise event.error
        self._completion = event.completion
        return event

    def __enter__(self) -> "Reply":
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()


class AsyncReply:
    """A completion as it is written, for :mod:`asyncio`: an iterator over its tokens, and :meth:`result`."""

    def __init__(self) -> None:
        # Here, since it takes as long to import as a small model to start.
        import asyncio

        self.cancel: Cancel = lambda: None
        """End it; the memory it holds is free before the engine's next step."""
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._completion: Completion | None = None

    def sink(self, event: Event) -> None:
        """Takes an event in, on whatever thread."""
        # A loop that has ended wants nothing any more.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def __aiter__(self) -> AsyncIterator[Token]:
        while self._completion is None:
            event = await self._next()
            if event.token is not None:
                yield event.token

    async def result(self) -> Completion:
        """The whole. Raises what the engine raised."""
        while self._completion is None:
            await self._next()
        return self._completion

    async def _next(self) -> Event:
        event = await self._events.get()
        if event.error is not None:
            raise event.error
        self._completion = event.completion
        return event

    async def __aenter__(self) -> "AsyncReply":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()
