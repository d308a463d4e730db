"""`pgtask tail`: what happens to jobs, as it happens."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

import click

from pgtask.cli.session import Session, pass_session
from pgtask.cli.table import clipped
from pgtask.cli.times import duration

if TYPE_CHECKING:
    from pgtask.broker.events import Event
    from pgtask.broker.pool import Broker

WIDTH = 500  # characters of a line


@click.command()
@click.option("-Q", "--queue", multiple=True, metavar="QUEUE", help="Of this queue.")
@click.option("-t", "--task", metavar="TASK", help="Of this task; * stands for anything.")
@click.option("-n", "limit", type=click.IntRange(1), help="End after so many events.")
@click.option("--enable", is_flag=True, help="Switch the events of these queues on, first.")
@pass_session
def tail(
    session: Session, queue: tuple[str, ...], task: str | None, limit: int | None, *, enable: bool
) -> None:
    """Show what happens to jobs, as it happens.

    Only queues whose events are on tell anything: see pgtask queue events. With --json each event
    is a JSON object on a line of its own. What happens while the connection is lost is not heard.
    """
    from pgtask.broker import events

    queues = [name for given in queue for name in given.split(",") if name]
    if enable and not queues:
        raise click.UsageError("--enable switches on the events of which queue? → -Q NAME")
    with session.broker() as broker:
        _prepare(session, broker, queues, enable=enable)
    config = session.config
    dsn = config.listen_dsn or session.database_url()
    pooler = "auto" if config.listen_dsn else config.pooler  # the setting speaks of the other one
    shown = 0
    for heard in events.listen(dsn, pooler=pooler):
        if isinstance(heard, events.Connected):
            session.note(
                "pgtask: connected again; what happened meanwhile was not heard"
                if heard.again
                else "pgtask: listening"
            )
        elif isinstance(heard, events.Lost):
            session.note(f"pgtask: {heard.why}; again in {duration(heard.pause)}")
        elif _is_meant(heard, queues, task):
            session.data(_json(heard) if session.json else _line(heard))
            shown += 1
            if shown == limit:
                return


def _prepare(session: Session, broker: Broker, queues: list[str], *, enable: bool) -> None:
    from pgtask.broker import inspect
    from pgtask.broker import queues as statements
    from pgtask.signature import check_queue_name

    for name in queues:
        check_queue_name(name)
        if enable and broker.run(statements.set_events(name, enabled=True)):
            session.note(
                f"pgtask: the events of queue {name} are on now, and stay so"
                f" → pgtask queue events {name} off"
            )
    telling = {line.queue for line in broker.run(inspect.queues()) if line.events}
    if not queues and not telling:
        session.note("pgtask: no queue has events → pgtask queue events NAME on")
    for name in queues:
        if name not in telling:
            session.note(f"pgtask: queue {name} has no events → pgtask queue events {name} on")


def _is_meant(event: Event, queues: list[str], task: str | None) -> bool:
    if queues and event.queue not in queues:
        return False
    if task is None:
        return True
    glob = ".*".join(map(re.escape, task.split("*")))
    return re.fullmatch(glob, event.task, re.DOTALL) is not None


def _line(event: Event) -> str:
    try:
        at = datetime.fromisoformat(event.at).astimezone().isoformat(" ", "milliseconds")
    except ValueError:
        at = event.at
    more = {
        "attempt": event.attempt,
        "worker": event.worker,
        "reason": event.reason,
        "tenant": event.tenant,
    }
    said = " ".join(f"{name}={value}" for name, value in more.items() if value is not None)
    line = f"{at}  {event.event:<10}  {event.job}  {event.task}  {event.queue}  {said}"
    # On one line, and without what a terminal would obey: anybody may notify on this channel.
    return clipped(_printable(line), WIDTH)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _json(event: Event) -> str:
    import msgspec

    return msgspec.json.encode(event).decode()
