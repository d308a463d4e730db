"""Children that are replaced after so many jobs, or when they have grown: no job notices."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests import rough, shop
from tests.conditions import eventually
from tests.standing import Connection, end_of, lines, unfinished
from tests.workers import Start, lives

APP = "tests.rough:app"


@pytest.mark.parametrize("most", [1, 7])
def test_a_child_is_replaced_after_so_many_jobs_and_none_is_lost_or_counted_twice(
    most: int, start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    worker = start_worker("-c", "2", "--max-jobs-per-child", str(most), app=APP)

    jobs = rough.tell_pid.delay_many([(str(log),)] * 60)
    jobs += rough.async_tell_pid.delay_many([(str(log),)] * 30)
    eventually(lambda: unfinished(connection) == 0, timeout=60)

    ran = Counter(line.split()[0] for line in lines(log))
    assert ran == Counter(str(job.id) for job in jobs)
    assert max(Counter(line.split()[1] for line in lines(log)).values()) <= most
    ends = connection.execute("select distinct state, attempt, epoch from pgtask.jobs").fetchall()
    assert ends == [("succeeded", 1, 1)]
    # as many children as before, and those that are done are gone
    pids = {int(line.split()[1]) for line in lines(log)}
    eventually(lambda: len(worker.children()) == 3, timeout=30)
    done = pids - set(worker.children())
    assert len(done) >= 90 // most - 3
    eventually(lambda: not any(map(lives, done)), timeout=30)
    assert f"it was given {most} jobs" in worker.log


def test_the_last_job_of_a_child_is_not_hurried_and_its_successor_is_there_when_it_ends(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given a child whose first job is its last
    log = tmp_path / "log"
    worker = start_worker("-c", "1", "--max-jobs-per-child", "1", app=APP)
    first = shop.hold.delay(str(log))
    second = rough.tell_pid.delay(str(tmp_path / "second"))
    eventually(lambda: lines(log), timeout=30)

    # then its successor waits for it: one child runs one job at a time
    eventually(lambda: len(worker.children()) == 3, timeout=30)
    assert lines(tmp_path / "second") == []
    log.with_name("log.go").touch()

    assert end_of(connection, first.id, timeout=30)[:3] == ("succeeded", None, 1)
    assert end_of(connection, second.id, timeout=30)[:3] == ("succeeded", None, 1)


def test_a_coroutine_that_goes_on_does_not_keep_the_others_from_the_successor(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    start_worker("-c", "1", "--max-jobs-per-child", "2", app=APP)
    waits = rough.async_gate.delay(str(log))
    eventually(lambda: lines(log), timeout=30)

    pids = [rough.async_tell_pid.delay("/dev/null").get(timeout=30) for _ in range(6)]

    assert max(Counter(pids).values()) <= 2
    log.with_name("log.go").touch()
    assert waits.get(timeout=30) == pids[0]
    assert end_of(connection, waits.id)[2:5] == (1, 1, 0)


def test_a_child_that_has_grown_is_replaced_when_its_job_has_ended(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    worker = start_worker("-c", "1", "--max-memory-per-child", "300MB", app=APP)

    small = rough.leak.delay(10, str(log)).get(timeout=30)
    assert rough.leak.delay(10, str(log)).get(timeout=30) == small
    assert rough.leak.delay(400, str(log)).get(timeout=30) == small

    # then it is another one, and what was behind it has not been counted
    eventually(lambda: small not in worker.children(), timeout=30)
    jobs = [rough.leak.delay(1, str(log)) for _ in range(20)]
    assert small not in {job.get(timeout=30) for job in jobs}
    ends = connection.execute("select distinct state, attempt from pgtask.jobs").fetchall()
    assert ends == [("succeeded", 1)]
    assert "more than 300MB" in worker.log


def test_under_a_limit_of_memory_no_job_is_lost_while_children_come_and_go(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    start_worker("-c", "2", "--max-memory-per-child", "250MB", app=APP)

    jobs = [
        job
        for _ in range(10)
        for job in [
            *rough.leak.delay_many([(1, str(log))] * 20),
            rough.leak.delay(150, str(log)),
        ]
    ]
    eventually(lambda: unfinished(connection) == 0, timeout=60)

    assert len(lines(log)) == len(jobs)
    assert len(set(lines(log))) >= 5
    ends = connection.execute("select distinct state, attempt from pgtask.jobs").fetchall()
    assert ends == [("succeeded", 1)]


def test_what_a_task_left_running_ends_with_its_child(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    start_worker("-c", "1", "--max-jobs-per-child", "1", app=APP)

    job = rough.leave_a_program_behind.delay(str(log), "return")

    assert end_of(connection, job.id, timeout=30).state == "succeeded"
    child, program = (int(pid) for pid in lines(log)[0].split())
    eventually(lambda: not lives(child) and not lives(program), timeout=30)


def test_a_child_that_dies_of_its_last_job_is_blamed_and_replaced_as_any(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    worker = start_worker("-c", "1", "--max-jobs-per-child", "1", app=APP)

    job = shop.die.delay(str(tmp_path / "log"), 2)

    assert job.get(timeout=30) == 3
    eventually(lambda: len(worker.children()) == 2, timeout=30)
    assert shop.add.delay(1, 2).get(timeout=30) == 3
