"""Omissions: the dates, times and moments at which a schedule does not fire."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any, TypeAlias

from pgtask.errors import ScheduleInvalid
from pgtask.zones import DAY

Exception_: TypeAlias = "date | time | datetime"

# Each may have to be stepped over in a search, which is to end within a second.
MAX_EXCEPTIONS = 10_000
_EPOCH = date(1970, 1, 1).toordinal()
_FORMS = '"2026-12-25", "20:15" or "2026-12-25T08:15"'
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"\d\d:\d\d(:\d\d)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Omissions:
    """Wall-clock slots that are left out: days since 1970, seconds of the day, whole wall times."""

    dates: frozenset[int] = frozenset()
    times: frozenset[int] = frozenset()
    moments: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.dates or self.times or self.moments)

    def __contains__(self, wall: int) -> bool:
        return wall in self.moments or wall // DAY in self.dates or wall % DAY in self.times

    @classmethod
    def of(cls, exceptions: Sequence[Exception_]) -> Omissions:
        dates, times, moments = set(), set(), set()
        for exception in exceptions:
            if isinstance(exception, datetime):
                moments.add(int(exception.replace(tzinfo=UTC).timestamp()))
            elif isinstance(exception, date):
                dates.add(exception.toordinal() - _EPOCH)
            else:
                times.add(exception.hour * 3600 + exception.minute * 60 + exception.second)
        return cls(frozenset(dates), frozenset(times), frozenset(moments))


NOTHING = Omissions()


def parse_exceptions(values: Any) -> tuple[Exception_, ...]:
    """Exceptions as they were given, each once and in order; raises ScheduleInvalid."""
    if isinstance(values, (str, bytes, date, time)) or not isinstance(
        values, (list, tuple, set, frozenset)
    ):
        raise ScheduleInvalid.of("exceptions", values, "is not a list", f"write a list of {_FORMS}")
    if len(values) > MAX_EXCEPTIONS:
        raise ScheduleInvalid.of(
            "exceptions",
            f"{len(values)} of them",
            f"are more than {MAX_EXCEPTIONS}",
            "say it by the rule, or make two schedules",
        )
    known = {written(value): value for value in map(_exception, values)}
    return tuple(known[text] for text in sorted(known))


def written(value: Exception_) -> str:
    """The exception as JSON has it: seconds only where there are some."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds" if value.second else "minutes")
    if isinstance(value, time):
        return value.isoformat("seconds" if value.second else "minutes")
    return value.isoformat()


def _exception(value: Any) -> Exception_:
    parsed = _read(value) if isinstance(value, str) else value
    if not isinstance(parsed, (date, time)):
        raise ScheduleInvalid.of(
            "exceptions", value, "is not a date, a time or a date with a time", f"write {_FORMS}"
        )
    if isinstance(parsed, (datetime, time)):
        if parsed.tzinfo is not None:
            raise ScheduleInvalid.of(
                "exceptions",
                value,
                "has an offset, but exceptions are times on the schedule's own wall clock",
                "leave the offset out",
            )
        if parsed.microsecond:
            raise ScheduleInvalid.of(
                "exceptions", value, "is not a whole second", "no tick is between two seconds"
            )
        return parsed.replace(fold=0)
    return parsed


def _read(text: str) -> Exception_ | None:
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text)
        if _TIME.fullmatch(text):
            return time.fromisoformat(text)
        if _DATE.match(text) and text[10:11] in ("T", " "):
            return datetime.fromisoformat(text)
    except ValueError as error:
        raise ScheduleInvalid.of("exceptions", text, str(error), f"write {_FORMS}") from None
    return None
