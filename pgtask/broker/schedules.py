"""Schedules: define, declare, pause, look, and what beat does with those that are due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

import msgspec

from pgtask.broker.statement import Row, Statement, nothing, scalar
from pgtask.errors import BadOption
from pgtask.signature import Signature


class ScheduleLine(NamedTuple):
    """One schedule as people see it; everything that is JSON is its text.

    `state` is active, paused, disabled, gone, broken or ended; `last_state` is the last job's.
    `known`: a live worker has the task; None while none lives.
    """

    id: int
    name: str
    task: str
    state: str
    next_at: datetime | None
    last_tick: datetime | None
    last_job: int | None
    last_state: str | None
    spec: str
    catchup: str
    overlap: str
    grace: float | None
    error: str | None
    enabled: bool
    paused: bool
    paused_reason: str | None
    paused_by: str | None
    paused_at: datetime | None
    source: str
    app: str | None
    edited: bool
    gone: bool
    args: str
    kwargs: str | None
    queue: str | None
    priority: int | None
    max_attempts: int | None
    max_crashes: int | None
    key: str | None
    on_conflict: str | None
    serial: str | None
    keep: str | None
    expires_in: float | None
    policy: str | None
    headers: str | None
    tags: list[str] | None
    declared: str | None
    revision: int
    created_at: datetime
    updated_at: datetime
    known: bool | None
    now: datetime


class TickLine(NamedTuple):
    """One tick; `outcome` is the state of its job (None: it is forgotten), or why it has none."""

    tick_at: datetime
    fired_at: datetime
    lateness: float
    job: int | None
    reason: str | None
    missed: int
    outcome: str | None


class BeatLine(NamedTuple):
    """One beat process; `silent` is seconds since it was last seen."""

    id: str
    host: str
    pid: int
    version: str
    started_at: datetime
    seen_at: datetime
    live: bool
    silent: float


class Due(NamedTuple):
    """A schedule that beat has to do something about: plan it, or fire what is due.

    `planned`: `next_at` was found for this revision (None: there is no further tick).
    """

    id: int
    name: str
    revision: int
    planned: bool
    spec: str
    next_at: datetime | None
    catchup: str
    overlap: str
    grace: float | None
    task: str
    now: datetime


class Agenda(NamedTuple):
    """What is to be done now, and in how many seconds the next tick after that is due, if any."""

    now: datetime
    wait: float | None
    due: list[Due]


class Tick(NamedTuple):
    """A tick to fire (`reason` None) or to record with the reason why it is not fired.

    `missed` is how many due ticks before it this one stands for.
    """

    at: datetime
    reason: str | None = None
    missed: int = 0


class Fire(NamedTuple):
    """What beat made of a Due: `seen` is the next_at it was read with, `next` the new one."""

    id: int
    revision: int
    seen: datetime | None
    next: datetime | None
    ticks: tuple[Tick, ...] = ()
    error: str | None = None


class Fired(NamedTuple):
    """What became of a tick, or of a schedule that was not fired (`tick_at` is None).

    With a tick: `job`, or why it has none: overlap, missed, late, error, or repeated (it was
    recorded before). Without: changed, locked or missing; somebody else was faster.
    """

    id: int
    tick_at: datetime | None
    job: int | None
    reason: str | None


def definition(
    name: str,
    signature: Signature,
    spec: str,
    *,
    catchup: str | None = None,
    overlap: str | None = None,
    grace: float | None = None,
    enabled: bool = True,
) -> dict[str, Any]:
    """What `put` and `declare` take; `spec` is JSON text. Raises BadOption."""
    options = signature.options
    for option, value, instead in (
        ("countdown", options.delay, "let the schedule say when"),
        ("eta", options.run_at, "let the schedule say when"),
        ("expires", options.expires_at, "give seconds after the tick"),
    ):
        if value is not None:
            raise BadOption(f"schedule {name!r}: {option} = {value} is one instant; {instead}")
    said: dict[str, Any] = {
        "name": name,
        "task": signature.task,
        "spec": _raw(spec),
        "args": _raw(signature.args),
        "kwargs": _raw(signature.kwargs),
        "queue": options.queue,
        "priority": options.priority,
        "max_attempts": options.max_attempts,
        "max_crashes": options.max_crashes,
        "key": signature.key,
        "on_conflict": options.on_conflict,
        "serial": signature.serial,
        "keep": options.keep,
        "expires_in": options.expires_in,
        "policy": _raw(options.policy_json()),
        "headers": _raw(options.headers_json()),
        "tags": list(options.tags) or None,
        "catchup": catchup,
        "overlap": overlap,
        "grace": grace,
        "enabled": enabled,
    }
    return {key: value for key, value in said.items() if value is not None}


def put(definition: Mapping[str, Any], source: str = "api") -> Statement[int]:
    """Insert the schedule of this name, or define it anew; what is not said is as by default."""
    return Statement(
        "select pgtask._put_schedule(%(p)s::json, %(source)s::text)",
        {"p": _json(definition), "source": source},
        scalar,
    )


def declare(app: str, definitions: Sequence[Mapping[str, Any]]) -> Statement[dict[str, str]]:
    """Bring the schedules of an app to these; by name what became of each.

    inserted, updated, unchanged, kept (edited at run time), taken (not this app's), gone.
    """
    return Statement(
        "select name, what from pgtask._declare_schedules(%(app)s::text, %(declared)s::json)",
        {"app": app, "declared": _json(list(definitions))},
        lambda rows: {row[0]: row[1] for row in rows},
    )


def fire_now(name: str) -> Statement[int | None]:
    """A job of this schedule now; None when there is no such schedule."""
    return Statement("select pgtask.fire_schedule(%(name)s::text)", {"name": name}, scalar)


def drop(name: str) -> Statement[bool]:
    """True when the schedule was there."""
    return Statement("select pgtask.drop_schedule(%(name)s::text)", {"name": name}, scalar)


def pause(name: str, reason: str | None) -> Statement[bool]:
    """True when the schedule is there and was not paused before."""
    return Statement(
        "select pgtask.pause_schedule(%(name)s::text, %(reason)s::text)",
        {"name": name, "reason": reason},
        scalar,
    )


def resume(name: str) -> Statement[bool]:
    """True when the schedule was paused before."""
    return Statement("select pgtask.resume_schedule(%(name)s::text)", {"name": name}, scalar)


def reset(name: str) -> Statement[bool]:
    """Define the schedule as the code declares it; False when it is not from code."""
    return Statement("select pgtask.reset_schedule(%(name)s::text)", {"name": name}, scalar)


_LINE: LiteralString = """
select s.id, s.name, s.task, s.state, s.next_at, s.last_tick, s.last_job, s.last_state,
       s.spec::text, s.catchup, s.overlap, s.grace, s.error, s.enabled, s.paused, s.paused_reason,
       s.paused_by, s.paused_at, s.source, s.app, s.edited, s.gone, s.args::text, s.kwargs::text,
       s.queue, s.priority, s.max_attempts, s.max_crashes, s.key, s.on_conflict, s.serial, s.keep,
       s.expires_in, s.policy::text, s.headers::text, s.tags, s.declared::text, s.revision,
       s.created_at, s.updated_at, s.known, clock_timestamp()
  from pgtask.schedules s"""


def get(name: str) -> Statement[ScheduleLine | None]:
    """One schedule; None when there is none of this name."""
    return Statement(
        _LINE + "\n where s.name = %(name)s::text",
        {"name": name},
        lambda rows: ScheduleLine(*rows[0]) if rows else None,
    )


def list_(*, app: str | None = None, task: str | None = None) -> Statement[list[ScheduleLine]]:
    """All schedules, or those of an app or a task, by name."""
    return Statement(
        _LINE
        + """
 where (%(app)s::text is null or s.app = %(app)s::text)
   and (%(task)s::text is null or s.task = %(task)s::text)
 order by s.name collate "C\"""",
        {"app": app, "task": task},
        lambda rows: [ScheduleLine(*row) for row in rows],
    )


