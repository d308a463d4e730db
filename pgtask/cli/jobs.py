"""`pgtask ls`: the newest jobs, filtered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pgtask.cli.filters import JOB_ID, filter_of, filtered
from pgtask.cli.session import Session, as_json, pass_session
from pgtask.cli.table import clipped, table
from pgtask.cli.times import instant

if TYPE_CHECKING:
    from pgtask.broker.inspect import JobLine


@click.command()
@filtered
@click.option("-n", "limit", type=click.IntRange(1), default=50, help="At most so many (50).")
@click.option("--before", type=JOB_ID, metavar="ID", help="Only jobs older than this one.")
@pass_session
def ls(session: Session, /, limit: int, **which: Any) -> None:
    """List jobs, the newest first."""
    from pgtask.broker import inspect

    with session.broker() as broker:
        lines = broker.run(inspect.jobs(filter_of(**which), limit))
    if session.json:
        session.document([as_json(line) for line in lines])
        return
    session.data(
        table(
            ("ID", "TASK", "QUEUE", "STATE", "TRY", "CREATED", "NOTE"),
            [
                (
                    line.id,
                    line.task,
                    line.queue,
                    line.state,
                    f"{line.attempt}/{line.max_attempts}",
                    instant(line.created_at),
                    _note(line),
                )
                for line in lines
            ],
            right="ID TRY",
        )
    )
    if len(lines) == limit:
        session.note(f"there may be more: pgtask ls --before {lines[-1].id}")


def _note(line: JobLine) -> str:
    if line.state == "scheduled":
        return f"due {instant(line.run_at)}"
    if line.state == "running":
        return f"since {instant(line.claimed_at)}"
    if line.state == "blocked" and line.serial is not None:
        return f"serial {line.serial}"
    if line.reason is not None:
        return clipped(": ".join(filter(None, (line.reason, line.error))), 60)
    return ""
