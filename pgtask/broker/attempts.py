"""What a worker does to attempts: claim, finish, heartbeat, promote, rescue; and its own row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from pgtask.broker.statement import (
    Row,
    Statement,
    array_of_numbers,
    array_of_texts,
    nothing,
    scalar,
)
from pgtask.job import Attempt


# Structs, not tracked by the garbage collector: thousands are made and dropped each second.
class Claimed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A job in this worker's hands; arguments, policy and headers are JSON text, untouched."""

    id: int
    epoch: int
    attempt: int
    max_attempts: int
    task: str
    queue: str
    args: str
    kwargs: str | None
    policy: str | None
    headers: str | None
    tags: list[str] | None
    serial: bool
    priority: int
    seq: int
    lives: int | None = None  # how many crashes it has left; None: it never crashed


class Range(NamedTuple):
    """Where a claim looks: priorities low .. high of a queue; `seq` counts where both are one."""

    queue: str
    low: int
    high: int
    seq: int


class Ended(msgspec.Struct, frozen=True, gc=False):
    """How an attempt ended, in the words of pgtask._finish.

    `in_doubt`: unless the task's own transaction has committed, which the database will know.
    """

    id: int
    epoch: int
    verdict: str
    result: str | None = None
    delay: float | None = None
    reason: str | None = None
    type: str | None = None
    message: str | None = None
    traceback: str | None = None
    in_doubt: bool = False


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """What a worker says of itself."""

    id: UUID
    host: str
    pid: int
    version: str
    queues: Sequence[str]
    tasks: Sequence[str]
    children: int


def register(worker: WorkerRow) -> Statement[None]:
    """Add the worker's row, its lease."""
    return Statement(
        "select pgtask.register(%(id)s::uuid, %(host)s::text, %(pid)s::int, %(version)s::text,"
        " %(queues)s::text[], %(tasks)s::text[], %(children)s::int)",
        {
            "id": worker.id,
            "host": worker.host,
            "pid": worker.pid,
            "version": worker.version,
            "queues": list(worker.queues),
            "tasks": list(worker.tasks),
            "children": worker.children,
        },
        nothing,
    )


def learn(worker: UUID, tasks: Sequence[str]) -> Statement[None]:
    """Replace the tasks in the worker's row; raises WorkerNotAlive when the lease is gone."""
    return Statement(
        "select pgtask.learn(%(worker)s::uuid, %(tasks)s::text[])",
        {"worker": worker, "tasks": list(tasks)},
        nothing,
    )


def deregister(worker: UUID) -> Statement[None]:
    """End the worker's lease now."""
    return Statement("select pgtask.deregister(%(worker)s::uuid)", {"worker": worker}, nothing)


def heartbeat(
    worker: UUID, tally: Mapping[tuple[str, str], int]
) -> Statement[list[tuple[int, bool]]]:
    """Renew the lease and hand in what ended; answers (job id, terminate) of cancel requests.

    Raises WorkerNotAlive when the worker was declared dead.
    """
    return Statement(
        "select * from pgtask._heartbeat(%(worker)s::uuid, %(tasks)s::text[], %(outcomes)s::text[],"
        " %(counts)s::bigint[])",
        {
            "worker": worker,
            "tasks": [task for task, _ in tally],
            "outcomes": [outcome for _, outcome in tally],
            "counts": list(tally.values()),
        },
        lambda rows: [(row[0], row[1]) for row in rows],
    )


def claim(
    worker: UUID,
    limit: int,
    ranges: Sequence[Range],
    tasks: Sequence[str],
    idle_for: float | None,
) -> Statement[list[Claimed]]:
    """Take up to `limit` ready jobs; fewer means that enqueues notify for `idle_for` seconds.

    With 0 the worker looks again within milliseconds, and enqueues need not notify. With None
    nothing is said about it.

    Raises WorkerNotAlive when the lease is gone.
    """
    return Statement(
        "select * from pgtask._claim(%(worker)s::uuid, %(limit)s::int, %(queues)s::text[],"
        " %(tasks)s::text[], %(idle_for)s::float8, %(lows)s::int[], %(highs)s::int[],"
        " %(froms)s::bigint[])",
        {
            "worker": worker,
            "limit": limit,
            "queues": [each.queue for each in ranges],
            "tasks": list(tasks),
            "idle_for": idle_for,
            "lows": array_of_numbers(each.low for each in ranges),
            "highs": array_of_numbers(each.high for each in ranges),
            "froms": array_of_numbers(each.seq for each in ranges),
        },
        lambda rows: [Claimed(*row) for row in rows],
    )


