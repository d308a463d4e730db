"""`pgtask enqueue`: one job from the shell."""

from __future__ import annotations

import json
from typing import Any

import click

from pgtask.cli import failure
from pgtask.cli.session import Session, pass_session
from pgtask.cli.times import DURATION, INSTANT
from pgtask.cli.wait import finished, tell
from pgtask.config import near
from pgtask.errors import TaskNotFound


@click.command()
@click.argument("task")
@click.argument("arguments", nargs=-1, metavar="[K=V...|JSON]")
@click.option("--in", "countdown", type=DURATION, help="Not before so long from now, as 10m.")
@click.option("--at", "eta", type=INSTANT, help="Not before this time (ISO 8601).")
@click.option("--queue", help="Into this queue.")
@click.option("--priority", type=click.IntRange(-100, 100), help="-100..100, higher first (0).")
@click.option("--key", help="At most one unfinished job has this key.")
@click.option("--wait", "wait_too", is_flag=True, help="Wait, and print the result.")
@click.option("--unknown", is_flag=True, help="Enqueue it though the app has no such task.")
@pass_session
def enqueue(
    session: Session,
    /,
    task: str,
    arguments: tuple[str, ...],
    *,
    wait_too: bool,
    unknown: bool,
    **given: Any,
) -> int:
    """Enqueue one job and print its id.

    A value is JSON where it can be read as JSON, else text: n=3 to=ada tags='["a"]' zip='"01234"'.
    One argument in [ ] gives positional arguments, one in { } gives named ones.
    """
    options = {name: value for name, value in given.items() if value is not None}
    if {"countdown", "eta"} <= options.keys():
        raise click.UsageError("--in and --at exclude each other → give one")
    args, kwargs = call_of(arguments)
    app = _app(session, unknown=unknown)
    if task not in app.tasks and not unknown:
        raise TaskNotFound(
            f"no task {task!r} in app {app.name!r}{near(task, sorted(app.tasks))} → "
            "see: pgtask tasks, or add --unknown"
        )
    with session.broker() as broker:
        app.config = session.config
        try:
            result = app.enqueue(task, args, kwargs, **options)
        finally:
            app.client.close()
        if not result.created:
            session.note(f"pgtask: key {given['key']!r} is taken: its unfinished job is kept")
        if wait_too:
            if not session.json:
                session.note(f"job {result.id}")
            return tell(session, finished(broker, [result.id], None))
    if session.json:
        session.document({"id": str(result.id), "created": result.created})
    else:
        session.data(str(result.id))
    return failure.OK


def call_of(arguments: tuple[str, ...]) -> tuple[list[Any], dict[str, Any]]:
    """The positional and the named arguments that the words on the command line mean."""
    if len(arguments) == 1 and arguments[0].lstrip()[:1] in ("[", "{"):
        try:
            given = json.loads(arguments[0])
        except ValueError as error:
            raise click.UsageError(
                f"the arguments are not JSON: {error} → quote them for the shell"
            ) from error
        return (given, {}) if isinstance(given, list) else ([], given)
    kwargs: dict[str, Any] = {}
    for word in arguments:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise click.UsageError(f"{word!r} is not name=value → write {'name=' + word!r}")
        if name in kwargs:
            raise click.UsageError(f"{name} is given twice → give it once")
        try:
            kwargs[name] = json.loads(value)
        except ValueError:
            kwargs[name] = value
    return [], kwargs


def _app(session: Session, *, unknown: bool) -> Any:
    from pgtask.app import default_app
    from pgtask.discover import find_spec

    found = find_spec(session.config_without_app.app, session.directory)
    return default_app() if found is None and unknown else session.app
