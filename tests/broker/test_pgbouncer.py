"""Clients behind PgBouncer in transaction mode: noticed, and served without what it cannot keep."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from pgtask import App, config
from pgtask.broker import attempts, migrate
from pgtask.broker.pool import Broker
from pgtask.broker.session import Session
from pgtask.broker.statement import Statement, scalar
from pgtask.errors import Unavailable
from tests.broker.test_sessions import CLIENT, TOLD, hostile
from tests.pooler import PgBouncer, needs_pgbouncer

__all__ = ["hostile"]

pytestmark = needs_pgbouncer

app = App("pooled")


@app.task
def double(x: int) -> int:
    return 2 * x


@pytest.fixture(params=["", "options"], ids=["refuses options", "drops options"])
def pooled(request: pytest.FixtureRequest, dsn: str) -> Iterator[str]:
    with PgBouncer(dsn, size=2, ignore=request.param) as pooler:
        app.config = config.load({"dsn": pooler.dsn(dsn)}, {}, {}, Path.cwd())
        yield pooler.dsn(dsn)
        app.close()


def test_a_pooler_is_noticed_and_a_direct_connection_is_not_taken_for_one(
    pooled: str, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "pgtask.broker"):
        behind = Session(pooled)
        behind.connect("pgtask:test").close()
        direct = Session(dsn)
        direct.connect("pgtask:test").close()

    assert (behind.pooled, direct.pooled) == (True, False)
    assert caplog.text.count("a connection pooler stands before the database") == 1


def test_jobs_are_enqueued_and_waited_for(
    pooled: str, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    # given jobs from single calls, and from one with more than a statement takes
    first = double.delay(21)
    others = double.delay_many([(n,) for n in range(6000)])
    worker = uuid4()
    anywhere = attempts.Range("default", -100, 100, 0)
    broker = Broker(dsn)
    broker.run(attempts.register(attempts.WorkerRow(worker, "h", 1, "0", ["*"], [], 1)))
    (job,) = broker.run(attempts.claim(worker, 1, [anywhere], list(app.own_tasks), 1.0))
    broker.run(attempts.finish(worker, [attempts.Ended(job.id, job.epoch, "succeeded", "42")]))
    broker.close()

    assert first.get(timeout=30) == 42
    assert first.get(timeout=30) == 42
    assert others[-1].state == "ready"
    with pytest.raises(TimeoutError):
        others[0].get(timeout=0.1)
    assert caplog.text.count("results are waited for by polling") == 1


def test_nothing_is_prepared_on_connections_that_others_use_too(pooled: str) -> None:
    broker = Broker(pooled)
    for n in range(20):
        assert broker.run(Statement("select %(n)s::int", {"n": n}, scalar)) == n
    count = Statement("select count(*) from pg_prepared_statements", {}, scalar)
    assert {broker.run(count) for _ in range(5)} == {0}
    broker.close()


def test_a_role_s_defaults_change_nothing_there_either(hostile: str) -> None:
    with PgBouncer(hostile, size=1) as pooler:
        broker = Broker(pooler.dsn(hostile))
        session = broker.session
        with session.connect("pgtask:test") as connection:
            for _ in range(3):
                cursor = connection.execute(session.text(TOLD.text))
                assert TOLD.parse(cursor.set_result(-1).fetchall()) == CLIENT
        # and what is told for one statement does not stay for others of the pool
        with psycopg.connect(pooler.dsn(hostile), autocommit=True) as other:
            row = other.execute("show lock_timeout").fetchone()
        assert row == ("20s",)


def test_the_schema_is_made_through_it(fresh_database: str) -> None:
    with PgBouncer(fresh_database) as pooler:
        with migrate.connection(pooler.dsn(fresh_database)) as connection:
            assert migrate.migrate(connection)
        with migrate.connection(pooler.dsn(fresh_database)) as connection:
            migrate.check(connection)


def test_whoever_says_that_there_is_none_is_refused_by_it(dsn: str) -> None:
    with PgBouncer(dsn) as pooler, pytest.raises(Unavailable, match="startup parameter"):
        Broker(pooler.dsn(dsn), pooler="none").run(Statement("select 1", {}, scalar))


@pytest.mark.asyncio
async def test_coroutines_enqueue_and_wait(pooled: str) -> None:
    job = await double.adelay(1)
    await double.adelay_many([(n,) for n in range(6000)])

    with pytest.raises(TimeoutError):
        await job.aget(timeout=0.1)
    assert (await job.arefresh()).state == "ready"
    await app.aclose()
