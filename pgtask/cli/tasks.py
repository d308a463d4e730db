"""`pgtask tasks`: what the app has registered, and whether a live worker knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgtask.cli.session import Session, as_json, pass_session
from pgtask.cli.table import table

if TYPE_CHECKING:
    from pgtask.broker.inspect import TaskLine


@click.command()
@pass_session
def tasks(session: Session) -> None:
    """List tasks, and whether a live worker knows them.

    Without an app: those that live workers know or that jobs wait for.
    """
    from pgtask.broker import inspect
    from pgtask.broker.inspect import TaskLine
    from pgtask.discover import find_spec

    registered: set[str] | None = None
    if find_spec(session.config_without_app.app, session.directory) is not None:
        registered = set(session.app.tasks)
    with session.broker() as broker:
        lines = {line.task: line for line in broker.run(inspect.tasks())}
    for name in registered or ():
        lines.setdefault(name, TaskLine(name, workers=0, waiting=0, running=0))
    found = [lines[name] for name in sorted(lines)]
    if session.json:
        session.document(
            [
                as_json(line, registered=None if registered is None else line.task in registered)
                for line in found
            ]
        )
        return
    session.data(
        table(
            ("TASK", "APP", "WORKERS", "WAITING", "RUNNING", "NOTE"),
            [
                (
                    line.task,
                    "?" if registered is None else "yes" if line.task in registered else "no",
                    line.workers,
                    line.waiting,
                    line.running,
                    _note(line),
                )
                for line in found
            ],
            right="WORKERS WAITING RUNNING",
        )
    )


def _note(line: TaskLine) -> str:
    if line.waiting and not line.workers:
        return "jobs wait, but no live worker knows it"
    return ""
