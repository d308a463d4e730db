"""Tasks that do not listen, do not end, or take too much: for tests of limits and cancelling."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from pgtask import JobCancelled, SoftTimeLimitExceeded, current_job
from pgtask.app import App
from tests import shop
from tests.shop import append

app: App = shop.app


@app.task(max_attempts=1)
def hold_the_gil(log: str) -> None:
    """Be in C code, with the interpreter's lock, for longer than anybody waits."""
    append(log, str(os.getpid()))
    re.match(r"(a+)+$", "a" * 64 + "b")


@app.task(backoff="const:0.05", jitter=0)
def die_of(number: int, log: str) -> int:
    """Die of this signal, the first time."""
    append(log, "begin")
    if current_job().attempt == 1:
        if number == signal.SIGSEGV:
            ctypes.string_at(0)
        elif number == signal.SIGABRT:
            os.abort()
        os.kill(os.getpid(), number)
        time.sleep(60)
    return current_job().attempt


@app.task(backoff="const:0.05", jitter=0)
def leave_in(how: str) -> int:
    if current_job().attempt == 1:
        raise {"exit": SystemExit, "interrupt": KeyboardInterrupt, "close": GeneratorExit}[how](
            "so"
        )
    return current_job().attempt


@app.task(backoff="const:0.05", jitter=0)
async def async_leave_in(how: str) -> int:
    await asyncio.sleep(0)
    if current_job().attempt == 1:
        raise {"exit": SystemExit, "interrupt": KeyboardInterrupt, "close": GeneratorExit}[how](
            "so"
        )
    return current_job().attempt


@app.task(give_up_on=SystemExit)
def exit_for_good() -> None:
    sys.exit("no")


@app.task
def leave_a_program_behind(log: str, how: str) -> None:
    """Start a program that goes on for long; then die, or return."""
    program = subprocess.Popen(["sleep", "600"])
    append(log, f"{os.getpid()} {program.pid}")
    if how == "die":
        os._exit(0)
    if how == "wait":
        time.sleep(60)


@app.task(max_attempts=1)
def grow(megabytes: int, log: str) -> None:
    """Take so much memory, and wait."""
    append(log, f"begin {current_job().id} {os.getpid()}")
    held = bytearray(megabytes * 1024 * 1024)
    held[::4096] = b"x" * len(held[::4096])
    while not Path(log + ".go").exists():
        time.sleep(0.01)


@app.task
def speak(words: str) -> None:
    print(words)  # noqa: T201 - what it is for


_kept: list[bytearray] = []


@app.task
def leak(megabytes: int, log: str) -> int:
    """Keep so much memory for ever."""
    _kept.append(bytearray(b"x" * (megabytes * 1024 * 1024)))
    append(log, str(os.getpid()))
    return os.getpid()


@app.task
def tell_pid(log: str) -> int:
    append(log, f"{current_job().id} {os.getpid()}")
    return os.getpid()


@app.task
async def async_tell_pid(log: str) -> int:
    append(log, f"{current_job().id} {os.getpid()}")
    return os.getpid()


@app.task
async def async_gate(log: str) -> int:
    """Wait until a file of the log's name with .go is there."""
    append(log, f"begin {current_job().id} {os.getpid()}")
    while not Path(log + ".go").exists():  # noqa: ASYNC110 - a file is all tests have
        await asyncio.sleep(0.01)
    return os.getpid()


@app.task(max_attempts=1)
async def async_deaf(log: str) -> None:
    """Take no cancellation for an answer."""
    append(log, f"begin {current_job().id} {os.getpid()}")
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            append(log, "cancelled")


@app.task(max_crashes=1)
async def async_stop_the_loop_once(seconds: float, log: str) -> None:
    append(log, f"begin {current_job().id} {os.getpid()}")
    time.sleep(seconds)  # noqa: ASYNC251 - what it is for


@app.task
def clean_up(log: str) -> None:
    """Wait until interrupted, and leave in good order."""
    append(log, "begin")
    try:
        time.sleep(60)
    except JobCancelled:
        append(log, "interrupted")
        raise
    finally:
        append(log, "left")


@app.task
def deaf(log: str) -> None:
    """Catch whatever comes, and go on."""
    append(log, f"begin {os.getpid()}")
    while True:
        try:
            time.sleep(60)
        except Exception as error:  # noqa: BLE001 - what it is for
            append(log, type(error).__name__)


@app.task(max_attempts=1)
def wait_for_another(job_id: int, log: str) -> str:
    """Wait for a result for longer than the soft limit allows."""
    append(log, "begin")
    try:
        app.AsyncResult(job_id).get(timeout=60)
    except SoftTimeLimitExceeded:
        return "gave up"
    return "got it"


def no_delay(attempt: int) -> float:
    """A backoff function with a mistake in it."""
    return 1 / (attempt - attempt)


@app.task(backoff=no_delay)
def slow_to_say() -> None:
    raise ValueError("as ever")


@app.task(backoff=no_delay)
async def async_slow_to_say() -> None:
    raise ValueError("as ever")
