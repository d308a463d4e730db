"""Contract, line 4: transactional effects happen exactly once; on_crash="fail", at most once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pgtask.errors import JobCancelled, JobFailed
from tests import ledger, shop
from tests.commits import LosingCommits
from tests.conditions import eventually
from tests.conftest import TestServer
from tests.standing import (
    Connection,
    counted,
    declare_dead,
    end_of,
    lines,
    outcomes,
    standing,
    unfinished,
)
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


LEDGER = "tests.ledger:app"


def sleeping(connection: Connection) -> int:
    row = connection.execute(
        "select count(*) from pg_stat_activity where query like 'select pg_sleep%'"
        " and datname = current_database() and state = 'active'"
    ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("kind", ["book_in_session", "abook_in_session", "abook_with_asyncpg"])
def test_with_sqlalchemy_sessions_effects_and_follow_ups_happen_once(
    kind: str, start_worker: Start, connection: Connection, booked: Effects
) -> None:
    start_worker("-c", "2", app=LEDGER)

    # when half of the jobs fail twice, after they have written
    task = ledger.app.tasks[f"tests.ledger.{kind}"]
    jobs = [task.delay([n], fail_until=3 * (n % 2)) for n in range(12)]
    eventually(lambda: unfinished(connection) == 0, timeout=30)

    # then each has written once, and enqueued once
    assert booked() == list(range(12))
    notes = connection.execute(
        "select count(*) from pgtask.jobs where task = 'tests.ledger.note'"
    ).fetchone()
    assert notes == (12,)
    assert [job.get(timeout=5) for job in jobs] == list(range(12))
    assert outcomes(connection, jobs[1].id) == ["retried", "retried"]


def test_a_job_that_committed_although_nobody_was_told_is_a_success(
    start_worker: Start, connection: Connection, booked: Effects, dsn: str
) -> None:
    # given a task whose COMMIT is executed, and its answer lost
    with LosingCommits(dsn, "after") as proxy:
        worker = start_worker("-c", "1", app=LEDGER, PGTASK_DSN=proxy.dsn)
        job = ledger.book.options(max_attempts=1).delay([7])
        eventually(lambda: "had committed before" in worker.log, timeout=30)
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0

    # then it is not run again, and nowhere called a failure
    end = end_of(connection, job.id)
    assert (end.state, end.attempt, booked()) == ("succeeded", 1, [7])
    assert outcomes(connection, job.id) == []
    assert "crashed" not in worker.log
    assert counted(connection, "tests.ledger.book", "succeeded") == 1
    assert counted(connection, "tests.ledger.book", "crashed") == 0


def test_a_commit_that_never_arrived_is_a_crash_and_the_job_runs_again(
    start_worker: Start, connection: Connection, booked: Effects, dsn: str
) -> None:
    with LosingCommits(dsn, "before") as proxy:
        worker = start_worker("-c", "1", app=LEDGER, PGTASK_DSN=proxy.dsn)
        job = ledger.book.delay([7])

        end = end_of(connection, job.id, timeout=30)

        assert (end.state, end.attempt, end.crashes, booked()) == ("succeeded", 2, 1, [7])
        assert outcomes(connection, job.id) == ["crashed"]
        assert "the answer to the COMMIT of the task's transaction was lost" in worker.log


def test_with_on_crash_fail_a_commit_that_never_arrived_is_the_end(
    start_worker: Start, connection: Connection, booked: Effects, dsn: str
) -> None:
    with LosingCommits(dsn, "before") as proxy:
        start_worker("-c", "1", app=LEDGER, PGTASK_DSN=proxy.dsn)
        job = ledger.book.options(on_crash="fail").delay([7])

        end = end_of(connection, job.id, timeout=30)

        assert (end.state, end.reason, end.attempt, booked()) == ("failed", "crashed", 1, [])


def test_a_commit_under_way_is_waited_for_before_anything_is_decided(
    start_worker: Start, connection: Connection, booked: Effects, dsn: str
) -> None:
    # given a COMMIT that the server works on, though the connection is gone
    connection.execute(
        """
        create function public.obey() returns trigger language plpgsql as $$
        begin
          perform set_config('client_connection_check_interval', '0', true);
          perform pg_advisory_xact_lock(4711);
          return null;
        end $$;
        create constraint trigger obey after insert on public.ledger
          deferrable initially deferred for each row execute function public.obey();
        select pg_advisory_lock(4711);
        """
    )
    with LosingCommits(dsn, "during") as proxy:
        worker = start_worker("-c", "1", app=LEDGER, PGTASK_DSN=proxy.dsn)
        job = ledger.book.delay([7])
        # and the child has reported: it has done another job since
        eventually(lambda: proxy.left == 0, timeout=30)
        end_of(connection, ledger.note.delay(1).id, timeout=30)

        # when the server comes to its end
        now = standing(connection, job.id)
        assert now is not None
        assert now.state == "running"
        connection.execute("select pg_advisory_unlock(4711)")

        # then the job has been done, once
        end = end_of(connection, job.id, timeout=30)
        assert (end.state, end.attempt, booked()) == ("succeeded", 1, [7])
        eventually(lambda: "had committed before" in worker.log, timeout=30)
        assert outcomes(connection, job.id) == []


def test_a_deadlock_costs_no_attempt(
    start_worker: Start,
    connection: Connection,
    effects: Effects,
    server: TestServer,
    tmp_path: Path,
) -> None:
    # given a task that has one row and wants another, which has somebody who wants its row
    connection.execute("insert into public.effect values (1), (2)")
    log = tmp_path / "log"
    start_worker("-c", "1")
    job = shop.lock_both.delay(1, 2, str(log))
    eventually(lambda: lines(log), timeout=30)
    with psycopg.connect(server.superuser_dsn, dbname=connection.info.dbname) as rival:
        rival.execute("set deadlock_timeout = '1h'")  # the task shall be the one that gives way
        rival.execute("select from public.effect where value = 2 for update")
        log.with_name("log.go").touch()
        eventually(
            lambda: connection.execute(
                "select from pg_stat_activity where application_name = 'pgtask:task'"
                " and datname = current_database() and wait_event_type = 'Lock'"
            ).fetchall(),
            timeout=30,
        )
        rival.execute("select from public.effect where value = 1 for update")

    # then the task gave way and did its work afterwards, in the same attempt
    end = end_of(connection, job.id, timeout=30)
    assert (end.state, end.attempt, end.epoch) == ("succeeded", 1, 1)
    assert len(lines(log)) == 2
    assert outcomes(connection, job.id) == []


@pytest.mark.parametrize("where", ["server", "python"])
def test_a_hard_limit_in_the_transaction_rolls_back_and_the_job_is_retried(
    where: str, start_worker: Start, connection: Connection, booked: Effects
) -> None:
    start_worker("-c", "1", app=LEDGER)

    job = ledger.stall_once.delay(7, where)

    assert job.get(timeout=30) == 2
    assert booked() == [7]
    assert outcomes(connection, job.id) == ["timed out"]
    # and the server does not go on with what the killed child had asked for
    eventually(lambda: not sleeping(connection), timeout=30)


def test_a_hard_limit_of_a_coroutine_rolls_back_and_leaves_its_neighbours_alone(
    start_worker: Start, connection: Connection, booked: Effects, tmp_path: Path
) -> None:
    # given a coroutine beside another one whose statement takes too long
    held, slept = tmp_path / "held", tmp_path / "slept"
    start_worker("-c", "1", app=LEDGER)
    neighbour = ledger.ahold_connection.delay(str(held))
    eventually(lambda: lines(held), timeout=30)

    late = ledger.asleep_in_server.delay(str(slept))

    # then it is rolled back and retried, in the same process
    assert late.get(timeout=30) == 2
    assert booked() == [2]
    assert outcomes(connection, late.id) == ["timed out"]
    held.with_name("held.go").touch()
    assert f"begin {neighbour.get(timeout=30)}" == lines(slept)[0] == lines(slept)[1]


def test_waiting_for_a_connection_counts_towards_the_limit_and_harms_nobody(
    start_worker: Start, connection: Connection, booked: Effects, tmp_path: Path
) -> None:
    # given ten coroutines, which have all the connections that there are
    log = tmp_path / "log"
    start_worker("-c", "1", app=LEDGER)
    holders = ledger.ahold_connection.delay_many([(str(log),)] * 10)
    eventually(lambda: len(lines(log)) == 10, timeout=30)

    # when another one waits for longer than it may take
    late = ledger.asleep_in_server.options(max_attempts=1).delay("/dev/null")
    end = end_of(connection, late.id, timeout=30)

    # then only that one has failed
    assert (end.state, end.reason) == ("failed", "timeout")
    log.with_name("log.go").touch()
    assert len({holder.get(timeout=30) for holder in holders}) == 1


def test_a_cancelled_coroutine_is_rolled_back_and_its_connection_serves_the_next(
    start_worker: Start, connection: Connection, booked: Effects, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    start_worker("-c", "1", app=LEDGER)
    job = ledger.asleep_in_server.options(timeout=60).delay(str(log))
    eventually(lambda: lines(log), timeout=30)

    job.cancel()

    with pytest.raises(JobCancelled):
        job.get(timeout=30)
    after = ledger.abook.delay([7])
    assert after.get(timeout=30) == 7
    now = standing(connection, after.id)
    assert now is not None
    assert (now.attempt, now.epoch, booked()) == (1, 1, [7])


def test_with_on_crash_fail_a_job_of_a_killed_worker_does_not_run_again(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given a worker that is killed while it holds the job, with all its processes
    log = tmp_path / "log"
    worker = start_worker("-c", "1")
    job = shop.hold_at_most_once.delay(str(log))
    eventually(lambda: lines(log), timeout=30)
    worker.signal(signal.SIGKILL)
    worker.wait()

    # when others notice
    declare_dead(connection, worker.pid)
    start_worker("-c", "1")
    assert shop.add.delay(1, 2).get(timeout=30) == 3

    # then it has ended
    end = end_of(connection, job.id)
    assert (end.state, end.reason, end.attempt) == ("failed", "lost", 1)
    assert len(lines(log)) == 1


@pytest.mark.usefixtures("booked")
def test_the_idempotency_key_is_the_same_for_every_attempt(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    start_worker("-c", "1", app=LEDGER)

    job, other = ledger.tell_key.delay(str(log)), ledger.tell_key.delay(str(log))
    end_of(connection, job.id, timeout=30)
    end_of(connection, other.id, timeout=30)

    row = connection.execute("select right(id::text, 12) from pgtask.installation").fetchone()
    assert row is not None
    assert sorted(lines(log)) == sorted([f"{row[0]}-{job.id}"] * 3 + [f"{row[0]}-{other.id}"] * 3)
