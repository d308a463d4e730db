"""The app under test: tasks that do what tests need done."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
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
def hold_in_turn(path: str) -> int:
    """As hold, but the n-th to begin waits for .go and its number, and returns that."""
    append(path, "begin")
    turn = len(Path(path).read_text().splitlines())
    while not Path(f"{path}.go{turn}").exists():
        time.sleep(0.01)
    append(path, f"end {turn}")
    return turn


@app.task
async def async_hold(path: str) -> str:
    append(path, f"begin {current_job().id}")
    try:
        while not Path(path + ".go").exists():  # noqa: ASYNC110 - a file is all tests have
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
    append(path, f"begin {os.getpid()}")
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


@app.task
def pass_gate(path: str, log: str) -> None:
    """Go through at once where the gate is open, else wait for it."""
    job = current_job().id
    append(log, f"+{job} {os.getpid()}")
    while not Path(path).exists():
        time.sleep(0.01)
    append(log, f"-{job} {os.getpid()}")


@app.task(backoff="const:0.05", jitter=0)
def nap(seconds: float, log: str) -> None:
    job = current_job().id
    append(log, f"+{job} {os.getpid()}")
    time.sleep(seconds)
    append(log, f"-{job} {os.getpid()}")


@app.task(max_attempts=1)
def start_program(log: str) -> None:
    """Start a program that goes on for long, and wait for it."""
    program = subprocess.Popen(["sleep", "600"])
    append(log, f"{os.getpid()} {program.pid}")
    program.wait()


@app.task
def fork_and_return() -> int:
    """Return in both processes, as code written for daemons does."""
    if (pid := os.fork()) == 0:
        return -1
    os.waitpid(pid, 0)
    return 1


@app.task(max_attempts=1)
async def async_stop_the_loop(seconds: float, log: str) -> None:
    append(log, "begin")
    time.sleep(seconds)  # noqa: ASYNC251 - what it is for


@app.task
async def async_wait(seconds: float, log: str) -> None:
    append(log, str(os.getpid()))
    await asyncio.sleep(seconds)


@app.task(backoff="const:0.05", jitter=0)
async def async_die(log: str, times: int) -> int:
    """End the process, the first so many times, after a first await."""
    append(log, "begin")
    await asyncio.sleep(0.01)
    if len(Path(log).read_text().splitlines()) <= times:
        os._exit(3)
    return current_job().attempt


@app.task(transaction=True, max_attempts=1)
def write_once(value: int) -> None:
    current_job().connection.execute("insert into public.effect (value) values (%s)", [value])


@app.task(transaction=True)
def lock_both(first: int, second: int, path: str) -> None:
    connection = current_job().connection
    connection.execute("select from public.effect where value = %s for update", [first])
    append(path, "has one")
    while not Path(path + ".go").exists():
        time.sleep(0.01)
    connection.execute("select from public.effect where value = %s for update", [second])


@app.task
def enqueue_note(path: str, queue: str) -> None:
    note.options(queue=queue).delay(path, f"in {queue}")


@app.task(on_crash="fail")
def hold_at_most_once(path: str) -> None:
    append(path, f"begin {os.getpid()}")
    while not Path(path + ".go").exists():
        time.sleep(0.01)


@app.task(transaction=True)
def end_transaction(value: int, how: str) -> None:
    """Write a row, then end the transaction behind pgtask's back."""
    current_job().connection.execute("insert into public.effect (value) values (%s)", [value])
    current_job().connection.execute(how)


@app.task(transaction=True)
def spoil_session() -> None:
    connection = current_job().connection
    connection.execute("set search_path to nowhere")
    connection.execute("set statement_timeout to 5000")
    connection.execute("select pg_advisory_lock(77)")
    connection.execute("create temp table effect (value text)")


@app.task(transaction=True)
def tell_session() -> list[str]:
    row = current_job().connection.execute(
        "select current_setting('search_path'), current_setting('statement_timeout'),"
        " (select count(*)::text from pg_locks where locktype = 'advisory'"
        " and pid = pg_backend_pid()), to_regclass('effect')::text"
    )
    return list(row.fetchone())


@app.task(transaction=True, max_attempts=1)
async def async_count_connections() -> int:
    connection = current_job().connection
    await asyncio.sleep(0.05)
    found = await connection.execute(
        "select count(*) from pg_stat_activity where application_name = 'pgtask:task'"
        " and datname = current_database()"
    )
    (count,) = await found.fetchone()
    return int(count)


@app.task(timeout=8, max_attempts=1)
def end_a_process() -> int | None:
    """Start a process as multiprocessing does, tell it to end, and return how it did."""
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join(5)
    return process.exitcode


def append(path: str, line: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


@app.task
def swell(characters: int) -> str:
    return "é" * characters


@app.task(transaction=True)
def swell_in_transaction(characters: int) -> str:
    return "é" * characters
