"""Enqueue is part of the caller's transaction, whoever owns the connection and in which colour."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from pgtask import (
    App,
    ArgumentMismatch,
    BlockingCall,
    BrokerError,
    DuplicateJob,
    JobNotFound,
    WouldDeadlock,
    WrongDatabase,
    config,
)
from pgtask.broker.statement import Statement, scalar
from tests.conditions import eventually
from tests.engines import async_engine_for, engine_for

app = App("transactions")


@app.task
def note(number: int, text: str = "") -> int:
    return number


@app.task(key="number:{number}", on_conflict="keep")
def once(number: int) -> None: ...


@pytest.fixture(autouse=True)
def configured(dsn: str) -> Iterator[None]:
    app.config = config.load({"dsn": dsn}, {}, {}, Path.cwd())
    yield
    app.close()


@dataclass
class Transaction:
    """An open transaction of some library: how to enqueue in it and how to end it."""

    target: Any
    enqueue: Callable[..., Any]
    execute: Callable[[str], Any]
    savepoint: Callable[[], AbstractAsyncContextManager[Any]]
    end: Callable[[bool], Any]


class RolledBack(Exception):
    """Leaves a block so that it rolls back."""


@asynccontextmanager
async def psycopg_sync(dsn: str) -> AsyncIterator[Transaction]:
    with psycopg.connect(dsn, row_factory=dict_row) as connection:

        @asynccontextmanager
        async def savepoint() -> AsyncIterator[None]:
            with connection.transaction():
                yield

        async def enqueue(*args: Any) -> Any:
            return note.using(connection).delay(*args)

        async def execute(statement: str) -> None:
            connection.execute(statement.encode())

        async def end(commit: bool) -> None:  # noqa: FBT001 - a test's shorthand
            connection.commit() if commit else connection.rollback()

        yield Transaction(connection, enqueue, execute, savepoint, end)
        connection.rollback()


@asynccontextmanager
async def psycopg_async(dsn: str) -> AsyncIterator[Transaction]:
    async with await psycopg.AsyncConnection.connect(dsn, row_factory=dict_row) as connection:

        async def enqueue(*args: Any) -> Any:
            return await note.using(connection).adelay(*args)

        async def execute(statement: str) -> None:
            await connection.execute(statement.encode())

        async def end(commit: bool) -> None:  # noqa: FBT001 - a test's shorthand
            await (connection.commit() if commit else connection.rollback())

        yield Transaction(connection, enqueue, execute, connection.transaction, end)
        await connection.rollback()


@asynccontextmanager
async def alchemy_session(dsn: str) -> AsyncIterator[Transaction]:
    with engine_for(dsn) as engine, Session(engine) as session:

        @asynccontextmanager
        async def savepoint() -> AsyncIterator[None]:
            with session.begin_nested():
                yield

        async def enqueue(*args: Any) -> Any:
            return note.using(session).delay(*args)

        async def execute(statement: str) -> None:
            session.execute(text(statement))

        async def end(commit: bool) -> None:  # noqa: FBT001 - a test's shorthand
            session.commit() if commit else session.rollback()

        yield Transaction(session, enqueue, execute, savepoint, end)


@asynccontextmanager
async def alchemy_connection(dsn: str) -> AsyncIterator[Transaction]:
    with engine_for(dsn) as engine, engine.connect() as connection:

        @asynccontextmanager
        async def savepoint() -> AsyncIterator[None]:
            with connection.begin_nested():
                yield

        async def enqueue(*args: Any) -> Any:
            return note.using(connection).delay(*args)

        async def execute(statement: str) -> None:
            connection.execute(text(statement))

        async def end(commit: bool) -> None:  # noqa: FBT001 - a test's shorthand
            connection.commit() if commit else connection.rollback()

        yield Transaction(connection, enqueue, execute, savepoint, end)


def alchemy_async(
    driver: str, *, session: bool
) -> Callable[[str], AbstractAsyncContextManager[Transaction]]:
    @asynccontextmanager
    async def opened(dsn: str) -> AsyncIterator[Transaction]:
        async with async_engine_for(driver, dsn) as engine:
            target: Any = AsyncSession(engine) if session else engine.connect()
            async with target:

                async def enqueue(*args: Any) -> Any:
                    return await note.using(target).adelay(*args)

                async def execute(statement: str) -> None:
                    await target.execute(text(statement))

                async def end(commit: bool) -> None:  # noqa: FBT001 - a test's shorthand
                    await (target.commit() if commit else target.rollback())

                yield Transaction(target, enqueue, execute, target.begin_nested, end)
        await app.aclose()

    return opened


WAYS = {
    "psycopg": psycopg_sync,
    "psycopg-async": psycopg_async,
    "sqlalchemy-session": alchemy_session,
    "sqlalchemy-connection": alchemy_connection,
    "sqlalchemy-asyncsession-psycopg": alchemy_async("psycopg", session=True),
    "sqlalchemy-asyncsession-asyncpg": alchemy_async("asyncpg", session=True),
    "sqlalchemy-asyncconnection-psycopg": alchemy_async("psycopg", session=False),
    "sqlalchemy-asyncconnection-asyncpg": alchemy_async("asyncpg", session=False),
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def stored(connection: psycopg.Connection[Any]) -> list[Any]:
    rows = connection.execute("select args from pgtask.jobs order by id").fetchall()
    return [row[0] for row in rows]


@every_way
@pytest.mark.asyncio
async def test_a_job_appears_with_the_commit_and_not_before(
    way: Any, dsn: str, connection: psycopg.Connection[Any]
) -> None:
    async with way(dsn) as transaction:
        result = await transaction.enqueue(1, "one")
        before = stored(connection)
        await transaction.end(True)

        assert result.id > 0
        assert result.created
        assert before == []
        assert stored(connection) == [[1, "one"]]
        assert await result.arefresh()
        assert result.state == "ready"
    await app.aclose()


@every_way
@pytest.mark.asyncio
async def test_a_job_is_gone_with_the_rollback(
    way: Any, dsn: str, connection: psycopg.Connection[Any]
) -> None:
    async with way(dsn) as transaction:
        result = await transaction.enqueue(1)
        await transaction.end(False)

        assert stored(connection) == []
        with pytest.raises(JobNotFound, match="rolled back"):
            await result.aget(timeout=5)
    await app.aclose()


@every_way
@pytest.mark.asyncio
async def test_a_savepoint_that_is_rolled_back_takes_its_jobs_along(
    way: Any, dsn: str, connection: psycopg.Connection[Any]
) -> None:
    async with way(dsn) as transaction:
        await transaction.enqueue(1)
        with suppress(RolledBack):
            async with transaction.savepoint():
                await transaction.enqueue(2)
                raise RolledBack
        async with transaction.savepoint():
            await transaction.enqueue(3)
        await transaction.end(True)

        assert stored(connection) == [[1], [3]]
    await app.aclose()


@every_way
@pytest.mark.asyncio
async def test_bad_arguments_leave_the_transaction_usable(
    way: Any, dsn: str, connection: psycopg.Connection[Any]
) -> None:
    async with way(dsn) as transaction:
        await transaction.execute("select 1")
        with pytest.raises(ArgumentMismatch):
            await transaction.enqueue()
        with pytest.raises(ValueError, match="NUL"):
            await transaction.enqueue(1, "\0")
        await transaction.enqueue(2)
        await transaction.end(True)

        assert stored(connection) == [[2]]
    await app.aclose()


@every_way
@pytest.mark.asyncio
async def test_a_connection_to_another_database_is_refused_and_stays_usable(
    way: Any, dsn: str, other_dsn: str, fresh_database: str
) -> None:
    for stranger, says in (
        (other_dsn, "leads to another database"),
        (fresh_database, "has no pgtask schema"),
    ):
        async with way(stranger) as transaction:
            for _ in range(2):
                with pytest.raises(WrongDatabase, match=says):
                    await transaction.enqueue(1)
            await transaction.execute("select 1")
            await transaction.end(True)
        with psycopg.connect(other_dsn) as other:
            assert stored(other) == []
    await app.aclose()


@every_way
@pytest.mark.asyncio
async def test_waiting_in_the_transaction_that_made_the_job_is_refused(way: Any, dsn: str) -> None:
    async with way(dsn) as transaction:
        result = await transaction.enqueue(1)

        with pytest.raises(WouldDeadlock, match="commit first"):
            await result.aget(timeout=5)
        await transaction.end(True)
        with pytest.raises(TimeoutError, match="is ready, not finished after"):
            await result.aget(timeout=0)
    await app.aclose()


@every_way
@pytest.mark.asyncio
async def test_options_and_many_calls_travel_on_every_driver(
    way: Any, dsn: str, connection: psycopg.Connection[Any]
) -> None:
    async with way(dsn) as transaction:
        chosen = note.using(transaction.target).options(
            queue="calc",
            priority=7,
            eta=datetime(2999, 1, 1, tzinfo=UTC),
            expires=datetime(2999, 1, 2, tzinfo=UTC),
            tags=["a", "b"],
            headers={"tenant": "ü"},
            timeout=2.5,
            serial="s:{number}",
        )
        results = await chosen.adelay_many([(1,), (2, "x"), (3,)], chunk=2)
        await transaction.end(True)

    rows = connection.execute(
        "select id, args, queue, priority, state, tags, headers, policy, serial"
        " from pgtask.jobs order by id"
    ).fetchall()
    assert [row[0] for row in rows] == [result.id for result in results]
    assert [row[1] for row in rows] == [[1], [2, "x"], [3]]
    assert rows[0][2:] == (
        "calc",
        7,
        "scheduled",
        ["a", "b"],
        {"tenant": "ü"},
        {"timeout": 2.5},
        "s:1",
    )
    await app.aclose()


def test_an_autocommit_connection_commits_at_once(
    dsn: str, connection: psycopg.Connection[Any]
) -> None:
    with psycopg.connect(dsn, autocommit=True) as own:
        note.using(own).delay(1)

        assert stored(connection) == [[1]]


def test_without_any_transaction_a_call_commits_by_itself(
    connection: psycopg.Connection[Any],
) -> None:
    result = note.delay(1)

    assert result.state == "ready"
    assert stored(connection) == [[1]]


def test_many_calls_are_all_or_none(connection: psycopg.Connection[Any]) -> None:
    ids = [result.id for result in note.delay_many([(n,) for n in range(7)], chunk=3)]

    assert ids == sorted(ids)
    assert stored(connection) == [[n] for n in range(7)]
    with pytest.raises(ArgumentMismatch, match="call 6"):
        note.delay_many([*[(n,) for n in range(6)], ()], chunk=3)
    assert len(stored(connection)) == 7


@pytest.mark.asyncio
async def test_when_a_later_round_trip_fails_none_of_the_calls_stays(
    connection: psycopg.Connection[Any],
) -> None:
    connection.execute("alter table pgtask.ready add constraint no6 check (args::text <> '[6]')")
    try:
        with pytest.raises(psycopg.errors.CheckViolation):
            await note.adelay_many([(n,) for n in range(7)], chunk=3)
        with pytest.raises(psycopg.errors.CheckViolation):
            await asyncio.to_thread(note.delay_many, [(n,) for n in range(7)], chunk=3)
    finally:
        connection.execute("alter table pgtask.ready drop constraint no6")

    assert stored(connection) == []
    await app.aclose()


def test_the_innermost_ambient_connection_wins_and_explicit_beats_it(
    dsn: str, connection: psycopg.Connection[Any]
) -> None:
    with (
        psycopg.connect(dsn) as outer,
        psycopg.connect(dsn) as inner,
        psycopg.connect(dsn) as explicit,
    ):
        with app.using(outer):
            note.delay(1)
            with app.using(inner):
                note.delay(2)
                note.using(explicit).delay(3)
            note.delay(4)
        inner.rollback()
        explicit.rollback()
        outer.commit()

    assert stored(connection) == [[1], [4]]


def test_a_blocking_call_with_an_async_connection_names_its_twin(dsn: str) -> None:
    async def wrong() -> None:
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            note.using(connection).delay(1)

    with pytest.raises(BlockingCall, match=r"asynchronous psycopg.*use await adelay\(\)"):
        asyncio.run(wrong())


def test_an_unfinished_job_keeps_its_key() -> None:
    first, again = once.delay(1), once.delay(1)

    assert (first.created, again.created) == (True, False)
    assert first == again
    assert once.delay(2) != first
    with pytest.raises(DuplicateJob) as caught:
        once.options(on_conflict="raise").delay(1)
    assert caught.value.job_id == first.id


def test_calls_by_name_are_checked_where_the_task_is_known(
    connection: psycopg.Connection[Any],
) -> None:
    app.enqueue(note.name, [1], {"text": "x"}, priority=3)
    app.enqueue("elsewhere.work", ["any"], {"thing": None}, key="k:{thing}")

    with pytest.raises(ArgumentMismatch):
        app.enqueue(note.name, [])
    rows = connection.execute("select task, args, kwargs, key from pgtask.jobs order by id")
    assert rows.fetchall() == [
        (note.name, [1, "x"], None, None),
        ("elsewhere.work", ["any"], {"thing": None}, "k:None"),
    ]


def test_a_role_that_may_nothing_is_told_so(dsn: str, server: Any) -> None:
    name = conninfo_to_dict(dsn)["dbname"]
    admin = psycopg.conninfo.make_conninfo(server.superuser_dsn, dbname=name)
    with psycopg.connect(admin) as stranger:
        stranger.execute("create role nobody_in_particular")
        stranger.execute("set local role nobody_in_particular")

        # The place is known from another test's role already: forget it.
        app.client._checked.clear()
        with pytest.raises(BrokerError, match=r"may not use the schema pgtask.*--grant-producer"):
            note.using(stranger).delay(1)
        assert stranger.execute("select 1").fetchone() == (1,)
        stranger.rollback()


def test_a_forked_child_makes_its_own_connections(connection: psycopg.Connection[Any]) -> None:
    backend = Statement("select pg_backend_pid()", {}, scalar)
    note.delay(1)
    parents = app.client.broker.run(backend)
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Newer Pythons warn of forks beside threads: what the child may do then is the point.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            note.delay(2)
            os.write(writing, str(app.client.broker.run(backend)).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        childs = int(answer.read())
    note.delay(3)

    assert childs != parents
    assert app.client.broker.run(backend) == parents
    assert stored(connection) == [[1], [2], [3]]


def test_threads_that_come_first_together_share_one_pool(
    connection: psycopg.Connection[Any],
) -> None:
    for _ in range(20):
        app.client.close()
        with ThreadPoolExecutor(8) as threads:
            brokers = threads.map(broker_after, [threading.Barrier(8)] * 8)
            assert len({id(broker) for broker in brokers}) == 1


def broker_after(start: threading.Barrier) -> object:
    start.wait()
    return app.client.broker


def test_event_loops_that_ended_leave_no_connections_behind(
    connection: psycopg.Connection[Any],
) -> None:
    for number in range(4):
        asyncio.run(_note_alone(number))

    def sessions() -> Any:
        return connection.execute(
            "select count(*) from pg_stat_activity where application_name = 'pgtask:client'"
            " and datname = current_database()"
        ).fetchone()

    assert eventually(lambda: sessions() == (1,))
    asyncio.run(_close_after(4))
    assert stored(connection) == [[n] for n in range(5)]


async def _note_alone(number: int) -> None:
    await note.adelay(number)


async def _close_after(number: int) -> None:
    await note.adelay(number)
    await app.aclose()


def test_a_connection_in_pipeline_mode_enqueues_as_any_other(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        with connection.pipeline():
            first = note.using(connection).delay(1)
            second = note.using(connection).delay(2)
        connection.commit()

    assert first.state == second.state == "ready"


def test_a_read_only_transaction_says_so(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.read_only = True

        with pytest.raises(BrokerError, match="read-write transaction"):
            note.using(connection).delay(1)


def test_a_client_that_a_migration_declared_too_old_is_refused(
    dsn: str, connection: psycopg.Connection[Any]
) -> None:
    connection.execute(
        "insert into pgtask.migration (number, name, checksum, oldest_release)"
        " values (9999, 'later', '', '99.0.0')"
    )
    try:
        with pytest.raises(BrokerError, match="99"):
            note.delay(1)
    finally:
        connection.execute("delete from pgtask.migration where number = 9999")
    assert connection.execute("select count(*) from pgtask.jobs").fetchone() == (0,)


def test_an_exhausted_pool_is_not_called_unreachable(dsn: str) -> None:
    from pgtask.broker.pool import Broker
    from pgtask.errors import Unavailable

    broker = Broker(dsn, pool_max=1, timeout=0.3)
    try:
        broker.run(Statement("select 1", {}, scalar))
        with broker._pool.connection(), pytest.raises(Unavailable, match="the server answers"):
            broker.run(Statement("select 1", {}, scalar))
    finally:
        broker.close()
