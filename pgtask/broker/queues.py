"""Queues: add, pause, resume, switch events, and which have work."""

from __future__ import annotations

from pgtask.broker.statement import Statement, scalar


def add(name: str) -> Statement[bool]:
    """True when the queue was not there."""
    return Statement("select pgtask.add_queue(%(name)s::text)", {"name": name}, scalar)


def pause(name: str, reason: str | None) -> Statement[bool]:
    """True when the queue was not paused before."""
    return Statement(
        "select pgtask.pause_queue(%(name)s::text, %(reason)s::text)",
        {"name": name, "reason": reason},
        scalar,
    )


def resume(name: str) -> Statement[bool]:
    """True when the queue was paused before."""
    return Statement("select pgtask.resume_queue(%(name)s::text)", {"name": name}, scalar)


def set_events(name: str, *, enabled: bool) -> Statement[bool]:
    """True when that changed anything. Raises Unavailable while the tables are held by others."""
    return Statement(
        "select pgtask.set_queue_events(%(name)s::text, %(enabled)s::boolean)",
        {"name": name, "enabled": enabled},
        scalar,
    )


def with_work() -> Statement[list[str]]:
    """Return the names of the queues that have ready jobs."""
    return Statement(
        "select * from pgtask.queues_with_work()", {}, lambda rows: [row[0] for row in rows]
    )
