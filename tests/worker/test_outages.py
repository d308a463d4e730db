"""A worker whose database is away, silent, full, crashed, or back."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests import shop
from tests.conditions import eventually
from tests.conftest import TestServer
from tests.proxy import Proxy
from tests.standing import Connection, end_of, lines, standing, unfinished
from tests.workers import Start, lives


@pytest.fixture
def proxy(dsn: str) -> Iterator[Proxy]:
    with Proxy.before(dsn) as proxy:
        yield proxy


# Starting ----------------------------------------------------------------------------------------


def test_a_worker_that_starts_before_its_database_waits_for_it(
    start_worker: Start, proxy: Proxy, dsn: str
) -> None:
    proxy.refuse()
    worker = start_worker("-c", "1", wait=False, PGTASK_DSN=proxy.dsn(dsn))
    eventually(lambda: worker.log.count("waiting for the database") > 1, timeout=30)

    proxy.accept()

    worker.wait_until_registered()
    assert shop.add.delay(1, 2).get(timeout=30) == 3


def test_a_worker_that_waits_for_its_database_can_be_told_to_end(
    start_worker: Start, proxy: Proxy, dsn: str
) -> None:
    # given a server that takes connections and says nothing
    proxy.freeze()
    worker = start_worker("-c", "1", wait=False, PGTASK_DSN=proxy.dsn(dsn))
    eventually(lambda: proxy.accepted, timeout=30)

    worker.signal(signal.SIGTERM)

    assert worker.wait(30) == 0


@pytest.mark.parametrize(
    ("function", "said"), [("promote", "maintenance failed"), ("_claim", "claiming failed")]
)
def test_a_statement_that_nobody_foresaw_is_said_again_and_again_and_ends_no_worker(
    start_worker: Start, connection: Connection, function: str, said: str
) -> None:
    # given a function of the schema that stumbles over something
    row = connection.execute(
        "select pg_get_functiondef(oid) from pg_proc"
        " where pronamespace = 'pgtask'::regnamespace and proname = %s",
        [function],
    ).fetchone()
    assert row is not None
    definition = str(row[0])
    stumble = f"{definition[: definition.index('AS $function$')]} as $f$ begin perform 1/0; end $f$"
    worker = start_worker("-c", "1")
    try:
        connection.execute(stumble.encode())
        eventually(lambda: f"ERROR {said}" in levels_and_texts(worker.log), timeout=30)
    finally:
        connection.execute(definition.encode())

    # then it works on as soon as somebody has seen to it
    assert shop.add.options(countdown=0.01).delay(1, 2).get(timeout=30) == 3
    worker.signal(signal.SIGTERM)
    assert worker.wait(30) == 0


def levels_and_texts(log: str) -> str:
    """Of each line its level, and what stands behind the logger's name."""
    return "\n".join(
        f"{line.split()[2]} {line.partition('pgtask.worker: ')[2]}"
        for line in log.splitlines()
        if "pgtask.worker: " in line
    )


@pytest.mark.parametrize("wrong", [{"password": "wrong"}, {"dbname": "nowhere"}])
def test_a_wrong_password_or_database_name_is_not_waited_for(
    start_worker: Start, dsn: str, wrong: dict[str, str]
) -> None:
    worker = start_worker(wait=False, PGTASK_DSN=make_conninfo(dsn, **wrong))

    assert worker.wait() == 4
    assert "cannot be reached" in worker.log
    assert "waiting for the database" not in worker.log


# Away and back -----------------------------------------------------------------------------------


def test_work_resumes_after_a_network_that_was_silent_and_no_job_runs_twice(
    start_worker: Start, proxy: Proxy, dsn: str, connection: Connection, tmp_path: Path
) -> None:
    # given a worker with a job, and a network that carries nothing any more
    log, other = tmp_path / "log", tmp_path / "other"
    worker = start_worker("-c", "2", PGTASK_DSN=proxy.dsn(dsn))
    running = shop.hold.delay(str(log))
    eventually(lambda: lines(log))
    proxy.freeze()
    queued = [shop.note.delay(str(other), str(n)) for n in range(20)]
    eventually(lambda: "claiming failed" in worker.log, timeout=30)

    # when the job ends, and the connections of before are gone
    log.with_name("log.go").touch()
    proxy.cut()
    proxy.thaw()

    # then all is recorded
    for job_id in (running.id, *(job.id for job in queued)):
        assert end_of(connection, job_id, timeout=30)[:3] == ("succeeded", None, 1)
    assert sorted(lines(other), key=int) == [str(n) for n in range(20)]


