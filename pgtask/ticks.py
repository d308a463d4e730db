"""How slots, intervals and single instants become ticks: one way each, with one rule for clocks.

Each way answers `next(after, last, omissions)`: its first tick later than `after` and not later
than `last`, in seconds since 1970. Which ticks there are never depends on `after`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pgtask.cycle import FEW, cycle
from pgtask.field import SECOND
from pgtask.omissions import Omissions
from pgtask.slots import Slots
from pgtask.zones import DAY, Zone

_ANY_TIME = Slots(seconds=SECOND.every)


class Ticks(Protocol):
    def next(self, after: int, last: int, omissions: Omissions) -> int | None: ...

    def moved(self, tick: int, omissions: Omissions) -> int | None:
        """The wall time that does not exist and because of which this tick is where it is."""


@dataclass(frozen=True, slots=True)
class OnTheWall:
    """Slots that mean a time on the wall: each once, at the first instant that has reached it."""

    slots: Slots
    zone: Zone

    def next(self, after: int, last: int, omissions: Omissions) -> int | None:
        # Later slots than the clock has shown: not the second pass of a repeated hour, and of the
        # slots inside a gap, all or none.
        reached = self.zone.reached(after)
        slot = self.slots.first(reached + 1, self.zone.reached(last), omissions)
        return None if slot is None else self.zone.instant(slot)

    def moved(self, tick: int, omissions: Omissions) -> int | None:
        skipped = self.zone.gap_before(tick)
        if not skipped:
            return None
        wall = tick + self.zone.offset(tick)
        return self.slots.first(wall - skipped, wall - 1, omissions)


@dataclass(frozen=True, slots=True)
class InRealTime:
    """Slots that are walked as time passes: both passes of a repeated hour, nothing for a gap."""

    slots: Slots
    zone: Zone

    def next(self, after: int, last: int, omissions: Omissions) -> int | None:
        instant = after + 1
        while instant <= last:
            end, offset = self.zone.segment(instant)
            slot = self.slots.first(instant + offset, min(end - 1, last) + offset, omissions)
            if slot is not None:
                return slot - offset
            instant = end
        return None

    def moved(self, tick: int, omissions: Omissions) -> int | None:
        return None


@dataclass(frozen=True, slots=True)
class Every:
    """`anchor` plus each multiple of `interval` seconds; nothing before the anchor if `begins`."""

    interval: int
    anchor: int
    begins: bool
    zone: Zone

    def next(self, after: int, last: int, omissions: Omissions) -> int | None:
        instant = self._from(after + 1)
        if not omissions:
            return instant if instant <= last else None
        tried = 0
        while instant <= last:
            end, offset = self.zone.segment(instant)
            wall = instant + offset
            if wall not in omissions:
                return instant
            tried += 1
            if tried > FEW:
                left = cycle(self.anchor + offset, self.interval, 1, _ANY_TIME, omissions.times)
                found = left.first(wall, min(end - 1, last) + offset, omissions)
                if found is not None:
                    return found - offset
                instant = self._from(end)
            elif wall // DAY in omissions.dates:
                instant = self._from(min(end, instant + DAY - wall % DAY))
            else:
                instant += self.interval
        return None

    def moved(self, tick: int, omissions: Omissions) -> int | None:
        return None

    def _from(self, instant: int) -> int:
        if self.begins and instant <= self.anchor:
            return self.anchor
        return self.anchor - (self.anchor - instant) // self.interval * self.interval


@dataclass(frozen=True, slots=True)
class Never:
    """Nothing: each slot is omitted."""

    def next(self, after: int, last: int, omissions: Omissions) -> int | None:
        return None

    def moved(self, tick: int, omissions: Omissions) -> int | None:
        return None


@dataclass(frozen=True, slots=True)
class Once:
    """One instant."""

    at: int
    zone: Zone

    def next(self, after: int, last: int, omissions: Omissions) -> int | None:
        due = after < self.at <= last
        omitted = due and omissions and self.at + self.zone.offset(self.at) in omissions
        return self.at if due and not omitted else None

    def moved(self, tick: int, omissions: Omissions) -> int | None:
        return None