def names() -> Statement[list[str]]:
    """The names of all schedules, for a near match."""
    return Statement(
        'select s.name from pgtask.schedules s order by s.name collate "C"',
        {},
        lambda rows: [row[0] for row in rows],
    )


def ticks(name: str, n: int) -> Statement[list[TickLine]]:
    """The last `n` ticks of a schedule, newest first."""
    return Statement(
        """
select t.tick_at, t.fired_at, extract(epoch from t.lateness)::float8, t.job, t.reason, t.missed,
       t.outcome
  from pgtask.ticks t
 where t.schedule = %(name)s::text
 order by t.tick_at desc limit %(n)s::bigint""",
        {"name": name, "n": n},
        lambda rows: [TickLine(*row) for row in rows],
    )


def typical_seconds(name: str) -> Statement[float | None]:
    """How long most of its last jobs took, 9 of 10 no longer; None while none has finished."""
    return Statement(
        """
select percentile_cont(0.9) within group (order by extract(epoch from j.finished_at - j.claimed_at))
  from (select t.job from pgtask.ticks t
         where t.schedule = %(name)s::text and t.job is not null
         order by t.tick_at desc limit 20) l
  join pgtask.jobs j on j.id = l.job
 where j.finished_at is not null and j.claimed_at is not null""",
        {"name": name},
        scalar,
    )


