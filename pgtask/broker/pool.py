"""Broker and AsyncBroker: run a statement, on an own pooled connection or on the caller's."""

from __future__ import annotations

import select
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolClosed, PoolTimeout

from pgtask.broker import migrate
from pgtask.broker.bounded import PATIENCE, AsyncBoundedConnection, BoundedConnection
from pgtask.broker.faults import translate
from pgtask.broker.session import KEEPALIVE as KEEPALIVE
from pgtask.broker.session import Session
from pgtask.broker.statement import Statement
from pgtask.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

T = TypeVar("T")

MAX_LIFETIME = 1800.0  # s: after a failover the pool drains to the new primary
ASK_WHY = 2  # s
NAME = "pgtask:client"
SILENT = "the database cannot be reached: it does not answer"


class Broker:
    """Runs statements for synchronous code. Opens its pool at the first use.

    Owned by one process: a forked child makes its own. Nothing waits for ever: a connection is had
    within `timeout` seconds, an answer within `patience`.
    """

    def __init__(
        self,
        dsn: str,
        *,
        pool_max: int = 10,
        timeout: float = 10.0,
        patience: float = PATIENCE,
        pooler: str = "auto",
    ) -> None:
        self.session = Session(dsn, pooler=pooler, patience=patience)
        self._timeout = timeout
        self._patience = patience
        self._pool = ConnectionPool(
            dsn,
            connection_class=BoundedConnection,
            min_size=0,
            max_size=pool_max,
            open=False,
            timeout=timeout,
            max_lifetime=MAX_LIFETIME,
            configure=self.session.configure,
            kwargs=lambda: self.session.arguments(NAME),
            reconnect_timeout=timeout,
        )

    def run(self, statement: Statement[T], *, within: float | None = None) -> T:
        """Run it in a transaction of its own, in at most `within` seconds.

        Raises Unavailable when no connection can be had in time or it was lost, the Refused that
        the schema answered, and psycopg's own exception otherwise.
        """
        self._open()
        session = self.session
        with self._connection(within) as connection, translating():
            cursor = connection.execute(session.text(statement.text), statement.params)
            if session.pooled:
                cursor.set_result(-1)
            return statement.parse(cursor.fetchall() if cursor.description else [])

    def run_all(self, statements: Sequence[Statement[T]]) -> list[T]:
        """Run them in one transaction: all or none. Raises as run."""
        self._open()
        with self._connection(None) as connection, translating(), connection.transaction():
            if self.session.pooled:
                connection.execute(self.session.preamble())
            return [self.run_on(connection, statement) for statement in statements]

    def run_on(self, connection: psycopg.Connection[Any], statement: Statement[T]) -> T:
        """Run it on the caller's connection, in whatever transaction that is in."""
        with translating():
            cursor = connection.execute(statement.text, statement.params)
            return statement.parse(cursor.fetchall() if cursor.description else [])

    def close(self) -> None:
        """Close the pool."""
        self._pool.close()

    @contextmanager
    def _connection(self, within: float | None) -> Iterator[BoundedConnection]:
        began = time.monotonic()
        wait = self._timeout if within is None else min(within, self._timeout)
        try:
            connection = self._healthy(began + wait)
            try:
                connection.patience = _left(self._patience, within, began)
                with connection:
                    yield connection
            finally:
                self._pool.putconn(connection)
        except (PoolTimeout, PoolClosed) as error:
            raise Unavailable(self._why(error, wait)) from error
        except Unavailable:
            # What broke this one has broken those that rest, too.
            self._pool.drain()
            raise

    def _healthy(self, until: float) -> BoundedConnection:
        # Not by the pool's `check`: that one rests for a second after each that has died, and
        # there may be as many as the pool has.
        while True:
            connection = self._pool.getconn(timeout=max(until - time.monotonic(), 0.01))
            try:
                # An idle connection has nothing to say. Readable means notices or, mostly, that the
                # server closed it: one poll() tells the healthy ones apart, not a round trip.
                if is_readable(connection.fileno()):
                    connection.execute("select 1")
            except psycopg.Error:
                self._pool.putconn(connection)
                self._pool.drain()
            except BaseException:
                self._pool.putconn(connection)
                raise
            else:
                return connection

    def _open(self) -> None:
        if self._pool.closed:
            # A wrong password or host is said at once; the pool would try on until its time-out.
            # And code that a migration has declared too old must not begin.
            with translating(), self.session.connect(NAME) as probe:
                migrate.check(probe)
        self._pool.open()

    def _why(self, error: Exception, waited: float) -> str:
        # The pool hides why it has no connection; ask once, directly.
        try:
            with self.session.connect(NAME, deadline=ASK_WHY):
                return _all_in_use(error, waited)
        except psycopg.Error as reason:
            return str(translate(reason) or reason)


