"""`--beat`: 1,000 of 10,000 schedules fire together: how late; and what a beat costs that waits."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, LiteralString

import psycopg

from bench import processes
from bench.catalog import PGTASK
from bench.goals import judge_one
from bench.subject import Failed, Stand, Subject
from bench.words import say

SCHEDULES, TOGETHER = 10_000, 1_000
AHEAD = 45  # s from the first schedule to the second in which they fire
IDLE = 25.0  # s of waiting that are measured
LATE, CPU, QUIET = 1.0, 0.5, 5.0  # goals: s, % of a core, s between two queries
PATIENCE = 60.0
Connection = psycopg.Connection[Any]

# All the others fire at some minute of an hour that is half a day away.
_FILL: LiteralString = """
insert into pgtask.schedule (name, task, spec)
select 'other-' || n, 'noop', json_build_object('cron',
       format('%%s %%s %%s * * *', n %% 60, n / 60 %% 60,
              (extract(hour from now() at time zone 'utc')::int + 12) %% 24))
  from generate_series(1, %(others)s) n"""
_TOGETHER: LiteralString = """
insert into pgtask.schedule (name, task, spec)
select 'together-' || n, 'noop', json_build_object('cron',
       to_char(%(at)s::timestamptz at time zone 'utc', 'FMSS FMMI FMHH24') || ' * * *')
  from generate_series(1, %(together)s) n"""


def measure(stand: Stand) -> dict[str, Any]:
    """One beat: planning all, waiting with nothing due, then the second."""
    with (
        stand.fresh(PGTASK) as subject,
        subject.postgres.connect(subject.database) as connection,
    ):
        connection.execute(_FILL, {"others": SCHEDULES - TOGETHER})
        with _beat(subject) as beat:
            began = time.monotonic()
            _until(connection, "select count(*) = 0 from pgtask.schedule where next_at is null")
            planned = time.monotonic() - began
            at = _one(
                connection,
                "select date_trunc('second', clock_timestamp()) + %s * interval '1 s'",
                AHEAD,
            )
            connection.execute(_TOGETHER, {"at": at, "together": TOGETHER})
            _until(connection, "select count(*) = 0 from pgtask.schedule where next_at is null")
            time.sleep(3.0)
            idle = _waiting(subject, beat)
            _until(connection, "select count(*) > 0 from pgtask.tick", PATIENCE + AHEAD)
            _until(connection, f"select count(*) >= {TOGETHER} from pgtask.tick")
            committed = float(
                _one(connection, "select extract(epoch from clock_timestamp() - %s)", at)
            )
        late = _late(connection)
    figures = {"planned_s": planned, **idle, **late, "all_committed_after_s": committed}
    for name, value in figures.items():
        say(f"  {name:<24}{value:10.3f}")
    return {"figures_beat": figures, "goals": _goals(figures)}


@contextmanager
def _beat(subject: Subject) -> Iterator[int]:
    """Yield the pid of a beat of that database; it is ended on leaving."""
    log = subject.records / "beat.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "pgtask", "beat"],
            env=subject.environment,
            cwd=subject.records,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        yield process.pid
        if process.poll() is not None:
            raise Failed(f"the beat ended with {process.returncode}: {log.read_text()[-800:]}")
    finally:
        process.terminate()
        process.wait(10)


def _waiting(subject: Subject, pid: int) -> dict[str, float]:
    """CPU of a beat that waits, and how often it asks, while nothing is due."""
    began, spent = time.monotonic(), processes.cpu(pid)
    asked: set[datetime] = set()
    # Of another database, whose own queries are not counted.
    with subject.postgres.connect() as look:
        while time.monotonic() - began < IDLE:
            # Both of its connections: the one it asks on, and the one it listens on.
            found = look.execute(
                "select query_start from pg_stat_activity"
                " where application_name like 'pgtask:beat%%' and datname = %s",
                [subject.database],
            )
            asked.update(start for (start,) in found)
            time.sleep(0.05)
    passed = time.monotonic() - began
    # The first two were there when it began to wait.
    starts = sorted(asked)[2:]
    gaps = [(after - before).total_seconds() for before, after in itertools.pairwise(starts)]
    return {
        "idle_cpu_percent": (processes.cpu(pid) - spent) / passed * 100,
        "idle_queries_per_s": len(starts) / passed,
        "idle_least_gap_s": min(gaps, default=passed),
    }


def _late(connection: Connection) -> dict[str, float]:
    row = connection.execute(
        "select count(*), count(distinct j.id), max(extract(epoch from t.fired_at - t.tick_at)),"
        " percentile_cont(0.5) within group (order by extract(epoch from t.fired_at - t.tick_at))"
        " from pgtask.tick t join pgtask.jobs j on j.id = t.job"
    ).fetchone()
    assert row is not None
    ticks, jobs, latest, median = row
    if not ticks == jobs == TOGETHER:
        raise Failed(f"{ticks} ticks and {jobs} jobs instead of {TOGETHER}")
    return {"late_s_p50": float(median), "late_s_max": float(latest)}


def _goals(figures: dict[str, float]) -> list[dict[str, Any]]:
    bounds = (
        (f"{TOGETHER:,} of {SCHEDULES:,} fire together, the last enqueued after s", LATE),
        ("waiting: % of a core", CPU),
    )
    found = (figures["all_committed_after_s"], figures["idle_cpu_percent"])
    made = [
        judge_one("beat", what, bound, value, at_least=False)
        for (what, bound), value in zip(bounds, found, strict=True)
    ]
    what = "waiting: least s between two queries"
    return [*made, judge_one("beat", what, QUIET, figures["idle_least_gap_s"], at_least=True)]


def _until(connection: Connection, query: LiteralString, limit: float = PATIENCE) -> None:
    deadline = time.monotonic() + limit
    while not _one(connection, query):
        if time.monotonic() > deadline:
            raise Failed(f"still not after {limit:g} s: {query}")
        time.sleep(0.01)


def _one(connection: Connection, query: LiteralString, *values: object) -> Any:
    row = connection.execute(query, values or None).fetchone()
    assert row is not None
    return row[0]
