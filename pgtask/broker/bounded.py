"""Connections that wait for no answer longer than their patience: the kernel may never give up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Any

import psycopg
from psycopg import waiting

PATIENCE = 35.0  # s for a client's statement


class BoundedConnection(psycopg.Connection[Any]):
    """A synchronous connection; `patience` is in seconds, for each wait on the socket."""

    patience = PATIENCE
    until = 0.0  # of time.monotonic(), for the wait that is on

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Drive one of psycopg's generators, as the method it overrides."""
        return super().wait(_bounded(gen, self), *args, **kwargs)


class AsyncBoundedConnection(psycopg.AsyncConnection[Any]):
    """An asynchronous one. Whoever is cancelled leaves at once, and the connection is closed."""

    patience = PATIENCE
    until = 0.0  # of time.monotonic(), for the wait that is on; may be brought forward
    looks = 0.1  # s between two looks whether patience is over: each wakes the process

    async def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Drive one of psycopg's generators, as the method it overrides.

        That one would, on cancellation, ask the server to cancel too, and wait for what it says.
        """
        try:
            if not args:
                kwargs["interval"] = self.looks
            bounded = _bounded(gen, self)
            return await waiting.wait_async(bounded, self.pgconn.socket, *args, **kwargs)
        except asyncio.CancelledError:
            self.pgconn.finish()
            raise


def _bounded(
    gen: Any, connection: BoundedConnection | AsyncBoundedConnection
) -> Generator[Any, Any, Any]:
    connection.until = time.monotonic() + connection.patience
    try:
        wanted = next(gen)
        while True:
            # Once in a while psycopg wakes it with 0: nothing is ready.
            ready = yield wanted
            if not ready and time.monotonic() > connection.until:
                connection.pgconn.finish()
                raise psycopg.OperationalError(f"no answer within {connection.patience:.3g} s")
            wanted = gen.send(ready)
    except StopIteration as end:
        return end.value
