"""The server under load: `serve.py speed MODEL`, and an hour of it: `serve.py soak MODEL`.

speed: answers a second and their 50th and 99th percentile with 1, 8 and 32 clients, each asking again when it is
answered: embeddings if MODEL embeds only, else streamed chats (time to the first token, and between tokens).
soak: capacity is measured with 32 clients; then requests come at random times (open loop, exponential gaps) at 80 % of
it, a tenth of them by clients that leave in the middle; then at three times capacity. Says what failed, the latencies,
and what memory the server holds.
"""

import asyncio
import contextlib
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx

PROMPTS = [f"Tell me about the number {n} in two sentences." for n in range(500)]
SENTENCES = [f"Sentence {n} says that the sea is blue and the house is red." for n in range(500)]
TOKENS = 32


@dataclass
class Seen:
    """What clients saw: statuses, and times in seconds."""

    status: Counter[int] = field(default_factory=Counter)
    whole: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second, until the last was there."""
        return len(self.whole) / self.seconds

    def told(self) -> str:
        """One line."""
        parts = [f"{self.rate:.1f}/s", f"whole {ms(self.whole)}"]
        parts += [f"{name} {ms(times)}" for name, times in (("first", self.first), ("between", self.between)) if times]
        parts += [f"refused {ms(self.refused)}"] if self.refused else []
        return ", ".join([*parts, f"statuses {dict(self.status)}", f"errors {dict(self.errors)}"])


def ms(times: list[float]) -> str:
    """The 50th and the 99th percentile."""
    if not times:
        return "–"
    ordered = sorted(times)
    return f"{ordered[len(ordered) // 2] * 1e3:.1f}/{ordered[len(ordered) * 99 // 100] * 1e3:.1f} ms"


Ask = Callable[[httpx.AsyncClient, Seen, bool], Awaitable[None]]


async def embed(client: httpx.AsyncClient, seen: Seen, leave: bool) -> None:  # noqa: FBT001
    """Asks for the vector of a sentence."""
    began = time.perf_counter()
    del leave
    answer = await client.post("/v1/embeddings", json={"model": "m", "input": random.choice(SENTENCES)})
    note(seen, answer.status_code, time.perf_counter() - began)


async def chat(client: httpx.AsyncClient, seen: Seen, leave: bool) -> None:  # noqa: FBT001
    """Asks for a reply, streamed; with `leave` goes away after some of it."""
    asked = {
        "model": "m",
        "messages": [{"role": "user", "content": random.choice(PROMPTS)}],
        "max_tokens": TOKENS,
        "temperature": 0.8,
        "ignore_eos": True,
        "stream": True,
    }
    began, last, chunks = time.perf_counter(), None, 0
    leaves = random.randrange(TOKENS) if leave else None
    async with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
        if answer.status_code == 200:
            async for line in answer.aiter_lines():
                if '"content":"' not in line or '"content":""' in line:
                    continue
                now = time.perf_counter()
                (seen.first if last is None else seen.between).append(now - (last or began))
                last, chunks = now, chunks + 1
                if chunks == leaves:
                    seen.status[0] += 1
                    return
    note(seen, answer.status_code, time.perf_counter() - began)


def note(seen: Seen, status: int, seconds: float) -> None:
    """Counts an answer."""
    seen.status[status] += 1
    (seen.whole if status == 200 else seen.refused).append(seconds)


async def guarded(ask: Ask, client: httpx.AsyncClient, seen: Seen, *, leave: bool = False) -> None:
    """Asks, and counts what went wrong instead of raising it."""
    try:
        await ask(client, seen, leave)
    except httpx.HTTPError as error:
        seen.errors[type(error).__name__] += 1


async def closed_loop(ask: Ask, client: httpx.AsyncClient, *, clients: int, seconds: float) -> Seen:
    """Each client asks again when it is answered."""
    seen, began = Seen(), time.monotonic()
    end = began + seconds

    async def one() -> None:
        while time.monotonic() < end:
            await guarded(ask, client, seen)

    await asyncio.gather(*(one() for _ in range(clients)))
    seen.seconds = time.monotonic() - began
    return seen


async def open_loop(ask: Ask, client: httpx.AsyncClient, *, rate: float, seconds: float, leaving: float) -> Seen:
    """Requests come at `rate` a second, whether or not those before are answered."""
    seen, tasks, began = Seen(), set(), time.monotonic()
    due = began
    while due < began + seconds:
        due += random.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        task = asyncio.create_task(guarded(ask, client, seen, leave=random.random() < leaving))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    seen.seconds = time.monotonic() - began
    return seen


@contextlib.asynccontextmanager
async def served(model: Path, dtype: str) -> AsyncIterator[tuple[httpx.AsyncClient, int]]:
    """A client of `lmrs serve MODEL`, and the server's process id."""
    command = [sys.executable, "-m", "lmrs", "serve", str(model), "--name", "m", "--port", "8123", "--dtype", dtype]
    # Little enough to be full soon: what grows after that is not the cache.
    command += ["--cache-mib", "64"]
    process = subprocess.Popen(command)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    try:
        async with httpx.AsyncClient(base_url="http://127.0.0.1:8123", timeout=120, limits=limits) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get("/ready")).status_code == 200:
                        break
                if process.poll() is not None:
                    raise click.ClickException("the server ended")
                await asyncio.sleep(0.1)
            yield client, process.pid
    finally:
        process.terminate()
        process.wait(60)


def resident(pid: int) -> int:
    """MiB that a process holds."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) // 1024 if found else 0


async def ask_of(client: httpx.AsyncClient) -> Ask:
    """What the model is asked for: replies, or vectors if it does not write."""
    tried = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    answer = await client.post("/v1/chat/completions", json=tried)
    return chat if answer.status_code == 200 else embed


async def _speed(model: Path, dtype: str, seconds: float) -> None:
    async with served(model, dtype) as (client, _):
        ask = await ask_of(client)
        await closed_loop(ask, client, clients=4, seconds=1)
        for clients in (1, 8, 32):
            seen = await closed_loop(ask, client, clients=clients, seconds=seconds)
            click.echo(f"{clients:>3} clients: {seen.told()}")


async def _soak(model: Path, dtype: str, seconds: float) -> None:
    async with served(model, dtype) as (client, pid):
        ask = await ask_of(client)
        measured = min(60.0, seconds / 10)
        capacity = (await closed_loop(ask, client, clients=32, seconds=measured)).rate
        click.echo(f"capacity {capacity:.1f}/s")
        for at in range(10):
            seen = await open_loop(ask, client, rate=0.8 * capacity, seconds=seconds / 10, leaving=0.1)
            click.echo(f"{at}: {seen.told()}, {resident(pid)} MiB")
        over = await open_loop(ask, client, rate=3 * capacity, seconds=measured, leaving=0.0)
        click.echo(f"at three times capacity: {over.told()}, {resident(pid)} MiB")
        load: Any = (await client.get("/metrics")).text
        click.echo(
            "\n".join(row for row in load.splitlines() if re.match(r"lmrs_(running|waiting|cached_bytes) ", row))
        )


@click.command()
@click.argument("what", type=click.Choice(["speed", "soak"]))
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.option("--dtype", default="int8", show_default=True)
@click.option("--seconds", type=float, help="5 for speed (each), 3600 for soak.")
def main(*, what: str, model: Path, dtype: str, seconds: float | None) -> None:
    """See the module."""
    random.seed(0)
    if what == "speed":
        asyncio.run(_speed(model, dtype, seconds or 5.0))
    else:
        asyncio.run(_soak(model, dtype, seconds or 3600.0))


if __name__ == "__main__":
    main()
