"""Cancelling what a worker holds: asked, interrupted, killed; at any time, and over restarts."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pgtask import JobCancelled
from tests import rough, shop
from tests.conditions import eventually
from tests.standing import Connection, declare_dead, end_of, lines, outcomes, standing, unfinished
from tests.workers import Start

APP = "tests.rough:app"
CANCELLED = ("cancelled", "cancelled")


def test_a_running_task_is_interrupted_and_may_clean_up(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    worker = start_worker("-c", "1", app=APP)
    children = worker.both_children()
    job = rough.clean_up.delay(str(log))
    eventually(lambda: lines(log), timeout=30)

    assert job.cancel(terminate=True) == "cancelling"

    assert end_of(connection, job.id, timeout=30)[:5] == (*CANCELLED, 1, 1, 0)
    assert lines(log) == ["begin", "interrupted", "left"]
    with pytest.raises(JobCancelled):
        job.get(timeout=5)
    assert worker.children() == children


def test_without_terminate_a_sync_task_is_only_asked(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log, other = tmp_path / "log", tmp_path / "other"
    start_worker("-c", "2", app=APP)
    job = rough.clean_up.delay(str(log))
    asked = shop.hold.delay(str(other))
    eventually(lambda: lines(log) and lines(other), timeout=30)

    assert job.cancel() == "cancelling"
    assert asked.cancel() == "cancelling"

    assert end_of(connection, asked.id, timeout=30).state == "succeeded"
    assert lines(log) == ["begin"]
    assert standing(connection, job.id).state == "running"  # type: ignore[union-attr]


def test_a_task_that_does_not_end_is_killed_after_the_grace(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log, in_c = tmp_path / "log", tmp_path / "c"
    start_worker("-c", "2", "--cancel-grace", "0.5s", app=APP)
    deaf, busy = rough.deaf.delay(str(log)), rough.hold_the_gil.delay(str(in_c))
    eventually(lambda: lines(log) and lines(in_c), timeout=30)

    assert deaf.cancel(terminate=True) == "cancelling"
    assert busy.cancel(terminate=True) == "cancelling"

    assert end_of(connection, deaf.id, timeout=30)[:5] == (*CANCELLED, 1, 1, 0)
    assert end_of(connection, busy.id, timeout=30)[:5] == (*CANCELLED, 1, 1, 0)
    assert lines(log)[1:] == ["JobCancelled"]  # once
    assert shop.add.delay(1, 2).get(timeout=30) == 3


def test_a_coroutine_that_does_not_end_takes_its_child_down_but_not_its_neighbours(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    polite, rude = tmp_path / "polite", tmp_path / "rude"
    start_worker("-c", "1", "--cancel-grace", "0.5s", app=APP)
    neighbour, deaf = rough.async_gate.delay(str(polite)), rough.async_deaf.delay(str(rude))
    eventually(lambda: lines(polite) and lines(rude), timeout=30)

    assert deaf.cancel(terminate=True) == "cancelling"

    assert end_of(connection, deaf.id, timeout=30)[:2] == CANCELLED
    assert lines(rude)[1:] == ["cancelled"]
    polite.with_name("polite.go").touch()
    assert end_of(connection, neighbour.id, timeout=30)[2:5] == (1, 2, 0)


def test_what_has_not_begun_in_the_hands_of_a_worker_never_begins(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given a child that expects quick jobs, and gets a lot of which the first is not
    log, gate, open_gate = tmp_path / "log", tmp_path / "gate", tmp_path / "open"
    open_gate.touch()
    start_worker("-c", "1")
    for job in shop.pass_gate.delay_many([(str(open_gate), "/dev/null")] * 60):
        end_of(connection, job.id)
    with connection.transaction():
        first = shop.pass_gate.using(connection).delay(str(gate), str(log))
        behind = shop.pass_gate.using(connection).delay_many([(str(open_gate), str(log))] * 8)
    eventually(lambda: lines(log), timeout=30)

    # when those behind it are cancelled
    answers = {job.cancel() for job in behind}

    # then they end before it does
    assert answers <= {"cancelling", "cancelled"}
    for job in behind:
        assert end_of(connection, job.id, timeout=30)[:2] == CANCELLED
    gate.touch()
    assert end_of(connection, first.id, timeout=30).state == "succeeded"
    assert len(lines(log)) == 2


def test_cancelling_while_jobs_run_by_the_hundred_leaves_nothing_behind(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    start_worker("-c", "2", app=APP)
    jobs = [
        job
        for _ in range(10)
        for job in [
            *shop.nap.delay_many([(0.02, "/dev/null")] * 20),
            *shop.async_wait.delay_many([(0.5, "/dev/null")] * 20),
        ]
    ]
    for number, job in enumerate(jobs):
        if number % 3 == 0:
            job.cancel(terminate=number % 2 == 0)

    eventually(lambda: unfinished(connection) == 0, timeout=60)

    states = connection.execute("select distinct state from pgtask.jobs").fetchall()
    assert {state for (state,) in states} == {"succeeded", "cancelled"}
    eventually(
        lambda: connection.execute("select count(*) from pgtask.cancel_request").fetchone() == (0,),
        timeout=30,
    )
    assert shop.add.delay(1, 2).get(timeout=30) == 3


def test_a_worker_that_is_ending_still_hears_it(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log, rude = tmp_path / "log", tmp_path / "rude"
    worker = start_worker("-c", "2", "--cancel-grace", "0.5s", "--grace", "60s", app=APP)
    asked, deaf = shop.hold.delay(str(log)), rough.deaf.delay(str(rude))
    eventually(lambda: lines(log) and lines(rude), timeout=30)
    worker.signal(signal.SIGTERM)
    eventually(lambda: "warm stop" in worker.log, timeout=30)

    assert asked.cancel() == "cancelling"
    assert deaf.cancel(terminate=True) == "cancelling"

    assert worker.wait(30) == 0
    assert lines(log)[1:] == ["cancelled"]
    assert end_of(connection, deaf.id)[:2] == CANCELLED


@pytest.mark.parametrize("how", ["cold stop", "death of the worker", "death of the child"])
def test_a_cancelled_job_is_not_run_again_when_its_attempt_is_interrupted(
    how: str, start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given a job that does not listen
    log = tmp_path / "log"
    worker = start_worker("-c", "1", app=APP)
    job = shop.nap.delay(60, str(log))
    eventually(lambda: lines(log), timeout=30)
    assert job.cancel() == "cancelling"

    # when it is given back, or lost, or crashes
    if how == "cold stop":
        worker.signal(signal.SIGQUIT)
        assert worker.wait() == 128 + signal.SIGQUIT
    elif how == "death of the worker":
        worker.process.kill()
        worker.wait()
        declare_dead(connection, worker.pid)
    else:
        for child in worker.children():
            os.kill(child, signal.SIGKILL)

    # then that was that
    assert end_of(connection, job.id, timeout=30)[:2] == CANCELLED
    assert len(lines(log)) == 1
    assert connection.execute("select count(*) from pgtask.cancel_request").fetchone() == (0,)


def test_a_cancelled_job_that_fails_is_not_tried_again(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    start_worker("-c", "1", app=APP)
    job = shop.nap.options(timeout=2, max_attempts=5).delay(60, str(log))
    eventually(lambda: lines(log), timeout=30)

    assert job.cancel() == "cancelling"

    assert end_of(connection, job.id, timeout=30)[:3] == (*CANCELLED, 1)
    assert outcomes(connection, job.id) == ["timed out"]
