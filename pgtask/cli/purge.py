"""`pgtask purge`: remove finished jobs, those that are old or those that are meant."""

from __future__ import annotations

from typing import Any

import click

from pgtask.broker import jobs
from pgtask.cli import bulk
from pgtask.cli.filters import JOB_ID, filtered
from pgtask.cli.progress import Progress
from pgtask.cli.session import Session, pass_session
from pgtask.cli.times import DURATION


@click.command()
@click.argument("ids", nargs=-1, type=JOB_ID, metavar="[ID]...")
@filtered
@click.option("--finished", type=DURATION, help="Finished so long ago (the retention: 7d).")
@click.option("--batch", type=click.IntRange(1), default=5000, help="So many at a time (5000).")
@click.option("--dry-run", is_flag=True, help="Only say how many jobs it would be.")
@pass_session
def purge(
    session: Session, /, *, finished: float | None, batch: int, dry_run: bool, **given: Any
) -> int | None:
    """Remove finished jobs: those that are old, these, or what a filter finds.

    Without ids or a filter, those past the retention and old ticks, as workers do by themselves.
    What a filter finds goes whatever its age; --older-than says which.
    """
    if any(value not in (None, ()) for value in given.values()):
        if finished is not None:
            raise click.UsageError("--finished goes with neither ids nor filters → --older-than")
        return bulk.run(session, jobs.PURGE, jobs.purge, every=False, dry_run=dry_run, **given)
    age = session.config.retention if finished is None else finished
    if dry_run:
        _count(session, age)
        return None
    from pgtask.broker import attempts

    with session.broker() as broker, Progress("removed", quiet=session.quiet) as progress:
        while removed := broker.run(attempts.purge(age, batch)):
            progress.add(removed)
    if session.json:
        session.document({"removed": progress.done})
    else:
        session.data(f"removed {progress.done}")
    return None


def _count(session: Session, age: float) -> None:
    from pgtask.broker import inspect

    with session.broker() as broker:
        which = inspect.Filter(states=jobs.PURGE.possible_states, older_than=age)
        total, _ = broker.run(inspect.count(which))
    if session.json:
        session.document({"dry_run": True, "matched": total})
    else:
        session.data(f"would purge {total} jobs")
