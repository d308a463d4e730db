"""Link: one dedicated connection of a worker, with a deadline on every statement."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import LiteralString, TypeVar

import psycopg

from pgtask import failpoint
from pgtask.broker import migrate
from pgtask.broker.bounded import AsyncBoundedConnection
from pgtask.broker.faults import is_dead, is_passing, translate
from pgtask.broker.session import Session
from pgtask.broker.statement import Statement
from pgtask.errors import PgTaskError, Unavailable

T = TypeVar("T")

HURRY = 1.0  # s
StatementFailed = psycopg.Error  # raised by Link.run where it is neither an outage nor a refusal


class Link:
    """A connection that is opened when needed, closed on any doubt, and used by one at a time."""

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self._name = f"pgtask:{name}"
        self._lock = asyncio.Lock()
        self._connection: AsyncBoundedConnection | None = None
        self._end = math.inf  # of the loop's clock
        self.opened = 0  # connections so far

    @classmethod
    @asynccontextmanager
    async def open(cls, session: Session, name: str) -> AsyncIterator[Link]:
        """Yield a link; the connection is closed on leaving."""
        link = cls(session, name)
        try:
            yield link
        finally:
            await link._close()

    @property
    def pooled(self) -> bool:
        """Whether a transaction pooler stands before the database."""
        return self._session.pooled

    async def run(
        self, statement: Statement[T], *, deadline: float = 5.0, only_on: int | None = None
    ) -> T:
        """Run a statement within `deadline` seconds, and as many for a connection if need be.

        Raises Unavailable when the connection was lost or the deadline passed, where it is unknown
        whether the statement committed, and when PostgreSQL rolled it back for a reason that passes
        (a lock, a deadlock, a full disk); and, before anything is sent, when the connection is not
        the one that was opened as number `only_on`. Never waits for the kernel to notice a dead
        peer.
        """
        async with self._using(deadline) as connection:
            if only_on is not None and only_on != self.opened:
                raise Unavailable("the connection is a new one")
            if failpoint.ARMED and failpoint.cuts("before", statement.text):
                raise psycopg.OperationalError("cut by a failpoint")
            cursor = await connection.execute(self._session.text(statement.text), statement.params)
            if self._session.pooled:
                await cursor.set_result(-1)
            rows = await cursor.fetchall() if cursor.description else []
            if failpoint.ARMED and failpoint.cuts("after", statement.text):
                raise psycopg.OperationalError("cut by a failpoint")
        return statement.parse(rows)

    async def check_schema(self, *, deadline: float = 10.0) -> None:
        """Raise unless this code can work with the schema there; Unavailable as run."""
        async with self._using(deadline) as connection:
            await migrate.acheck(connection)

    async def connect(self, *, deadline: float = 5.0) -> int:
        """Open the connection unless it is open; return its number. Raises Unavailable."""
        async with self._using(deadline):
            return self.opened

    def hurry(self) -> None:
        """Give what is being asked now a second more."""
        if self._connection is not None:
            soon = time.monotonic() + HURRY
            self._connection.until = min(self._connection.until, soon)

    def end_by(self, when: float) -> None:
        """Let nothing run past this time of the loop's clock; what runs now gets a second."""
        self._end = when
        self.hurry()

    @asynccontextmanager
    async def _using(self, deadline: float) -> AsyncIterator[AsyncBoundedConnection]:
        """Yield the connection, for this caller alone; what goes wrong on it becomes ours."""
        async with self._lock:
            deadline = min(deadline, self._end - asyncio.get_running_loop().time())
            if deadline <= 0:
                raise Unavailable("no time is left to ask the database")
            try:
                connection = await self._connected(deadline)
                connection.patience = deadline
                yield connection
            except TimeoutError as error:
                raise Unavailable(f"no connection to the database in {deadline:.3g} s") from error
            except psycopg.Error as error:
                if is_dead(error):
                    await self._close()
                if (ours := translate(error)) is not None:
                    raise ours from error
                if is_passing(error):
                    raise Unavailable(f"the database could not do it now: {error}") from error
                raise
            except PgTaskError:
                raise
            except BaseException:
                # Cancelled, perhaps in the middle of a statement.
                await self._close()
                raise

    async def _connected(self, deadline: float) -> AsyncBoundedConnection:
        if self._connection is None or self._connection.closed:
            await self._close()
            connection = await self._session.aconnect(self._name, deadline=deadline)
            self._connection = connection
            self.opened += 1
        return self._connection

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # A connection that is already broken has nothing left to say.
            with contextlib.suppress(psycopg.Error):
                await connection.close()


class WakeUps:
    """An ear at channels: what others notify there, and that it still hears."""

    PING = 10.0  # s: a silent connection is tested this often
    APART = 5.5  # s from what is asked on another connection
    PONG = 5.0
    LOOKS = 1.0  # s: how late a silence may be noticed

    def __init__(
        self, link: Link, *channels: LiteralString, asked: Callable[[], float] | None = None
    ) -> None:
        """Hear these channels. Of another connection that asks again and again, `asked` tells when.

        That is by the loop's clock. The tests then keep away from its queries, as long as those
        come at least twice APART apart: an idle process asks rarely, and never twice at once.
        """
        self._link = link
        self._channels = channels
        self._asked = asked

    async def listen(self) -> AsyncIterator[tuple[str, str]]:
        """Yield (channel, payload); first ("connected", "") once listening. Raises Unavailable.

        Ends at once where a pooler stands before the database: nothing would ever be heard. A
        half-open connection is noticed by a query of our own on the same connection.
        """
        async with self._link._using(self.PONG) as connection:  # noqa: SLF001 - the ear owns its link
            if self._link.pooled:
                return
            try:
                for channel in self._channels:
                    await connection.execute("listen " + channel)
                yield "connected", ""
                connection.looks = self.LOOKS
                clock = asyncio.get_running_loop().time
                tested = clock()
                while True:
                    if (pause := self._next_test(tested) - clock()) > 0:
                        connection.patience = pause + self.PONG
                        async for notification in connection.notifies(timeout=pause):
                            yield notification.channel, notification.payload
                        continue
                    connection.patience = self.PONG
                    await connection.execute("select 1")
                    tested = clock()
            finally:
                # Whatever happened, the next one begins anew.
                await connection.close()

    def _next_test(self, tested: float) -> float:
        apart = tested if self._asked is None else self._asked() + self.APART
        return min(apart, tested + 2 * self.PING) if apart > tested else tested + self.PING


def pause_after(failures: int) -> float:
    """Seconds to wait before another attempt, with jitter: 0.1, 0.2, ... at most 4.5.

    That, and the deadline of an attempt which meets an outage's end, are less than the 10 s within
    which work resumes.
    """
    return float(min(3.0, 0.1 * 2 ** min(failures, 10)) * random.uniform(0.5, 1.5))