def test_connections_that_break_again_and_again_cost_no_job(
    start_worker: Start, proxy: Proxy, dsn: str, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    worker = start_worker("-c", "2", PGTASK_DSN=proxy.dsn(dsn))

    jobs = [shop.note.delay(str(log), str(n)) for n in range(300)]
    for _ in range(20):
        seen = len(lines(log))
        proxy.cut()
        eventually(lambda: len(lines(log)) > seen or unfinished(connection) == 0, timeout=30)  # noqa: B023
    eventually(lambda: unfinished(connection) == 0, timeout=60)

    # The children live: what they began they ended, once, and it was recorded in the end.
    assert sorted(lines(log), key=int) == [str(n) for n in range(300)]
    ends = connection.execute("select state, attempt, count(*) from pgtask.jobs group by 1, 2")
    assert ends.fetchall() == [("succeeded", 1, len(jobs))]
    assert worker.process.poll() is None


@contextmanager
def without_connections(server: TestServer, dsn: str) -> Iterator[None]:
    """The database has no connection left to give: SQLSTATE 53300."""
    database = str(conninfo_to_dict(dsn)["dbname"])
    with psycopg.connect(server.superuser_dsn, autocommit=True) as superuser:
        superuser.execute(f'alter database "{database}" connection limit 0'.encode())
        try:
            superuser.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s"
                " and application_name like 'pgtask:%%'",
                [database],
            )
            yield
        finally:
            superuser.execute(f'alter database "{database}" connection limit -1'.encode())


def test_a_worker_without_a_connection_to_be_had_waits_for_one(
    start_worker: Start, server: TestServer, dsn: str, connection: Connection
) -> None:
    worker = start_worker("-c", "1")
    with without_connections(server, dsn):
        eventually(lambda: "too many connections" in worker.log, timeout=30)
        # It does not ask again without a rest.
        asked = worker.log.count("claiming failed")
        assert asked < 100

    row = connection.execute("select pgtask.enqueue('tests.shop.add', '[1, 2]')").fetchone()
    assert row is not None
    assert end_of(connection, row[0], timeout=30).state == "succeeded"


def test_while_outcomes_cannot_be_stored_no_more_jobs_are_claimed_and_none_is_lost(
    start_worker: Start, connection: Connection
) -> None:
    # given a disk that is full where history is kept
    connection.execute(
        "create function public.no_space() returns trigger language plpgsql as"
        " $$ begin raise exception 'No space left on device' using errcode = '53100'; end $$"
    )
    connection.execute(
        "create trigger full_disk before insert on pgtask.done for each row"
        " execute function public.no_space()"
    )
    try:
        worker = start_worker("-c", "2")
        shop.noop.options(keep="all").delay_many([(n,) for n in range(12_000)])
        eventually(lambda: worker.log.count("wait for the database") > 3, timeout=30)

        # then what the worker holds does not grow
        held = holds(connection)
        eventually(lambda: worker.log.count("wait for the database") > 5, timeout=30)
        assert holds(connection) == held < 12_000
    finally:
        # when there is room again
        connection.execute("drop function public.no_space() cascade")

    # then every job has run, once
    eventually(lambda: unfinished(connection) == 0, timeout=60)
    ends = connection.execute("select state, attempt, count(*) from pgtask.jobs group by 1, 2")
    assert ends.fetchall() == [("succeeded", 1, 12_000)]


def holds(connection: Connection) -> int:
    row = connection.execute("select count(*) from pgtask.running").fetchone()
    assert row is not None
    return int(row[0])


# Lost claims -------------------------------------------------------------------------------------


def lose_claim(connection: Connection, job_id: int) -> None:
    """What a server crash leaves of a claim whose commit was not flushed: nothing."""
    with connection.transaction():
        moved = connection.execute(
            "with gone as (delete from pgtask.running where id = %s returning *)"
            " insert into pgtask.ready (id, created_at, epoch, attempt, max_attempts, task, queue,"
            "   args, kwargs, serial)"
            " select id, created_at, epoch - 1, attempt - 1, max_attempts, task, queue, args,"
            "   kwargs, serial from gone",
            [job_id],
        )
        assert moved.rowcount == 1
        connection.execute("delete from pgtask.slot where job = %s", [job_id])


