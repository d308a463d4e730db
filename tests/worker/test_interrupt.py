"""Interrupts: into the task's own code, however deep; not into pgtask's, and not too late."""

from __future__ import annotations

import signal
import time
import types
from collections.abc import Callable
from typing import Any

import pytest

from pgtask import App, JobCancelled, SoftTimeLimitExceeded
from pgtask.current import JobContext
from pgtask.task import Task
from pgtask.worker.interrupt import Interrupts

app = App("interrupted")
CONTEXT = JobContext(id=1, task="t")


def task(function: Callable[..., Any]) -> Task[..., Any]:
    return Task(function, lambda: app.client, name="t")


def spin(seconds: float) -> str:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return "spun"


# The same, as if it were a function of pgtask's.
pretend = types.FunctionType(spin.__code__, {"__name__": "pgtask.pretend", "time": time})


def test_the_limit_is_raised_where_the_task_is() -> None:
    def inner() -> None:
        time.sleep(60)

    def run() -> None:
        inner()

    with pytest.raises(SoftTimeLimitExceeded) as caught, Interrupts().limit(0.02):
        task(run).run(CONTEXT, (), {})

    assert caught.traceback[-2].name == "inner"


def test_a_task_that_catches_it_goes_on() -> None:
    def run() -> str:
        try:
            time.sleep(60)
        except SoftTimeLimitExceeded:
            return "as far as I got"
        return "complete"

    with Interrupts().limit(0.02):
        assert task(run).run(CONTEXT, (), {}) == "as far as I got"


def test_code_of_pgtask_that_the_task_calls_is_left_to_end() -> None:
    ended = []

    def run() -> None:
        ended.append(pretend(0.1))
        ended.append(spin(60))

    with pytest.raises(SoftTimeLimitExceeded), Interrupts().limit(0.02):
        task(run).run(CONTEXT, (), {})

    assert ended == ["spun"]


def test_a_task_that_has_returned_is_not_interrupted_any_more() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with Interrupts().limit(0.02):
        assert task(lambda: "done").run(CONTEXT, (), {}) == "done"
        # what is recorded after it, in the same block
        assert pretend(0.1) == "spun"
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_cancellation_is_raised_once_for_each_job() -> None:
    interrupts = Interrupts()
    places = iter([1, 1, 2])
    raised = []

    def run() -> None:
        for _ in range(3):
            try:
                signal.raise_signal(signal.SIGURG)
            except JobCancelled as error:
                raised.append(str(error))

    previous = signal.signal(
        signal.SIGURG, lambda number, frame: interrupts.cancel(next(places), frame)
    )
    try:
        task(run).run(CONTEXT, (), {})
    finally:
        signal.signal(signal.SIGURG, previous)

    assert raised == ["this job was cancelled, with terminate"] * 2


def test_a_cancellation_outside_a_task_does_nothing() -> None:
    interrupts = Interrupts()
    previous = signal.signal(signal.SIGURG, lambda number, frame: interrupts.cancel(1, frame))
    try:
        signal.raise_signal(signal.SIGURG)
        pretend(0.0)
    finally:
        signal.signal(signal.SIGURG, previous)