def beats() -> Statement[list[BeatLine]]:
    """Beat processes of the last day, the latest seen first."""
    return Statement(
        """
select b.id::text, b.host, b.pid, b.version, b.started_at, b.seen_at, b.live,
       extract(epoch from clock_timestamp() - b.seen_at)::float8
  from pgtask.beats b
 order by b.seen_at desc, b.id""",
        {},
        lambda rows: [BeatLine(*row) for row in rows],
    )


_DUE: LiteralString = """
select id, name, revision, planned, spec::text, next_at, catchup, overlap, grace, task, now, wait"""


def due(beat: UUID | None, host: str, pid: int, version: str, limit: int) -> Statement[Agenda]:
    """What is to be done now; says that this beat is alive, too.

    As many as `limit` came back: there may be more.
    """
    return Statement(
        _DUE + " from pgtask._due(%(beat)s::uuid, %(host)s::text, %(pid)s::int, %(version)s::text,"
        " %(limit)s::int)",
        {"beat": beat, "host": host, "pid": pid, "version": version, "limit": limit},
        _agenda,
    )


def planned(after: int, limit: int) -> Statement[Agenda]:
    """A page of the schedules whose next tick is known, by id; `wait` is None."""
    return Statement(
        _DUE + " from pgtask._planned(%(after)s::bigint, %(limit)s::int)",
        {"after": after, "limit": limit},
        _agenda,
    )


def fire(fires: Sequence[Fire]) -> Statement[list[Fired]]:
    """Make the jobs of due ticks and note the next ones, all or nothing.

    A schedule of which nothing is answered was planned, without a tick.
    """
    return Statement(
        "select id, tick_at, job, reason from pgtask._fire(%(fires)s::json)",
        {"fires": _json([_sent(fire) for fire in fires])},
        lambda rows: [Fired(*row) for row in rows],
    )


def ended(beat: UUID) -> Statement[None]:
    """A beat ends, and is no longer listed."""
    return Statement("select pgtask._beat_ended(%(beat)s::uuid)", {"beat": beat}, nothing)


def replan() -> Statement[int]:
    """Have the next tick of every schedule found anew; of how many."""
    return Statement("select pgtask._replan()", {}, scalar)


def _agenda(rows: Sequence[Row]) -> Agenda:
    now, wait = rows[0][10:]
    return Agenda(now, wait, [Due(*row[:11]) for row in rows if row[0] is not None])


def _sent(fire: Fire) -> dict[str, Any]:
    sent = fire._asdict()
    sent["ticks"] = [tick._asdict() for tick in fire.ticks]
    if fire.error is not None:
        # It may quote anything; what cannot be stored must not keep it from being told.
        sent["error"] = fire.error.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
    return sent


def _raw(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
