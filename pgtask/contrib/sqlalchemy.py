"""SQLAlchemy: after install(SessionLocal), calls join the session that is open in their context."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from functools import wraps
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

# Whether a session counts is asked of the session, which every context shares: one forgotten here,
# or closed in another context (as an AsyncSession may be), does no harm.
_known: ContextVar[tuple[ref[Session], ...]] = ContextVar("pgtask.sqlalchemy", default=())
_ENTERED = "pgtask.entered"


def install(
    sessions: sessionmaker[Any]
    | async_sessionmaker[Any]
    | scoped_session[Any]
    | async_scoped_session[Any]
    | type[Session],
) -> None:
    """Let `.delay()` and `.adelay()` join the open session of this factory.

    Call it once, at start-up, with the factory that the program uses:

        install(SessionLocal)
        with SessionLocal() as session:
            session.add(order)
            session.flush()
            charge.delay(order.id)  # committed with the order, or never
            session.commit()

    Which session is meant is a matter of context (contextvars): the one that this thread or asyncio
    task, or one it came from, has entered with `with` and not closed, or whose transaction it began
    or sent a statement in. Joining begins a session that has not begun, as its own statement would.

    A session used without `with`, as a scoped_session's are, or entered by a framework in another
    thread, is joined only once it has begun here. Two at once raise AmbiguousTransaction at the
    call. Raises TypeError for other objects.
    """
    join_transactions_of(_open_sessions)
    kind = _class_of(sessions)
    _watch(kind)
    event.listen(kind, "after_transaction_create", _remember)
    event.listen(kind, "after_begin", _remember_again)
    event.listen(kind, "after_transaction_end", _forget)


def _class_of(sessions: Any) -> Any:
    if isinstance(sessions, (scoped_session, async_scoped_session)):
        sessions = sessions.session_factory
    if isinstance(sessions, async_sessionmaker):
        # Events and close() are those of the synchronous session inside; give these their own
        # class, so that nobody else's sessions are watched.
        inner = sessions.kw.get("sync_session_class", sessions.class_.sync_session_class)
        own = type(inner.__name__, (inner,), {})
        sessions.configure(sync_session_class=own)
        sessions.class_ = _noting_its_entry(sessions.class_)
        return own
    if isinstance(sessions, sessionmaker):
        return sessions.class_  # made by and for this sessionmaker
    if isinstance(sessions, type) and issubclass(sessions, Session):
        return sessions
    raise TypeError(
        "install() takes a sessionmaker, async_sessionmaker, scoped_session or a Session class, "
        f"got {sessions!r}"
    )


def _watch(kind: Any) -> None:
    """Change the class itself: of a Session class, the program makes the instances."""
    enter, close, invalidate = kind.__enter__, kind.close, kind.invalidate

    @wraps(enter)
    def noting_enter(session: Session) -> Any:
        entered = enter(session)
        _enter(session)
        return entered

    @wraps(close)
    def noting_close(session: Session) -> None:
        _leave(session)
        close(session)

    @wraps(invalidate)
    def noting_invalidate(session: Session) -> None:
        _leave(session)
        invalidate(session)

    # __exit__ closes.
    kind.__enter__, kind.close, kind.invalidate = noting_enter, noting_close, noting_invalidate


def _noting_its_entry(kind: type[AsyncSession]) -> type[AsyncSession]:
    enter = kind.__aenter__

    @wraps(enter)
    async def noting_enter(session: AsyncSession) -> AsyncSession:
        entered = await enter(session)
        _enter(session.sync_session)
        return entered

    return type(kind.__name__, (kind,), {"__aenter__": noting_enter})


def _enter(session: Session) -> None:
    session.info[_ENTERED] = True
    _note(session)


def _leave(session: Session) -> None:
    session.info.pop(_ENTERED, None)
    if not session.in_transaction():
        _drop(session)


def _remember(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        _note(session)


def _remember_again(session: Session, transaction: SessionTransaction, connection: Any) -> None:
    # The transaction may have begun in another thread (a dependency of a web framework).
    _note(session)


def _forget(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None and _ENTERED not in session.info:
        _drop(session)


def _note(session: Session) -> None:
    known = tuple(one for one in _known.get() if one() is not None)
    if not any(one() is session for one in known):
        known = (*known, ref(session))
    _known.set(known)


def _drop(session: Session) -> None:
    _known.set(tuple(one for one in _known.get() if one() not in (None, session)))


def _open_sessions() -> Iterator[Session | AsyncSession]:
    for known in _known.get():
        session = known()
        if session is not None and (_ENTERED in session.info or session.in_transaction()):
            # Inside run_sync the synchronous session is the one that can be used.
            outer = None if in_greenlet() else async_session(session)
            yield session if outer is None else outer
