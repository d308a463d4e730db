"""The app under fault: tasks that write down what they did where no fault of PostgreSQL reaches."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from pgtask import App, Options, current_job

# A job may be hit again and again and must still end well.
LASTING: Options = {"max_attempts": 40, "max_crashes": 40, "backoff": "const:0.1", "jitter": 0}

app = App("faults", task_defaults=LASTING)

if os.environ.get("FAULTS_START") == "raise":
    os.register_at_fork(after_in_child=lambda: os._exit(9))
elif os.environ.get("FAULTS_START") == "hang":
    os.register_at_fork(after_in_child=lambda: time.sleep(3600))


def note(event: str, more: str = "-") -> None:
    """One line of the effect log, by one write: whole or not there, whoever is killed."""
    job = current_job()
    line = f"{job.id} {job.epoch} {os.getpid()} {event} {time.monotonic():.6f} {more}\n"
    descriptor = os.open(os.environ["FAULTS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


# The load ----------------------------------------------------------------------------------------


@app.task
def effect(n: int, seconds: float = 0.0) -> int:
    note("begin")
    if seconds:
        time.sleep(seconds)
    note("end")
    return n


@app.task
async def async_effect(n: int, seconds: float = 0.002) -> int:
    note("begin")
    await asyncio.sleep(seconds)
    note("end")
    return n


@app.task(transaction=True)
def transfer(n: int) -> int:
    """Count, in the transaction that completes the job."""
    job = current_job()
    note("begin")
    job.connection.execute("insert into public.effect values (%s, %s)", [job.id, job.epoch])
    job.connection.execute("update public.counter set n = n + 1 where lane = %s", [n % 8])
    note("end")
    return n


@app.task(serial="lane:{lane}")
def in_lane(n: int, lane: int) -> int:
    note("begin", f"lane:{lane}")
    time.sleep(0.002)
    note("end", f"lane:{lane}")
    return n


@app.task
def stumbling(n: int) -> int:
    """Fail the first time."""
    note("begin")
    if current_job().attempt == 1:
        raise ValueError("the first attempt fails")
    note("end")
    return n


@app.task(on_crash="fail")
def once(n: int) -> int:
    note("begin")
    time.sleep(0.002)
    note("end")
    return n


# What one scenario needs -------------------------------------------------------------------------


@app.task
def hold(gate: str) -> None:
    """Run until the gate, a file, is there."""
    note("begin")
    while not Path(gate).exists():
        time.sleep(0.01)
    note("end")


@app.task
async def async_hold(gate: str) -> None:
    note("begin")
    while not Path(gate).exists():  # noqa: ASYNC110 - a file is all there is
        await asyncio.sleep(0.01)
    note("end")


@app.task(serial="held:{gate}")
def hold_lane(gate: str) -> None:
    note("begin")
    while not Path(gate).exists():
        time.sleep(0.01)
    note("end")


@app.task(max_crashes=3, max_attempts=5)
def leave(how: str) -> None:
    """Leave the interpreter, or the process."""
    note("begin", how)
    match how:
        case "_exit":
            os._exit(0)
        case "exit":
            sys.exit(0)
        case "interrupt":
            raise KeyboardInterrupt
        case "generator":
            raise GeneratorExit
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "stack":
            _too_deep()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)


def _too_deep() -> None:
    # Overflows the C stack, where no RecursionError helps: each call is one of C's.
    sys.setrecursionlimit(10**9)
    nested: Any = ()
    for _ in range(10**6):
        nested = (nested,)
    hash(nested)


@app.task(max_attempts=1, timeout=1.0)
def deaf() -> None:
    """Hear no signal that can be blocked."""
    note("begin")
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        time.sleep(1)


@app.task(max_attempts=1, timeout=1.0, soft_timeout=0.5)
def in_c() -> None:
    """Stay in C code that keeps the GIL."""
    note("begin")
    sum(range(10**14))


@app.task(max_attempts=1)
def echo(value: Any) -> Any:
    note("begin")
    note("end")
    return value


@app.task(max_attempts=1)
def large(megabytes: int) -> str:
    note("begin")
    note("end")
    return "x" * (megabytes << 20)


class Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    def __reduce__(self) -> Any:
        raise RuntimeError("no state")


@app.task(max_attempts=1)
def fail(how: str) -> object:
    note("begin")
    match how:
        case "rude":
            raise Rude
        case "long":
            raise ValueError("x" * 100_000_000)
        case "nul":
            raise ValueError("a\0b\ud800")
        case "group":
            raise BaseExceptionGroup("two", [ValueError("one"), KeyboardInterrupt()])
        case _:
            return object()


@app.task
def nap(n: int) -> None:
    """A task that costs no CPU, so that a busy machine does not decide how many are done."""
    note("begin")
    time.sleep(0.005)
    note("end")
