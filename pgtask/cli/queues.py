"""`pgtask queues` and `pgtask queue add|pause|resume|events`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgtask.cli.session import Session, as_json, pass_session
from pgtask.cli.table import table
from pgtask.cli.times import duration
from pgtask.errors import QueueNotFound

if TYPE_CHECKING:
    from pgtask.broker.inspect import QueueLine

SHOWN = 10  # names in an error


@click.command()
@pass_session
def queues(session: Session) -> None:
    """List queues and what they hold."""
    from pgtask.broker import inspect

    with session.broker() as broker:
        lines = broker.run(inspect.queues())
    if session.json:
        session.document([as_json(line) for line in lines])
        return
    session.data(
        table(
            ("QUEUE", "READY", "RUNNING", "SCHEDULED", "BLOCKED", "OLDEST", "WORKERS", "PAUSED"),
            [
                (
                    line.queue,
                    line.ready,
                    line.running,
                    line.scheduled,
                    line.blocked,
                    duration(line.oldest_ready),
                    line.workers,
                    _paused(line),
                )
                for line in lines
            ],
            right="READY RUNNING SCHEDULED BLOCKED OLDEST WORKERS",
        )
    )


@click.group()
def queue() -> None:
    """Add, pause or resume a queue, or switch its events."""


@queue.command()
@click.argument("name")
@pass_session
def add(session: Session, name: str) -> None:
    """Add a queue, so that it is listed before it has held a job."""
    from pgtask.broker import queues as statements

    _check(name)
    with session.broker() as broker:
        added = broker.run(statements.add(name))
    _say(session, name, changed=added, done="added", already="was there already")


@queue.command()
@click.argument("name")
@click.option("--reason", help="Shown to everybody who wonders.")
@pass_session
def pause(session: Session, name: str, reason: str | None) -> None:
    """Claim no more jobs from a queue; what runs goes on."""
    from pgtask.broker import queues as statements

    _check(name)
    with session.broker() as broker:
        paused = broker.run(statements.pause(name, reason))
    _say(session, name, changed=paused, done="paused", already="was paused already")


@queue.command()
@click.argument("name")
@pass_session
def resume(session: Session, name: str) -> None:
    """Claim jobs from a paused queue again."""
    from pgtask.broker import inspect
    from pgtask.broker import queues as statements

    _check(name)
    with session.broker() as broker:
        resumed = broker.run(statements.resume(name))
        if not resumed:
            _refuse_unknown(name, [line.queue for line in broker.run(inspect.queues())])
    _say(session, name, changed=resumed, done="resumed", already="was not paused")


@queue.command()
@click.argument("name")
@click.argument("switch", type=click.Choice(["on", "off"]))
@pass_session
def events(session: Session, name: str, switch: str) -> None:
    """Switch on or off what pgtask tail shows of a queue; off until somebody does.

    Waits a few seconds for transactions that write jobs just now.
    """
    from pgtask.broker import queues as statements

    _check(name)
    with session.broker() as broker:
        changed = broker.run(statements.set_events(name, enabled=switch == "on"))
    done, already = f"has its events {switch}", f"had its events {switch} already"
    _say(session, name, changed=changed, done=done, already=already)


def _check(name: str) -> None:
    from pgtask.signature import check_queue_name

    check_queue_name(name)


def _refuse_unknown(name: str, known: list[str]) -> None:
    if name in known:
        return
    from pgtask.config import near

    shown = ", ".join(known[:SHOWN]) + (", …" if len(known) > SHOWN else "")
    raise QueueNotFound(
        f"there is no queue {name!r}{near(name, known)} → "
        + (f"there are: {shown}; " if known else "")
        + f"add it by: pgtask queue add {name}"
    )


def _say(session: Session, name: str, *, changed: bool, done: str, already: str) -> None:
    if session.json:
        session.document({"queue": name, "changed": changed})
    else:
        session.note(f"queue {name} {done if changed else already}")


def _paused(line: QueueLine) -> str:
    if not line.paused:
        return ""
    return f"by {line.paused_by}" + (f": {line.paused_reason}" if line.paused_reason else "")
