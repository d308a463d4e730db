"""Catch-up: which of a schedule's due ticks fire, which are only recorded, and which comes next."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from pgtask.broker.schedules import Due, Fire, Tick
from pgtask.schedule import Schedule

ON_TIME = timedelta(seconds=5)  # a tick no later than that was not missed
MOST = 1000  # ticks that catchup = "all" makes up for; and what `missed` counts up to
_LEAST = timedelta(microseconds=1)


def plan(schedule: Schedule, due: Due) -> Fire:
    """Return what is to be done about a schedule at the time it was read.

    One whose next tick is not known begins now: nothing was missed before somebody said when.
    """
    if due.next_at is not None and due.next_at <= due.now:
        ticks = _due(schedule, due, due.next_at)
    elif due.next_at is None or not due.planned:
        ticks = _just_begun(schedule, due.now)
    else:
        ticks = []
    return Fire(due.id, due.revision, due.next_at, schedule.next(due.now), tuple(ticks))


def _just_begun(schedule: Schedule, now: datetime) -> list[Tick]:
    # Who says "now" means it, though the beat reads it some milliseconds later.
    begun = [at for at in (schedule.at, schedule.start) if at is not None]
    ticks, _ = schedule.latest(now - ON_TIME - _LEAST, now, 1)
    return [Tick(tick) for tick in ticks if tick in begun]


def _due(schedule: Schedule, due: Due, first: datetime) -> list[Tick]:
    now = due.now
    most = 2 * MOST if due.catchup == "all" else MOST + 1
    ticks, _ = schedule.latest(first - _LEAST, now, most)
    if not ticks:
        return []  # what was planned is no tick any more: the zone's rules have changed
    if due.catchup == "all":
        return _all(ticks, due.grace, now)
    last = ticks[-1]
    missed = len(ticks) - 1
    if _is_late(last, due.grace, now):
        return [Tick(last, "late", missed)]
    if due.catchup == "none" and now - last > ON_TIME:
        return [Tick(last, "missed", missed)]
    return [Tick(last, None, missed)]


def _all(ticks: Sequence[datetime], grace: float | None, now: datetime) -> list[Tick]:
    late = [tick for tick in ticks if _is_late(tick, grace, now)]
    in_time = ticks[len(late) :]
    given_up = in_time[:-MOST]
    made: list[Tick] = []
    if late:
        made.append(Tick(late[-1], "late", min(MOST, len(late) - 1)))
    if given_up:
        made.append(Tick(given_up[-1], "missed", min(MOST, len(given_up) - 1)))
    return made + [Tick(tick) for tick in in_time[-MOST:]]


def _is_late(tick: datetime, grace: float | None, now: datetime) -> bool:
    return grace is not None and now - tick > timedelta(seconds=grace)
