"""The connection of a task with transaction=True: body and completion commit as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from pgtask.broker import attempts
from pgtask.broker.pool import KEEPALIVE, is_readable, translating
from pgtask.errors import NoTaskConnection, TransactionEnded
from pgtask.job import Attempt

# Of one async child; other coroutines wait. 100 coroutines must not take 100 connections.
MOST = 10

# What one task set must not reach the next. The settings of the DSN and the role stay.
_RESET = b"reset session authorization; reset all; select pg_advisory_unlock_all(); discard temp"


class TaskConnection:
    """One connection, opened by the first task that needs it and kept for the next."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg.Connection[Any] | None = None

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[Any]]:
        """Yield the connection inside a transaction that commits on leaving.

        Raises NoTaskConnection before anything else was done.
        """
        with self._fresh().transaction():
            assert self._connection is not None
            yield self._connection

    def _fresh(self) -> psycopg.Connection[Any]:
        connection = self._connection
        try:
            if connection is not None:
                # Closed by the server while it rested, or cleaned for the next task.
                if connection.closed or is_readable(connection.fileno()):
                    connection.close()
                else:
                    connection.execute(_RESET)
                    return connection
            self._connection = psycopg.connect(self._dsn, **_arguments(self._dsn))
        except psycopg.Error as error:
            self._connection = None
            raise NoTaskConnection(f"no connection for the task: {error}") from error
        return self._connection


class AsyncTaskConnections:
    """At most MOST connections, each of one coroutine at a time."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._places = asyncio.Semaphore(MOST)
        self._resting: list[psycopg.AsyncConnection[Any]] = []

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Yield a connection inside a transaction that commits on leaving.

        Raises NoTaskConnection before anything else was done.
        """
        async with self._places:
            connection = await self._fresh()
            try:
                async with connection.transaction():
                    yield connection
            finally:
                if connection.info.transaction_status == TransactionStatus.IDLE:
                    self._resting.append(connection)
                else:
                    await connection.close()

    async def _fresh(self) -> psycopg.AsyncConnection[Any]:
        try:
            while self._resting:
                connection = self._resting.pop()
                if not connection.closed and not is_readable(connection.fileno()):
                    await connection.execute(_RESET)
                    return connection
                await connection.close()
            return await psycopg.AsyncConnection.connect(self._dsn, **_arguments(self._dsn))
        except psycopg.Error as error:
            raise NoTaskConnection(f"no connection for the task: {error}") from error


def commit_job(connection: psycopg.Connection[Any], attempt: Attempt, result: str | None) -> None:
    """Finish the attempt in the connection's transaction.

    Raises LeaseLost when it is stale, TransactionEnded when the task has ended the transaction.
    """
    _check_open(connection)
    statement = attempts.commit_job(attempt, result)
    with translating():
        connection.execute(statement.text, statement.params)


async def acommit_job(
    connection: psycopg.AsyncConnection[Any], attempt: Attempt, result: str | None
) -> None:
    """commit_job, with awaits."""
    _check_open(connection)
    statement = attempts.commit_job(attempt, result)
    with translating():
        await connection.execute(statement.text, statement.params)


def _check_open(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    if connection.info.transaction_status == TransactionStatus.IDLE:
        raise TransactionEnded(
            "the task ended its transaction with SQL of its own (commit or rollback); with"
            " transaction=True pgtask commits, together with the job"
        )


def _arguments(dsn: str) -> dict[str, Any]:
    theirs = conninfo_to_dict(dsn)
    # A killed child leaves its backend, and its transaction's locks, until the server looks.
    options = f"{theirs.get('options') or ''} -c client_connection_check_interval=1s"
    return {
        "autocommit": True,
        "options": options.strip(),
        **({} if theirs.get("application_name") else {"application_name": "pgtask:task"}),
        **({} if theirs.get("connect_timeout") else {"connect_timeout": 10}),
        **KEEPALIVE,
    }
