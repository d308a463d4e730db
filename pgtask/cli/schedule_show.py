"""`pgtask schedule show`: everything about one schedule, and why it does not fire."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from pgtask.cli.session import Session, pass_session
from pgtask.cli.table import pairs, table
from pgtask.cli.ticks import as_table, strip, told
from pgtask.cli.times import duration, instant

if TYPE_CHECKING:
    from pgtask.broker.inspect import QueueLine, WorkerLine
    from pgtask.broker.pool import Broker
    from pgtask.broker.schedules import ScheduleLine, TickLine
    from pgtask.schedule import Schedule

FIRES = 10  # listed
STRIP = 40  # marks
NEXT = 5
UNFINISHED = ("blocked", "scheduled", "ready", "running")
_JSON = ("args", "kwargs", "policy", "headers", "spec", "declared")


class World(NamedTuple):
    """What is around a schedule and may keep its jobs from running."""

    beats: int  # alive
    ended: bool  # nothing comes after now, whether or not a beat has looked
    latest: TickLine | None
    queue: QueueLine | None
    workers: Sequence[WorkerLine]


@click.command()
@click.argument("name")
@pass_session
def show(session: Session, name: str) -> None:
    """Show everything about a schedule, and why it does not fire."""
    from pgtask.broker import inspect, schedules

    with session.broker() as broker:
        line = there(broker, name)
        ticks = broker.run(schedules.ticks(name, STRIP))
        queue = line.queue or "default"
        schedule = _parsed(line)
        coming = None if schedule is None else [*islice(schedule.upcoming(line.now), NEXT)]
        world = World(
            sum(beat.live for beat in broker.run(schedules.beats())),
            line.state == "ended" or (line.next_at is None and coming == []),
            ticks[0] if ticks else None,
            next((each for each in broker.run(inspect.queues()) if each.queue == queue), None),
            [worker for worker in broker.run(inspect.workers()) if worker.alive],
        )
    reasons = [*why_not_firing(line, world)]
    upcoming: list[dict[str, Any]] = []
    if schedule is not None and coming is not None:
        upcoming = told(schedule, coming, line.now, None)
    if session.json:
        session.document(
            document(line)
            | {
                "words": None if schedule is None else schedule.explain(),
                "why_not_firing": reasons,
                "ticks": [_tick_document(tick) for tick in ticks],
                "next": upcoming,
            }
        )
        return
    session.data(_facts(line, schedule))
    if reasons:
        session.data("\nwhy it does not fire\n" + "\n".join(f"  {why}" for why in reasons))
    if ticks:
        session.data(f"\nlast ticks  {strip(ticks)}\n{_history(ticks[:FIRES])}")
    if upcoming:
        session.data(f"\nnext ticks\n{as_table(upcoming)}")


def there(broker: Broker, name: str) -> ScheduleLine:
    """The schedule of that name; raises ScheduleNotFound."""
    from pgtask.broker import schedules
    from pgtask.schedules import unknown

    line = broker.run(schedules.get(name))
    if line is None:
        raise unknown(name, broker.run(schedules.names()))
    return line


def document(line: ScheduleLine) -> dict[str, Any]:
    """A schedule for a JSON document; ids are strings there."""
    fields: dict[str, Any] = line._asdict()
    for field in ("id", "last_job"):
        fields[field] = None if fields[field] is None else str(fields[field])
    for field in _JSON:
        fields[field] = None if fields[field] is None else _decoded(fields[field])
    del fields["now"]
    return fields


def _decoded(text: str) -> Any:
    """What the database calls JSON; as it is where Python cannot read that much of it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def why_not_firing(line: ScheduleLine, world: World) -> Iterator[str]:
    """One sentence for each thing that keeps it from firing, or its jobs from running."""
    if line.gone:
        yield f"the code of app {line.app} does not declare it any more → pgtask schedule rm"
    if not line.enabled:
        yield "it is disabled → define it anew: pgtask schedule add, or pgtask schedule reset"
    if line.paused:
        because = f" ({line.paused_reason})" if line.paused_reason else ""
        by = f" by {line.paused_by}" if line.paused_by else ""
        yield f"it was paused{by}{because} → pgtask schedule resume {line.name}"
    if line.error is not None:
        yield f"it is broken: {line.error} → correct it: pgtask schedule add"
    if world.ended:
        yield "it has no further tick"
    if not world.beats:
        yield "no beat is alive → pgtask beat"
    if line.state != "active":
        return
    if world.queue is not None and world.queue.paused:
        yield (
            f"it fires, but queue {world.queue.queue!r} is paused: its jobs wait"
            f" → pgtask queue resume {world.queue.queue}"
        )
    if world.latest is not None and world.latest.reason == "overlap":
        if line.last_state in UNFINISHED:
            yield (
                f"its last tick made no job, since job {line.last_job} ({line.last_state}) is not"
                f" finished → pgtask show {line.last_job}"
            )
        else:
            yield "its last tick made no job, since an earlier one, or its key's, was not finished"
    if not any(line.task in worker.tasks for worker in world.workers):
        yield f"it fires, but no live worker knows task {line.task!r}: its jobs wait"


def _facts(line: ScheduleLine, schedule: Schedule | None) -> str:
    origin = f"code of app {line.app}" if line.source == "code" else line.source
    return pairs(
        [
            ("schedule", line.name),
            ("task", line.task),
            ("when", None if schedule is None else schedule.explain()),
            ("spec", line.spec),
            ("state", line.state),
            ("next", instant(line.next_at)),
            ("last", _last(line)),
            ("args", line.args),
            ("kwargs", line.kwargs),
            ("queue", line.queue),
            ("priority", line.priority),
            ("attempts", line.max_attempts),
            ("crashes", line.max_crashes),
            ("key", line.key),
            ("on conflict", line.on_conflict),
            ("serial", line.serial),
            ("expires", duration(line.expires_in)),
            ("keep", line.keep),
            ("policy", line.policy),
            ("headers", line.headers),
            ("tags", ", ".join(line.tags) if line.tags else None),
            ("catch-up", line.catchup),
            ("overlap", line.overlap),
            ("grace", duration(line.grace)),
            ("from", f"{origin}, edited at run time" if line.edited else origin),
            ("changed", f"{instant(line.updated_at)} (revision {line.revision})"),
        ]
    )


def _last(line: ScheduleLine) -> str | None:
    """Its last job, which may lie before every tick that is listed."""
    if line.last_tick is None:
        return None
    return f"{instant(line.last_tick)}, job {line.last_job}: {line.last_state or 'forgotten'}"


def _history(ticks: Sequence[TickLine]) -> str:
    return table(
        ("TICK", "FIRED", "LATE", "JOB", "OUTCOME", "BEFORE"),
        [
            (
                instant(tick.tick_at),
                instant(tick.fired_at),
                "by hand" if tick.reason == "manual" else duration(max(0.0, tick.lateness)),
                tick.job,
                tick.outcome or "forgotten",
                f"{tick.missed} missed" if tick.missed else "",
            )
            for tick in ticks
        ],
        right="LATE JOB",
    )


def _tick_document(tick: TickLine) -> dict[str, Any]:
    fields: dict[str, Any] = tick._asdict()
    fields["job"] = None if tick.job is None else str(tick.job)
    fields["tick_at"] = tick.tick_at.astimezone(UTC)
    return fields


def _parsed(line: ScheduleLine) -> Schedule | None:
    from pgtask.schedule import Schedule

    try:
        return Schedule.from_json(line.spec)
    except ValueError:
        return None
