"""RRULE: the text of a recurrence, read part by part, so that an error can name the part."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, NamedTuple

from pgtask.errors import ScheduleInvalid
from pgtask.recurrence import FREQUENCIES, Recurrence, naive, wall_seconds
from pgtask.zones import LAST_INSTANT, Zone

MAX_LENGTH = 1000
MAX_COUNT = 10_000

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
    "BYMONTHDAY": tuple(name for name in FREQUENCIES if name != "WEEKLY"),
    "BYSETPOS": ("YEARLY", "MONTHLY", "WEEKLY"),
}
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
        begin = naive(start + zone.offset(start))
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
    if frequency not in FREQUENCIES:
        raise ScheduleInvalid.of(
            "rrule", text, f"FREQ is {frequency}", f"write one of {', '.join(FREQUENCIES)}"
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
    return zone.instant(wall_seconds(_wall(text, "UNTIL", value, zone)))


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
        instant = wall_seconds(moment)
        return naive(instant + zone.offset(instant))
    return moment
