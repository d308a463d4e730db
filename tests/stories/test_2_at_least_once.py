"""Contract, line 2: every committed job ends in an outcome, never silently."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pgtask.result import AsyncResult
from tests import shop
from tests.conditions import eventually
from tests.standing import Connection, counted, end_of, lines, outcomes, standing, unfinished
from tests.workers import Start


def test_every_job_of_a_mixed_lot_ends_in_an_outcome(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given jobs that end in all sorts of ways
    log = tmp_path / "log"
    expected = Counter[tuple[str, str | None]]()
    jobs: list[AsyncResult[Any]] = []
    for number in range(40):
        jobs += [
            shop.add.delay(number, 1),
            shop.async_add.delay(number, 1),
            shop.flaky.delay(number % 3 + 1),
            shop.fail.delay("no"),
            shop.reject.delay(),
        ]
        expected.update({("succeeded", None): 3, ("failed", "error"): 2})
    for number in range(3):
        crashing = shop.die.options(max_crashes=2).delay(str(tmp_path / f"die{number}"), 9)
        jobs += [
            crashing,
            shop.snooze_once.delay(str(tmp_path / f"snooze{number}")),
            shop.retry_now.delay(str(log)),
            shop.leave.delay("exit"),
            shop.too_slow.delay(),
        ]
        expected.update(
            {
                ("failed", "crashed"): 2,
                ("succeeded", None): 1,
                ("failed", "error"): 1,
                ("failed", "timeout"): 1,
            }
        )

    # when a worker runs them
    start_worker("-c", "2")
    eventually(lambda: unfinished(connection) == 0, timeout=40)

    # then each is in done, once, with its reason
    rows = connection.execute("select id, state, reason from pgtask.jobs").fetchall()
    assert sorted(row[0] for row in rows) == sorted(job.id for job in jobs)
    assert Counter((state, reason) for _, state, reason in rows) == expected
    # and nothing is left beside them
    for table in (b"running", b"ready", b"waiting", b"slot", b"job_key", b"cancel_request"):
        assert connection.execute(b"select count(*) from pgtask." + table).fetchone() == (0,)


def test_what_is_not_kept_is_still_counted_and_its_failure_logged(
    start_worker: Start, connection: Connection
) -> None:
    # given jobs that leave no row
    for _ in range(25):
        shop.noop.delay()
    for number in range(5):
        shop.fail.options(keep="none").delay(f"number {number}")

    # when a worker has run them and ended
    worker = start_worker("--drain", wait=False)
    assert worker.wait() == 0

    # then the counter knows them, and the log the failures
    assert connection.execute("select count(*) from pgtask.jobs").fetchone() == (0,)
    assert counted(connection, "tests.shop.noop", "succeeded") == 25
    assert counted(connection, "tests.shop.fail", "failed") == 5
    for number in range(5):
        assert f"ValueError: number {number}" in worker.log


def test_with_keep_failures_only_failures_leave_a_row(
    start_worker: Start, connection: Connection
) -> None:
    good = shop.add.options(keep="failures").delay(1, 1)
    bad = shop.fail.options(keep="failures").delay("no")

    assert start_worker("--drain", wait=False).wait() == 0

    assert standing(connection, good.id) is None
    assert end_of(connection, bad.id).error == "ValueError: no"
    assert counted(connection, "tests.shop.add", "succeeded") == 1


def test_a_result_that_cannot_be_stored_ends_the_job_failed_and_the_worker_goes_on(
    start_worker: Start, connection: Connection
) -> None:
    worker = start_worker("-c", "1")

    bad = shop.unstorable.delay()
    good = shop.add.delay(1, 2)

    end = end_of(connection, bad.id)
    assert (end.state, end.reason) == ("failed", "error")
    assert "object" in (end.error or "")
    assert good.get(timeout=10) == 3
    assert worker.process.poll() is None


@pytest.mark.parametrize(("how", "error"), [("exit", "SystemExit"), ("int", "KeyboardInterrupt")])
def test_leaving_the_interpreter_is_a_crash_of_the_task_not_of_the_child(
    how: str, error: str, start_worker: Start, connection: Connection
) -> None:
    worker = start_worker("-c", "1")
    shop.add.delay(1, 2).get(timeout=10)
    children = worker.both_children()

    job = shop.leave.delay(how)

    end = end_of(connection, job.id)
    assert (end.state, end.reason, end.crashes) == ("failed", "crashed", 1)
    assert (end.error or "").startswith(error)
    assert shop.add.delay(3, 4).get(timeout=10) == 7
    assert worker.children() == children


@pytest.mark.parametrize("args", ['["x", 1]', "[1]", "[1, 2, 3]", '{"x": 1}'])
def test_arguments_that_do_not_fit_the_code_end_the_job_failed_and_unexecuted(
    args: str, start_worker: Start, connection: Connection
) -> None:
    # given a call as an older or newer producer would have written it
    row = connection.execute(
        "insert into pgtask.ready (id, task, queue, args)"
        " values (nextval('pgtask.seq'), 'tests.shop.add', 'default', %s) returning id",
        [args],
    ).fetchone()
    assert row is not None

    assert start_worker("--drain", wait=False).wait() == 0

    end = end_of(connection, row[0])
    assert (end.state, end.reason, end.attempt) == ("failed", "error", 1)
    assert end.error


def test_retries_end_when_the_attempts_are_used_up(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    start_worker("-c", "1")

    job = shop.flaky.options(max_attempts=3).delay(99)

    end = end_of(connection, job.id)
    assert (end.state, end.attempt) == ("failed", 3)
    assert outcomes(connection, job.id) == ["retried", "retried", "failed"]


def test_snoozing_is_not_counted(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    start_worker("-c", "1")

    assert shop.snooze_once.delay(str(tmp_path / "log")).get(timeout=10) == 1
    assert lines(tmp_path / "log") == ["snoozed"]


def test_an_outcome_that_postgresql_refuses_does_not_hold_up_its_batch(
    start_worker: Start, connection: Connection
) -> None:
    # given, among many jobs, one whose payload row PostgreSQL will refuse when it is finished
    connection.execute(
        "create or replace function public.refuse() returns trigger language plpgsql as $$"
        " begin if new.result::text = '666' then"
        "   raise exception using errcode = '22000', message = 'not this one'; end if;"
        " return new; end $$"
    )
    connection.execute(
        "create trigger refuse before insert on pgtask.done"
        " for each row execute function public.refuse()"
    )
    try:
        bad = shop.echo.delay(666)
        good = shop.echo.delay_many([(number,) for number in range(99)])

        start_worker("-c", "2")
        eventually(lambda: unfinished(connection) == 0, timeout=20)
    finally:
        connection.execute("drop trigger refuse on pgtask.done")

    # then it alone has failed, and says why
    assert [job.get(timeout=5) for job in good] == list(range(99))
    end = end_of(connection, bad.id)
    assert end.state == "failed"
    assert "not this one" in (end.error or "")


def test_an_outcome_that_waits_for_a_lock_is_recorded_when_the_lock_is_gone(
    start_worker: Start, connection: Connection, dsn: str
) -> None:
    # given somebody who locks the history for longer than a worker waits for locks
    worker = start_worker("-c", "1")
    shop.add.delay(0, 0).get(timeout=10)
    with connection.transaction():
        connection.execute("lock table pgtask.done in share mode")
        job = shop.add.delay(1, 2)
        eventually(lambda: "wait for the database" in worker.log, timeout=10)

    # when the lock is gone
    end = end_of(connection, job.id)

    # then the outcome is what it was
    assert (end.state, end.attempt) == ("succeeded", 1)
    assert counted(connection, "-", "stale") == 0
