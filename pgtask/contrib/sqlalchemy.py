"""SQLAlchemy: after install(SessionLocal), calls join the session that is open in their context."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any
from weakref import ref

from sqlalchemy import event
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_session,
    async_sessionmaker,
)
from sqlalchemy.orm import Session, SessionTransaction, scoped_session, sessionmaker
from sqlalchemy.util.concurrency import in_greenlet

from pgtask.client import join_transactions_of

# Only sessions with an open transaction count, so a session that is forgotten here, or that ended
# in another context, does no harm.
_begun: ContextVar[tuple[ref[Session], ...]] = ContextVar("pgtask.sqlalchemy", default=())


def install(
    sessions: sessionmaker[Any]
    | async_sessionmaker[Any]
    | scoped_session[Any]
    | async_scoped_session[Any]
    | type[Session],
) -> None:
    """Let `.delay()` and `.adelay()` join the open transaction of these sessions.

    Call it once, at start-up, with the factory that the program uses:

        install(SessionLocal)
        with SessionLocal.begin() as session:
            session.add(order)
            session.flush()
            charge.delay(order.id)  # committed with the order, or never

    Which session is meant is a matter of context (contextvars): the one that began its
    transaction, or sent its first statement, in this thread or asyncio task or one it came from.
    A session that has not begun is not joined; nor is one begun by a framework in another thread.
    Two open at once raise AmbiguousTransaction at the call. Raises TypeError for other objects.
    """
    join_transactions_of(_open_sessions)
    target = _listened(sessions)
    event.listen(target, "after_transaction_create", _remember)
    event.listen(target, "after_begin", _remember_again)
    event.listen(target, "after_transaction_end", _forget)


def _listened(sessions: Any) -> Any:
    if isinstance(sessions, (scoped_session, async_scoped_session)):
        sessions = sessions.session_factory
    if isinstance(sessions, async_sessionmaker):
        # Events are those of the synchronous session inside; give these their own class, so that
        # nobody else's sessions are listened to.
        inner = sessions.kw.get("sync_session_class", sessions.class_.sync_session_class)
        own = type(inner.__name__, (inner,), {})
        sessions.configure(sync_session_class=own)
        return own
    if isinstance(sessions, sessionmaker) or (
        isinstance(sessions, type) and issubclass(sessions, Session)
    ):
        return sessions
    raise TypeError(
        "install() takes a sessionmaker, async_sessionmaker, scoped_session or a Session class, "
        f"got {sessions!r}"
    )


def _remember(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        _note(session)


def _remember_again(session: Session, transaction: SessionTransaction, connection: Any) -> None:
    # The transaction may have begun in another thread (a dependency of a web framework).
    _note(session)


def _note(session: Session) -> None:
    begun = tuple(known for known in _begun.get() if known() is not None)
    if not any(known() is session for known in begun):
        begun = (*begun, ref(session))
    _begun.set(begun)


def _forget(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        _begun.set(tuple(known for known in _begun.get() if known() not in (None, session)))


def _open_sessions() -> Iterator[Session | AsyncSession]:
    for known in _begun.get():
        session = known()
        if session is not None and session.in_transaction():
            # Inside run_sync the synchronous session is the one that can be used.
            outer = None if in_greenlet() else async_session(session)
            yield session if outer is None else outer
