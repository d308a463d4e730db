"""Recurrence: what an RRULE of RFC 5545 gives, by python-dateutil (the extra `rrule`).

DAILY and slower run on the wall, like cron text with fixed times. dateutil walks from DTSTART at
each question, and on to the year 9999 if nothing comes: so DTSTART is moved forward, and rules for
which no day exists are refused. HOURLY and faster run in real time, which dateutil does not know:
their parts only leave things out, which Slots can do, and their steps are counted here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import cached_property
from itertools import islice
from typing import Any

from pgtask.cycle import FEW, cycle
from pgtask.field import bits
from pgtask.omissions import NOTHING, Omissions
from pgtask.slots import Slots
from pgtask.zones import DAY, LAST_INSTANT, Zone

# Omitted wall times in a row after which there is none: a search is to end within a second.
MAX_OMITTED = 300_000

_EPOCH = datetime(1970, 1, 1)
_FIRST_DAY = _EPOCH.toordinal()
_SIXTY_YEARS = 60 * 366 * DAY
_FOUR_CENTURIES = 146_097  # days until the calendar repeats
UNITS = {
    "DAILY": timedelta(days=1),
    "HOURLY": timedelta(hours=1),
    "MINUTELY": timedelta(minutes=1),
    "SECONDLY": timedelta(seconds=1),
}
FREQUENCIES = ("YEARLY", "MONTHLY", "WEEKLY", *UNITS)


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
        if after >= last or not self._slots.outlasts(omissions):
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
            begin = self.zone.instant(wall_seconds(self.begin)) - 1
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
        begin = self._forward(self.begin, naive(after))
        for moment in self._rule(begin):
            wall = wall_seconds(moment)
            if wall > after:
                yield wall

    def _instants(self, after: int, last: int, omissions: Omissions = NOTHING) -> Iterator[int]:
        """The instants later than this one: in each offset, slots in step with DTSTART."""
        unit = UNITS[self.frequency] // timedelta(seconds=1)
        begin = self.zone.instant(wall_seconds(self.begin))
        instant = max(after + 1, begin)
        tried = 0
        while instant <= last:
            end, offset = self.zone.segment(instant)
            wall, final = instant + offset, min(end - 1, last) + offset
            slots = self._slots
            if self.frequency == "HOURLY" and "byminute" not in self.filters:
                # An hour after an hour, also where the clock is set by half of one.
                slots = replace(slots, minutes=1 << (begin + offset) // 60 % 60)
            if tried > FEW:
                base, step = (begin + offset) // unit * unit, self.interval * unit
                left = cycle(base, step, unit, slots, omissions.times)
                slot = left.first(wall, final, omissions)
            else:
                slot = slots.first(wall, final, omissions)
            if slot is None:
                instant = end
            elif not self._on(date.fromordinal(slot // DAY + _FIRST_DAY)):
                instant = min(end, slot - slot % DAY + DAY - offset)
            elif ahead := (slot // unit - (begin + offset) // unit) % self.interval:
                instant = min(end, (slot // unit + self.interval - ahead) * unit - offset)
                tried += 1
            else:
                instant = slot - offset
                yield instant
                instant += 1

    @cached_property
    def _slots(self) -> Slots:
        """The times of day there may be; what neither the parts nor the pace say is DTSTART's."""
        seconds = range(60) if self.frequency == "SECONDLY" else [self.begin.second]
        minutes = range(60) if self.real_time else [self.begin.minute]
        hours = range(24) if self.real_time else [self.begin.hour]
        return Slots(
            seconds=bits(self.filters.get("bysecond", seconds)),
            minutes=bits(self.filters.get("byminute", minutes)),
            hours=bits(self.filters.get("byhour", hours)),
            months=bits(self.filters.get("bymonth", range(1, 13))),
        )

    @cached_property
    def _counted(self) -> list[int]:
        """All there are of a rule with COUNT."""
        if not self.real_time:
            return list(islice(self._walls(-LAST_INSTANT), self.count))
        found = [self.zone.instant(wall_seconds(self.begin)) - 1]
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
        unit_ = timedelta(weeks=1) if self.frequency == "WEEKLY" else UNITS[self.frequency]
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


def naive(seconds: int) -> datetime:
    """The wall time of that many seconds."""
    return _EPOCH + timedelta(seconds=min(max(seconds, -_FAR), LAST_INSTANT))


def wall_seconds(moment: datetime) -> int:
    """The seconds of a wall time."""
    return (moment - _EPOCH) // timedelta(seconds=1)


_FAR = wall_seconds(datetime(1, 1, 15)) * -1
