"""What people ask about jobs, queues and workers: reading statements over the public views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from pgtask.broker.statement import Row, Statement
from pgtask.job import FINISHED, STATES

UNFINISHED = tuple(state for state in STATES if state not in FINISHED)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs are meant; an empty filter means all of them.

    `task` may hold `*`. `since` is seconds back from now: the job was created, claimed or finished
    within them; `older_than`: not within them. `before` is an id: older jobs only.
    """

    queues: tuple[str, ...] = ()
    task: str | None = None
    states: tuple[str, ...] = ()
    since: float | None = None
    key: str | None = None
    tag: str | None = None
    before: int | None = None
    older_than: float | None = None
    serial: str | None = None
    tenant: str | None = None
    reason: str | None = None

    @property
    def params(self) -> dict[str, Any]:
        return {
            "queues": list(self.queues) or None,
            "task": None if self.task is None else _like(self.task),
            "states": list(self.states) or None,
            "since": self.since,
            "key": self.key,
            "tag": self.tag,
            "before": self.before,
            "older_than": self.older_than,
            "serial": self.serial,
            "tenant": self.tenant,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class JobLine:
    """One job, as short as a list has it."""

    id: int
    task: str
    queue: str
    priority: int
    state: str
    reason: str | None
    attempt: int
    max_attempts: int
    key: str | None
    serial: str | None
    tags: list[str] | None
    created_at: datetime
    run_at: datetime | None
    claimed_at: datetime | None
    finished_at: datetime | None
    worker: str | None
    error: str | None
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class JobPage:
    """All about one job but its attempts; args, kwargs, policy, headers and result are JSON."""

    line: JobLine
    epoch: int
    crashes: int
    keep: str
    args: str | None
    kwargs: str | None
    policy: str | None
    headers: str | None
    expires_at: datetime | None
    result: str | None
    worker_name: str | None


@dataclass(frozen=True, slots=True)
class AttemptLine:
    """One attempt that did not succeed."""

    attempt: int
    epoch: int
    outcome: str
    error_type: str | None
    error_message: str | None
    error_traceback: str | None
    worker: str | None
    claimed_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Obstacles:
    """What may keep an unfinished job from running, and what is to be done about its key."""

    due_in: float | None
    expires_in: float | None
    paused: bool
    paused_by: str | None
    paused_reason: str | None
    workers: int
    workers_of_queue: int
    workers_of_task: int
    workers_of_both: int
    workers_with_room: int
    serial_owner: int | None
    key_owner: int | None
    ahead: int


@dataclass(frozen=True, slots=True)
class QueueLine:
    """One queue; `oldest_ready` is the age in seconds of the job that has been ready longest."""

    queue: str
    paused: bool
    paused_reason: str | None
    paused_by: str | None
    paused_at: datetime | None
    blocked: int
    scheduled: int
    ready: int
    running: int
    oldest_ready: float | None
    workers: int
    events: bool


@dataclass(frozen=True, slots=True)
class WorkerLine:
    """One worker process; `silent` is seconds since its last beat."""

    id: str
    host: str
    pid: int
    version: str
    queues: list[str]
    tasks: list[str]
    children: int
    running: int
    alive: bool
    started_at: datetime
    last_beat_at: datetime
    died_at: datetime | None
    silent: float
    kind: str  # worker; or consumer, which only sends SQL


@dataclass(frozen=True, slots=True)
class TaskLine:
    """A task name that live workers know, or that unfinished jobs wait for."""

    task: str
    workers: int
    waiting: int
    running: int


_MATCHING: LiteralString = """
  from pgtask.jobs j
 where (%(queues)s::text[] is null or j.queue = any (%(queues)s::text[]))
   and (%(task)s::text is null or j.task like %(task)s::text)
   and (%(states)s::text[] is null or j.state = any (%(states)s::text[]))
   and (%(since)s::float8 is null
        or greatest(j.created_at, j.claimed_at, j.finished_at)
           >= now() - make_interval(secs => %(since)s::float8))
   and (%(key)s::text is null or j.key = %(key)s::text)
   and (%(tag)s::text is null or %(tag)s::text = any (j.tags))
   and (%(before)s::bigint is null or j.id < %(before)s::bigint)
   and (%(older_than)s::float8 is null
        or greatest(j.created_at, j.claimed_at, j.finished_at)
           <= now() - make_interval(secs => %(older_than)s::float8))
   and (%(serial)s::text is null or j.serial = %(serial)s::text)
   and (%(tenant)s::text is null or j.tenant = %(tenant)s::text)
   and (%(reason)s::text is null or j.reason = %(reason)s::text)"""

_LINE: LiteralString = """
select j.id, j.task, j.queue, j.priority, j.state, j.reason, j.attempt, j.max_attempts, j.key,
       j.serial, j.tags, j.created_at, j.run_at, j.claimed_at, j.finished_at, j.worker::text,
       j.error, j.tenant"""


def jobs(which: Filter, limit: int) -> Statement[list[JobLine]]:
    """The newest jobs that match, newest first."""
    return Statement(
        _LINE + _MATCHING + "\n order by j.id desc limit %(limit)s::bigint",
        {**which.params, "limit": limit},
        lambda rows: [JobLine(*row) for row in rows],
    )


def count(which: Filter) -> Statement[tuple[int, int]]:
    """How many jobs match, and the greatest id among them (0 without any)."""
    return Statement(
        "select count(*), coalesce(max(j.id), 0)" + _MATCHING,
        which.params,
        lambda rows: (rows[0][0], rows[0][1]),
    )


def matching_ids(which: Filter, after: int, limit: int) -> Statement[list[int]]:
    """The smallest matching ids above `after`, to walk through them page by page."""
    return Statement(
        "select j.id"
        + _MATCHING
        + "\n   and j.id > %(after)s::bigint order by j.id limit %(limit)s::bigint",
        {**which.params, "after": after, "limit": limit},
        lambda rows: [row[0] for row in rows],
    )


def job(job_id: int) -> Statement[JobPage | None]:
    """One job with its payload; None when there is none."""
    return Statement(
        _LINE
        + """,
       j.epoch, j.crashes, j.keep, coalesce(j.args, p.args)::text,
       coalesce(j.kwargs, p.kwargs)::text, j.policy::text, j.headers::text, j.expires_at,
       coalesce(j.result, p.result)::text,
       w.host || ':' || w.pid
  from pgtask.jobs j
  left join pgtask.payloads p on p.job = j.id
  left join pgtask.workers w on w.id = j.worker
 where j.id = %(job)s::bigint""",
        {"job": job_id},
        lambda rows: _job_page(rows[0]) if rows else None,
    )


def attempts(job_id: int) -> Statement[list[AttemptLine]]:
    """The attempts of a job that did not succeed, first to last."""
    return Statement(
        """
select a.attempt, a.epoch, a.outcome, a.error_type, a.error_message, a.error_traceback,
       a.worker::text, a.claimed_at, a.ended_at
  from pgtask.attempts a
 where a.job = %(job)s::bigint
 order by a.epoch""",
        {"job": job_id},
        lambda rows: [AttemptLine(*row) for row in rows],
    )


def obstacles(job_id: int) -> Statement[Obstacles | None]:
    """The facts from which to say why a job does not run; None when there is no such job."""
    return Statement(
        """
with job as (select * from pgtask.jobs where id = %(job)s::bigint),
live as (
  select w.running < w.children as has_room,
         w.queues && array[job.queue, '*'] as takes_queue,
         exists (select from unnest(w.tasks) as t (glob)
                  where job.task like replace(replace(replace(replace(
                    t.glob, '!', '!!'), '_', '!_'), '%%', '!%%'), '*', '%%') escape '!'
                ) as knows_task
    from job, pgtask.workers w
   where w.alive
)
select extract(epoch from j.run_at - clock_timestamp())::float8,
       extract(epoch from j.expires_at - clock_timestamp())::float8,
       coalesce(q.paused, false), q.paused_by, q.paused_reason,
       (select count(*) from live),
       (select count(*) from live where takes_queue),
       (select count(*) from live where knows_task),
       (select count(*) from live where takes_queue and knows_task),
       (select count(*) from live where takes_queue and knows_task and has_room),
       (select o.id from pgtask.jobs o
         where o.serial = j.serial and o.id <> j.id and o.state in ('running', 'scheduled', 'ready')
         order by o.state = 'running' desc, o.id limit 1),
       (select o.id from pgtask.jobs o
         where o.key = j.key and o.state in ('blocked', 'scheduled', 'ready', 'running')
         order by o.id desc limit 1),
       (select count(*) from pgtask.jobs o
         where j.state = 'ready' and o.state = 'ready' and o.queue = j.queue
           and (o.priority > j.priority or o.priority = j.priority and o.id < j.id))
  from job j
  left join pgtask.queues q on q.queue = j.queue""",
        {"job": job_id},
        lambda rows: Obstacles(*rows[0]) if rows else None,
    )


def queues() -> Statement[list[QueueLine]]:
    """Every queue that exists or holds a job, by name."""
    return Statement(
        """
select q.queue, q.paused, q.paused_reason, q.paused_by, q.paused_at, q.blocked, q.scheduled,
       q.ready, q.running, extract(epoch from q.oldest_ready)::float8,
       (select count(*) from pgtask.workers w
         where w.alive and w.queues && array[q.queue, '*']),
       q.events
  from pgtask.queues q
 order by q.queue""",
        {},
        lambda rows: [QueueLine(*row) for row in rows],
    )


def workers() -> Statement[list[WorkerLine]]:
    """Worker processes alive or dead within a day: the living first, then by start."""
    return Statement(
        """
select w.id::text, w.host, w.pid, w.version, w.queues, w.tasks, w.children, w.running, w.alive,
       w.started_at, w.last_beat_at, w.died_at,
       extract(epoch from clock_timestamp() - w.last_beat_at)::float8, w.kind
  from pgtask.workers w
 order by w.alive desc, w.started_at, w.id""",
        {},
        lambda rows: [WorkerLine(*row) for row in rows],
    )


def tasks() -> Statement[list[TaskLine]]:
    """Every task name that a live worker knows or an unfinished job has."""
    return Statement(
        """
with known as (
  select t.task, count(*) as workers
    from pgtask.workers w, unnest(w.tasks) as t (task)
   where w.alive and w.kind = 'worker'
   group by t.task
),
wanted as (
  select j.task, count(*) filter (where j.state <> 'running') as waiting,
         count(*) filter (where j.state = 'running') as running
    from pgtask.jobs j
   where j.state in ('blocked', 'scheduled', 'ready', 'running')
   group by j.task
)
select coalesce(k.task, n.task), coalesce(k.workers, 0), coalesce(n.waiting, 0),
       coalesce(n.running, 0)
  from known k
  full join wanted n on n.task = k.task
 order by 1""",
        {},
        lambda rows: [TaskLine(*row) for row in rows],
    )


def missing(ids: Sequence[int]) -> Statement[list[int]]:
    """Those of the ids that no job has."""
    return Statement(
        """
select i.id from unnest(%(ids)s::bigint[]) as i (id)
 where not exists (select from pgtask.jobs j where j.id = i.id)
 order by 1""",
        {"ids": list(ids)},
        lambda rows: [row[0] for row in rows],
    )


def _job_page(row: Row) -> JobPage:
    width = len(JobLine.__dataclass_fields__)
    return JobPage(JobLine(*row[:width]), *row[width:])


def _like(pattern: str) -> str:
    for special in ("\\", "%", "_"):
        pattern = pattern.replace(special, "\\" + special)
    return pattern.replace("*", "%")
