"""Link: one dedicated connection of a worker, with a deadline on every statement."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg

from pgtask import failpoint
from pgtask.broker.faults import is_dead, is_passing, translate
from pgtask.broker.pool import connect_arguments
from pgtask.broker.statement import Statement
from pgtask.errors import Unavailable

T = TypeVar("T")

WORKER_SESSION = (
    " -c statement_timeout=60s -c lock_timeout=2s -c idle_in_transaction_session_timeout=10s"
    " -c synchronous_commit=on"
)


class Link:
    """A connection that is opened when needed, closed on any doubt, and used by one at a time."""

    def __init__(self, dsn: str, name: str) -> None:
        self._dsn = dsn
        self._name = name
        self._lock = asyncio.Lock()
        self._connection: psycopg.AsyncConnection[Any] | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str, name: str) -> AsyncIterator[Link]:
        """Yield a link; the connection is closed on leaving."""
        link = cls(dsn, name)
        try:
            yield link
        finally:
            await link._close()

    async def run(self, statement: Statement[T], *, deadline: float = 5.0) -> T:
        """Run a statement within `deadline` seconds.

        Raises Unavailable when the connection was lost or the deadline passed, where it is unknown
        whether the statement committed, and when PostgreSQL rolled it back for a reason that passes
        (a lock, a deadlock, a full disk). Never waits for the kernel to notice a dead peer.
        """
        async with self._lock:
            try:
                async with asyncio.timeout(deadline):
                    connection = await self._connected()
                with _hanging_up_after(connection, deadline):
                    if failpoint.ARMED and failpoint.cuts("before", statement.text):
                        raise psycopg.OperationalError("cut by a failpoint")
                    cursor = await connection.execute(statement.text, statement.params)
                    rows = await cursor.fetchall() if cursor.description else []
                    if failpoint.ARMED and failpoint.cuts("after", statement.text):
                        raise psycopg.OperationalError("cut by a failpoint")
            except TimeoutError as error:
                await self._close()
                raise Unavailable(f"no answer from the database within {deadline:g} s") from error
            except psycopg.Error as error:
                if is_dead(error):
                    await self._close()
                if (ours := translate(error)) is not None:
                    raise ours from error
                if is_passing(error):
                    raise Unavailable(f"the database could not do it now: {error}") from error
                raise
            except asyncio.CancelledError:
                await self._close()
                raise
        return statement.parse(rows)

    async def connection(self) -> psycopg.AsyncConnection[Any]:
        """Return the open connection, for its owner alone; raises Unavailable."""
        try:
            async with asyncio.timeout(15.0):
                return await self._connected()
        except TimeoutError as error:
            raise Unavailable("no connection within 15 s") from error
        except psycopg.Error as error:
            raise translate(error) or Unavailable(str(error)) from error

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        if self._connection is None or self._connection.closed:
            arguments = connect_arguments(f"pgtask:{self._name}")
            arguments["options"] += WORKER_SESSION
            self._connection = await psycopg.AsyncConnection.connect(self._dsn, **arguments)
        return self._connection

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # A connection that is already broken has nothing left to say.
            with contextlib.suppress(psycopg.Error):
                await connection.close()


class WakeUps:
    """The worker's ear: channels `pgtask` (queue names) and `pgtask_cancel` (worker ids)."""

    PING = 10.0  # s: a silent connection is tested this often
    PONG = 5.0

    def __init__(self, link: Link) -> None:
        self._link = link

    async def listen(self) -> AsyncIterator[tuple[str, str]]:
        """Yield (channel, payload); first ("connected", "") once listening. Raises Unavailable.

        A half-open connection is noticed by a query of our own on the same connection.
        """
        connection = await self._link.connection()
        try:
            with _hanging_up_after(connection, self.PONG):
                await connection.execute("listen pgtask")
                await connection.execute("listen pgtask_cancel")
            yield "connected", ""
            while True:
                async for notification in connection.notifies(timeout=self.PING):
                    yield notification.channel, notification.payload
                with _hanging_up_after(connection, self.PONG):
                    await connection.execute("select 1")
        except TimeoutError as error:
            raise Unavailable("the listening connection does not answer") from error
        except psycopg.Error as error:
            raise translate(error) or Unavailable(str(error)) from error
        finally:
            await self._link._close()  # noqa: SLF001 - the ear owns its link


@contextlib.contextmanager
def _hanging_up_after(connection: psycopg.AsyncConnection[Any], seconds: float) -> Iterator[None]:
    # Not by cancelling: psycopg would ask the server to cancel too, and wait for what it says.
    late = False

    def hang_up() -> None:
        nonlocal late
        late = True
        with (
            contextlib.suppress(OSError, psycopg.Error),
            socket.socket(fileno=os.dup(connection.fileno())) as wire,
        ):
            wire.shutdown(socket.SHUT_RDWR)

    timer = asyncio.get_running_loop().call_later(seconds, hang_up)
    try:
        yield
    except psycopg.OperationalError as error:
        if late:
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()


def pause_after(failures: int) -> float:
    """Seconds to wait before reconnecting, with jitter: 0.1, 0.2, ... at most about 5."""
    return float(min(5.0, 0.1 * 2**failures) * random.uniform(0.5, 1.5))
