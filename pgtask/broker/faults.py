"""What PostgreSQL's errors mean to pgtask: SQLSTATE → exception."""

from __future__ import annotations

import re

import psycopg

from pgtask.broker.grants import remedy
from pgtask.errors import (
    AccessRefused,
    BadCall,
    BrokerError,
    DuplicateJob,
    LeaseLost,
    NotGranted,
    QueueNotFound,
    Refused,
    SchemaMissing,
    Unavailable,
    WorkerNotAlive,
)

_REFUSALS: dict[str, type[Refused]] = {
    kind.sqlstate: kind
    for kind in (Refused, WorkerNotAlive, BadCall, DuplicateJob, LeaseLost, QueueNotFound)
}
# The connection is of no use any more: shutdowns, too many clients, a server that turned into a
# read-only standby, a session or transaction that was idle for too long.
_DEAD = ("08", "57P", "53300", "25006", "25P03", "25P04")
# The same statement may well succeed later: deadlocks, no memory or disk, locks, cancelled, I/O.
_PASSING = ("40", "53", "55P03", "57014", "58")
# Of a connection that was refused only the text is known, in the server's language: what is missed
# here is taken for an outage, and waited for.
_REFUSED = re.compile(
    r"password authentication failed|authentication failed for user|no password supplied"
    r"|no pg_hba\.conf entry|(role|database) \".*\" (does not exist|is not permitted to log in)"
    r"|permission denied for database|no such (user|database)"
)
_CONFLICTS = ("40001", "40P01")
# What a value can be wrong about, in a built-in's words, a constraint's, a trigger's, or ours.
_OF_DATA = ("22", "23", "P0", "TQ")
_SCHEMA = ("3F000", "42883", "42P01")


def is_dead(error: psycopg.Error) -> bool:
    """Tell whether the connection that raised this must be closed."""
    if error.sqlstate is None:
        return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    return error.sqlstate.startswith(_DEAD)


def is_passing(error: psycopg.Error) -> bool:
    """Tell whether the statement was rolled back for a reason that is not the statement's."""
    return (error.sqlstate or "").startswith(_PASSING)


def is_of_data(error: BaseException) -> bool:
    """Tell whether a statement was refused for what it was given: without that, it may work."""
    return isinstance(error, Refused) or (getattr(error, "sqlstate", None) or "").startswith(
        _OF_DATA
    )


def is_locked(error: BaseException) -> bool:
    """Tell whether a statement waited too long for what somebody else has locked."""
    return getattr(error.__cause__ or error, "sqlstate", None) == "55P03"


def is_conflict(error: BaseException) -> bool:
    """Tell whether a transaction lost against another: a serialization failure or a deadlock.

    Also when the driver's error comes wrapped, by SQLAlchemy or by the task itself.
    """
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if getattr(one, "sqlstate", None) in _CONFLICTS:
            return True
        pending += [one.__cause__, None if one.__suppress_context__ else one.__context__]
        if isinstance(one, BaseExceptionGroup):
            pending += one.exceptions
    return False


def translate(error: psycopg.Error) -> BrokerError | None:
    """Return our exception for the error, or None where PostgreSQL's own says it best."""
    state = error.sqlstate or ""
    message = error.diag.message_primary or _first_line(error)
    if (kind := _REFUSALS.get(state)) is not None:
        if kind is DuplicateJob:
            owner = error.diag.message_detail
            return DuplicateJob(message, int(owner) if owner else None)
        return kind(message)
    if state in _SCHEMA and "pgtask" in message:
        return SchemaMissing(
            f"{message}: the schema is not there, or older than this code → run: pgtask migrate"
        )
    if state == "42501":
        return NotGranted(f"{message} → {remedy(message)}")
    if state == "25006":
        return Unavailable(
            f"{message}: pgtask must write → use a read-write transaction, on the primary"
        )
    if is_dead(error):
        text = f"the database cannot be reached: {_without_secrets(message)}"
        refused = not state and _REFUSED.search(str(error))
        return AccessRefused(text) if refused else Unavailable(text)
    return None


def _first_line(error: psycopg.Error) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _without_secrets(message: str) -> str:
    return re.sub(r"(password\s*=\s*)\S+|(://[^:/@\s]+:)[^@\s]+(?=@)", r"\1\2***", message)
