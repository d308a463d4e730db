"""Cron text: five fields, or six with the seconds first, read into Slots."""

from __future__ import annotations

import difflib
from typing import NamedTuple

from pgtask.errors import ScheduleInvalid
from pgtask.field import DATE, HOUR, MINUTE, MONTH, SECOND, WEEKDAY, Field, Unreadable
from pgtask.slots import Slots

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
MAX_LENGTH = 1000


class Cron(NamedTuple):
    """`text` with single blanks; `real_time` when its minute or hour begins with a star."""

    text: str
    slots: Slots
    real_time: bool


def parse_cron(text: str) -> Cron:
    """Raises ScheduleInvalid, which names the field."""
    if not isinstance(text, str):
        raise ScheduleInvalid.of("cron", text, "is not a text", 'write "30 2 * * 1-5"')
    if len(text) > MAX_LENGTH:
        raise ScheduleInvalid.of("cron", text, f"is longer than {MAX_LENGTH} characters")
    words = text.upper().split()
    if text.lstrip().startswith("@"):
        name = " ".join(words).lower()
        return Cron(name, *_read(text, _alias(text, name).split()))
    return Cron(" ".join(words), *_read(text, words))


def _alias(text: str, name: str) -> str:
    if name in ALIASES:
        return ALIASES[name]
    if name == "@reboot":
        raise ScheduleInvalid.of("cron", text, "nothing is booted here", "enqueue the job at start")
    if name.startswith("@every"):
        raise ScheduleInvalid.of("cron", text, "is not cron text", 'write {"every": seconds}')
    near = difflib.get_close_matches(name, ALIASES, n=1)
    raise ScheduleInvalid.of(
        "cron",
        text,
        "is no abbreviation known here",
        f"did you mean {near[0]}?" if near else f"there are {', '.join(ALIASES)}",
    )


def _read(text: str, words: list[str]) -> tuple[Slots, bool]:
    if len(words) == 5:
        words = ["0", *words]
    elif len(words) != 6:
        remedy = "write minute, hour, day of month, month and day of week; seconds may stand first"
        if len(words) == 7:
            remedy += "; years only a rule can have"
        raise ScheduleInvalid.of(
            "cron", text, f"has the wrong number of fields, {len(words)} for 5 or 6", remedy
        )
    second, minute, hour, date, month, weekday = words
    dates, last_day, last_workday = _dates(text, date)
    weekdays, nth_weekdays, last_weekdays = _weekdays(text, weekday)
    slots = Slots(
        seconds=_numbers(text, SECOND, second),
        minutes=_numbers(text, MINUTE, minute),
        hours=_numbers(text, HOUR, hour),
        dates=dates,
        months=_numbers(text, MONTH, month),
        weekdays=weekdays,
        last_day=last_day,
        last_workday=last_workday,
        nth_weekdays=nth_weekdays,
        last_weekdays=last_weekdays,
        # crontab(5): a field that begins with a star does not count as restricted, not even */2.
        either=not date.startswith("*") and not weekday.startswith("*"),
    )
    if not slots.possible():
        raise ScheduleInvalid.of(
            "cron",
            text,
            f"day of month: no year has a day {date} in month {month}",
            "it would never fire",
        )
    return slots, minute.startswith("*") or hour.startswith("*")


def _numbers(text: str, field: Field, word: str) -> int:
    mask = 0
    for item in word.split(","):
        try:
            mask |= field.mask(item)
        except Unreadable as error:
            raise _refused(text, field, error) from None
    return mask


def _dates(text: str, word: str) -> tuple[int, bool, bool]:
    items = word.split(",")
    plain = [item for item in items if item not in ("L", "LW")]
    mask = _numbers(text, DATE, ",".join(plain)) if plain else 0
    return mask, "L" in items, "LW" in items


def _weekdays(text: str, word: str) -> tuple[int, tuple[tuple[int, int], ...], int]:
    plain, nth, last = [], set(), 0
    for item in word.split(","):
        try:
            if "#" in item:
                nth.add(_nth(item))
            elif len(item) > 1 and item.endswith("L") and item != "LW":
                last |= WEEKDAY.mask(item[:-1])
            else:
                plain.append(item)
        except Unreadable as error:
            raise _refused(text, WEEKDAY, error) from None
    mask = _numbers(text, WEEKDAY, ",".join(plain)) if plain else 0
    return mask, tuple(sorted(nth)), last


def _nth(item: str) -> tuple[int, int]:
    day, _, ordinal = item.partition("#")
    if ordinal not in ("1", "2", "3", "4", "5"):
        raise Unreadable(
            f"{item}: {ordinal!r} is not between 1 and 5", 'the second Tuesday is "2#2"'
        )
    return WEEKDAY.number(day) % 7, int(ordinal)


def _refused(text: str, field: Field, error: Unreadable) -> ScheduleInvalid:
    return ScheduleInvalid.of("cron", text, f"{field.title}: {error.reason}", error.remedy)
