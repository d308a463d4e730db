"""Instants and durations as people give them, and as schedules keep them: whole seconds, UTC."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from pgtask.errors import ScheduleInvalid
from pgtask.zones import DAY, FIRST_INSTANT, LAST_INSTANT

MAX_SECONDS = 3_155_760_000  # 100 years
MAX_JITTER = DAY
_INSTANT = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?", re.ASCII
)
_NUMBER = re.compile(r"\d{1,12}(\.\d{1,6})?", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REMEDY = 'write one with an offset, "2026-12-24T18:00:00+01:00"'


def interval(value: Any) -> int:
    """Seconds between two ticks."""
    seconds = _number("every", value)
    if not 1 <= seconds <= MAX_SECONDS:
        raise ScheduleInvalid.of(
            "every", value, f"is not between 1 second and {MAX_SECONDS}", "once is at=…"
        )
    if seconds != int(seconds):
        raise ScheduleInvalid.of("every", value, "is not a whole number of seconds", "write 300")
    return int(seconds)


def jitter_seconds(value: Any) -> float:
    """Seconds over which the jobs of a tick are spread."""
    seconds = _number("jitter", value)
    if not 0 <= seconds <= MAX_JITTER:
        raise ScheduleInvalid.of(
            "jitter", value, f"is not between 0 and {MAX_JITTER} seconds", "write 30"
        )
    return int(seconds) if seconds == int(seconds) else round(seconds, 6)


def _number(name: str, value: Any) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ScheduleInvalid.of(name, value, "is not a number of seconds", "write 300")
    # An integer of hundreds of digits is finite, and has no float to ask.
    if isinstance(value, float) and not math.isfinite(value):
        raise ScheduleInvalid.of(name, value, "is not a finite number of seconds", "write 300")
    return value


def instant(name: str, value: Any) -> datetime:
    """The instant that people gave, in UTC; raises ScheduleInvalid."""
    given = value
    if isinstance(value, str):
        text = value.strip().upper()
        if not _INSTANT.fullmatch(text):
            raise ScheduleInvalid.of(name, value, "is not an instant", _REMEDY)
        try:
            value = datetime.fromisoformat(text)
        except ValueError as error:
            raise ScheduleInvalid.of(name, given, str(error), _REMEDY) from None
    if not isinstance(value, datetime):
        raise ScheduleInvalid.of(name, given, "is not an instant", _REMEDY)
    if value.utcoffset() is None:
        raise ScheduleInvalid.of(name, told(given), "has no offset from UTC", _REMEDY)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ScheduleInvalid.of(name, told(given), "is outside the years 1 to 9999") from None


def second_of(name: str, value: datetime) -> int:
    """The second in which an instant lies, kept where ticks can be."""
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise TypeError(f"{name} must be a datetime with an offset, got {value!r}")
    seconds = (value - _EPOCH) // timedelta(seconds=1)
    return min(max(seconds, FIRST_INSTANT), LAST_INSTANT)


def rounded_down(value: datetime) -> int:
    """Seconds since 1970, for an end."""
    return second_of("end", value)


def rounded_up(value: datetime) -> int:
    """Seconds since 1970, for a beginning."""
    return second_of("start", value) + (1 if value.microsecond else 0)


def utc(seconds: int) -> datetime:
    """The instant of that many seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC)


def text_of(value: datetime | None) -> str | None:
    """As JSON has it."""
    return None if value is None else value.isoformat().replace("+00:00", "Z")


def told(value: Any) -> Any:
    """A value as an error shows it."""
    return value.isoformat() if isinstance(value, datetime) else value
