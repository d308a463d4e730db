"""Races: two sessions at the same rows, and a way to know that one waits for the other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tests.conditions import eventually
from tests.sql.engine import Engine

T = TypeVar("T")
Another = Callable[[], Engine]


class Races:
    """`first` holds its transaction open; `second` waits, or goes round; `engine` looks on."""

    def __init__(self, engine: Engine, another: Another, aside: ThreadPoolExecutor) -> None:
        self.engine, self.first, self.second = engine, another(), another()
        self._aside = aside

    def waiting(self, session: Engine, call: Callable[[], T]) -> Future[T]:
        """Start `call`, which uses `session`, and return when it waits for a lock."""
        future = self._aside.submit(call)
        pid = session.connection.info.backend_pid
        eventually(
            lambda: (
                future.done() or self.engine.value("select cardinality(pg_blocking_pids(%s))", pid)
            )
        )
        assert not future.done(), future.result()
        return future
