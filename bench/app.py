"""The tasks that pgtask's own worker runs for a measurement."""

from __future__ import annotations

import time
from pathlib import Path

from bench.job import record
from pgtask import App, config
from pgtask.task import Task

app = App("bench")


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


def fresh_noop(dsn: str) -> Task[[int], None]:
    """`noop` of an App of its own: an App believes for good what it has checked of a database."""
    other = App("bench", dsn)
    other.config = config.load({"dsn": dsn}, {}, {}, Path.cwd())
    made: Task[[int], None] = other.task(name=noop.name, keep="none")(noop.function)
    return made
