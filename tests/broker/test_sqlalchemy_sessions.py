"""After install() a call joins the session that is open around it, begun or not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from sqlalchemy import event, text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from pgtask import AmbiguousTransaction, App, BlockingCall, WrongDatabase, config
from pgtask.contrib import sqlalchemy as contrib
from tests.engines import async_engine_for, engine_for

app = App("sessions")


@app.task
def note(number: int) -> int:
    return number


class RolledBack(Exception):
    """Leaves a block so that it rolls back."""


@pytest.fixture(autouse=True)
def configured(dsn: str) -> Iterator[None]:
    app.config = config.load({"dsn": dsn}, {}, {}, Path.cwd())
    yield
    app.close()


@pytest.fixture
def sessions(dsn: str) -> Iterator[sessionmaker[Session]]:
    with engine_for(dsn) as engine:
        made = sessionmaker(engine)
        contrib.install(made)
        yield made


@pytest_asyncio.fixture(params=["psycopg", "asyncpg"])
async def async_sessions(
    request: pytest.FixtureRequest, dsn: str
) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    async with async_engine_for(request.param, dsn) as engine:
        made = async_sessionmaker(engine)
        contrib.install(made)
        yield made
        await app.aclose()


def stored(connection: psycopg.Connection[Any]) -> list[Any]:
    rows = connection.execute("select args from pgtask.jobs order by id").fetchall()
    return [row[0] for row in rows]


def test_a_call_before_the_first_statement_is_part_of_the_transaction(
    sessions: sessionmaker[Session], connection: psycopg.Connection[Any]
) -> None:
    with suppress(RolledBack), sessions() as session:
        note.delay(1)
        session.execute(text("select 1"))
        raise RolledBack
    with sessions():
        note.delay(2)
    with sessions() as session:
        note.delay(3)
        before = stored(connection)
        session.commit()

    assert before == []
    assert stored(connection) == [[3]]


def test_a_session_class_is_watched_too(dsn: str, connection: psycopg.Connection[Any]) -> None:
    class OwnSession(Session):
        pass

    contrib.install(OwnSession)
    contrib.install(OwnSession)
    with engine_for(dsn) as engine:
        with OwnSession(engine):
            note.delay(1)
        with OwnSession(engine) as session:
            note.delay(2)
            session.commit()
        with Session(engine):
            note.delay(3)

    assert stored(connection) == [[2], [3]]


def test_a_session_without_with_is_joined_once_it_has_begun(
    sessions: sessionmaker[Session], connection: psycopg.Connection[Any]
) -> None:
    session = sessions()
    note.delay(1)
    session.execute(text("select 1"))
    note.delay(2)
    session.rollback()
    note.delay(3)
    session.close()

    assert stored(connection) == [[1], [3]]


def test_a_session_that_was_left_is_no_longer_joined(
    sessions: sessionmaker[Session], connection: psycopg.Connection[Any]
) -> None:
    with sessions() as left:
        pass
    with suppress(RolledBack), sessions() as raised:
        raise RolledBack
    note.delay(1)

    assert stored(connection) == [[1]]
    assert (left.in_transaction(), raised.in_transaction()) == (False, False)


@pytest.mark.parametrize("end", ["close", "invalidate"])
def test_a_session_that_is_closed_early_is_no_longer_joined_until_it_begins(
    sessions: sessionmaker[Session], connection: psycopg.Connection[Any], end: str
) -> None:
    with sessions() as session:
        note.delay(1)
        getattr(session, end)()
        note.delay(2)
        between = stored(connection)
        session.execute(text("select 1"))
        note.delay(3)

    assert between == [[2]]
    assert stored(connection) == [[2]]


def test_a_session_can_be_entered_again(
    sessions: sessionmaker[Session], connection: psycopg.Connection[Any]
) -> None:
    session = sessions()
    for number in (1, 2):
        with session:
            note.delay(number)
            assert session.in_transaction()
            session.commit()
    with session:
        note.delay(3)

    assert stored(connection) == [[1], [2]]


def test_after_the_begun_block_ended_early_the_session_itself_refuses(
    sessions: sessionmaker[Session], connection: psycopg.Connection[Any]
) -> None:
    with sessions.begin() as session:
        note.delay(1)
        session.rollback()
        with pytest.raises(InvalidRequestError, match="context manager"):
            note.delay(2)

    assert stored(connection) == []


def test_two_sessions_that_have_not_begun_are_ambiguous(
    sessions: sessionmaker[Session], connection: psycopg.Connection[Any]
) -> None:
    with sessions() as outer:
        with sessions() as inner:
            with pytest.raises(AmbiguousTransaction) as caught:
                note.delay(1)
            assert not outer.in_transaction()
            assert not inner.in_transaction()
            note.using(inner).delay(2)
            inner.commit()
        note.delay(3)
        outer.commit()

    assert f"{outer!r} and {inner!r}" in str(caught.value)
    assert stored(connection) == [[2], [3]]


def test_a_session_on_another_database_is_refused_before_it_has_begun(
    other_dsn: str, connection: psycopg.Connection[Any]
) -> None:
    with engine_for(other_dsn) as engine:
        made = sessionmaker(engine)
        contrib.install(made)
        with made() as session:
            with pytest.raises(WrongDatabase, match="leads to another database"):
                note.delay(1)
            session.commit()

    assert stored(connection) == []
    with psycopg.connect(other_dsn) as other:
        assert stored(other) == []


def test_listeners_of_the_factory_still_hear(sessions: sessionmaker[Session]) -> None:
    heard: list[str] = []
    event.listen(sessions, "after_commit", lambda _: heard.append("commit"))
    with sessions() as session:
        note.delay(1)
        session.commit()

    assert heard == ["commit"]


@pytest.mark.asyncio
async def test_an_async_call_before_the_first_statement_is_part_of_the_transaction(
    async_sessions: async_sessionmaker[AsyncSession], connection: psycopg.Connection[Any]
) -> None:
    with suppress(RolledBack):
        async with async_sessions() as session:
            await note.adelay(1)
            await session.execute(text("select 1"))
            raise RolledBack
    async with async_sessions():
        await note.adelay(2)
    async with async_sessions() as session:
        await session.run_sync(lambda _: note.delay(3))
        before = stored(connection)
        await session.commit()
        await note.adelay(4)
        await session.rollback()
        await note.adelay(5)
        await session.commit()
    await note.adelay(6)

    assert before == []
    assert stored(connection) == [[3], [5], [6]]


@pytest.mark.asyncio
async def test_an_async_session_that_is_closed_early_is_no_longer_joined(
    async_sessions: async_sessionmaker[AsyncSession], connection: psycopg.Connection[Any]
) -> None:
    async with async_sessions() as session:
        await note.adelay(1)
        await session.close()
        await note.adelay(2)

    assert stored(connection) == [[2]]


@pytest.mark.asyncio
async def test_a_task_made_inside_joins_only_while_the_session_is_open(
    async_sessions: async_sessionmaker[AsyncSession], connection: psycopg.Connection[Any]
) -> None:
    left = asyncio.Event()

    async def late() -> None:
        await left.wait()
        await note.adelay(2)

    async with async_sessions() as session:
        await asyncio.create_task(note.adelay(1))
        joined = session.in_transaction()
        child = asyncio.create_task(late())
    left.set()
    await child

    assert joined
    assert stored(connection) == [[2]]


@pytest.mark.asyncio
async def test_concurrent_async_sessions_that_have_not_begun_do_not_meet(
    async_sessions: async_sessionmaker[AsyncSession], connection: psycopg.Connection[Any]
) -> None:
    meeting = asyncio.Barrier(2)

    async def work(number: int) -> None:
        async with async_sessions() as session:
            await meeting.wait()
            await note.adelay(number)
            await meeting.wait()
            if number == 1:
                await session.commit()

    await asyncio.gather(work(1), work(2))

    assert stored(connection) == [[1]]


@pytest.mark.asyncio
async def test_two_async_sessions_that_have_not_begun_are_ambiguous(
    async_sessions: async_sessionmaker[AsyncSession], connection: psycopg.Connection[Any]
) -> None:
    async with async_sessions() as outer, async_sessions() as inner:
        with pytest.raises(AmbiguousTransaction) as caught:
            await note.adelay(1)
        await note.using(outer).adelay(2)
        await outer.commit()

    assert f"{outer!r} and {inner!r}" in str(caught.value)
    assert stored(connection) == [[2]]


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.asyncio
async def test_an_async_session_on_another_database_is_refused_before_it_has_begun(
    driver: str, other_dsn: str, connection: psycopg.Connection[Any]
) -> None:
    async with async_engine_for(driver, other_dsn) as engine:
        made = async_sessionmaker(engine)
        contrib.install(made)
        async with made() as session:
            with pytest.raises(WrongDatabase, match="leads to another database"):
                await note.adelay(1)
            await session.commit()
    await app.aclose()

    assert stored(connection) == []
    with psycopg.connect(other_dsn) as other:
        assert stored(other) == []


def test_a_call_joins_the_session_that_is_open(
    sessions: sessionmaker[Session], connection: psycopg.Connection[Any]
) -> None:
    with sessions.begin():
        note.delay(1)
        before = stored(connection)
    with suppress(RolledBack), sessions.begin() as session:
        session.execute(text("select 1"))
        note.delay(2)
        raise RolledBack
    note.delay(3)

    assert before == []
    assert stored(connection) == [[1], [3]]


def test_a_nested_savepoint_takes_its_jobs_along(
    sessions: sessionmaker[Session], connection: psycopg.Connection[Any]
) -> None:
    with sessions.begin() as session:
        note.delay(1)
        savepoint = session.begin_nested()
        note.delay(2)
        savepoint.rollback()
        note.delay(3)

    assert stored(connection) == [[1], [3]]


def test_a_session_is_joined_again_after_its_commit(
    sessions: sessionmaker[Session], connection: psycopg.Connection[Any]
) -> None:
    with sessions() as session:
        session.execute(text("select 1"))
        note.delay(1)
        session.commit()
        note.delay(2)
        between = stored(connection)
        session.rollback()
        note.delay(3)
        session.commit()
        note.delay(4)

    assert between == [[1]]
    assert stored(connection) == [[1], [3]]


def test_two_open_sessions_are_ambiguous_until_one_is_named(
    sessions: sessionmaker[Session], connection: psycopg.Connection[Any]
) -> None:
    with sessions.begin() as first, sessions.begin() as second:
        with pytest.raises(AmbiguousTransaction, match=r"2 transactions are open here: .*Session"):
            note.delay(1)
        note.using(first).delay(2)
        with app.using(second):
            note.delay(3)
        second.rollback()

    assert stored(connection) == [[2]]


def test_another_threads_session_is_not_joined(
    sessions: sessionmaker[Session], connection: psycopg.Connection[Any]
) -> None:
    with sessions.begin() as session:
        session.execute(text("select 1"))
        other = threading.Thread(target=note.delay, args=(1,))
        other.start()
        other.join()
        seen = stored(connection)
        note.delay(2)

    assert seen == [[1]]
    assert stored(connection) == [[1], [2]]


def test_scoped_sessions_are_joined(dsn: str, connection: psycopg.Connection[Any]) -> None:
    with engine_for(dsn) as engine:
        scoped = scoped_session(sessionmaker(engine))
        contrib.install(scoped)
        with scoped.begin():
            note.delay(1)
            note.using(scoped).delay(2)
            assert stored(connection) == []
        scoped.remove()

    assert stored(connection) == [[1], [2]]


@pytest.mark.asyncio
async def test_an_async_begin_block_is_joined(
    async_sessions: async_sessionmaker[AsyncSession], connection: psycopg.Connection[Any]
) -> None:
    async with async_sessions.begin() as session:
        await note.adelay(1)
        before = stored(connection)
        await session.run_sync(lambda inner: note.delay(2))
    with suppress(RolledBack):
        async with async_sessions.begin():
            await note.adelay(3)
            raise RolledBack
    await note.adelay(4)

    assert before == []
    assert stored(connection) == [[1], [2], [4]]


@pytest.mark.asyncio
async def test_a_blocking_call_beside_an_async_session_names_its_twin(dsn: str) -> None:
    async with async_engine_for("psycopg", dsn) as engine:
        scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
        contrib.install(scoped)
        async with scoped.begin():
            with pytest.raises(BlockingCall, match=r"asynchronous .*AsyncSession.*adelay"):
                note.delay(1)
        await scoped.remove()


def test_install_takes_session_factories_only() -> None:
    with pytest.raises(TypeError, match=r"install\(\) takes a sessionmaker"):
        contrib.install(object())  # type: ignore[arg-type]  # the point
