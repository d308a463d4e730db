"""Cycle: times of day that come in steps, and again after some days; which of them are left."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from functools import lru_cache
from math import gcd
from typing import NamedTuple

from pgtask.omissions import Omissions
from pgtask.slots import Slots
from pgtask.zones import DAY

# Slots that were looked at in vain before a cycle is made: it takes up to 50 ms, once for a spec.
FEW = 500


class Cycle(NamedTuple):
    """`places` are seconds after `base`, a wall time, in the first of spans that are all equal."""

    base: int
    length: int
    places: array[int]

    def first(self, wall: int, last: int, omissions: Omissions) -> int | None:
        """The first from `wall` to `last` on a date that is not omitted, and at no such moment.

        Omitted times of day are not among the places: so each step is worth a date or a moment.
        """
        while self.places and wall <= last:
            turn, place = divmod(wall - self.base, self.length)
            at = bisect_left(self.places, place)
            if at == len(self.places):
                turn, at = turn + 1, 0
            wall = self.base + turn * self.length + self.places[at]
            if wall // DAY in omissions.dates:
                wall += DAY - wall % DAY
            elif wall in omissions.moments:
                wall += 1
            else:
                return wall if wall <= last else None
        return None


def cycle(base: int, step: int, unit: int, slots: Slots, omitted: frozenset[int]) -> Cycle:
    """The times of day of `slots` in the first `unit` seconds of each step, but the omitted ones.

    `base` is the wall time of one step. A day has whole units, and so have steps and base.
    """
    return Cycle(
        base, step * (DAY // gcd(DAY, step)), _places(base % DAY, step, unit, slots, omitted)
    )


@lru_cache(maxsize=64)
def _places(base: int, step: int, unit: int, slots: Slots, omitted: frozenset[int]) -> array[int]:
    times = slots.times(omitted)
    places = array("q")
    for begin in range(0, step * (DAY // gcd(DAY, step)), step):
        clock = (base + begin) % DAY
        for at in range(bisect_left(times, clock), bisect_left(times, clock + unit)):
            places.append(begin + times[at] - clock)
    return places