def claim_job(worker: UUID, job_id: int, tasks: Sequence[str]) -> Statement[Claimed | None]:
    """Take this job, if it is due, its queue is not paused, and its task is one of these.

    Raises WorkerNotAlive when the lease is gone.
    """
    return Statement(
        "select * from pgtask._claim_job(%(worker)s::uuid, %(id)s::bigint, %(tasks)s::text[])",
        {"worker": worker, "id": job_id, "tasks": list(tasks)},
        lambda rows: Claimed(*rows[0]) if rows else None,
    )


def raise_flag(idle_for: float) -> Statement[None]:
    """Have enqueues notify for `idle_for` seconds, as claims that find little do."""
    return Statement(
        "select pgtask._raise_flag(%(idle_for)s::float8)", {"idle_for": idle_for}, nothing
    )


def writers() -> Statement[tuple[list[int], int]]:
    """Return the transactions in progress that write, and the last seq drawn."""
    return Statement("select * from pgtask.writers()", {}, lambda rows: (rows[0][0], rows[0][1]))


def finish(
    worker: UUID, ended: Sequence[Ended], *, patient: bool = False
) -> Statement[list[tuple[int, str]]]:
    """Record outcomes; answers (job id, busy | stale) for those that were not recorded.

    A batch of successes takes one pass that waits for locked rows, as long as lock_timeout allows;
    `patient` sends it the way of all others, which waits for nobody and answers busy instead.
    """
    params: dict[str, Any] = {
        "worker": worker,
        "ids": array_of_numbers([outcome.id for outcome in ended]),
        "epochs": array_of_numbers([outcome.epoch for outcome in ended]),
        "results": array_of_texts([outcome.result for outcome in ended]),
    }
    if not patient and all(outcome.verdict == "succeeded" for outcome in ended):
        return Statement(
            "select * from pgtask._finish(%(worker)s::uuid, %(ids)s::bigint[], %(epochs)s::int[],"
            " %(results)s::text[])",
            params,
            _answers,
        )
    for column in ("verdict", "delay", "reason", "type", "message", "traceback"):
        params[column] = [getattr(outcome, column) for outcome in ended]
    return Statement(
        "select * from pgtask._finish(%(worker)s::uuid, %(ids)s::bigint[], %(epochs)s::int[],"
        " %(results)s::text[], %(verdict)s::text[], %(delay)s::float8[], %(reason)s::text[],"
        " %(type)s::text[], %(message)s::text[], %(traceback)s::text[])",
        params,
        _answers,
    )


def commit_job(attempt: Attempt, result: str | None) -> Statement[None]:
    """Finish an attempt inside the task's own transaction; raises LeaseLost when it is stale."""
    return Statement(
        "select pgtask.commit_job(%(worker)s::uuid, %(id)s::bigint, %(epoch)s::int,"
        " %(result)s::text)",
        {
            "worker": attempt.worker,
            "id": attempt.job_id,
            "epoch": attempt.epoch,
            "result": result,
        },
        nothing,
    )


def held(worker: UUID) -> Statement[list[tuple[int, int]]]:
    """Return (job id, epoch) of what the database says this worker holds."""
    return Statement(
        "select * from pgtask.held(%(worker)s::uuid)",
        {"worker": worker},
        lambda rows: [(row[0], row[1]) for row in rows],
    )


def promote(limit: int = 1000) -> Statement[tuple[int, float | None]]:
    """Make due jobs ready; answers how many, and in how many seconds the next is due."""
    return Statement(
        "select * from pgtask.promote(%(limit)s::int)",
        {"limit": limit},
        lambda rows: (rows[0][0], rows[0][1]),
    )


def beats() -> Statement[dict[UUID, int]]:
    """Return the heartbeat counter of every living worker."""
    return Statement(
        "select * from pgtask.beats()", {}, lambda rows: {row[0]: row[1] for row in rows}
    )


def rescue(silent: Mapping[UUID, int]) -> Statement[dict[UUID, int]]:
    """Declare workers dead whose beat did not move, and take dead workers' jobs back."""
    return Statement(
        "select * from pgtask.rescue(%(workers)s::uuid[], %(beats)s::bigint[])",
        {"workers": list(silent), "beats": list(silent.values())},
        lambda rows: {row[0]: row[1] for row in rows},
    )


def maintain(retention: float) -> Statement[int]:
    """Make the coming days' partitions of history, drop those past the retention (seconds)."""
    return Statement(
        "select pgtask.maintain(least(%(retention)s::float8, 3e9) * interval '1 s')",
        {"retention": retention},
        scalar,
    )


def purge(age: float, page: int = 5000) -> Statement[int]:
    """Remove one page of finished jobs older than `age` seconds; answers how many."""
    return Statement(
        "select pgtask.purge(least(%(age)s::float8, 3e9) * interval '1 s', %(page)s::int)",
        {"age": age, "page": page},
        scalar,
    )


def _answers(rows: Sequence[Row]) -> list[tuple[int, str]]:
    return [(row[0], row[1]) for row in rows]
