"""Schedules as the tests make them, and a beat's two calls without a beat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from tests.sql.engine import Engine

HOURLY = {"every": 3600}


def put(engine: Engine, name: str = "s", source: str = "api", **columns: object) -> int:
    """Put a schedule of task t that fires every hour, unless it is said otherwise."""
    said = {"name": name, "task": "t", "spec": HOURLY, **columns}
    return int(engine.value("select pgtask._put_schedule(%s, %s)", json.dumps(said), source))


def row(engine: Engine, name: str = "s") -> Any:
    return engine.one("select * from pgtask.schedule where name = %s", name)


def due(engine: Engine, limit: int | None = 1000, beat: UUID | None = None) -> list[Any]:
    """What a beat has to do; the answer without a schedule is left out."""
    rows = engine.all("select * from pgtask._due(%s, 'host', 1, '0', %s)", beat, limit)
    return [found for found in rows if found.id is not None]


def agenda(engine: Engine, limit: int = 1000) -> Any:
    """The first row of the answer, which is always there."""
    return engine.all("select * from pgtask._due(null, 'host', 1, '0', %s)", limit)[0]


def fire_of(schedule: Any, *ticks: Any, next: datetime | None, error: str | None = None) -> Any:
    """What a beat sends for a row of `due`; a tick is an instant or (instant, reason, missed)."""
    return {
        "id": schedule.id,
        "revision": schedule.revision,
        "seen": _text(schedule.next_at),
        "next": _text(next),
        "ticks": [_tick(tick) for tick in ticks],
        "error": error,
    }


def fire(engine: Engine, *fires: Any) -> list[Any]:
    """(id, tick_at, job, reason) of what became of them."""
    return engine.all("select * from pgtask._fire(%s)", json.dumps(fires))


def plan(engine: Engine, name: str = "s", ago: float = 0.0) -> Any:
    """Have a schedule planned, to be due `ago` seconds ago; the row that `due` answers for it."""
    found = row(engine, name)
    assert fire(engine, fire_of(found, next=instant(engine, -ago))) == []
    if ago < 0:
        return row(engine, name)
    (found,) = [found for found in due(engine) if found.name == name]
    assert found.planned
    return found


def tick(engine: Engine, name: str = "s", **columns: object) -> Any:
    """Fire one tick, due just now, which must not be before the last; the answer for it."""
    found = plan(engine, name)
    (answer,) = fire(engine, fire_of(found, found.next_at, next=instant(engine, 3600.0)))
    return answer


def instant(engine: Engine, ahead: float = 0.0) -> datetime:
    """The database's time, so many seconds later."""
    now: datetime = engine.value("select clock_timestamp()")
    return now + timedelta(seconds=ahead)


def ticks(engine: Engine, name: str = "s") -> list[tuple[str | None, bool]]:
    """(reason, whether there is a job) of a schedule's ticks, oldest first."""
    rows: Sequence[Any] = engine.all(
        "select t.reason, t.job is not null as made from pgtask.tick t"
        " join pgtask.schedule s on s.id = t.schedule where s.name = %s order by t.tick_at",
        name,
    )
    return [tuple(found) for found in rows]


def _tick(tick: Any) -> dict[str, object]:
    at, reason, missed = tick if isinstance(tick, tuple) else (tick, None, 0)
    return {"at": _text(at), "reason": reason, "missed": missed}


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
