"""The app of the tests of transactional tasks: the same booking on every kind of connection."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from pgtask import App, Snooze, current_job, injected
from pgtask.signature import Options
from tests.shop import append

app = App("ledger")

# What happens in the middle of a booking; for tests that run it in their own process.
meanwhile: list[Callable[[], None]] = []


def connect() -> psycopg.Connection[Any]:
    return psycopg.connect(os.environ["PGTASK_DSN"])


async def aconnect() -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(os.environ["PGTASK_DSN"])


async def asyncpg_connect() -> Any:
    known = conninfo_to_dict(os.environ["PGTASK_DSN"])
    names = ("host", "port", "user", "password")
    return await asyncpg.connect(
        database=known["dbname"], **{name: known[name] for name in names if name in known}
    )


engine = create_engine("postgresql+psycopg://", creator=connect)
async_engine = create_async_engine("postgresql+psycopg://", async_creator=aconnect)
asyncpg_engine = create_async_engine("postgresql+asyncpg://", async_creator=asyncpg_connect)
Sessions = sessionmaker(engine)
AsyncSessions = async_sessionmaker(async_engine)
AsyncpgSessions = async_sessionmaker(asyncpg_engine)


class Model(DeclarativeBase):
    pass


class Entry(Model):
    __tablename__ = "ledger"
    __table_args__ = {"schema": "public"}  # noqa: RUF012 - SQLAlchemy's way

    value: Mapped[int] = mapped_column(primary_key=True)


INSERT = "insert into public.ledger (value) values (%s)"
RUN = "select nextval('public.runs')"  # counts also what is rolled back

# Each takes its value from a list that it changes: the next run must get a new one.
options: Options = {"backoff": "const:0.05", "jitter": 0}


@app.task
def note(number: int) -> None:
    return None


@app.task(transaction=True, **options)
def book(values: list[int], *, fail_until: int = 0) -> int:
    connection = current_job().connection
    connection.execute(RUN)
    value = values.pop()
    connection.execute(INSERT, [value])
    note.delay(value)
    for event in meanwhile:
        event()
    if current_job().attempt < fail_until:
        raise ValueError("rolled back")
    return value


@app.task(transaction=True, **options)
async def abook(values: list[int], *, fail_until: int = 0) -> int:
    connection = current_job().connection
    await connection.execute(RUN)
    value = values.pop()
    await connection.execute(INSERT, [value])
    await note.adelay(value)
    if current_job().attempt < fail_until:
        raise ValueError("rolled back")
    return value


@app.task(transaction=Sessions, **options)
def book_in_session(
    values: list[int],
    *,
    fail_until: int = 0,
    session: Session = injected(),  # noqa: B008 - a marker
) -> int:
    session.execute(text(RUN))
    value = values.pop()
    session.add(Entry(value=value))
    note.delay(value)
    for event in meanwhile:
        event()
    if current_job().attempt < fail_until:
        raise ValueError("rolled back")
    return value


async def _abook_in_session(values: list[int], *, fail_until: int = 0) -> int:
    session: AsyncSession = current_job().session
    await session.execute(text(RUN))
    value = values.pop()
    session.add(Entry(value=value))
    await note.adelay(value)
    if current_job().attempt < fail_until:
        raise ValueError("rolled back")
    return value


abook_in_session = app.task(
    name="tests.ledger.abook_in_session", transaction=AsyncSessions, **options
)(_abook_in_session)
abook_with_asyncpg = app.task(
    name="tests.ledger.abook_with_asyncpg", transaction=AsyncpgSessions, **options
)(_abook_in_session)


@app.task(transaction=True, **options)
def collide(value: int, how: str) -> int:
    """Lose against what the test does in between, and make of it what `how` says."""
    connection = current_job().connection
    connection.execute("set transaction isolation level repeatable read")
    connection.execute(RUN)
    connection.execute("select * from public.ledger")
    for event in meanwhile:
        event()
    try:
        connection.execute("update public.ledger set value = value + %s", [value])
    except psycopg.Error as error:
        if how == "wrap":
            raise RuntimeError("could not add") from error
        if how == "snooze":
            raise Snooze(3) from error
        if how == "swallow":
            return 0
        raise
    return value


@app.task(transaction=True, **options)
def end_by(how: str) -> None:
    connection = current_job().connection
    connection.execute(INSERT, [1])
    if how == "Rollback":
        raise psycopg.Rollback
    if how == "close":
        connection.close()
    else:
        connection.execute(how)


@app.task(transaction=Sessions, **options)
def end_session_by(how: str) -> None:
    session = current_job().session
    session.add(Entry(value=1))
    session.flush()
    getattr(session, how)()


@app.task(transaction=Sessions)
def ask_for_connection() -> None:
    current_job().connection.execute("select 1")


@app.task(transaction=True, max_attempts=1, soft_timeout=0.3)
def sleep_in_server() -> None:
    current_job().connection.execute(INSERT, [1])
    current_job().connection.execute("select pg_sleep(60)")


@app.task(transaction=Sessions, max_attempts=1, soft_timeout=0.3)
def sleep_in_session() -> None:
    current_job().session.add(Entry(value=1))
    current_job().session.execute(text("select pg_sleep(60)"))


@app.task(transaction=True, timeout=0.5, backoff="const:0.05", jitter=0)
async def asleep_in_server(path: str) -> int:
    """Take too long, the first time, in the middle of a statement."""
    await current_job().connection.execute(INSERT, [current_job().attempt])
    append(path, f"begin {os.getpid()}")
    if current_job().attempt == 1:
        await current_job().connection.execute("select pg_sleep(60)")
    return current_job().attempt


@app.task(transaction=True, max_attempts=1)
async def ahold_connection(path: str) -> int:
    append(path, f"begin {os.getpid()}")
    while not Path(path + ".go").exists():  # noqa: ASYNC110 - a file is all tests have
        await asyncio.sleep(0.01)
    return os.getpid()


@app.task(transaction=True, timeout=0.5, backoff="const:0.05", jitter=0)
def stall_once(value: int, where: str) -> int:
    current_job().connection.execute(INSERT, [value])
    if current_job().attempt == 1 and where == "server":
        current_job().connection.execute("select pg_sleep(60)")
    if current_job().attempt == 1:
        time.sleep(60)
    return current_job().attempt


@app.task(max_attempts=3, backoff="const:0", jitter=0)
def tell_key(path: str) -> None:
    append(path, current_job().idempotency_key)
    raise ValueError("once more")
