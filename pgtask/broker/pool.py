"""Broker and AsyncBroker: run a statement, on an own pooled connection or on the caller's."""

from __future__ import annotations

import select
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolClosed, PoolTimeout

from pgtask.broker import migrate
from pgtask.broker.faults import translate
from pgtask.broker.statement import Statement
from pgtask.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

T = TypeVar("T")

# Defaults of a role or database must not change what a statement means; names are qualified.
SESSION = (
    "-c search_path= -c default_transaction_isolation=read\\ committed"
    " -c default_transaction_read_only=off -c idle_in_transaction_session_timeout=30s"
    " -c datestyle=iso -c intervalstyle=postgres -c timezone=UTC"
)
KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
MAX_LIFETIME = 1800.0  # s: after a failover the pool drains to the new primary


def connect_arguments(application_name: str) -> dict[str, Any]:
    """Return the keyword arguments of every connection that pgtask opens itself."""
    return {
        "autocommit": True,
        "application_name": application_name,
        "options": SESSION,
        "connect_timeout": 10,
        **KEEPALIVE,
    }


class Broker:
    """Runs statements for synchronous code. Opens its pool at the first use.

    Owned by one process: a forked child makes its own.
    """

    def __init__(self, dsn: str, *, pool_max: int = 10, timeout: float = 10.0) -> None:
        self._dsn = dsn
        self._timeout = timeout
        self._pool = ConnectionPool(
            dsn,
            min_size=0,
            max_size=pool_max,
            open=False,
            timeout=timeout,
            max_lifetime=MAX_LIFETIME,
            check=_is_quiet,
            kwargs=connect_arguments("pgtask:client"),
            reconnect_timeout=timeout,
        )

    def run(self, statement: Statement[T]) -> T:
        """Run it in a transaction of its own.

        Raises Unavailable when no connection can be had in time or it was lost, the Refused that
        the schema answered, and psycopg's own exception otherwise.
        """
        self._open()
        try:
            with translating(), self._pool.connection() as connection:
                return self.run_on(connection, statement)
        except (PoolTimeout, PoolClosed) as error:
            raise Unavailable(self._why(error)) from error

    def run_all(self, statements: Sequence[Statement[T]]) -> list[T]:
        """Run them in one transaction: all or none. Raises as run."""
        self._open()
        try:
            with translating(), self._pool.connection() as connection, connection.transaction():
                return [self.run_on(connection, statement) for statement in statements]
        except (PoolTimeout, PoolClosed) as error:
            raise Unavailable(self._why(error)) from error

    def run_on(self, connection: psycopg.Connection[Any], statement: Statement[T]) -> T:
        """Run it on the caller's connection, in whatever transaction that is in."""
        with translating():
            cursor = connection.execute(statement.text, statement.params)
            return statement.parse(cursor.fetchall() if cursor.description else [])

    def close(self) -> None:
        """Close the pool."""
        self._pool.close()

    def _open(self) -> None:
        if self._pool.closed:
            # A wrong password or host is said at once; the pool would try on until its time-out.
            # And code that a migration has declared too old must not begin.
            arguments = connect_arguments("pgtask:client")
            with translating(), psycopg.connect(self._dsn, **arguments) as probe:
                migrate.check(probe)
        self._pool.open()

    def _why(self, error: Exception) -> str:
        # The pool hides why it has no connection; ask once, directly.
        try:
            with psycopg.connect(self._dsn, **connect_arguments("pgtask:client")):
                return (
                    f"no connection within {self._timeout:g} s, though the server answers: all of"
                    f" this process's are in use ({error})"
                )
        except psycopg.Error as reason:
            return str(translate(reason) or reason)


class AsyncBroker:
    """Broker, with awaits. Belongs to one event loop."""

    def __init__(self, dsn: str, *, pool_max: int = 10, timeout: float = 10.0) -> None:
        self._dsn = dsn
        self._timeout = timeout
        self._connections: WeakSet[psycopg.AsyncConnection[Any]] = WeakSet()
        self._pool = AsyncConnectionPool(
            dsn,
            min_size=0,
            max_size=pool_max,
            open=False,
            timeout=timeout,
            max_lifetime=MAX_LIFETIME,
            check=_is_quiet_async,
            configure=self._remember,
            kwargs=connect_arguments("pgtask:client"),
            reconnect_timeout=timeout,
        )

    async def run(self, statement: Statement[T]) -> T:
        """Run it in a transaction of its own; raises as Broker.run."""
        await self._open()
        try:
            with translating():
                async with self._pool.connection() as connection:
                    return await self.run_on(connection, statement)
        except (PoolTimeout, PoolClosed) as error:
            raise Unavailable(await self._why(error)) from error

    async def run_all(self, statements: Sequence[Statement[T]]) -> list[T]:
        """Run them in one transaction: all or none. Raises as Broker.run."""
        await self._open()
        try:
            with translating():
                async with self._pool.connection() as connection, connection.transaction():
                    return [await self.run_on(connection, statement) for statement in statements]
        except (PoolTimeout, PoolClosed) as error:
            raise Unavailable(await self._why(error)) from error

    async def run_on(self, connection: psycopg.AsyncConnection[Any], statement: Statement[T]) -> T:
        """Run it on the caller's connection, in whatever transaction that is in."""
        with translating():
            cursor = await connection.execute(statement.text, statement.params)
            return statement.parse(await cursor.fetchall() if cursor.description else [])

    async def close(self) -> None:
        """Close the pool."""
        await self._pool.close()

    def abandon(self) -> None:
        """Drop the connections of an event loop that is closed, where nothing can be awaited."""
        for connection in self._connections:
            connection.pgconn.finish()

    async def _remember(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connections.add(connection)

    async def _open(self) -> None:
        if self._pool.closed:
            with translating():
                async with await psycopg.AsyncConnection.connect(
                    self._dsn, **connect_arguments("pgtask:client")
                ) as probe:
                    await migrate.acheck(probe)
        await self._pool.open()

    async def _why(self, error: Exception) -> str:
        try:
            async with await psycopg.AsyncConnection.connect(
                self._dsn, **connect_arguments("pgtask:client")
            ):
                return (
                    f"no connection within {self._timeout:g} s, though the server answers: all of"
                    f" this process's are in use ({error})"
                )
        except psycopg.Error as reason:
            return str(translate(reason) or reason)


@contextmanager
def translating() -> Iterator[None]:
    """Turn psycopg's errors into ours where ours says more."""
    try:
        yield
    except (PoolTimeout, PoolClosed):
        raise  # the broker asks why
    except psycopg.Error as error:
        if (ours := translate(error)) is not None:
            raise ours from error
        raise


def _is_quiet(connection: psycopg.Connection[Any]) -> None:
    # An idle connection has nothing to say. Readable means notices or, mostly, that the server
    # closed it: one poll() instead of a round trip tells the healthy ones apart.
    if is_readable(connection.fileno()):
        connection.execute("select 1")


async def _is_quiet_async(connection: psycopg.AsyncConnection[Any]) -> None:
    if is_readable(connection.fileno()):
        await connection.execute("select 1")


def is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))
