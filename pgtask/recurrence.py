"""Recurrence: an RRULE of RFC 5545, evaluated by python-dateutil (the extra `rrule`).

DAILY and slower run on the wall, like cron text with fixed times. dateutil walks from DTSTART at
each question, and on to the year 9999 if nothing comes: so DTSTART is moved forward, and rules for
which no day exists are refused. HOURLY and faster run in real time, which dateutil does not know:
their parts only leave things out, which Slots can do, and their steps are counted here.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

from pgtask.errors import ScheduleInvalid
from pgtask.field import bits
from pgtask.omissions import NOTHING, Omissions
from pgtask.slots import Slots
from pgtask.zones import DAY, LAST_INSTANT, Zone

MAX_LENGTH = 1000
MAX_COUNT = 10_000
# Omitted wall times in a row after which there is none: a search is to end within a second.
MAX_OMITTED = 300_000

_EPOCH = datetime(1970, 1, 1)
_FIRST_DAY = _EPOCH.toordinal()
_SIXTY_YEARS = 60 * 366 * DAY
_UNITS = {
    "DAILY": timedelta(days=1),
    "HOURLY": timedelta(hours=1),
    "MINUTELY": timedelta(minutes=1),
    "SECONDLY": timedelta(seconds=1),
}
_FREQUENCIES = ("YEARLY", "MONTHLY", "WEEKLY", *_UNITS)
_WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
# Part: the argument of dateutil, the least and the greatest number, whether it may be negative.
_LISTS = {
    "BYMONTH": ("bymonth", 1, 12, False),
    "BYMONTHDAY": ("bymonthday", 1, 31, True),
    "BYYEARDAY": ("byyearday", 1, 366, True),
    "BYWEEKNO": ("byweekno", 1, 53, True),
    "BYHOUR": ("byhour", 0, 23, False),
    "BYMINUTE": ("byminute", 0, 59, False),
    "BYSECOND": ("bysecond", 0, 59, False),
    "BYSETPOS": ("bysetpos", 1, 366, True),
}
# What RFC 5545 lets a part go with; the rest of the parts go with all.
_ONLY_WITH = {
    "BYWEEKNO": ("YEARLY",),
    "BYYEARDAY": ("YEARLY", "HOURLY", "MINUTELY", "SECONDLY"),
    "BYMONTHDAY": tuple(name for name in _FREQUENCIES if name != "WEEKLY"),
    "BYSETPOS": ("YEARLY", "MONTHLY", "WEEKLY"),
}
_FOUR_CENTURIES = 146_097  # days until the calendar repeats
_STAMP = re.compile(r"(\d{8})(?:T(\d{6})(Z?))?", re.ASCII)
_BYDAY = re.compile(r"([+-]?\d{1,2})?(MO|TU|WE|TH|FR|SA|SU)", re.ASCII)
_REMEDY = 'write "DTSTART:20260105T090000\\nRRULE:FREQ=WEEKLY;BYDAY=MO,FR"'


class _Text(NamedTuple):
    start: str | None
    tzid: str | None
    parts: dict[str, str]


def zone_of(text: Any) -> str | None:
    """The zone that DTSTART names; None also for a text that cannot be read."""
    try:
        return _split(text).tzid
    except ScheduleInvalid:
        return None


def parse_rrule(text: Any, zone: Zone, start: int | None) -> tuple[str, Recurrence]:
    """The canonical text and its ticks; `start` stands in for DTSTART. Raises ScheduleInvalid."""
    said = _split(text)
    if said.tzid is not None and said.tzid != zone.name:
        raise ScheduleInvalid.of(
            "rrule", text, f"DTSTART is in {said.tzid}, the schedule in {zone.name}", "name one"
        )
    if said.start is not None:
        begin = _wall(text, "DTSTART", said.start, zone)
    elif start is not None:
        begin = _naive(start + zone.offset(start))
    else:
        raise ScheduleInvalid.of(
            "rrule", text, "DTSTART is missing, from which times and intervals are taken", _REMEDY
        )
    parts = said.parts
    frequency = parts["FREQ"]
    recurrence = Recurrence(
        zone=zone,
        frequency=frequency,
        interval=_number(text, "INTERVAL", parts.get("INTERVAL", "1"), 1, 100_000),
        begin=begin,
        until=_until(text, parts, zone),
        count=_number(text, "COUNT", parts["COUNT"], 1, MAX_COUNT) if "COUNT" in parts else None,
        filters=_filters(text, parts, begin),
    )
    if not recurrence.possible():
        raise ScheduleInvalid.of("rrule", text, "no year has such a day", "it would never fire")
    lines = [";".join(f"{key}={value}" for key, value in parts.items())]
    if said.start is not None:
        tzid = f";TZID={said.tzid}" if said.tzid else ""
        lines = [f"DTSTART{tzid}:{said.start}", f"RRULE:{lines[0]}"]
    return "\n".join(lines), recurrence


@dataclass(frozen=True)
class Recurrence:
    """A rule whose parts are checked. `begin` is DTSTART's wall time, `until` an instant."""

    zone: Zone
    frequency: str
    interval: int
    begin: datetime
    until: int
    count: int | None
    filters: dict[str, Any]

    @property
    def real_time(self) -> bool:
        return self.frequency in ("HOURLY", "MINUTELY", "SECONDLY")

    def next(self, after: int, last: int, omissions: Omissions) -> int | None:
        last = min(last, self.until)
        if after >= last or (self.real_time and not self._slots.outlasts(omissions)):
            return None
        if self.real_time:
            if self.count:
                return _kept(self._counted_from(after), last, omissions, self.zone)
            return next(self._instants(after, last, omissions), None)
        reached, final = self.zone.reached(after), self.zone.reached(last)
        walls = self._counted_from(reached) if self.count else self._walls(reached)
        wall = _kept(walls, final, omissions, None)
        return None if wall is None else self.zone.instant(wall)

    def moved(self, tick: int, omissions: Omissions) -> int | None:
        skipped = 0 if self.real_time else self.zone.gap_before(tick)
        if not skipped:
            return None
        wall = tick + self.zone.offset(tick)
        before = wall - skipped - 1
        walls = self._counted_from(before) if self.count else self._walls(before)
        return _kept(walls, wall - 1, omissions, None)

    def possible(self) -> bool:
        """Whether any day fits; what comes once in some centuries is possible."""
        if self.frequency in ("YEARLY", "MONTHLY"):
            # dateutil walks to the year 9999 in a third of a second.
            return next(iter(self._rule(self.begin)), None) is not None
        if self.frequency == "WEEKLY":
            times = 1
            for name in ("byweekday", "byhour", "byminute", "bysecond"):
                times *= len(self.filters[name])
            positions = self.filters.get("bysetpos")
            return not positions or min(map(abs, positions)) <= times
        if self.real_time:
            begin = self.zone.instant(_seconds(self.begin)) - 1
            return next(self._instants(begin, begin + _SIXTY_YEARS), None) is not None
        first = self.begin.toordinal()
        latest = min(first + _FOUR_CENTURIES, date.max.toordinal())
        return any(self._on(date.fromordinal(day)) for day in range(first, latest, self.interval))

    def _on(self, day: date) -> bool:
        """Whether the parts about days let this one through, for DAILY and faster."""
        month = self.filters.get("bymonth")
        if month and day.month not in month:
            return False
        weekdays = self.filters.get("byweekday")
        if weekdays and day.weekday() not in [weekday.weekday for weekday in weekdays]:
            return False
        dates = self.filters.get("bymonthday")
        if dates:
            length = ((day.replace(day=28) + timedelta(days=4)).replace(day=1) - day).days
            if day.day not in dates and -length not in dates:
                return False
        yeardays = self.filters.get("byyearday")
        if yeardays:
            ordinal = day.timetuple().tm_yday
            length = date(day.year, 12, 31).timetuple().tm_yday
            return ordinal in yeardays or ordinal - length - 1 in yeardays
        return True

    def _walls(self, after: int) -> Iterator[int]:
        """The wall times later than this one."""
        begin = self._forward(self.begin, _naive(after))
        for moment in self._rule(begin):
            wall = _seconds(moment)
            if wall > after:
                yield wall

    def _instants(self, after: int, last: int, omissions: Omissions = NOTHING) -> Iterator[int]:
        """The instants later than this one: in each offset, slots in step with DTSTART."""
        unit = _UNITS[self.frequency] // timedelta(seconds=1)
        begin = self.zone.instant(_seconds(self.begin))
        instant = max(after + 1, begin)
        while instant <= last:
            end, offset = self.zone.segment(instant)
            slots = self._slots
            if self.frequency == "HOURLY" and "byminute" not in self.filters:
                # An hour after an hour, also where the clock is set by half of one.
                slots = replace(slots, minutes=1 << (begin + offset) // 60 % 60)
            slot = slots.first(instant + offset, min(end - 1, last) + offset, omissions)
            if slot is None:
                instant = end
            elif not self._on(date.fromordinal(slot // DAY + _FIRST_DAY)):
                instant = min(end, slot - slot % DAY + DAY - offset)
            elif ahead := (slot // unit - (begin + offset) // unit) % self.interval:
                instant = min(end, (slot // unit + self.interval - ahead) * unit - offset)
            else:
                instant = slot - offset
                yield instant
                instant += 1

    @cached_property
    def _slots(self) -> Slots:
        """The times of day that HOURLY and faster may have; a second not told is DTSTART's."""
        seconds = range(60) if self.frequency == "SECONDLY" else [self.begin.second]
        return Slots(
            seconds=bits(self.filters.get("bysecond", seconds)),
            minutes=bits(self.filters.get("byminute", range(60))),
            hours=bits(self.filters.get("byhour", range(24))),
            months=bits(self.filters.get("bymonth", range(1, 13))),
        )

    @cached_property
    def _counted(self) -> list[int]:
        """All there are of a rule with COUNT."""
        if not self.real_time:
            return list(islice(self._walls(-LAST_INSTANT), self.count))
        found = [self.zone.instant(_seconds(self.begin)) - 1]
        while len(found) <= (self.count or 0):
            following = next(self._instants(found[-1], found[-1] + _SIXTY_YEARS), None)
            if following is None:
                break
            found.append(following)
        return found[1:]

    def _counted_from(self, after: int) -> Iterator[int]:
        return islice(iter(self._counted), bisect_right(self._counted, after), None)

    def _rule(self, begin: datetime) -> Any:
        from dateutil import rrule

        return rrule.rrule(
            getattr(rrule, self.frequency), dtstart=begin, interval=self.interval, **self.filters
        )

    def _forward(self, begin: datetime, target: datetime) -> datetime:
        """A DTSTART in step with `begin` and little before `target`."""
        if self.frequency in ("YEARLY", "MONTHLY"):
            unit = self.interval * (12 if self.frequency == "YEARLY" else 1)
            months = (target.year - begin.year) * 12 + target.month - begin.month
            steps = months // unit - 1
            if steps <= 0:
                return begin
            year, month = divmod(begin.year * 12 + begin.month - 1 + steps * unit, 12)
            # The parts say the day, also where DTSTART did.
            month = 0 if self.frequency == "YEARLY" else month
            return begin.replace(year=year, month=month + 1, day=1)
        unit_ = timedelta(weeks=1) if self.frequency == "WEEKLY" else _UNITS[self.frequency]
        steps = (target - begin) // (unit_ * self.interval) - 2
        return begin + steps * self.interval * unit_ if steps > 0 else begin


def _kept(found: Iterator[int], last: int, omissions: Omissions, zone: Zone | None) -> int | None:
    """The first that is not omitted, of instants in a zone or else of wall times."""
    for omitted, tick in enumerate(found):
        if tick > last or omitted > MAX_OMITTED:
            return None
        if not omissions or tick + (zone.offset(tick) if zone else 0) not in omissions:
            return tick
    return None


def _split(text: Any) -> _Text:
    if not isinstance(text, str):
        raise ScheduleInvalid.of("rrule", text, "is not a text", _REMEDY)
    if len(text) > MAX_LENGTH:
        raise ScheduleInvalid.of("rrule", text, f"is longer than {MAX_LENGTH} characters")
    start = tzid = rule = None
    for line in text.split():
        name, colon, value = line.partition(":")
        head, *parameters = name.split(";")
        if not colon and "=" in line:
            head, parameters, value = "RRULE", [], line
        if head.upper() == "RRULE" and rule is None and not parameters:
            rule = value
        elif head.upper() == "DTSTART" and start is None:
            start = value.upper()
            for parameter in parameters:
                if parameter.upper().startswith("TZID="):
                    tzid = parameter[5:]
                elif parameter.upper() not in ("VALUE=DATE", "VALUE=DATE-TIME"):
                    raise ScheduleInvalid.of("rrule", text, f"DTSTART has {parameter}", _REMEDY)
        elif head.upper() in ("EXDATE", "EXRULE", "RDATE"):
            raise ScheduleInvalid.of(
                "rrule", text, f"{head} is not understood", "write exceptions, or two schedules"
            )
        else:
            raise ScheduleInvalid.of(
                "rrule", text, f"{line!r} is neither one DTSTART nor one RRULE", _REMEDY
            )
    if not rule:
        raise ScheduleInvalid.of("rrule", text, "RRULE is missing", _REMEDY)
    return _Text(start, tzid, _parts(text, rule.upper()))


def _parts(text: str, rule: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    known = {"FREQ", "INTERVAL", "COUNT", "UNTIL", "WKST", "BYDAY", *_LISTS}
    for part in rule.rstrip(";").split(";"):
        name, _, value = part.partition("=")
        if name not in known:
            raise ScheduleInvalid.of(
                "rrule", text, f"{name} is not understood", f"there are {', '.join(sorted(known))}"
            )
        if name in parts:
            raise ScheduleInvalid.of("rrule", text, f"{name} is given twice", "leave out one")
        if not value:
            raise ScheduleInvalid.of("rrule", text, f"{name} has no value", _REMEDY)
        parts[name] = value
    frequency = parts.get("FREQ")
    if frequency not in _FREQUENCIES:
        raise ScheduleInvalid.of(
            "rrule", text, f"FREQ is {frequency}", f"write one of {', '.join(_FREQUENCIES)}"
        )
    if "COUNT" in parts and "UNTIL" in parts:
        raise ScheduleInvalid.of("rrule", text, "COUNT and UNTIL exclude each other")
    for name, frequencies in _ONLY_WITH.items():
        if name in parts and frequency not in frequencies:
            raise ScheduleInvalid.of(
                "rrule",
                text,
                f"{name} does not go with FREQ={frequency}",
                f"it goes with {', '.join(frequencies)}",
            )
    if "BYSETPOS" in parts and not any(
        name in parts for name in (*_LISTS, "BYDAY") if name != "BYSETPOS"
    ):
        raise ScheduleInvalid.of("rrule", text, "BYSETPOS counts in what another BY part gives")
    return parts


def _filters(text: str, parts: dict[str, str], begin: datetime) -> dict[str, Any]:
    """The arguments for dateutil, with what it would take from DTSTART written out."""
    try:
        from dateutil import rrule
    except ImportError:
        raise ScheduleInvalid.of(
            "rrule", text, "python-dateutil is not installed here", "install the extra `rrule`"
        ) from None
    frequency = parts["FREQ"]
    filters: dict[str, Any] = {"wkst": _WEEKDAYS.index(_weekday(text, parts.get("WKST", "MO")))}
    for part, (name, low, high, negative) in _LISTS.items():
        if part in parts:
            filters[name] = [
                _number(text, part, item, low, high, negative=negative)
                for item in parts[part].split(",")
            ]
    if "BYDAY" in parts:
        filters["byweekday"] = [
            _nth(text, frequency, item, rrule) for item in parts["BYDAY"].split(",")
        ]
    if not any(name in filters for name in ("byweekno", "byyearday", "bymonthday", "byweekday")):
        if frequency == "YEARLY":
            filters.setdefault("bymonth", [begin.month])
        if frequency in ("YEARLY", "MONTHLY"):
            filters["bymonthday"] = [begin.day]
    if frequency == "WEEKLY":
        filters.setdefault("byweekday", [rrule.weekday(begin.weekday())])
    if frequency not in ("HOURLY", "MINUTELY", "SECONDLY"):
        filters.setdefault("byhour", [begin.hour])
        filters.setdefault("byminute", [begin.minute])
        filters.setdefault("bysecond", [begin.second])
    return filters


def _nth(text: str, frequency: str, item: str, rrule: Any) -> Any:
    match = _BYDAY.fullmatch(item)
    if match is None:
        raise ScheduleInvalid.of("rrule", text, f"BYDAY: {item!r} is not understood", "MO or -1FR")
    weekday = rrule.weekday(_WEEKDAYS.index(match[2]))
    if match[1] is None:
        return weekday
    most = {"YEARLY": 53, "MONTHLY": 5}.get(frequency, 0)
    if not 1 <= abs(int(match[1])) <= most:
        raise ScheduleInvalid.of(
            "rrule",
            text,
            f"BYDAY: {item} does not go with FREQ={frequency}",
            f"count from 1 to {most}, or from the end from -1 to -{most}"
            if most
            else "weekdays are counted in months and years only",
        )
    return weekday(int(match[1]))


def _weekday(text: str, value: str) -> str:
    if value not in _WEEKDAYS:
        raise ScheduleInvalid.of("rrule", text, f"WKST: {value!r} is no weekday", "write MO")
    return value


def _number(
    text: str, part: str, value: str, low: int, high: int, *, negative: bool = False
) -> int:
    digits = value[1:] if negative and value[:1] in ("-", "+") else value
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 9):
        raise ScheduleInvalid.of("rrule", text, f"{part}: {value!r} is not a number")
    if not low <= int(digits) <= high:
        raise ScheduleInvalid.of("rrule", text, f"{part}: {value} is not between {low} and {high}")
    return int(value)


def _until(text: str, parts: dict[str, str], zone: Zone) -> int:
    """The last instant at which the rule may fire; of a date without a time, the day's last."""
    if "UNTIL" not in parts:
        return LAST_INSTANT
    value = parts["UNTIL"]
    if len(value) == 8:
        value += "T235959"
    return zone.instant(_seconds(_wall(text, "UNTIL", value, zone)))


def _wall(text: str, part: str, value: str, zone: Zone) -> datetime:
    match = _STAMP.fullmatch(value)
    try:
        if match is None:
            raise ValueError("it is not 20260105T090000")
        moment = datetime.strptime(match[1] + (match[2] or "000000"), "%Y%m%d%H%M%S")
        if not 1900 <= moment.year <= 9998:
            raise ValueError("the year is not between 1900 and 9998")
    except ValueError as error:
        raise ScheduleInvalid.of("rrule", text, f"{part} {value}: {error}", _REMEDY) from None
    if match[3]:
        instant = _seconds(moment)
        return _naive(instant + zone.offset(instant))
    return moment


def _naive(seconds: int) -> datetime:
    return _EPOCH + timedelta(seconds=min(max(seconds, -_FAR), LAST_INSTANT))


def _seconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(seconds=1)


_FAR = _seconds(datetime(1, 1, 15)) * -1
