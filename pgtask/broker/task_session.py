"""The SQLAlchemy session of a task with transaction=SessionLocal: body and completion as one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoneFree
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from pgtask.broker import attempts, identity
from pgtask.broker.foreign import Alchemy, AsyncAlchemy
from pgtask.broker.transaction import Stage, meaning
from pgtask.errors import (
    JobCancelled,
    SoftTimeLimitExceeded,
    TransactionEnded,
    Unavailable,
    WrongDatabase,
)
from pgtask.job import Attempt

# What a task does with the session; it returns the task's result as JSON.
Body: TypeAlias = Callable[[Session], str | None]
AsyncBody: TypeAlias = Callable[[AsyncSession], Awaitable[str | None]]

# The first statement begins the transaction, so a dead connection of the pool shows before the
# body. Not a query: the task may still choose its isolation level.
_FIRST = text("set local client_connection_check_interval = '1s'")
# asyncpg's failures to connect come as they are.
_FAILURES = (DBAPIError, NoneFree, OSError, Unavailable)


class TaskSessions:
    """Sessions of one factory, each for one task; connections are its engine's business."""

    def __init__(self, factory: Callable[[], Session], installation: str) -> None:
        self._factory = factory
        self._installation = installation
        self._is_checked = False

    def run(self, attempt: Attempt, body: Body) -> None:
        """Run the body and finish the attempt, in one transaction of a session.

        Raises as TaskConnection.run does, and WrongDatabase.
        """
        stage = Stage.BEGIN
        try:
            self._check_database()
            with self._factory() as session:
                session.begin()
                transaction = session.get_transaction()
                session.execute(_FIRST)
                stage = Stage.BODY
                try:
                    result = body(session)
                    _check_open(session, transaction)
                    session.flush()
                except (SoftTimeLimitExceeded, JobCancelled):
                    # Perhaps in the middle of a statement, where no other can be sent.
                    session.invalidate()
                    raise
                stage = Stage.FINISH
                Alchemy(session).run(attempts.commit_job(attempt, result))
                stage = Stage.COMMIT
                session.commit()
        except _FAILURES as error:
            if (ours := meaning(error, stage, lost=_is_lost(error))) is not None:
                raise ours from error
            raise

    def _check_database(self) -> None:
        if not self._is_checked:
            with self._factory() as session:
                theirs = Alchemy(session).run(identity.identity())
                _compare(session, theirs.installation, self._installation)
            self._is_checked = True


class AsyncTaskSessions:
    """TaskSessions, with awaits."""

    def __init__(self, factory: Callable[[], AsyncSession], installation: str) -> None:
        self._factory = factory
        self._installation = installation
        self._is_checked = False

    async def run(self, attempt: Attempt, body: AsyncBody) -> None:
        """TaskSessions.run, with awaits. Cancelled during the COMMIT it raises CommitUnknown."""
        stage = Stage.BEGIN
        try:
            await self._check_database()
            async with self._factory() as session:
                await session.begin()
                transaction = session.sync_session.get_transaction()
                await session.execute(_FIRST)
                stage = Stage.BODY
                result = await body(session)
                _check_open(session.sync_session, transaction)
                await session.flush()
                stage = Stage.FINISH
                await AsyncAlchemy(session).run(attempts.commit_job(attempt, result))
                stage = Stage.COMMIT
                await session.commit()
        except (*_FAILURES, asyncio.CancelledError) as error:
            if (ours := meaning(error, stage, lost=_is_lost(error))) is not None:
                raise ours from error
            raise

    async def _check_database(self) -> None:
        if not self._is_checked:
            async with self._factory() as session:
                theirs = await AsyncAlchemy(session).run(identity.identity())
                _compare(session, theirs.installation, self._installation)
            self._is_checked = True


def _check_open(session: Session, transaction: object) -> None:
    if session.get_transaction() is not transaction:
        raise TransactionEnded(
            "the task committed, rolled back or closed its session; with transaction=SessionLocal"
            " pgtask commits, together with the job"
        )


def _compare(session: object, theirs: str, ours: str) -> None:
    if theirs != ours:
        raise WrongDatabase(
            f"{session!r} leads to another database than this worker's, so it cannot complete the"
            " job → bind the session factory to the app's database, or write transaction=True"
        )


def _is_lost(error: BaseException) -> bool:
    cause = error.__cause__ if isinstance(error, Unavailable) else error
    return isinstance(cause, OSError) or bool(getattr(cause, "connection_invalidated", False))
