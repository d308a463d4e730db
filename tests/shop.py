"""The app under test: tasks that do what tests need done."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from pgtask import App, Reject, Retry, Snooze, current_job

app = App("shop")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task(keep="none")
def noop(x: int = 0) -> None:
    return None


@app.task
def echo(value: Any) -> Any:
    return value


@app.task
def note(path: str, line: str) -> None:
    """Append a line to a file, with one write: the effect log of the tests."""
    append(path, line)


@app.task
def hold(path: str) -> str:
    """Say so in the file, then wait until a file of the same name with .go is there."""
    append(path, f"begin {current_job().id} {current_job().epoch}")
    while not Path(path + ".go").exists():
        if current_job().cancelled:
            append(path, "cancelled")
            return "cancelled"
        time.sleep(0.01)
    append(path, f"end {current_job().id} {current_job().epoch}")
    return "held"


@app.task
async def async_hold(path: str) -> str:
    append(path, f"begin {current_job().id}")
    try:
        while not Path(path + ".go").exists():  # noqa: ASYNC110, ASYNC240 - a file is all tests have
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        append(path, "cancelled")
        raise
    return "held"


@app.task
async def async_add(x: int, y: int) -> int:
    await asyncio.sleep(0)
    return x + y


@app.task(backoff="const:0.05", jitter=0)
def flaky(successful_attempt: int) -> int:
    if current_job().attempt < successful_attempt:
        raise ValueError(f"attempt {current_job().attempt} fails")
    return current_job().attempt


@app.task(max_attempts=1)
def fail(message: str) -> None:
    raise ValueError(message)


@app.task
def reject() -> None:
    raise Reject("not wanted")


@app.task(max_attempts=2)
def retry_now(path: str) -> None:
    append(path, f"attempt {current_job().attempt}")
    raise Retry(delay=0)


@app.task(max_attempts=1)
def snooze_once(path: str) -> int:
    if not Path(path).exists():
        append(path, "snoozed")
        raise Snooze(0.05)
    return current_job().attempt


@app.task(backoff="const:0.05", jitter=0)
def die(path: str, times: int, status: int = 3) -> int:
    """End the process, the first so many times."""
    append(path, "begin")
    if len(Path(path).read_text().splitlines()) <= times:
        os._exit(status)
    return current_job().attempt


@app.task(max_attempts=1, timeout=0.5)
def too_slow() -> None:
    time.sleep(60)


@app.task(max_attempts=1, soft_timeout=0.2)
def interrupted() -> None:
    time.sleep(60)


@app.task(max_attempts=1, timeout=0.3)
async def async_too_slow() -> None:
    await asyncio.sleep(60)


@app.task(max_attempts=1)
def unstorable() -> object:
    return object()


@app.task(max_attempts=1)
def leave(how: str) -> None:
    if how == "exit":
        raise SystemExit(0)
    raise KeyboardInterrupt


@app.task(transaction=True, backoff="const:0.05", jitter=0)
def write_row(value: int, *, fail_until: int = 0) -> int:
    """Write one row and a follow-up job in the transaction that completes this job."""
    current_job().connection.execute("insert into public.effect (value) values (%s)", [value])
    note.delay("/dev/null", "follow-up")
    if current_job().attempt < fail_until:
        raise ValueError("rolled back")
    return value


@app.task(transaction=True)
async def async_write_row(value: int) -> int:
    await current_job().connection.execute("insert into public.effect (value) values (%s)", [value])
    await note.adelay("/dev/null", "follow-up")
    return value


@app.task(transaction=True)
def write_and_hold(value: int, path: str) -> None:
    current_job().connection.execute("insert into public.effect (value) values (%s)", [value])
    append(path, "begin")
    while not Path(path + ".go").exists():
        time.sleep(0.01)


@app.task(serial="lane:{lane}")
def in_lane(lane: int, path: str) -> None:
    append(path, f"+{lane}")
    time.sleep(0.01)
    append(path, f"-{lane}")


@app.task(on_crash="fail")
def at_most_once(path: str) -> None:
    append(path, "begin")
    os._exit(1)


def append(path: str, line: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)
