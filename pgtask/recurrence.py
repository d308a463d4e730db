"""Recurrence: an RRULE of RFC 5545, evaluated by python-dateutil (the extra `rrule`)."""

from __future__ import annotations

from pgtask.errors import ScheduleInvalid
from pgtask.ticks import Ticks
from pgtask.zones import Zone


def parse_rrule(text: str, zone: Zone, start: int | None) -> tuple[str, Ticks]:
    raise ScheduleInvalid.of("rrule", text, "not yet")
