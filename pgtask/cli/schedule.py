"""`pgtask schedule ...`: make, list and change schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pgtask.cli.schedule_next import explain, next_
from pgtask.cli.schedule_show import document, show, there
from pgtask.cli.session import Session, pass_session
from pgtask.cli.spec import spec_of, spec_options
from pgtask.cli.table import clipped, table
from pgtask.cli.times import DURATION, instant
from pgtask.errors import TaskNotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgtask.broker.schedules import ScheduleLine


@click.group()
def schedule() -> None:
    """Make, list, pause and fire schedules."""


schedule.add_command(show)
schedule.add_command(next_)
schedule.add_command(explain)


@schedule.command()
@pass_session
def ls(session: Session) -> None:
    """List schedules."""
    from pgtask.broker import schedules

    with session.broker() as broker:
        lines = broker.run(schedules.list_())
        alive = any(beat.live for beat in broker.run(schedules.beats()))
    if session.json:
        session.document([document(line) for line in lines])
        return
    session.data(
        table(
            ("SCHEDULE", "TASK", "WHEN", "STATE", "NEXT", "LAST", "OUTCOME", "FROM"),
            [
                (
                    line.name,
                    line.task,
                    clipped(_when(line), 40),
                    line.state if line.known is not False else f"{line.state}, unknown task",
                    instant(line.next_at),
                    instant(line.last_tick),
                    line.last_state,
                    _origin(line),
                )
                for line in lines
            ],
        )
    )
    unknown = sorted({line.task for line in lines if line.known is False})
    if unknown:
        session.note(f"pgtask: no live worker knows {', '.join(unknown)} → see: pgtask tasks")
    if lines and not alive:
        session.note("pgtask: no beat is alive, so none of them fires → pgtask beat")


@schedule.command()
@click.argument("name")
@click.argument("task")
@click.argument("arguments", nargs=-1, metavar="[K=V...|JSON]")
@spec_options
@click.option("--catchup", type=click.Choice(["last", "none", "all"]), help="Missed ticks (last).")
@click.option(
    "--overlap",
    type=click.Choice(["skip", "queue", "replace"]),
    help="While the job of an earlier tick is unfinished (skip).",
)
@click.option("--grace", type=DURATION, help="A tick that is later than this makes no job.")
@click.option("--queue", help="Jobs go into this queue.")
@click.option("--priority", type=click.IntRange(-100, 100), help="-100..100, higher first (0).")
@click.option("--max-attempts", type=click.IntRange(1), help="Tries of each job (3).")
@click.option("--key", help="At most one unfinished job has this key.")
@click.option("--serial", help="At most one job with it runs at a time.")
@click.option("--expires", type=DURATION, help="Cancel a job that has not begun so long after.")
@click.option("--disabled", is_flag=True, help="Make it, but do not let it fire.")
@click.option("--unknown", is_flag=True, help="Make it though the app has no such task.")
@pass_session
def add(
    session: Session,
    /,
    name: str,
    task: str,
    arguments: tuple[str, ...],
    *,
    unknown: bool,
    disabled: bool,
    **given: Any,
) -> None:
    """Make a schedule, or define it anew.

    The arguments are those of `pgtask enqueue`; the app, if there is one, checks them.
    """
    from pgtask.broker import schedules
    from pgtask.definition import Definition

    when = spec_of(given)
    policies = {word: given.pop(word) for word in ("catchup", "overlap", "grace")}
    options = {option: value for option, value in given.items() if value is not None}
    made = Definition(
        name,
        _signature(session, task, arguments, options, unknown=unknown),
        when,
        **{word: value for word, value in policies.items() if value is not None},
        enabled=not disabled,
    )
    with session.broker() as broker:
        schedule_id = broker.run(schedules.put(made.row(), "cli"))
    if session.json:
        session.document({"schedule": name, "id": str(schedule_id)})
    else:
        session.note(f"schedule {name}: {when.explain()}")


@schedule.command()
@click.argument("name")
@pass_session
def rm(session: Session, name: str) -> None:
    """Remove a schedule and its history; its jobs stay."""
    from pgtask.broker import schedules

    with session.broker() as broker:
        line = there(broker, name)
        what = f"Remove schedule {name} and its history?"
        if line.source == "code" and not line.gone:
            what += f" The code of app {line.app} declares it: the next beat brings it back."
        session.confirm(what)
        removed = broker.run(schedules.drop(name))
    _say(session, name, changed=removed, done="removed", already="was gone already")


@schedule.command()
@click.argument("name")
@click.option("--reason", help="Shown to everybody who wonders.")
@pass_session
def pause(session: Session, name: str, reason: str | None) -> None:
    """Let a schedule fire no more until it is resumed."""
    from pgtask.broker import schedules

    with session.broker() as broker:
        changed = broker.run(schedules.pause(name, reason))
        if not changed:
            there(broker, name)
    _say(session, name, changed=changed, done="paused", already="was paused already")


@schedule.command()
@click.argument("name")
@pass_session
def resume(session: Session, name: str) -> None:
    """Let a paused schedule fire again; what it missed meanwhile is not made up for."""
    from pgtask.broker import schedules

    with session.broker() as broker:
        changed = broker.run(schedules.resume(name))
        if not changed:
            there(broker, name)
    _say(session, name, changed=changed, done="resumed", already="was not paused")


@schedule.command()
@click.argument("name")
@pass_session
def fire(session: Session, name: str) -> None:
    """Enqueue a schedule's job now, beside its ticks, and print its id."""
    from pgtask.broker import schedules

    with session.broker() as broker:
        job_id = broker.run(schedules.fire_now(name))
        if job_id is None:
            there(broker, name)
    if session.json:
        session.document({"schedule": name, "job": str(job_id)})
    else:
        session.data(str(job_id))


@schedule.command()
@click.argument("name")
@pass_session
def reset(session: Session, name: str) -> None:
    """Define a schedule again as the code declares it."""
    from pgtask.broker import schedules

    with session.broker() as broker:
        line = there(broker, name)
        if line.source != "code":
            raise click.UsageError(
                f"schedule {name} was not declared by code, but made by {line.source} → define it"
                " anew: pgtask schedule add"
            )
        broker.run(schedules.reset(name))
    _say(session, name, changed=line.edited, done="reset", already="was not edited")


def _signature(
    session: Session,
    task: str,
    arguments: tuple[str, ...],
    options: Mapping[str, Any],
    *,
    unknown: bool,
) -> Any:
    from pgtask.app import default_app
    from pgtask.cli.enqueue import call_of
    from pgtask.config import near
    from pgtask.discover import find_spec

    args, kwargs = call_of(arguments)
    found = find_spec(session.config_without_app.app, session.directory)
    app = default_app() if found is None and unknown else session.app
    app.config = session.config
    if task not in app.tasks and not unknown:
        raise TaskNotFound(
            f"no task {task!r} in app {app.name!r}{near(task, sorted(app.tasks))} → "
            "see: pgtask tasks, or add --unknown"
        )
    return app.signature(task, args, kwargs, **options)


def _when(line: ScheduleLine) -> str:
    from pgtask.schedule import Schedule

    try:
        return Schedule.from_json(line.spec).explain()
    except ValueError:
        return line.spec


def _origin(line: ScheduleLine) -> str:
    origin = f"code of {line.app}" if line.source == "code" else line.source
    return f"{origin}, edited" if line.edited else origin


def _say(session: Session, name: str, *, changed: bool, done: str, already: str) -> None:
    if session.json:
        session.document({"schedule": name, "changed": changed})
    else:
        session.note(f"schedule {name} {done if changed else already}")
