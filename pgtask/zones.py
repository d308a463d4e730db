"""Zone: where a time zone's clock is set forward or back, and which instant a wall time means."""

from __future__ import annotations

import difflib
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pgtask.errors import ScheduleInvalid

DAY = 86_400
# Instants and wall times are whole seconds since 1970-01-01T00:00, a wall time's as if it were UTC.
# The ends leave room for every offset inside the years 1 to 9999.
FIRST_INSTANT = int(datetime(1, 1, 15, tzinfo=UTC).timestamp())
LAST_INSTANT = int(datetime(9999, 12, 15, tzinfo=UTC).timestamp())

_SPAN_BITS = 25  # changes are looked up by spans of 2**25 s, a little more than a year
_MARGIN = 3 * DAY  # more than two offsets can differ: a wall time's span holds its instant, too
_PROBE = DAY // 4  # two changes that cancel each other were never closer
_REACH = 2 * DAY


class _Span(NamedTuple):
    """Offset `offsets[n]` holds from `begins[n]` to the next; the first is only where it starts."""

    begins: tuple[int, ...]
    offsets: tuple[int, ...]
    end: int


@dataclass(frozen=True, slots=True)
class Zone:
    """An IANA zone. Nothing here assumes that a change is an hour, or happens at night."""

    info: ZoneInfo

    @property
    def name(self) -> str:
        return self.info.key

    def offset(self, instant: int) -> int:
        """Seconds that the wall clock is ahead of UTC."""
        span = _span(self.info, instant >> _SPAN_BITS)
        return span.offsets[bisect_right(span.begins, instant) - 1]

    def segment(self, instant: int) -> tuple[int, int]:
        """(end, offset): from `instant` up to, not including, `end` the offset is constant."""
        span = _span(self.info, instant >> _SPAN_BITS)
        place = bisect_right(span.begins, instant)
        end = span.begins[place] if place < len(span.begins) else span.end
        return min(end, span.end), span.offsets[place - 1]

    def reached(self, instant: int) -> int:
        """The latest wall time that the clock has shown until `instant`."""
        begins, offsets, _ = _span(self.info, instant >> _SPAN_BITS)
        place = bisect_right(begins, instant) - 1
        latest = instant + offsets[place]
        while place > 0 and begins[place] > instant - _REACH:
            # A clock set back: what it showed just before the change is later.
            latest = max(latest, begins[place] - 1 + offsets[place - 1])
            place -= 1
        return latest

    def instant(self, wall: int) -> int:
        """The first instant at which the clock has reached `wall`.

        For a wall time that exists twice that is its first pass, and for one that a change skips,
        the first instant after the gap. So it never decreases when `wall` grows.
        """
        begins, offsets, _ = _span(self.info, wall >> _SPAN_BITS)
        last = len(begins) - 1
        for place, offset in enumerate(offsets):
            if place == last or wall < begins[place + 1] + offset:
                return max(begins[place], wall - offset)
        raise AssertionError("a span has at least one offset")

    def gap_before(self, instant: int) -> int:
        """Seconds that the clock skips at this very instant, 0 if none."""
        skipped = self.offset(instant) - self.offset(instant - 1)
        return max(0, skipped)

    def passes(self, instant: int) -> tuple[bool, bool]:
        """Whether the wall time of `instant` was shown before, and whether it will be again."""
        begins, offsets, _ = _span(self.info, instant >> _SPAN_BITS)
        here = bisect_right(begins, instant) - 1
        wall = instant + offsets[here]
        before = after = False
        for place, offset in enumerate(offsets):
            other = wall - offset
            ends = begins[place + 1] if place + 1 < len(begins) else other + 1
            if place != here and begins[place] <= other < ends and abs(other - instant) < _REACH:
                before |= other < instant
                after |= other > instant
        return before, after


def zone(name: str) -> Zone:
    """The zone of an IANA name; raises ScheduleInvalid."""
    # Before the cache, which takes nothing that JSON calls a list or an object.
    if not isinstance(name, str):
        raise ScheduleInvalid.of("tz", name, "is not the name of a zone", 'write "Europe/Berlin"')
    return _zone(name)


@lru_cache(maxsize=1024)
def _zone(name: str) -> Zone:
    try:
        if _is_of_this_machine(name):
            raise ValueError(name)
        return Zone(ZoneInfo(name))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ScheduleInvalid.of("tz", name, "is no time zone known here", _remedy(name)) from None


def _is_of_this_machine(name: str) -> bool:
    """Whether it names a folder or a link that differs from machine to machine."""
    return name.startswith(("posix/", "right/")) or name in {"localtime", "posixrules"}


def _remedy(name: str) -> str:
    known = {
        known.lower(): known for known in available_timezones() if not _is_of_this_machine(known)
    }
    near = difflib.get_close_matches(name.lower().strip(), known, n=1)
    if near:
        return f"did you mean {known[near[0]]!r}?"
    return 'write an IANA name, "Europe/Berlin", or "UTC"'


@lru_cache(maxsize=4096)
def _span(info: ZoneInfo, number: int) -> _Span:
    begin, end = number << _SPAN_BITS, number + 1 << _SPAN_BITS
    instant = max(begin - _MARGIN, FIRST_INSTANT - _MARGIN)
    stop = min(end + _MARGIN, LAST_INSTANT + _MARGIN)
    begins, offsets = [instant], [_offset(info, instant)]
    while instant < stop:
        following = min(instant + _PROBE, stop)
        offset = _offset(info, following)
        if offset != offsets[-1]:
            begins.append(_change(info, instant, following))
            offsets.append(offset)
        instant = following
    return _Span(tuple(begins), tuple(offsets), end)


def _change(info: ZoneInfo, before: int, after: int) -> int:
    """The first second of (before, after] with the offset of `after`."""
    offset = _offset(info, after)
    while after - before > 1:
        middle = (before + after) // 2
        if _offset(info, middle) == offset:
            after = middle
        else:
            before = middle
    return after


def _offset(info: ZoneInfo, instant: int) -> int:
    offset = datetime.fromtimestamp(instant, info).utcoffset()
    assert offset is not None  # a ZoneInfo always has one
    return offset.days * DAY + offset.seconds
