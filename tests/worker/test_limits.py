"""Time and memory that an attempt may take, and what becomes of it and of its neighbours."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests import rough, shop
from tests.conditions import eventually
from tests.standing import Connection, end_of, lines, outcomes
from tests.workers import Start, lives

APP = "tests.rough:app"


def seconds_of(connection: Connection, job_id: int) -> float:
    """How long the last unsuccessful attempt took, by the database's clock."""
    row = connection.execute(
        "select extract(epoch from ended_at - claimed_at)::float from pgtask.attempts"
        " where job = %s order by epoch desc limit 1",
        [job_id],
    ).fetchone()
    assert row is not None
    return float(row[0])


def message_of(connection: Connection, job_id: int) -> str:
    row = connection.execute(
        "select error_type || ': ' || error_message from pgtask.attempts"
        " where job = %s order by epoch desc",
        [job_id],
    ).fetchone()
    assert row is not None
    return str(row[0])


# Time ------------------------------------------------------------------------------------------


def test_a_task_in_c_code_that_holds_the_gil_is_gone_a_second_after_its_limit(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    start_worker("-c", "1", app=APP)

    job = rough.hold_the_gil.options(timeout=1.0).delay(str(log))

    assert end_of(connection, job.id, timeout=30).reason == "timeout"
    assert not lives(int(lines(log)[0]))
    # a second after it, and what a busy machine adds
    assert 1.0 <= seconds_of(connection, job.id) < 2.0 + 5.0
    assert message_of(connection, job.id) == (
        "HardTimeLimit: timeout of 1 s passed; the child was killed"
    )


def test_after_a_timeout_the_job_is_tried_again_as_its_policy_says(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    start_worker("-c", "1", app=APP)

    job = rough.hold_the_gil.options(
        timeout=0.2, max_attempts=2, backoff="const:0.05", jitter=0
    ).delay(str(tmp_path / "log"))

    end = end_of(connection, job.id, timeout=30)
    assert (end.state, end.reason, end.attempt, end.crashes) == ("failed", "timeout", 2, 0)
    assert outcomes(connection, job.id) == ["timed out", "timed out"]


def test_a_coroutine_that_keeps_its_limit_by_being_cancelled_times_out_alike(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    worker = start_worker("-c", "1", app=APP)
    children = worker.both_children()

    job = shop.async_wait.options(
        timeout=0.2, max_attempts=2, backoff="const:0.05", jitter=0
    ).delay(60, str(tmp_path / "log"))

    end = end_of(connection, job.id, timeout=30)
    assert (end.state, end.reason, end.attempt) == ("failed", "timeout", 2)
    assert outcomes(connection, job.id) == ["timed out", "timed out"]
    assert message_of(connection, job.id) == "HardTimeLimit: timeout of 0.2 s passed"
    assert worker.children() == children


@pytest.mark.parametrize("soft", [None, 0.2])
def test_a_coroutine_that_takes_no_cancellation_takes_only_its_child_down(
    soft: float | None, start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given coroutines that wait, beside one that cannot be cancelled, and a sync job
    polite, rude, held = tmp_path / "polite", tmp_path / "rude", tmp_path / "held"
    worker = start_worker("-c", "1", app=APP)
    neighbours = [rough.async_gate.delay(str(polite)) for _ in range(3)]
    sync = shop.hold.delay(str(held))
    eventually(lambda: len(lines(polite)) == 3 and lines(held), timeout=30)
    children = worker.children()

    # when its time is up
    job = rough.async_deaf.options(timeout=0.4, soft_timeout=soft).delay(str(rude))

    # then its child is killed, and the others there begin anew, uncounted
    assert end_of(connection, job.id, timeout=30).reason == "timeout"
    assert lines(rude)[1:]
    polite.with_name("polite.go").touch()
    held.with_name("held.go").touch()
    for neighbour in neighbours:
        end = end_of(connection, neighbour.id, timeout=30)
        assert (end.state, end.attempt, end.epoch, end.crashes) == ("succeeded", 1, 2, 0)
        assert outcomes(connection, neighbour.id) == []
    assert end_of(connection, sync.id, timeout=30)[2:5] == (1, 1, 0)
    assert len(set(worker.children()) & set(children)) == 1


def test_a_coroutine_that_does_not_yield_is_killed_and_its_neighbours_are_not_counted(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    polite = tmp_path / "polite"
    start_worker("-c", "1", app=APP)
    # their limits pass as well, but they could not keep them
    neighbours = [rough.async_gate.options(timeout=1.5).delay(str(polite)) for _ in range(3)]
    eventually(lambda: len(lines(polite)) == 3, timeout=30)

    job = shop.async_stop_the_loop.options(timeout=0.3).delay(60, str(tmp_path / "rude"))

    assert end_of(connection, job.id, timeout=30).reason == "timeout"
    polite.with_name("polite.go").touch()
    for neighbour in neighbours:
        end = end_of(connection, neighbour.id, timeout=30)
        assert (end.state, end.attempt, end.epoch, end.crashes) == ("succeeded", 1, 2, 0)


def test_one_without_a_limit_that_stops_the_loop_beyond_others_limits_is_to_blame(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    polite = tmp_path / "polite"
    start_worker("-c", "1", app=APP)
    neighbour = rough.async_gate.options(timeout=1.0, max_attempts=1).delay(str(polite))
    eventually(lambda: lines(polite), timeout=30)

    job = rough.async_stop_the_loop_once.delay(60, str(tmp_path / "rude"))

    end = end_of(connection, job.id, timeout=30)
    assert (end.state, end.reason) == ("failed", "crashed")
    assert message_of(connection, job.id).startswith("LoopBlocked: the event loop stood still for")
    polite.with_name("polite.go").touch()
    assert end_of(connection, neighbour.id, timeout=30)[2:5] == (1, 2, 0)


def test_a_soft_limit_ends_the_wait_for_another_job(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    start_worker("-c", "1", app=APP)
    never = shop.add.options(countdown=3600).delay(1, 2)

    job = rough.wait_for_another.options(soft_timeout=0.5).delay(never.id, str(tmp_path / "log"))

    assert job.get(timeout=30) == "gave up"


# What a task started ---------------------------------------------------------------------------


def test_what_a_task_started_dies_with_a_child_that_dies_by_itself(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    start_worker("-c", "1", app=APP)

    job = rough.leave_a_program_behind.options(max_crashes=1).delay(str(log), "die")

    assert end_of(connection, job.id, timeout=30).reason == "crashed"
    child, program = (int(pid) for pid in lines(log)[0].split())
    eventually(lambda: not lives(child) and not lives(program), timeout=30)


def test_what_a_task_started_dies_with_its_worker_whatever_that_died_of(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    worker = start_worker("-c", "1", app=APP)
    rough.leave_a_program_behind.delay(str(log), "wait")
    eventually(lambda: lines(log), timeout=30)
    child, program = (int(pid) for pid in lines(log)[0].split())
    family = worker.descendants()

    worker.process.kill()

    eventually(lambda: not any(map(lives, [*family, child, program])), timeout=30)


# Memory ----------------------------------------------------------------------------------------


def test_a_task_beyond_its_memory_limit_is_killed_and_told_both_sizes(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    start_worker("-c", "1", app=APP)

    small = rough.grow.options(memory_limit="900MB").delay(10, str(log))
    eventually(lambda: lines(log), timeout=30)
    (tmp_path / "log.go").touch()
    assert end_of(connection, small.id, timeout=30).state == "succeeded"
    large = rough.grow.options(memory_limit="300MB", max_crashes=1).delay(400, str(tmp_path / "l"))

    end = end_of(connection, large.id, timeout=30)
    assert (end.state, end.reason, end.crashes) == ("failed", "crashed", 1)
    message = message_of(connection, large.id)
    assert message.startswith("MemoryLimitExceeded: memory_limit of 300MB passed: its child took ")
    assert not lives(int(lines(tmp_path / "l")[0].split()[2]))


def test_a_limit_that_a_child_exceeds_from_the_start_is_refused(
    start_worker: Start, tmp_path: Path
) -> None:
    (tmp_path / "written.py").write_text(
        "from pgtask import App\napp = App('written')\n"
        "@app.task(name='small', memory_limit='1MB')\ndef small() -> None: ...\n"
    )

    worker = start_worker("--max-memory-per-child", "2MB", app=APP, wait=False)
    other = start_worker(
        app="written:app", wait=False, PYTHONPATH=str(tmp_path), PYTHONDONTWRITEBYTECODE="1"
    )

    assert (worker.wait(), other.wait()) == (2, 2)
    assert "max_memory_per_child = 2MB is not more than the " in worker.log
    assert "memory_limit of small = 1MB is not more than the " in other.log


def test_a_signal_to_the_worker_alone_leaves_no_process_behind(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given a zygote that is stopped
    worker = start_worker("-c", "2", app=APP)
    family = worker.descendants()
    os.kill(family[0], signal.SIGSTOP)

    # when the worker is killed
    worker.process.kill()

    # then the zygote goes on, to end its children
    eventually(lambda: not any(map(lives, family)), timeout=30)
