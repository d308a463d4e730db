"""Slots: sets of wall-clock fields, and the search for the first wall time that is in them."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from calendar import monthrange
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

from pgtask.field import DATE, HOUR, MINUTE, MONTH, WEEKDAY, YEAR
from pgtask.omissions import NOTHING, Omissions
from pgtask.zones import DAY

_EPOCH = date(1970, 1, 1).toordinal()
_SEVENTHS = 1 | 1 << 7 | 1 << 14 | 1 << 21 | 1 << 28
# Omitted times of day that are not worth a list of those that are left, which takes up to 30 ms.
MANY = 64
# 28 years without a century in them have every calendar there is.
_ALL_CALENDARS = range(2000, 2028)


@dataclass(frozen=True, slots=True)
class Slots:
    """Bits say which numbers count (field.py). `years` is 0 for any.

    A day must be one of the dates, to which the last day and the last working day of a month can
    belong, and one of the weekdays, to which k-th and last ones can; with `either`, one will do.
    """

    seconds: int = 1
    minutes: int = MINUTE.every
    hours: int = HOUR.every
    dates: int = DATE.every
    months: int = MONTH.every
    years: int = 0
    weekdays: int = WEEKDAY.every
    last_day: bool = False
    last_workday: bool = False
    nth_weekdays: tuple[tuple[int, int], ...] = ()
    last_weekdays: int = 0
    either: bool = False

    def possible(self) -> bool:
        """Whether any year has such a day."""
        years = YEAR.numbers(self.years) if self.years else _ALL_CALENDARS
        months = MONTH.numbers(self.months)
        return any(self.days(year, month) for year in years for month in months)

    def outlasts(self, omissions: Omissions) -> bool:
        """Whether a time of day is left that is not among the omitted ones."""
        times = self.seconds.bit_count() * self.minutes.bit_count() * self.hours.bit_count()
        omitted = sum(self._clock(time) == time for time in omissions.times)
        return omitted < times

    def times(self, omitted: frozenset[int]) -> array[int]:
        """The times of day that are not among the omitted ones, in seconds, in order."""
        return _times(self.seconds, self.minutes, self.hours, omitted)

    def first(self, wall: int, last: int, omissions: Omissions = NOTHING) -> int | None:
        """The first slot from `wall` to `last`, both included, that is not omitted."""
        if wall > last:
            return None
        today, clock = divmod(wall, DAY)
        start = date.fromordinal(today + _EPOCH)
        year, month = start.year, start.month
        if self.years and not self._listed(year):
            month = 1
        eve = today - start.day  # the day before the month's first
        final = last // DAY
        passed = start.day
        while True:
            if self.years and not self._listed(year):
                later = self.years >> max(0, year + 1 - YEAR.zero)
                if not later:
                    return None
                year = max(year + 1, YEAR.zero) + (later & -later).bit_length() - 1
                month, passed = 1, 0
                eve = date(year, 1, 1).toordinal() - _EPOCH - 1
            if eve >= final:
                return None
            if self.months >> month & 1:
                days = self.days(year, month) >> passed << passed
                while days:
                    bit = days & -days
                    days ^= bit
                    day = eve + bit.bit_length() - 1
                    if day > final:
                        return None
                    if day in omissions.dates:
                        continue
                    slot = self._on(day, clock if day == today else 0, omissions)
                    if slot is not None:
                        return slot if slot <= last else None
            passed = 0
            eve += monthrange(year, month)[1]
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)

    def days(self, year: int, month: int) -> int:
        """A bit for each day of that month, bit 1 for the first; the month itself is not judged."""
        monday_first, length = monthrange(year, month)
        first = (monday_first + 1) % 7  # the weekday of the 1st, 0 = Sunday
        whole = (2 << length) - 2
        dates = self.dates & whole
        if self.last_day:
            dates |= 1 << length
        if self.last_workday:
            weekday = (first + length - 1) % 7
            dates |= 1 << length - (2 if weekday == 0 else 1 if weekday == 6 else 0)
        weekdays = _on_weekdays(self.weekdays, first) & whole
        for weekday, n in self.nth_weekdays:
            weekdays |= 1 << (weekday - first) % 7 + 7 * n - 6 & whole
        for weekday in range(7) if self.last_weekdays else ():
            if self.last_weekdays >> weekday & 1:
                fifth = (weekday - first) % 7 + 29
                weekdays |= 1 << (fifth if fifth <= length else fifth - 7)
        return dates | weekdays if self.either else dates & weekdays

    def _listed(self, year: int) -> bool:
        return year >= YEAR.zero and bool(self.years >> year - YEAR.zero & 1)

    def _on(self, day: int, clock: int, omissions: Omissions) -> int | None:
        if len(omissions.times) > MANY:
            times = self.times(omissions.times)
            left = (times[at] for at in range(bisect_left(times, clock), len(times)))
            return next(
                (day * DAY + t for t in left if day * DAY + t not in omissions.moments), None
            )
        time = self._clock(clock)
        if omissions:
            while time is not None and (
                time in omissions.times or day * DAY + time in omissions.moments
            ):
                time = self._clock(time + 1)
        return None if time is None else day * DAY + time

    def _clock(self, clock: int) -> int | None:
        """The first time of day from `clock` on, in seconds."""
        hour, rest = divmod(clock, 3600)
        hours = self.hours >> hour
        if not hours:
            return None
        if hours & 1:
            minute, second = divmod(rest, 60)
            minutes = self.minutes >> minute
            if minutes & 1:
                seconds = self.seconds >> second
                if seconds:
                    return clock + (seconds & -seconds).bit_length() - 1
                minutes ^= 1
            if minutes:
                minute += (minutes & -minutes).bit_length() - 1
                return hour * 3600 + minute * 60 + self._opening(self.seconds)
            hours ^= 1
        if not hours:
            return None
        hour += (hours & -hours).bit_length() - 1
        return hour * 3600 + self._opening(self.minutes) * 60 + self._opening(self.seconds)

    @staticmethod
    def _opening(mask: int) -> int:
        return (mask & -mask).bit_length() - 1


@lru_cache(maxsize=64)
def _times(seconds: int, minutes: int, hours: int, omitted: frozenset[int]) -> array[int]:
    hour_list, minute_list, second_list = map(_numbers, (hours, minutes, seconds))
    return array(
        "q",
        (
            time
            for hour in hour_list
            for minute in minute_list
            for second in second_list
            if (time := hour * 3600 + minute * 60 + second) not in omitted
        ),
    )


def _numbers(mask: int) -> list[int]:
    return [number for number in range(mask.bit_length()) if mask >> number & 1]


@lru_cache(maxsize=1024)
def _on_weekdays(weekdays: int, first: int) -> int:
    """The days of a month of 31 that are on these weekdays, if its 1st is on weekday `first`."""
    days = 0
    for weekday in range(7):
        if weekdays >> weekday & 1:
            days |= _SEVENTHS << (weekday - first) % 7 + 1
    return days
