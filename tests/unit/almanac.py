"""A naive reference for schedules: looks at each minute there is, shares no code with pgtask."""

from __future__ import annotations

import calendar
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC"
WEEKDAYS = "SUN MON TUE WED THU FRI SAT"
NAMES = {name: n for n, name in enumerate(MONTHS.split(), 1)} | {
    name: n for n, name in enumerate(WEEKDAYS.split())
}


@lru_cache(maxsize=64)
def walked(zone: str, begin: datetime, minutes: int) -> tuple[tuple[datetime, datetime], ...]:
    """(instant, wall time) of every minute of real time from `begin` on."""
    info = ZoneInfo(zone)
    instants = [begin + n * MINUTE for n in range(minutes)]
    return tuple((at, at.astimezone(info).replace(tzinfo=None, fold=0)) for at in instants)


def ticks(cron: str, zone: str, begin: datetime, minutes: int) -> list[datetime]:
    """When five fields of cron text fire in these minutes, by the words of the policy."""
    fields = cron.upper().split()
    fires = matcher(fields)
    time = walked(zone, begin, minutes)
    if fields[0].startswith("*") or fields[1].startswith("*"):
        # Real time: whenever the clock shows such a minute.
        return [at for at, wall in time if fires(wall)]
    first_shown: dict[datetime, datetime] = {}
    for at, wall in time:
        first_shown.setdefault(wall, at)
    found = set()
    wall, last = time[0][1], max(first_shown)
    while wall <= last:
        if fires(wall):
            # On the wall: at the first pass, or when the clock has skipped it.
            found.add(first_shown[wall] if wall in first_shown else after_gap(time, wall))
        wall += MINUTE
    return sorted(found)


def after_gap(time: Iterable[tuple[datetime, datetime]], wall: datetime) -> datetime:
    return next(at for at, shown in time if shown > wall)


def matcher(fields: list[str]) -> Callable[[datetime], bool]:
    minute, hour, date, month, weekday = fields
    minutes, hours, months = numbers(minute, 0, 59), numbers(hour, 0, 23), numbers(month, 1, 12)

    def fires(wall: datetime) -> bool:
        if wall.minute not in minutes or wall.hour not in hours or wall.month not in months:
            return False
        on_date = any(is_date(item, wall) for item in date.split(","))
        on_weekday = any(is_weekday(item, wall) for item in weekday.split(","))
        if date.startswith("*") or weekday.startswith("*"):
            return on_date and on_weekday
        return on_date or on_weekday

    return fires


def is_date(item: str, wall: datetime) -> bool:
    length = calendar.monthrange(wall.year, wall.month)[1]
    if item == "L":
        return wall.day == length
    if item == "LW":
        working = [d for d in range(1, length + 1) if wall.replace(day=d).weekday() < 5]
        return wall.day == working[-1]
    return wall.day in numbers(item, 1, 31)


def is_weekday(item: str, wall: datetime) -> bool:
    weekday = (wall.weekday() + 1) % 7
    if "#" in item:
        day, n = item.split("#")
        return weekday in numbers(day, 0, 7) and (wall.day - 1) // 7 + 1 == int(n)
    if item.endswith("L"):
        in_a_week = wall + timedelta(days=7)
        return weekday in numbers(item[:-1], 0, 7) and in_a_week.month != wall.month
    return weekday in numbers(item, 0, 7)


@lru_cache(maxsize=10_000)
def numbers(text: str, low: int, high: int) -> frozenset[int]:
    found: set[int] = set()
    for item in text.split(","):
        body, _, step = item.partition("/")
        begin, dash, end = body.partition("-")
        top = 6 if (low, high) == (0, 7) else high
        if body == "*":
            first, last = low, top
        else:
            first = number(begin)
            last = number(end) if dash else top if step else first
        found |= set(range(first, last + 1, int(step or 1)))
    return frozenset(n % 7 for n in found) if (low, high) == (0, 7) else frozenset(found)


def number(text: str) -> int:
    return int(text) if text.isdigit() else NAMES[text]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
