"""The tasks that pgtask's own worker runs for a measurement."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.job import record
from pgtask import App, config
from pgtask.task import Task

app = App("bench")
LARGEST = 4_000_000


@app.task(keep="none")
def noop(sent: int) -> None:
    record(sent)


@app.task
def kept(sent: int) -> int:
    record(sent)
    return sent


@app.task(keep="none")
def carry(sent: int, load: str) -> None:
    """An argument of some size."""
    record(sent)


@app.task(keep="none")
def burn(milliseconds: float) -> None:
    """So much CPU in pure Python, by this process's own meter: being preempted does not count."""
    record(0)
    end = time.process_time() + milliseconds / 1e3
    while time.process_time() < end:
        pass


class Enqueuing(NamedTuple):
    """The tasks, of an App that knows one database: what it has checked, it believes for good."""

    noop: Task[[int], None]
    carry: Task[[int, str], None]
    burn: Task[[float], None]


@contextmanager
def enqueuing(dsn: str) -> Iterator[Enqueuing]:
    """Yield the tasks for enqueuing in that database, from this process."""
    other = App("bench", dsn)
    other.config = config.load({"dsn": dsn, "max_payload": LARGEST}, {}, {}, Path.cwd())
    yield Enqueuing(
        *(other.task(name=each.name, keep="none")(each.function) for each in (noop, carry, burn))
    )
    other.close()
