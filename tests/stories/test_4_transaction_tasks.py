"""Contract, line 4: transactional effects happen exactly once; on_crash="fail", at most once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pgtask.errors import JobFailed
from tests import shop
from tests.conditions import eventually
from tests.standing import Connection, end_of, lines, outcomes, standing, unfinished
from tests.workers import Start

Effects = Callable[[], list[int]]


def follow_ups(connection: Connection) -> int:
    row = connection.execute(
        "select count(*) from pgtask.jobs where task = 'tests.shop.note'"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_effects_and_follow_ups_happen_once_over_any_number_of_failures(
    start_worker: Start, connection: Connection, effects: Effects
) -> None:
    start_worker("-c", "2")

    # when half of the jobs fail twice, after they have written
    jobs = [
        shop.write_row.options(max_attempts=3).delay(n, fail_until=3 * (n % 2)) for n in range(20)
    ]
    eventually(lambda: unfinished(connection) == 0, timeout=20)

    # then each has written once, and enqueued once
    assert effects() == list(range(20))
    assert follow_ups(connection) == 20
    assert [job.get(timeout=5) for job in jobs] == list(range(20))
    assert outcomes(connection, jobs[1].id) == ["retried", "retried"]


def test_a_child_killed_in_the_middle_leaves_no_effect_and_the_job_runs_again(
    start_worker: Start, connection: Connection, effects: Effects, tmp_path: Path
) -> None:
    # given a task that has written its row, but not ended
    log = tmp_path / "log"
    start_worker("-c", "1")
    job = shop.write_and_hold.options(backoff="const:0", jitter=0).delay(7, str(log))
    eventually(lambda: lines(log))

    # when its process is killed
    os.kill(int(lines(log)[0].split()[1]), signal.SIGKILL)
    eventually(lambda: len(lines(log)) == 2)

    # then nothing is left of the first attempt, and one row of the second
    assert effects() == []
    log.with_name("log.go").touch()
    end = end_of(connection, job.id)
    assert (end.state, end.attempt, end.crashes) == ("succeeded", 2, 1)
    assert effects() == [7]


def test_an_attempt_that_lost_its_job_meanwhile_is_rolled_back(
    start_worker: Start, connection: Connection, effects: Effects, tmp_path: Path
) -> None:
    # given a transactional task that runs, and whose job is taken away from it
    log = tmp_path / "log"
    start_worker("-c", "1")
    job = shop.write_and_hold.delay(7, str(log))
    eventually(lambda: lines(log))
    connection.execute("update pgtask.running set epoch = epoch + 1 where id = %s", [job.id])

    # when it comes to its end
    log.with_name("log.go").touch()
    shop.add.delay(1, 2).get(timeout=10)

    # then it has written nothing
    assert effects() == []
    now = standing(connection, job.id)
    assert now is not None
    assert now.state == "running"


def test_async_transactional_tasks_do_as_well(
    start_worker: Start, connection: Connection, effects: Effects
) -> None:
    start_worker("-c", "1")

    jobs = [shop.async_write_row.delay(number) for number in range(10)]

    assert [job.get(timeout=10) for job in jobs] == list(range(10))
    assert effects() == list(range(10))
    assert follow_ups(connection) == 10


def test_a_connection_lost_between_two_transactional_tasks_costs_no_attempt(
    start_worker: Start, connection: Connection, effects: Effects
) -> None:
    # given a child whose connection was closed by the server while it rested
    start_worker("-c", "1")
    shop.write_once.delay(1).get(timeout=10)
    cut = connection.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where application_name = 'pgtask:task' and datname = current_database()"
    )
    assert cut.fetchall() == [(True,)]

    # when a task that has one attempt needs it
    shop.write_once.delay(2).get(timeout=10)

    # then it has another one
    assert effects() == [1, 2]


def test_with_on_crash_fail_a_crash_is_the_end(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    start_worker("-c", "1")

    job = shop.at_most_once.delay(str(tmp_path / "log"))

    end = end_of(connection, job.id)
    assert (end.state, end.reason, end.attempt) == ("failed", "crashed", 1)
    assert lines(tmp_path / "log") == ["begin"]


def test_with_on_crash_fail_a_job_whose_child_the_worker_killed_does_not_run_again(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    worker = start_worker("-c", "1")
    begun = shop.hold_at_most_once.delay(str(log))
    eventually(lambda: lines(log))

    worker.signal(signal.SIGQUIT)
    assert worker.wait() == 128 + signal.SIGQUIT

    end = end_of(connection, begun.id, timeout=1)
    assert (end.state, end.reason) == ("failed", "crashed")


@pytest.mark.parametrize("how", ["rollback", "commit"])
def test_a_task_that_ends_its_transaction_by_itself_is_told_and_never_counted_as_success(
    how: str, start_worker: Start, connection: Connection, effects: Effects
) -> None:
    start_worker("-c", "1")

    with pytest.raises(JobFailed, match="ended its transaction") as raised:
        shop.end_transaction.delay(1, how).get(timeout=10)

    assert raised.value.reason == "error"
    assert effects() == ([1] if how == "commit" else [])


def test_what_one_task_sets_in_its_session_does_not_reach_the_next(
    start_worker: Start, connection: Connection, effects: Effects
) -> None:
    start_worker("-c", "1")
    before = shop.tell_session.delay().get(timeout=10)

    shop.spoil_session.delay().get(timeout=10)

    assert shop.tell_session.delay().get(timeout=10) == before
    assert shop.write_row.delay(3).get(timeout=10) == 3


def test_many_coroutines_share_few_connections(start_worker: Start) -> None:
    start_worker("-c", "1")

    counts = [job.get(timeout=30) for job in shop.async_count_connections.delay_many([()] * 60)]

    assert 1 <= max(counts) <= 10


def test_a_process_that_a_task_started_can_be_terminated(start_worker: Start) -> None:
    start_worker("-c", "1")

    assert shop.end_a_process.delay().get(timeout=20) == -15
