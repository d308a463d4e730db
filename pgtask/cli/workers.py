"""`pgtask workers`: who is alive, and what they have in hand."""

from __future__ import annotations

import click

from pgtask.cli.session import Session, as_json, pass_session
from pgtask.cli.table import table
from pgtask.cli.times import duration, instant


@click.command()
@pass_session
def workers(session: Session) -> None:
    """List workers and consumers, the living first."""
    from pgtask.broker import inspect

    with session.broker() as broker:
        lines = broker.run(inspect.workers())
    if session.json:
        session.document([as_json(line) for line in lines])
        return
    session.data(
        table(
            (
                *("WORKER", "KIND", "VERSION", "STATE", "BEAT", "RUNNING"),
                *("QUEUES", "TASKS", "STARTED", "ID"),
            ),
            [
                (
                    f"{line.host}:{line.pid}",
                    line.kind,
                    line.version,
                    "alive" if line.alive else "dead",
                    f"{duration(line.silent)} ago",
                    f"{line.running}/{line.children}",
                    ",".join(line.queues),
                    len(line.tasks),
                    instant(line.started_at),
                    line.id,
                )
                for line in lines
            ],
            right="BEAT RUNNING TASKS",
        )
    )
