"""Conservation: after the faults, count: what a database and an effect log can show."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

Connection = psycopg.Connection[Any]

TABLES = ("waiting", "ready", "running", "done")
# Rows beside a job that must go when it ends.
BESIDE = ("slot", "job_key", "cancel_request")
SHOWN = 5  # histories
_APP = "tests.faults.app"


class Entry(NamedTuple):
    """One line of the effect log."""

    job: int
    epoch: int
    pid: int
    event: str
    at: float
    more: str


class Place(NamedTuple):
    """Where the database says a job is."""

    table: str
    task: str
    epoch: int
    attempt: int
    max_attempts: int
    crashes: int
    max_crashes: int
    state: str | None
    reason: str | None


@dataclass(frozen=True)
class Allowed:
    """What the contract allows under the faults of one scenario.

    `doubles`: a process that held finished work may have died. `lost_claims`: PostgreSQL may have
    forgotten claims that it had answered, so that an epoch is given twice. `overlaps`: a worker was
    frozen, whose code may run beside the next attempt's. `counted`: attempts may have been used up.
    `failures`: jobs meant to fail.
    """

    doubles: bool = False
    lost_claims: bool = False
    overlaps: bool = False
    counted: bool = False
    failures: Collection[int] = ()


@dataclass
class Count:
    """What was found. `beyond` counts the doubled effects that nothing allows."""

    jobs: int = 0
    lost: int = 0
    doubled: int = 0
    beyond: int = 0
    problems: list[str] = field(default_factory=list)
    offenders: dict[int, None] = field(default_factory=dict)

    def blame(self, invariant: str, jobs: Collection[int], what: str) -> None:
        if jobs:
            self.problems.append(f"{invariant}: {len(jobs)} jobs {what}: {sorted(jobs)[:SHOWN]}")
            self.offenders.update(dict.fromkeys(sorted(jobs)[:SHOWN]))


def read_log(path: Path) -> list[Entry]:
    """The effect log, in the order of its writes."""
    entries = []
    # The last line may be being written just now.
    whole, _, _ = path.read_text().rpartition("\n") if path.exists() else ("", "", "")
    for line in whole.splitlines():
        job, epoch, pid, event, at, more = line.split(" ", 5)
        entries.append(Entry(int(job), int(epoch), int(pid), event, float(at), more))
    return entries


def count(
    connection: Connection, log: Path, acknowledged: Collection[int], allowed: Allowed
) -> Count:
    """Hold the four tables against what was intended, what was acknowledged, and what was done."""
    found = Count()
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        intents = {
            row[0]: row[1] for row in connection.execute("select job, task from public.intent")
        }
        places = _places(connection)
        effects = Counter(row[0] for row in connection.execute("select job from public.effect"))
        counted = _scalar(connection, "select coalesce(sum(n), 0)::bigint from public.counter")
        beside = _beside(connection)
    entries = read_log(log)
    found.jobs = len(intents)
    where = {job: there[0] for job, there in places.items()}

    _check_conservation(found, intents, places, acknowledged)
    _check_outcomes(found, intents, where, entries, allowed)
    _check_fence(found, where, entries, allowed)
    _check_effects(found, intents, where, effects, int(counted))
    _check_doubles(found, where, entries, allowed)
    _check_lanes(found, entries, allowed)
    over = {
        job
        for job, at in where.items()
        if at.attempt > at.max_attempts or at.crashes > at.max_crashes
    }
    found.blame("I7", over, "had more attempts or crashes than they may")
    if not allowed.counted:
        used = {job for job, at in where.items() if at.task == f"{_APP}.effect" and at.attempt > 1}
        found.blame("I7", used, "had an attempt counted though nothing of theirs had failed")
    for name, jobs in beside.items():
        left = {job for job in jobs if job not in where or where[job].table == "done"}
        found.blame("I8", left, f"have left a row of {name}")
    return found


def history(connection: Connection, log: Path, job: int) -> Iterator[str]:
    """All that is known of one job, a line each."""
    for table in ("intent", "effect"):
        for row in connection.execute(
            f"select * from public.{table} where job = %s".encode(), [job]
        ):
            yield f"{table}: {row}"
    for row in connection.execute(
        "select state, reason, attempt, epoch, crashes, worker, created_at::time, claimed_at::time,"
        " finished_at::time, error from pgtask.jobs where id = %s",
        [job],
    ):
        state, reason, attempt, epoch, crashes, worker, made, claimed, ended, error = row
        yield (
            f"job: {state} {reason or ''} attempt {attempt} epoch {epoch} crashes {crashes} worker"
            f" {str(worker)[:8]} created {made} claimed {claimed} finished {ended} {error or ''}"
        )
    for row in connection.execute(
        "select epoch, outcome, error_type, error_message, worker, claimed_at::time, ended_at::time"
        " from pgtask.attempts where job = %s order by epoch",
        [job],
    ):
        epoch, outcome, kind, message, worker, claimed, ended = row
        yield (
            f"attempt: epoch {epoch} {outcome} {kind}: {message} worker {str(worker)[:8]}"
            f" claimed {claimed} ended {ended}"
        )
    for entry in read_log(log):
        if entry.job == job:
            yield f"effect: epoch {entry.epoch} pid {entry.pid} {entry.event} at {entry.at:.3f}"


def _check_conservation(
    found: Count,
    intents: dict[int, str],
    places: dict[int, list[Place]],
    acknowledged: Collection[int],
) -> None:
    """I1: committed intents and jobs are the same set, each job in one table."""
    missing = intents.keys() - places.keys()
    found.lost += len(missing)
    found.blame("I1", missing, "are gone")
    found.blame("I1", places.keys() - intents.keys(), "exist though their transaction does not")
    forgotten = set(acknowledged) - intents.keys()
    found.lost += len(forgotten)
    found.blame("I1", forgotten, "were acknowledged and forgotten")
    twice = {job for job, there in places.items() if len(there) > 1}
    found.blame("I1", twice, "are in two tables")


def _check_outcomes(
    found: Count,
    intents: dict[int, str],
    where: dict[int, Place],
    entries: list[Entry],
    allowed: Allowed,
) -> None:
    """I2: all ended, with a reason; a success has done its work."""
    known = {job: at for job, at in where.items() if job in intents}
    open_ = {job for job, at in known.items() if at.table != "done"}
    found.lost += len(open_)
    found.blame("I2", open_, "have not ended")
    failed = {job for job, at in known.items() if at.table == "done" and at.state != "s"}
    found.blame("I2", failed - set(allowed.failures), "failed for no reason of their own")
    found.blame("I2", {job for job in failed if not known[job].reason}, "failed without a reason")
    done = {entry.job for entry in entries if entry.event == "end"}
    hollow = {job for job, at in known.items() if at.state == "s"} - done
    found.lost += len(hollow)
    found.blame("I2", hollow, "succeeded without their effect")


def _check_fence(
    found: Count, where: dict[int, Place], entries: list[Entry], allowed: Allowed
) -> None:
    """I3: no attempt is younger than the one that ended the job, and that one did its work."""
    ends: dict[int, set[int]] = defaultdict(set)
    begins: Counter[tuple[int, int]] = Counter()
    for entry in entries:
        if entry.event == "end":
            ends[entry.job].add(entry.epoch)
        elif entry.event == "begin":
            begins[entry.job, entry.epoch] += 1
    younger = {
        entry.job
        for entry in entries
        if entry.job in where and entry.epoch > where[entry.job].epoch
    }
    found.blame("I3", younger, "ran under an epoch that the database does not know")
    stale = {
        job
        for job, at in where.items()
        if at.state == "s" and job in ends and at.epoch not in ends[job]
    }
    found.blame("I3", stale, "ended by an attempt that had not done its work")
    if not allowed.lost_claims:
        again = {job for (job, _), times in begins.items() if times > 1}
        found.blame("I3", again, "began twice under one epoch")


def _check_effects(
    found: Count,
    intents: dict[int, str],
    where: dict[int, Place],
    effects: Counter[int],
    counted: int,
) -> None:
    """I3: what a transactional task writes is there once if the job succeeded, and else not."""
    transactional = {job for job, task in intents.items() if task == "transfer"}
    expected = {job: int(job in where and where[job].state == "s") for job in transactional}
    wrong = {job for job in transactional | effects.keys() if effects[job] != expected.get(job, 0)}
    found.beyond += sum(max(0, effects[job] - expected.get(job, 0)) for job in wrong)
    found.blame("I3", wrong, "have not exactly one effect in their transaction")
    if counted != sum(expected.values()):
        found.problems.append(f"I3: the counter says {counted}, not {sum(expected.values())}")


def _check_doubles(
    found: Count, where: dict[int, Place], entries: list[Entry], allowed: Allowed
) -> None:
    """Contract 2 and 4: completed effects beyond the first, and whether anything allows them."""
    ends = Counter(entry.job for entry in entries if entry.event == "end")
    begins = Counter(entry.job for entry in entries if entry.event == "begin")
    # The log stands outside the transaction of a transactional task; its effect does not.
    doubled = {
        job: times - 1
        for job, times in ends.items()
        if times > 1 and job in where and where[job].task != f"{_APP}.transfer"
    }
    found.doubled += sum(doubled.values())
    if not allowed.doubles:
        found.beyond += sum(doubled.values())
        found.blame("I3", doubled.keys(), "did their work twice")
    twice = {
        job
        for job, times in begins.items()
        if times > 1 and job in where and where[job].task == f"{_APP}.once"
    }
    found.beyond += len(twice)
    found.blame("contract 4", twice, "began twice under on_crash=fail")


def _check_lanes(found: Count, entries: list[Entry], allowed: Allowed) -> None:
    """I5: whole attempts under one serial key never overlap; one that was cut off has no end."""
    if allowed.overlaps:
        return
    began: dict[tuple[int, int, int], Entry] = {}
    lanes: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for entry in entries:
        if not entry.more.startswith("lane:"):
            continue
        attempt = (entry.job, entry.epoch, entry.pid)
        if entry.event == "begin":
            began[attempt] = entry
        elif attempt in began:
            start = began.pop(attempt)
            lanes[entry.more].append((start.at, entry.at, entry.job))
    overlapping = set()
    for spans in lanes.values():
        spans.sort()
        for before, after in pairwise(spans):
            if after[0] < before[1]:
                overlapping |= {before[2], after[2]}
    found.blame("I5", overlapping, "ran side by side under one serial key")


def _places(connection: Connection) -> dict[int, list[Place]]:
    places: dict[int, list[Place]] = defaultdict(list)
    for table in TABLES:
        state = "state::text, reason" if table == "done" else "null, null"
        for row in connection.execute(
            f"select id, task, epoch, attempt, max_attempts, coalesce(crashes, 0),"
            f" coalesce(max_crashes, 3), {state} from pgtask.{table}".encode()
        ):
            places[row[0]].append(Place(table, *row[1:]))
    return places


def _beside(connection: Connection) -> dict[str, set[int]]:
    return {
        name: {row[0] for row in connection.execute(f"select job from pgtask.{name}".encode())}
        for name in BESIDE
    }


def _scalar(connection: Connection, text: str) -> Any:
    row = connection.execute(text.encode()).fetchone()
    assert row is not None
    return row[0]
