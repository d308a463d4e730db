"""Words: the English sentence for what a schedule says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from typing import TYPE_CHECKING

from pgtask.field import DATE, HOUR, MINUTE, MONTH, SECOND, WEEKDAY, YEAR, Field
from pgtask.slots import Slots

if TYPE_CHECKING:
    from pgtask.zones import Zone

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_ORDINALS = ("first", "second", "third", "fourth", "fifth")
_UNITS = (("week", 604_800), ("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))
_FEW = 6  # times of day that are listed rather than described


def of_slots(slots: Slots) -> str:
    """Such as "at 02:30 on Monday through Friday"."""
    parts = [_times(slots), _days(slots)]
    if slots.months != MONTH.every:
        parts.append("in " + _runs(MONTH.numbers(slots.months), lambda n: _MONTHS[n - 1]))
    if slots.years:
        parts.append("in " + _runs(YEAR.numbers(slots.years), str))
    return " ".join(part for part in parts if part)


def of_interval(seconds: float) -> str:
    """Such as "5 minutes" or "90 seconds"."""
    unit, size = next((pair for pair in _UNITS if seconds % pair[1] == 0), ("second", 1))
    count = seconds / size
    return f"{count:g} {unit}" + ("" if count == 1 else "s")


def of_every(seconds: int) -> str:
    words = of_interval(seconds)
    return "every " + words.removeprefix("1 ")


def of_instant(instant: datetime, zone: Zone) -> str:
    """In the zone's own time."""
    local = instant.astimezone(zone.info)
    return f"{local:%Y-%m-%d} {of_time(local.time())}"


def of_time(clock: time) -> str:
    return clock.isoformat("seconds" if clock.second else "minutes")


def of_exceptions(exceptions: Sequence[date | time | datetime]) -> str:
    """Such as "except on 2026-12-25 and at 20:15"."""
    texts = []
    for exception in exceptions:
        if isinstance(exception, datetime):
            texts.append(f"on {exception:%Y-%m-%d} at {of_time(exception.time())}")
        elif isinstance(exception, date):
            texts.append(f"on {exception}")
        else:
            texts.append(f"at {of_time(exception)}")
    if len(texts) > 2 * _FEW:
        texts[_FEW:] = [f"{len(texts) - _FEW} more"]
    return "except " + _and(texts)


def _times(slots: Slots) -> str:
    seconds = SECOND.numbers(slots.seconds)
    minutes = MINUTE.numbers(slots.minutes)
    hours = HOUR.numbers(slots.hours)
    if len(seconds) * len(minutes) * len(hours) <= _FEW:
        clocks = [time(h, m, s) for h in hours for m in minutes for s in seconds]
        return "at " + _and([of_time(clock) for clock in clocks])
    words: list[str] = []
    if slots.seconds != 1:
        words.append(_steps(SECOND, slots.seconds))
    strides = slots.seconds == SECOND.every or _stride(SECOND, slots.seconds)
    if slots.minutes != MINUTE.every or not (words and strides):
        words.append(_steps(MINUTE, slots.minutes))
    if slots.hours != HOUR.every:
        stride = _stride(HOUR, slots.hours)
        words.append(f"every {_ordinal(stride)} hour" if stride else _steps(HOUR, slots.hours))
    elif slots.minutes != MINUTE.every and not _stride(MINUTE, slots.minutes):
        words.append("every hour")
    words[0] = words[0] if words[0].startswith("every") else f"at {words[0]}"
    return " of ".join(words)


def _days(slots: Slots) -> str:
    dates = [] if slots.dates == DATE.every else _run(DATE.numbers(slots.dates), _ordinal)
    dates += ["last day"] if slots.last_day else []
    dates += ["last working day"] if slots.last_workday else []
    weekdays = []
    if slots.weekdays != WEEKDAY.every:
        weekdays = _run(WEEKDAY.numbers(slots.weekdays), lambda n: _WEEKDAYS[n])
    of_month = [f"{_ORDINALS[n - 1]} {_WEEKDAYS[day]}" for day, n in slots.nth_weekdays]
    of_month += [f"last {_WEEKDAYS[n]}" for n in WEEKDAY.numbers(slots.last_weekdays)]
    if of_month:
        weekdays.append(f"the {_and(of_month)} of the month")
    if not dates:
        return f"on {_and(weekdays)}" if weekdays else ""
    on_dates = f"on the {_and(dates)} of the month"
    if not weekdays:
        return on_dates
    return f"{on_dates} {'or on' if slots.either else 'if that is'} {_and(weekdays)}"


def _steps(field: Field, mask: int) -> str:
    """Such as "every minute", "every 15 minutes", "minutes 10 and 40", "hours 9 through 17"."""
    name = field.title
    if mask == field.every:
        return f"every {name}"
    stride = _stride(field, mask)
    if stride:
        return f"every {stride} {name}s"
    numbers = field.numbers(mask)
    return f"{name}{'s' if len(numbers) > 1 else ''} {_runs(numbers, str)}"


def _stride(field: Field, mask: int) -> int:
    """The n of "*/n" if these are its numbers and come round evenly, else 0."""
    numbers = field.numbers(mask)
    stride = numbers[1] - numbers[0] if len(numbers) > 2 else 0
    whole = field.top + 1
    even = stride > 1 and whole % stride == 0
    return stride if even and numbers == list(range(0, whole, stride)) else 0


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number in (11, 12, 13) else ending}"


def _run(numbers: list[int], name: Callable[[int], str]) -> list[str]:
    """The names, with "a through b" for three or more in a row."""
    texts: list[str] = []
    while numbers:
        length = next(
            (n for n, number in enumerate(numbers) if number != numbers[0] + n), len(numbers)
        )
        length = length if length > 2 else 1
        first, last = name(numbers[0]), name(numbers[length - 1])
        texts.append(f"{first} through {last}" if length > 2 else first)
        numbers = numbers[length:]
    return texts


def _runs(numbers: list[int], name: Callable[[int], str]) -> str:
    return _and(_run(numbers, name))


def _and(texts: list[str]) -> str:
    return " and ".join(part for part in (", ".join(texts[:-1]), texts[-1]) if part)
