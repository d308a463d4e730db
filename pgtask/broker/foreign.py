"""Somebody else's connection: a statement is run through its owner's own API."""

from __future__ import annotations

import re
import sys
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, LiteralString, TypeAlias, TypeVar

from pgtask.broker.grants import remedy
from pgtask.broker.statement import Statement
from pgtask.errors import NotGranted, Refused, UnknownConnection

if TYPE_CHECKING:
    import psycopg
    import sqlalchemy
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session

T = TypeVar("T")
SUPPORTED = (
    "psycopg.Connection, psycopg.AsyncConnection, and from SQLAlchemy Session, Connection, "
    "scoped_session, AsyncSession, AsyncConnection, async_scoped_session"
)


class Psycopg:
    """A psycopg.Connection, from wherever it comes."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    def run(self, statement: Statement[T]) -> T:
        import psycopg

        # Not connection.execute(): the owner's row and cursor factories are for the owner's rows.
        with _translated(), psycopg.Cursor(self.connection, row_factory=_tuples()) as cursor:
            cursor.execute(statement.text, statement.params)
            # Without a look at cursor.description, which in pipeline mode is not there yet.
            return statement.parse(cursor.fetchall())

    def place(self) -> Hashable:
        """What leads to the same database for as long as it is equal."""
        return _psycopg_place(self.connection)

    def in_transaction(self) -> bool:
        return _psycopg_in_transaction(self.connection)


class AsyncPsycopg:
    """A psycopg.AsyncConnection."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self.connection = connection

    async def run(self, statement: Statement[T]) -> T:
        import psycopg

        with _translated():
            async with psycopg.AsyncCursor(self.connection, row_factory=_tuples()) as cursor:
                await cursor.execute(statement.text, statement.params)
                return statement.parse(await cursor.fetchall())

    async def place(self) -> Hashable:
        return _psycopg_place(self.connection)

    def in_transaction(self) -> bool:
        return _psycopg_in_transaction(self.connection)


class Alchemy:
    """A Session or Connection of SQLAlchemy; never the driver's connection beneath.

    The session must know of the statement: on asyncpg one sent around it before its first own
    statement is committed at once, whatever the session does later.
    """

    def __init__(self, connection: Session | sqlalchemy.Connection) -> None:
        self.connection = connection

    def run(self, statement: Statement[T]) -> T:
        with _translated():
            result = self.connection.execute(_clause(statement.text), dict(statement.params))
            return statement.parse(_rows(result))

    def place(self) -> Hashable:
        from sqlalchemy.orm import Session

        if isinstance(self.connection, Session):
            return self.connection.connection().engine
        return self.connection.engine

    def in_transaction(self) -> bool:
        return self.connection.in_transaction()


class AsyncAlchemy:
    """An AsyncSession or AsyncConnection of SQLAlchemy, on whatever driver."""

    def __init__(self, connection: AsyncSession | AsyncConnection) -> None:
        self.connection = connection

    async def run(self, statement: Statement[T]) -> T:
        with _translated():
            clause = _clause(statement.text)
            result = await self.connection.execute(clause, dict(statement.params))
            return statement.parse(_rows(result))

    async def place(self) -> Hashable:
        from sqlalchemy.ext.asyncio import AsyncSession

        if isinstance(self.connection, AsyncSession):
            return (await self.connection.connection()).sync_engine
        return self.connection.sync_engine

    def in_transaction(self) -> bool:
        return self.connection.in_transaction()


Foreign: TypeAlias = Psycopg | AsyncPsycopg | Alchemy | AsyncAlchemy


def adapter(connection: Any) -> Foreign:
    """The way to use this connection, by its type; raises UnknownConnection (a TypeError)."""
    # An object of a library exists only where the library is imported already.
    if "psycopg" in sys.modules:
        import psycopg

        if isinstance(connection, psycopg.Connection):
            return Psycopg(connection)
        if isinstance(connection, psycopg.AsyncConnection):
            return AsyncPsycopg(connection)
    if "sqlalchemy" in sys.modules:
        import sqlalchemy

        if isinstance(connection, sqlalchemy.Connection):
            return Alchemy(connection)
    if "sqlalchemy.orm" in sys.modules:
        from sqlalchemy.orm import Session, scoped_session

        if isinstance(connection, scoped_session):
            connection = connection()
        if isinstance(connection, Session):
            return Alchemy(connection)
    if "sqlalchemy.ext.asyncio" in sys.modules:
        from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

        if isinstance(connection, async_scoped_session):
            connection = connection()
        if isinstance(connection, (AsyncSession, AsyncConnection)):
            return AsyncAlchemy(connection)
    kind = type(connection)
    raise UnknownConnection(
        f"using() takes a connection of {SUPPORTED}; got {kind.__module__}.{kind.__qualname__}"
    )


def makes_async_sessions(factory: Any) -> bool | None:
    """Whether a factory of SQLAlchemy sessions makes AsyncSessions; None for any other object."""
    if "sqlalchemy.orm" in sys.modules:
        from sqlalchemy.orm import scoped_session, sessionmaker

        if isinstance(factory, (sessionmaker, scoped_session)):
            return False
    if "sqlalchemy.ext.asyncio" in sys.modules:
        from sqlalchemy.ext.asyncio import async_scoped_session, async_sessionmaker

        if isinstance(factory, (async_sessionmaker, async_scoped_session)):
            return True
    return None


def _psycopg_place(
    connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any],
) -> Hashable:
    info = connection.info
    return (info.hostaddr or info.host, info.port, info.dbname)


def _psycopg_in_transaction(
    connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any],
) -> bool:
    from psycopg.pq import TransactionStatus

    status = connection.info.transaction_status
    return status not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN)


def _tuples() -> Any:
    from psycopg.rows import tuple_row

    return tuple_row


@lru_cache(maxsize=64)
def _clause(text: LiteralString) -> sqlalchemy.TextClause:
    from sqlalchemy import bindparam
    from sqlalchemy import text as clause
    from sqlalchemy.types import NullType

    names: list[str] = re.findall(r"%\((\w+)\)s", text)
    # In parentheses: text() does not see a name that a cast follows directly.
    named = re.sub(r"%\((\w+)\)s", r"(:\1)", text).replace("%%", "%")
    # NullType: the casts in the text name the types, a rendered guess of SQLAlchemy's would win.
    binds = [bindparam(name, type_=NullType()) for name in dict.fromkeys(names)]
    return clause(named).bindparams(*binds)


def _rows(result: sqlalchemy.CursorResult[Any] | sqlalchemy.Result[Any]) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in result.fetchall()] if result.returns_rows else []  # type: ignore[union-attr]  # every text() result has it


@contextmanager
def _translated() -> Iterator[None]:
    """Our errors for SQLSTATEs that are ours or say more; the owner's own exception otherwise."""
    try:
        yield
    except Exception as error:
        ours = _ours(getattr(error, "orig", error) or error)
        if ours is None:
            raise
        raise ours from error


def _ours(error: BaseException) -> Exception | None:
    if "psycopg" in sys.modules:
        import psycopg

        if isinstance(error, psycopg.Error):
            from pgtask.broker.faults import translate

            return translate(error)
    sqlstate = getattr(error, "sqlstate", None)
    if sqlstate == "42501":
        return NotGranted(f"{error} → {remedy(str(error))}")
    kinds: list[type[Refused]] = [Refused, *Refused.__subclasses__()]
    kind = next((kind for kind in kinds if kind.sqlstate == sqlstate), None)
    return None if kind is None else kind(str(error))
