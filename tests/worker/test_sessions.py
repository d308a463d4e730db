"""Workers whose role has hostile defaults, or whose database is behind a transaction pooler."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests import shop
from tests.broker.test_sessions import HOSTILE
from tests.conditions import eventually
from tests.conftest import TestServer
from tests.pooler import PgBouncer, needs_pgbouncer
from tests.standing import Connection, end_of, lines, outcomes
from tests.workers import Start

IMPATIENT = {
    "statement_timeout": "100ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "100ms",
    "idle_session_timeout": "100ms",
}


@contextmanager
def role_defaults(server: TestServer, dsn: str, more: dict[str, str]) -> Iterator[None]:
    """While inside, new connections of our role to this database have HOSTILE defaults."""
    name = conninfo_to_dict(dsn)["dbname"]
    role = f'alter role pgtask in database "{name}"'
    with psycopg.connect(server.superuser_dsn, autocommit=True) as superuser:
        try:
            for setting, value in {**HOSTILE, **more}.items():
                quoted = value if setting == "search_path" else f"'{value}'"
                superuser.execute(f"{role} set {setting} = {quoted}".encode())
            yield
        finally:
            superuser.execute(f"{role} reset all".encode())


def run_every_kind(connection: Connection, tmp_path: Path) -> None:
    """Jobs of all kinds, enqueued by our own pool, run and are waited for."""
    log = tmp_path / "kinds"
    added = shop.add.delay(1, 2)
    answers = [
        (shop.async_add.delay(3, 4), 7),
        (shop.echo.delay("ä→😀 'quoted' \\ \"x\""), "ä→😀 'quoted' \\ \"x\""),
        (shop.flaky.delay(2), 2),
        (shop.snooze_once.delay(str(tmp_path / "snoozed")), 1),
    ]
    failing = shop.fail.delay("ä→😀")
    dying = shop.die.delay(str(tmp_path / "died"), 1)
    lanes = [shop.in_lane.delay(1, str(log)) for _ in range(5)]
    many = shop.noop.options(keep="all").delay_many([(n,) for n in range(2000)])
    assert added.get(timeout=60) == 3
    for job, answer in answers:
        assert job.get(timeout=60) == answer
    assert dying.get(timeout=60) == 2
    assert outcomes(connection, dying.id) == ["crashed"]
    assert end_of(connection, failing.id).error == "ValueError: ä→😀"
    for lane in lanes:
        end_of(connection, lane.id, timeout=30)
    assert lines(log) == ["+1", "-1"] * 5
    for job in many:
        assert end_of(connection, job.id, timeout=60).state == "succeeded"


def test_a_worker_and_its_clients_work_whatever_their_role_has_been_given(
    start_worker: Start, server: TestServer, dsn: str, connection: Connection, tmp_path: Path
) -> None:
    with role_defaults(server, dsn, IMPATIENT):
        worker = start_worker("-c", "2", wait=False)
        eventually(lambda: "worker " in worker.log, timeout=30)

        run_every_kind(connection, tmp_path)

        assert "failed, again" not in worker.log
        assert "heartbeat" not in worker.log
        shop.app.close()


def test_a_worker_that_is_told_of_a_pooler_needs_neither_options_nor_notifications(
    start_worker: Start, server: TestServer, dsn: str, connection: Connection, tmp_path: Path
) -> None:
    with role_defaults(server, dsn, {}):
        worker = start_worker("-c", "2", wait=False, PGTASK_POOLER="transaction")
        eventually(lambda: "worker " in worker.log, timeout=30)

        run_every_kind(connection, tmp_path)

        assert worker.log.count("nobody can listen through a connection pooler") == 1
        shop.app.close()


@pytest.fixture(params=["", "options, extra_float_digits"], ids=["refuses", "drops"])
def pooler(request: pytest.FixtureRequest, dsn: str) -> Iterator[PgBouncer]:
    with PgBouncer(dsn, ignore=request.param) as pooler:
        yield pooler


@needs_pgbouncer
def test_a_worker_behind_a_transaction_pooler_runs_every_kind_of_job(
    start_worker: Start,
    pooler: PgBouncer,
    configure: Callable[[str], None],
    dsn: str,
    connection: Connection,
    tmp_path: Path,
) -> None:
    # given a worker and a client that both go through it
    configure(pooler.dsn(dsn))
    worker = start_worker("-c", "2", PGTASK_DSN=pooler.dsn(dsn))

    run_every_kind(connection, tmp_path)

    # then the worker says once how it looks for jobs
    assert worker.log.count("nobody can listen through a connection pooler") == 1
    assert worker.log.count("PGTASK_LISTEN_DSN") == 1
    assert "failed, again" not in worker.log


@needs_pgbouncer
def test_with_a_direct_connection_for_listening_jobs_begin_at_once(
    start_worker: Start, pooler: PgBouncer, dsn: str, connection: Connection
) -> None:
    worker = start_worker(
        "-c", "1", "--poll", "600s", PGTASK_DSN=pooler.dsn(dsn), PGTASK_LISTEN_DSN=dsn
    )
    assert shop.add.delay(1, 2).get(timeout=60) == 3
    assert shop.add.delay(3, 4).get(timeout=60) == 7
    assert "nobody can listen" not in worker.log
    assert cancels_are_heard(connection)


def cancels_are_heard(connection: Connection) -> bool:
    listening = connection.execute(
        "select count(*) from pg_stat_activity where application_name = 'pgtask:listen'"
        " and datname = current_database()"
    ).fetchone()
    return listening == (1,)


@needs_pgbouncer
def test_a_pooler_that_is_restarted_costs_no_job(
    start_worker: Start, dsn: str, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with PgBouncer(dsn) as pooler:
        worker = start_worker("-c", "1", PGTASK_DSN=pooler.dsn(dsn))
        job = shop.hold.delay(str(log))
        eventually(lambda: lines(log), timeout=30)
    eventually(lambda: "claiming failed" in worker.log, timeout=30)
    log.with_name("log.go").touch()
    began = time.monotonic()

    with PgBouncer(dsn, port=pooler.port):
        assert end_of(connection, job.id, timeout=30)[:4] == ("succeeded", None, 1, 1)
        assert time.monotonic() - began < 30
        assert shop.add.delay(1, 2).get(timeout=30) == 3


@pytest.fixture
def configure() -> Iterator[Callable[[str], None]]:
    """Lead the client of the app under test to another place; undone by the next test's fixture."""
    from pgtask import config

    def lead(dsn: str) -> None:
        shop.app.config = config.load({"dsn": dsn}, {}, {}, Path.cwd())

    yield lead
    shop.app.close()
