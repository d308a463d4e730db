"""Transactions: run bodies of transaction= tasks, again when their transaction lost to another."""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from pgtask.errors import Verdict

if TYPE_CHECKING:
    from pgtask.broker.task_session import AsyncTaskSessions, TaskSessions
    from pgtask.broker.transaction import AsyncTaskConnections, TaskConnection
    from pgtask.job import Attempt
    from pgtask.task import Task

log = logging.getLogger("pgtask.worker")

MOST_RERUNS = 5  # of a body within one attempt; what fails then is an error as any other


class Clock:
    """What is left of an attempt's soft limit, which begins with the first run of its body."""

    def __init__(self, limit: float | None, now: Callable[[], float]) -> None:
        self._limit = limit
        self._now = now
        self._until: float | None = None

    def left(self) -> float | None:
        """Seconds, at least a millisecond; None without a limit. The first call starts it."""
        if self._limit is None:
            return None
        if self._until is None:
            self._until = self._now() + self._limit
        return max(0.001, self._until - self._now())


class Transactions:
    """Of one child for sync tasks: a connection of its own, and sessions of each factory."""

    def __init__(self, dsn: str, installation: str) -> None:
        self._dsn = dsn
        self._installation = installation
        self._made: dict[object, TaskConnection | TaskSessions] = {}

    def run(
        self,
        task: Task[..., Any],
        attempt: Attempt,
        body: Callable[[Any], str | None],
        clock: Clock,
        is_cancelled: Callable[[], bool],
    ) -> None:
        """Run the body and finish the attempt, in one transaction; raises as TaskConnection.run."""
        transactions = self._of(task)
        for reruns in itertools.count():
            try:
                transactions.run(attempt, body)
                break
            except Exception as error:
                pause = _pause_before_rerun(error, reruns, clock)
                if pause is None or is_cancelled():
                    raise
                _tell(task.name, attempt, reruns, error)
            time.sleep(pause)

    def _of(self, task: Task[..., Any]) -> TaskConnection | TaskSessions:
        made = self._made.get(task.transaction)
        if made is None:
            if callable(task.transaction):
                from pgtask.broker.task_session import TaskSessions

                made = TaskSessions(task.transaction, self._installation)
            else:
                from pgtask.broker.transaction import TaskConnection

                made = TaskConnection(self._dsn)
            self._made[task.transaction] = made
        return made


class AsyncTransactions:
    """Of one child for async tasks: its few connections, and sessions of each factory."""

    def __init__(self, dsn: str, installation: str) -> None:
        self._dsn = dsn
        self._installation = installation
        self._made: dict[object, AsyncTaskConnections | AsyncTaskSessions] = {}

    async def run(
        self,
        task: Task[..., Any],
        attempt: Attempt,
        body: Callable[[Any], Awaitable[str | None]],
        clock: Clock,
        is_cancelled: Callable[[], bool],
    ) -> None:
        """Transactions.run, with awaits."""
        import asyncio

        transactions = self._of(task)
        for reruns in itertools.count():
            try:
                await transactions.run(attempt, body)
                break
            except Exception as error:
                pause = _pause_before_rerun(error, reruns, clock)
                if pause is None or is_cancelled():
                    raise
                _tell(task.name, attempt, reruns, error)
            await asyncio.sleep(pause)

    def _of(self, task: Task[..., Any]) -> AsyncTaskConnections | AsyncTaskSessions:
        made = self._made.get(task.transaction)
        if made is None:
            if callable(task.transaction):
                from pgtask.broker.task_session import AsyncTaskSessions

                made = AsyncTaskSessions(task.transaction, self._installation)
            else:
                from pgtask.broker.transaction import AsyncTaskConnections

                made = AsyncTaskConnections(self._dsn)
            self._made[task.transaction] = made
        return made


def _pause_before_rerun(error: Exception, reruns: int, clock: Clock) -> float | None:
    """Seconds after which the body runs again, in the same attempt; None: the error stands."""
    from pgtask.broker.faults import is_conflict

    if reruns >= MOST_RERUNS or isinstance(error, Verdict) or not is_conflict(error):
        return None
    # The others of the conflict pause as well: not for the same time.
    pause = random.uniform(0.5, 1.0) * min(1.0, 0.01 * 4.0**reruns)
    left = clock.left()
    return None if left is not None and left <= pause else pause


def _tell(task: str, attempt: Attempt, reruns: int, error: Exception) -> None:
    log.info(
        "job %d (%s): its transaction lost to another; its body runs again (%d of %d): %s",
        attempt.job_id,
        task,
        reruns + 1,
        MOST_RERUNS,
        str(error).partition("\n")[0],
    )
