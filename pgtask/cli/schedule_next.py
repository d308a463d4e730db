"""`pgtask schedule next` and `pgtask schedule explain`: the ticks to come."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice, pairwise
from typing import Any

import click

from pgtask.cli.schedule_show import there
from pgtask.cli.session import Session, pass_session
from pgtask.cli.spec import beside_options, read
from pgtask.cli.ticks import as_table, told
from pgtask.cli.times import INSTANT, duration

MOST = 10_000  # ticks in one answer


@click.command("next")
@click.argument("name")
@click.option("-n", "count", type=click.IntRange(1, MOST), default=10, help="So many (10).")
@click.option("--tz", metavar="ZONE", help="Show local times of this zone (the schedule's).")
@click.option(
    "--overlaps", is_flag=True, help="Mark ticks that the job before will not have ended by."
)
@pass_session
def next_(session: Session, name: str, count: int, tz: str | None, *, overlaps: bool) -> None:
    """Show the next ticks of a schedule."""
    from pgtask.broker import schedules
    from pgtask.schedule import Schedule

    with session.broker() as broker:
        line = there(broker, name)
        typical = broker.run(schedules.typical_seconds(name)) if overlaps else None
    schedule = Schedule.from_json(line.spec)
    ticks = [*islice(schedule.upcoming(line.now), count)]
    rows = told(schedule, ticks, line.now, tz)
    if overlaps:
        for row, long in zip(rows, _overlapping(ticks, typical), strict=True):
            row["overlaps"] = long
    if session.json:
        session.document(rows)
        return
    session.data(as_table(rows))
    if not ticks:
        session.note(f"schedule {name} has no further tick")
    elif line.state != "active":
        session.note(f"pgtask: it is {line.state}, so none of them fires → pgtask schedule show")
    if overlaps and typical is None:
        session.note("pgtask: none of its jobs has finished yet: nobody knows how long they take")
    elif overlaps:
        session.note(f"its jobs take up to {duration(typical)}; overlap = {line.overlap!r}")


@click.command()
@click.argument("spec", metavar="CRON|JSON")
@beside_options
@click.option(
    "-n", "count", type=click.IntRange(0, MOST), default=5, help="Show so many ticks (5)."
)
@click.option("--from", "base", type=INSTANT, help="Show those after this time (now).")
@pass_session
def explain(
    session: Session, /, spec: str, count: int, base: datetime | None, **bounds: Any
) -> None:
    """Say in words when a schedule fires, and show its next ticks.

    For example '30 2 * * 1-5' --tz Europe/Berlin; needs no database.
    """
    schedule = read(spec, {name: value for name, value in bounds.items() if value})
    after = base or datetime.now(UTC)
    rows = told(schedule, [*islice(schedule.upcoming(after), count)], after, None)
    if session.json:
        session.document({"words": schedule.explain(), "spec": schedule.spec(), "next": rows})
        return
    session.data(schedule.explain())
    if count:
        session.data("\n" + as_table(rows) if rows else "\nno tick after that")


def _overlapping(ticks: Sequence[datetime], typical: float | None) -> list[bool]:
    """For each tick, whether the job of the one before would end after it."""
    if typical is None:
        return [False] * len(ticks)
    gaps = [(late - early).total_seconds() for early, late in pairwise(ticks)]
    return [False] * min(1, len(ticks)) + [gap < typical for gap in gaps]
