"""The connection of a task with transaction=True: body and completion commit as one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg

from pgtask.broker import attempts
from pgtask.broker.pool import connect_arguments, is_readable, translating
from pgtask.job import Attempt

# A killed child leaves its backend, and with it the transaction's locks, until the server looks.
_OPTIONS = " -c client_connection_check_interval=1s"


class TaskConnection:
    """One connection, opened by the first task that needs it and kept for the next."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg.Connection[Any] | None = None

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[Any]]:
        """Yield the connection inside a transaction that commits on leaving."""
        connection = self._connection
        if connection is not None and (connection.closed or is_readable(connection.fileno())):
            # The server closed it while it rested, which is no fault of this attempt.
            connection.close()
            connection = None
        if connection is None:
            with translating():
                connection = self._connection = psycopg.connect(self._dsn, **_arguments())
        with connection.transaction():
            yield connection


class AsyncTaskConnections:
    """One connection a coroutine, as several run at a time: opened and closed with each."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Yield a connection inside a transaction that commits on leaving."""
        with translating():
            connection = await psycopg.AsyncConnection.connect(self._dsn, **_arguments())
        async with connection, connection.transaction():
            yield connection


def commit_job(connection: psycopg.Connection[Any], attempt: Attempt, result: str | None) -> None:
    """Finish the attempt in the connection's transaction; raises LeaseLost when it is stale."""
    statement = attempts.commit_job(attempt, result)
    with translating():
        connection.execute(statement.text, statement.params)


async def acommit_job(
    connection: psycopg.AsyncConnection[Any], attempt: Attempt, result: str | None
) -> None:
    """commit_job, with awaits."""
    statement = attempts.commit_job(attempt, result)
    with translating():
        await connection.execute(statement.text, statement.params)


def _arguments() -> dict[str, Any]:
    arguments = connect_arguments("pgtask:task")
    arguments["options"] = (
        arguments["options"]
        .replace(
            "-c idle_in_transaction_session_timeout=30s", "-c idle_in_transaction_session_timeout=0"
        )
        .replace("-c search_path= ", "")
        + _OPTIONS
    )
    return arguments
