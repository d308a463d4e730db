"""Ticks as people read them: those to come in local time and UTC, those that were as a strip."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from pgtask.cli.table import table
from pgtask.cli.times import duration

if TYPE_CHECKING:
    from pgtask.broker.schedules import TickLine
    from pgtask.schedule import Schedule

# One character an outcome; what is not here is a job that waits for its turn.
_MARKS = {
    "succeeded": "✓",
    "failed": "✗",
    "cancelled": "-",
    "running": "▶",
    "overlap": "o",
    "replaced": "r",
    "missed": "m",
    "late": "l",
    "error": "!",
}
_WAITING, _FORGOTTEN = "·", "?"


def told(
    schedule: Schedule, ticks: Sequence[datetime], now: datetime, tz: str | None
) -> list[dict[str, Any]]:
    """What there is to say about ticks: local time, UTC, how soon, and what the clock does."""
    from pgtask.zones import zone

    name = schedule.tz if tz is None else tz
    zone(name)  # says what is wrong with it
    where = ZoneInfo(name)
    return [
        {
            "utc": tick.astimezone(UTC),
            "local": f"{tick.astimezone(where):%a %Y-%m-%d %H:%M:%S %z %Z}",
            "in": (tick - now).total_seconds(),
            "note": schedule.notes(tick),
        }
        for tick in ticks
    ]


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """The same for people."""
    headings = ["LOCAL", "UTC", "IN", "NOTE"]
    cells = [
        [row["local"], f"{row['utc']:%Y-%m-%d %H:%M:%S}Z", duration(row["in"]), row["note"]]
        for row in rows
    ]
    if any("overlaps" in row for row in rows):
        for cell, row in zip(cells, rows, strict=True):
            if row["overlaps"]:
                cell[3] = "; ".join(filter(None, [cell[3], "the job before may still run"]))
    return table(headings, cells, right="IN")


def strip(ticks: Sequence[TickLine]) -> str:
    """One mark a tick, the oldest first, and what the marks mean."""
    outcomes = [_outcome(tick) for tick in reversed(ticks)]
    marks = {outcome: _mark(outcome) for outcome in outcomes}
    legend = ", ".join(f"{mark} {outcome}" for outcome, mark in marks.items())
    return f"{''.join(marks[outcome] for outcome in outcomes)}  ({legend})" if ticks else ""


def _outcome(tick: TickLine) -> str:
    return tick.outcome or "forgotten"


def _mark(outcome: str) -> str:
    return _FORGOTTEN if outcome == "forgotten" else _MARKS.get(outcome, _WAITING)