class AsyncBroker:
    """Broker, with awaits. Belongs to one event loop."""

    def __init__(
        self, dsn: str, *, pool_max: int = 10, timeout: float = 10.0, pooler: str = "auto"
    ) -> None:
        self.session = Session(dsn, pooler=pooler)
        self._timeout = timeout
        self._connections: WeakSet[psycopg.AsyncConnection[Any]] = WeakSet()
        self._pool = AsyncConnectionPool(
            dsn,
            connection_class=AsyncBoundedConnection,
            min_size=0,
            max_size=pool_max,
            open=False,
            timeout=timeout,
            max_lifetime=MAX_LIFETIME,
            configure=self._welcome,
            kwargs=self._arguments,
            reconnect_timeout=timeout,
        )

    async def run(self, statement: Statement[T], *, within: float | None = None) -> T:
        """Run it in a transaction of its own; as Broker.run."""
        await self._open()
        session = self.session
        async with self._connection(within) as connection:
            with translating():
                cursor = await connection.execute(session.text(statement.text), statement.params)
                if session.pooled:
                    await cursor.set_result(-1)
                return statement.parse(await cursor.fetchall() if cursor.description else [])

    async def run_all(self, statements: Sequence[Statement[T]]) -> list[T]:
        """Run them in one transaction: all or none. Raises as Broker.run."""
        await self._open()
        async with self._connection(None) as connection:
            with translating():
                async with connection.transaction():
                    if self.session.pooled:
                        await connection.execute(self.session.preamble())
                    return [await self.run_on(connection, statement) for statement in statements]

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

    @asynccontextmanager
    async def _connection(self, within: float | None) -> AsyncIterator[AsyncBoundedConnection]:
        began = time.monotonic()
        wait = self._timeout if within is None else min(within, self._timeout)
        try:
            connection = await self._healthy(began + wait)
            try:
                connection.patience = _left(PATIENCE, within, began)
                async with connection:
                    yield connection
            finally:
                await self._pool.putconn(connection)
        except (PoolTimeout, PoolClosed) as error:
            raise Unavailable(await self._why(error, wait)) from error
        except Unavailable:
            await self._pool.drain()
            raise

    async def _healthy(self, until: float) -> AsyncBoundedConnection:
        while True:
            connection = await self._pool.getconn(timeout=max(until - time.monotonic(), 0.01))
            try:
                if is_readable(connection.fileno()):
                    await connection.execute("select 1")
            except psycopg.Error:
                await self._pool.putconn(connection)
                await self._pool.drain()
            except BaseException:
                await self._pool.putconn(connection)
                raise
            else:
                return connection

    async def _arguments(self) -> dict[str, Any]:
        return self.session.async_arguments(NAME)

    async def _welcome(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connections.add(connection)
        await self.session.aconfigure(connection)

    async def _open(self) -> None:
        if self._pool.closed:
            try:
                with translating():
                    async with await self.session.aconnect(NAME) as probe:
                        await migrate.acheck(probe)
            except TimeoutError as error:
                raise Unavailable(SILENT) from error
        await self._pool.open()

    async def _why(self, error: Exception, waited: float) -> str:
        try:
            async with await self.session.aconnect(NAME, deadline=ASK_WHY):
                return _all_in_use(error, waited)
        except TimeoutError:
            return SILENT
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


def _left(patience: float, within: float | None, began: float) -> float:
    if within is None:
        return patience
    return min(patience, max(within - (time.monotonic() - began), 0.1))


def _all_in_use(error: Exception, waited: float) -> str:
    return (
        f"no connection within {waited:g} s, though the server answers: all of this process's are"
        f" in use ({error})"
    )


def is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))
