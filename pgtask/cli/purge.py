"""`pgtask purge`: remove finished jobs that are old."""

from __future__ import annotations

import click

from pgtask.cli.progress import Progress
from pgtask.cli.session import Session, pass_session
from pgtask.cli.times import DURATION


@click.command()
@click.option("--finished", type=DURATION, help="Finished so long ago (the retention: 7d).")
@click.option("--batch", type=click.IntRange(1), default=5000, help="So many at a time (5000).")
@pass_session
def purge(session: Session, finished: float | None, batch: int) -> None:
    """Remove finished jobs that are old.

    Workers do so by themselves, too, by the retention that the settings have.
    """
    from pgtask.broker import attempts

    age = session.config.retention if finished is None else finished
    with session.broker() as broker, Progress("removed", quiet=session.quiet) as progress:
        while removed := broker.run(attempts.purge(age, batch)):
            progress.add(removed)
    if session.json:
        session.document({"removed": progress.done})
    else:
        session.data(f"removed {progress.done}")
