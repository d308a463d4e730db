"""The connection of a task with transaction=True: body and completion commit as one."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import ReadOnlySqlTransaction
from psycopg.pq import TransactionStatus

from pgtask.broker import attempts
from pgtask.broker.foreign import AsyncPsycopg, Psycopg
from pgtask.broker.pool import KEEPALIVE, is_readable
from pgtask.errors import (
    BrokerError,
    CommitUnknown,
    NoTaskConnection,
    TransactionEnded,
    Unavailable,
)
from pgtask.job import Attempt

# Of one async child; other coroutines wait. 100 coroutines must not take 100 connections.
MOST = 10

# What one task set must not reach the next. The settings of the DSN and the role stay.
_RESET = b"reset session authorization; reset all; select pg_advisory_unlock_all(); discard temp"

# A killed child leaves its backend, and its transaction's locks, until the server looks.
_LOOKING = "client_connection_check_interval=1s"

# Who is at the other end, and whether the role's own default forbids to write: it could complete no
# job. Where the server's configuration does, somebody has fenced it, after a failover: that stands.
_LOOK = b"""
select pg_catalog.pg_backend_pid(), exists (
  select from pg_catalog.pg_settings s
  where s.name = 'default_transaction_read_only' and s.setting = 'on'
    and s.source in ('user', 'database', 'database user'))"""

# What a task does with the connection; it returns the task's result as JSON.
Body: TypeAlias = Callable[[psycopg.Connection[Any]], str | None]
AsyncBody: TypeAlias = Callable[[psycopg.AsyncConnection[Any]], Awaitable[str | None]]


class Stage(enum.Enum):
    """How far a task's transaction has come; what a lost connection means depends on it."""

    BEGIN = "begin"
    BODY = "body"
    FINISH = "finish"
    COMMIT = "commit"