def cut_claimer(connection: Connection) -> None:
    connection.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where application_name = 'pgtask:claim' and datname = current_database()"
    )


def test_an_attempt_whose_claim_was_lost_is_not_taken_for_the_next_one(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given an attempt that runs, and a crash of the server that has lost its claim
    log = tmp_path / "log"
    worker = start_worker("-c", "2")
    job = shop.hold_in_turn.delay(str(log))
    eventually(lambda: lines(log) == ["begin"])
    lose_claim(connection, job.id)
    cut_claimer(connection)

    # then the job runs again, under the same number
    eventually(lambda: lines(log) == ["begin", "begin"], timeout=30)
    assert "has lost the claims of 1 jobs" in worker.log
    now = standing(connection, job.id)
    assert now is not None
    assert (now.state, now.attempt, now.epoch) == ("running", 1, 1)

    # and the end of the first one ends nothing
    log.with_name("log.go1").touch()
    eventually(lambda: "end 1" in lines(log))
    assert shop.add.delay(1, 2).get(timeout=30) == 3
    now = standing(connection, job.id)
    assert now is not None
    assert now.state == "running"

    log.with_name("log.go2").touch()
    assert job.get(timeout=30) == 2


def test_an_attempt_under_a_serial_key_whose_claim_was_lost_is_stopped(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    worker = start_worker("-c", "2")
    children = set(eventually(worker.children))
    job = shop.hold_in_turn.options(serial="one").delay(str(log))
    eventually(lambda: lines(log) == ["begin"])

    lose_claim(connection, job.id)
    cut_claimer(connection)

    eventually(lambda: lines(log) == ["begin", "begin"], timeout=30)
    eventually(lambda: len([pid for pid in children if not lives(pid)]) == 1)
    log.with_name("log.go2").touch()
    assert job.get(timeout=30) == 2


# The lease ---------------------------------------------------------------------------------------


@pytest.mark.faults
def test_after_20_s_without_a_heartbeat_serial_jobs_are_stopped_and_others_go_on(
    start_worker: Start, proxy: Proxy, dsn: str, connection: Connection, tmp_path: Path
) -> None:
    # given a job under a serial key, and one without
    serial, other = tmp_path / "serial", tmp_path / "other"
    worker = start_worker("-c", "2", PGTASK_DSN=proxy.dsn(dsn))
    stopped = shop.hold_in_turn.options(serial="one").delay(str(serial))
    goes_on = shop.hold.delay(str(other))
    eventually(lambda: lines(serial) and lines(other))

    # when the network is silent
    began = time.monotonic()
    proxy.freeze()
    eventually(lambda: "no heartbeat for" in worker.log, timeout=60)

    # then the first is stopped before anybody may start it elsewhere
    assert 15 < time.monotonic() - began < 28
    other.with_name("other.go").touch()
    eventually(lambda: len(lines(other)) == 2)

    # and when it is back, that one runs again, uncounted, and the other's end is recorded
    proxy.cut()
    proxy.thaw()
    eventually(lambda: len(lines(serial)) == 2, timeout=30)
    serial.with_name("serial.go2").touch()
    assert end_of(connection, stopped.id, timeout=30)[:3] == ("succeeded", None, 1)
    assert end_of(connection, goes_on.id, timeout=30)[:4] == ("succeeded", None, 1, 1)


@pytest.mark.faults
def test_an_outage_longer_than_the_lease_costs_nobody_a_job(
    start_worker: Start, proxy: Proxy, dsn: str, connection: Connection, tmp_path: Path
) -> None:
    # given two workers, each with a job
    logs = [tmp_path / "0", tmp_path / "1"]
    workers = [start_worker("-c", "1", PGTASK_DSN=proxy.dsn(dsn)) for _ in logs]
    jobs = [shop.hold.delay(str(log)) for log in logs]
    eventually(lambda: all(lines(log) for log in logs))

    # when the database is away for longer than their lease
    proxy.refuse()
    began = time.monotonic()
    for log in logs:
        log.with_name(f"{log.name}.go").touch()
    eventually(lambda: time.monotonic() - began > 40, timeout=60)
    proxy.accept()

    # then what they did meanwhile counts, and nobody was taken for dead
    for job in jobs:
        assert end_of(connection, job.id, timeout=30)[:4] == ("succeeded", None, 1, 1)
    alive = connection.execute("select count(*) from pgtask.worker where alive").fetchone()
    assert alive == (2,)
    assert not any("is dead" in worker.log for worker in workers)
