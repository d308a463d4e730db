"""The command line that every product's program has: one job, many, paced, round trips, work."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, NamedTuple, TypeVar

from bench.job import now

# Imported by programs in many environments: the standard library only.

T = TypeVar("T")
WARM_UP = 20
FIRST = 3


class Sender(NamedTuple):
    """A connected client: send one job, a list of jobs, or one and wait for its result."""

    one: Callable[[int], Awaitable[object]]
    many: Callable[[list[int]], Awaitable[object]] | None = None
    trip: Callable[[int], Awaitable[object]] | None = None
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep


def blocking(
    one: Callable[[int], object],
    many: Callable[[list[int]], object] | None = None,
    trip: Callable[[int], object] | None = None,
) -> Sender:
    """A Sender of plain functions; what awaits it never suspends, so it needs no event loop."""
    return Sender(
        _as_awaitable(one),
        _as_awaitable(many) if many else None,
        _as_awaitable(trip) if trip else None,
        _as_awaitable(time.sleep),
    )


def main(
    setup: Callable[[], Awaitable[None] | None],
    client: Callable[[], AbstractContextManager[Sender] | AbstractAsyncContextManager[Sender]],
    work: Callable[[int], Coroutine[Any, Any, None] | None] | None = None,
    serve: Callable[[int, int], None] | None = None,
) -> None:
    """Run the command in sys.argv; the answer is the last line of stdout, JSON.

    `work` is one worker process of that concurrency; `serve` starts all of them when the product
    has a command of its own for it.
    """
    command, *words = sys.argv[1:]
    if command == "setup":
        _finish(setup())
    elif command == "serve":
        processes, concurrency = map(int, words)
        if serve is not None:
            serve(processes, concurrency)
        else:
            module = sys.modules["__main__"].__spec__
            assert module is not None
            each = [sys.executable, "-m", module.name, "work", str(concurrency)]
            spawn([each] * processes)
    elif command == "work":
        assert work is not None
        _finish(work(int(words[0])))
    else:
        answer = _with_client(client(), _MEASURES[command], [float(word) for word in words])
        print(json.dumps(answer), flush=True)


def spawn(commands: list[list[str]]) -> None:
    """Run these until TERM, and until they have ended."""
    processes = [subprocess.Popen(command) for command in commands]

    def end(number: int, frame: object) -> None:
        for process in processes:
            process.terminate()

    signal.signal(signal.SIGTERM, end)
    for process in processes:
        process.wait()


def become(*command: str) -> None:
    """Be that program from here on."""
    os.execv(command[0], command)


async def told_to_end() -> None:
    """Return at TERM."""
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()


async def _one(sender: Sender, jobs: float) -> dict[str, float]:
    for _ in range(WARM_UP):
        await sender.one(0)
    begun = time.perf_counter()
    for _ in range(int(jobs)):
        await sender.one(0)
    return {"jobs": jobs + WARM_UP, "per_s": jobs / (time.perf_counter() - begun)}


async def _many(sender: Sender, jobs: float, size: float) -> dict[str, float]:
    assert sender.many is not None
    batch = [0] * int(size)
    batches = max(1, round(jobs / size))
    await sender.many(batch)
    begun = time.perf_counter()
    for _ in range(batches):
        await sender.many(batch)
    seconds = time.perf_counter() - begun
    return {"jobs": (batches + 1) * size, "per_s": batches * size / seconds}


async def _rate(sender: Sender, per_s: float, seconds: float) -> dict[str, float]:
    """A closed loop: who cannot keep the pace sends less, and the answer says so.

    The first few, sent as 0, are not to be counted: clients connect and prepare in them.
    """
    for _ in range(FIRST):
        await sender.one(0)
        await sender.pause(0.05)
    sent, begun = 0, time.perf_counter()
    while sent < per_s * seconds and time.perf_counter() - begun < seconds * 1.05:
        early = begun + sent / per_s - time.perf_counter()
        if early > 0:
            await sender.pause(early)
        await sender.one(now())
        sent += 1
    spent = time.perf_counter() - begun
    return {"jobs": sent + FIRST, "sent": sent, "seconds": spent, "per_s": sent / spent}


async def _trips(sender: Sender, jobs: float) -> dict[str, Any]:
    assert sender.trip is not None
    took = []
    for number in range(WARM_UP + int(jobs)):
        begun = time.perf_counter()
        await sender.trip(now())
        if number >= WARM_UP:
            took.append((time.perf_counter() - begun) * 1e3)
        await sender.pause(0.005)
    return {"ms": took}


_MEASURES: dict[str, Callable[..., Coroutine[Any, Any, dict[str, Any]]]] = {
    "one": _one,
    "many": _many,
    "rate": _rate,
    "trips": _trips,
}


def _with_client(
    client: AbstractContextManager[Sender] | AbstractAsyncContextManager[Sender],
    measure: Callable[..., Coroutine[Any, Any, dict[str, Any]]],
    numbers: list[float],
) -> dict[str, Any]:
    if isinstance(client, AbstractAsyncContextManager):
        return asyncio.run(_with_async_client(client, measure, numbers))
    with client as sender:
        return _to_end(measure(sender, *numbers))


async def _with_async_client(
    client: AbstractAsyncContextManager[Sender],
    measure: Callable[..., Coroutine[Any, Any, dict[str, Any]]],
    numbers: list[float],
) -> dict[str, Any]:
    async with client as sender:
        return await measure(sender, *numbers)


def _as_awaitable(function: Callable[..., T]) -> Callable[..., Awaitable[T]]:
    async def call(*arguments: Any) -> T:
        return function(*arguments)

    return call


def _to_end(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        coroutine.send(None)
    except StopIteration as ended:
        answer: T = ended.value
        return answer
    raise RuntimeError("a blocking client suspended")


def _finish(answer: Awaitable[None] | None) -> None:
    if inspect.iscoroutine(answer):
        asyncio.run(answer)