class _Way:
    """How to the database: directly or past a transaction pooler; what connections have taught."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.pooled = False
        self._writes = False  # must be said

    def arguments(self) -> dict[str, Any]:
        theirs = conninfo_to_dict(self.dsn)
        options = f"{theirs.get('options') or ''} -c {_LOOKING}"
        if self._writes:
            options += " -c default_transaction_read_only=off"
        return {
            "autocommit": True,
            # A pooler refuses options, and lends another server for each transaction.
            **({"prepare_threshold": None} if self.pooled else {"options": options.strip()}),
            **({} if theirs.get("application_name") else {"application_name": "pgtask:task"}),
            **({} if theirs.get("connect_timeout") else {"connect_timeout": 10}),
            **KEEPALIVE,
        }

    def first_words(self) -> bytes | None:
        """Return what a transaction begins with, where nothing lasts that was said before it."""
        if not self.pooled:
            return None
        writes = b"; set transaction read write" if self._writes else b""
        name, _, value = _LOOKING.partition("=")
        return f"set local {name} = '{value}'".encode() + writes

    def is_other(self, error: psycopg.Error) -> bool:
        """Whether it was a pooler that refused the connection, which may be tried again."""
        if self.pooled or "unsupported startup parameter" not in str(error):
            return False
        self.pooled = True
        return True

    def is_as_told(
        self,
        connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any],
        looked: tuple[int, bool] | None,
    ) -> bool:
        """Take in who answers; whether the connection is as it should be by what is known now."""
        assert looked is not None
        before = self.pooled, self._writes
        self.pooled = self.pooled or looked[0] != connection.info.backend_pid
        self._writes = self._writes or looked[1]
        return before == (self.pooled, self._writes)


class TaskConnection:
    """One connection, opened by the first task that needs it and kept for the next."""

    def __init__(self, dsn: str) -> None:
        self._way = _Way(dsn)
        self._connection: psycopg.Connection[Any] | None = None

    def run(self, attempt: Attempt, body: Body) -> None:
        """Run the body and finish the attempt, in one transaction.

        Raises NoTaskConnection before the body has begun; what the body raises; TransactionEnded
        when it ended the transaction itself, LeaseLost when another attempt owns the job; and
        CommitUnknown when the connection was lost after the body.
        """
        stage = Stage.BEGIN
        try:
            self._connection = self._fresh()
            with self._connection.transaction():
                if (words := self._way.first_words()) is not None:
                    self._connection.execute(words)
                stage = Stage.BODY
                result = body(self._connection)
                _check_open(self._connection)
                stage = Stage.FINISH
                Psycopg(self._connection).run(attempts.commit_job(attempt, result))
                stage = Stage.COMMIT
        except (psycopg.Error, Unavailable) as error:
            lost = self._connection is None or self._connection.closed
            if self._connection is not None and isinstance(error, ReadOnlySqlTransaction):
                self._connection.close()  # a demoted primary: the next task must find the other
            if (ours := meaning(error, stage, lost=lost)) is not None:
                raise ours from error
            raise
        finally:
            self._leave()
        _check_committed(stage)

    def _fresh(self) -> psycopg.Connection[Any]:
        connection, self._connection = self._connection, None
        # Closed by the server while it rested, or cleaned for the next task.
        if connection is not None and not (connection.closed or is_readable(connection.fileno())):
            if not self._way.pooled:
                connection.execute(_RESET)
            return connection
        if connection is not None:
            connection.close()
        while True:
            try:
                connection = psycopg.connect(self._way.dsn, **self._way.arguments())
            except psycopg.OperationalError as error:
                if not self._way.is_other(error):
                    raise
                continue
            looked = connection.execute(_LOOK, prepare=False).fetchone()
            if self._way.is_as_told(connection, looked):
                return connection
            connection.close()

    def _leave(self) -> None:
        # Interrupted in the middle of a statement: closing it ends that, and the transaction.
        if self._connection is not None and not _is_idle(self._connection):
            self._connection.close()
            self._connection = None


class AsyncTaskConnections:
    """At most MOST connections, each of one coroutine at a time."""

    def __init__(self, dsn: str) -> None:
        self._way = _Way(dsn)
        self._places = asyncio.Semaphore(MOST)
        self._resting: list[psycopg.AsyncConnection[Any]] = []

    async def run(self, attempt: Attempt, body: AsyncBody) -> None:
        """TaskConnection.run, with awaits. Cancelled during the COMMIT it raises CommitUnknown."""
        stage = Stage.BEGIN
        connection = None
        async with self._places:
            try:
                connection = await self._fresh()
                async with connection.transaction():
                    if (words := self._way.first_words()) is not None:
                        await connection.execute(words)
                    stage = Stage.BODY
                    result = await body(connection)
                    _check_open(connection)
                    stage = Stage.FINISH
                    await AsyncPsycopg(connection).run(attempts.commit_job(attempt, result))
                    stage = Stage.COMMIT
            except (psycopg.Error, Unavailable, asyncio.CancelledError) as error:
                lost = connection is None or connection.closed
                if connection is not None and isinstance(error, ReadOnlySqlTransaction):
                    await connection.close()
                if (ours := meaning(error, stage, lost=lost)) is not None:
                    raise ours from error
                raise
            finally:
                if connection is not None and _is_idle(connection):
                    self._resting.append(connection)
                elif connection is not None:
                    await connection.close()
        _check_committed(stage)

    async def _fresh(self) -> psycopg.AsyncConnection[Any]:
        while self._resting:
            connection = self._resting.pop()
            try:
                if not (connection.closed or is_readable(connection.fileno())):
                    if not self._way.pooled:
                        await connection.execute(_RESET)
                    return connection
            except BaseException:
                await connection.close()
                raise
            await connection.close()
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    self._way.dsn, **self._way.arguments()
                )
            except psycopg.OperationalError as error:
                if not self._way.is_other(error):
                    raise
                continue
            try:
                cursor = await connection.execute(_LOOK, prepare=False)
                if self._way.is_as_told(connection, await cursor.fetchone()):
                    return connection
            except BaseException:
                await connection.close()
                raise
            await connection.close()


def meaning(error: BaseException, stage: Stage, *, lost: bool) -> BrokerError | None:
    """Return what an error of the connection means at this stage, if more than it says itself.

    `lost`: the connection is of no use any more.
    """
    cancelled = isinstance(error, asyncio.CancelledError)
    if stage is Stage.BEGIN and not cancelled:
        return NoTaskConnection(f"no connection for the task: {error}")
    if (stage is Stage.COMMIT and (lost or cancelled)) or (stage is Stage.FINISH and lost):
        said = str(error).strip().splitlines() or ["it was cancelled"]
        return CommitUnknown(
            f"the answer to the COMMIT of the task's transaction was lost: {said[0]}"
        )
    return None


def _check_open(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    status = connection.info.transaction_status
    if status == TransactionStatus.IDLE or (connection.closed and not connection.broken):
        raise TransactionEnded(
            "the task ended its transaction with SQL of its own (commit or rollback), or closed its"
            " connection; with transaction=True pgtask commits, together with the job"
        )
    if status == TransactionStatus.INERROR:
        raise BrokerError(
            "a statement of the task failed and the task went on, but its transaction is aborted:"
            " nothing can be committed → put what may fail in a savepoint:"
            " with connection.transaction():"
        )


def _check_committed(stage: Stage) -> None:
    # The transaction block swallows this one, and rolls back.
    if stage is not Stage.COMMIT:
        raise TransactionEnded(
            "the task rolled its transaction back with psycopg.Rollback → raise Reject or Retry"
        )


def _is_idle(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    return connection.info.transaction_status == TransactionStatus.IDLE
