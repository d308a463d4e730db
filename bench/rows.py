"""The measurements, one function each; a measurement returns its figures by name."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from bench import server
from bench.app import kept, noop, stamp

Figures = dict[str, float]


def drain(connection: psycopg.Connection[Any], dsn: str, jobs: int, *, keep: bool) -> Figures:
    """Jobs a second from a full queue, two children; warm-up and tail dropped."""
    task = kept if keep else noop
    for start in range(0, jobs, 5000):
        task.delay_many([(n,) for n in range(start, min(start + 5000, jobs))])
    connection.execute("vacuum analyze pgtask.ready")
    connection.execute("checkpoint")
    wal, commits = _wal(connection), _commits(connection)
    server_cpu = server.server_cpu(connection)
    began = time.perf_counter()
    first, looks = None, 0
    with server.worker(connection, dsn, "-c", "2") as worker:
        # 10 % at each end: start-up and learning, and the last half-filled batches.
        while True:
            left = _left(connection)
            looks += 1
            if first is None and left <= jobs * 0.9:
                first = (time.perf_counter(), left)
            if first is not None and left <= jobs * 0.1:
                break
            time.sleep(0.05)
        seconds = time.perf_counter() - first[0]
        rate = (first[1] - left) / seconds
        while _left(connection):
            looks += 1
            time.sleep(0.01)
        cpu = worker.cpu() + server.server_cpu(connection) - server_cpu
        total = time.perf_counter() - began
        # pg_stat counts a session's commits only when it has been idle for a moment.
        time.sleep(1.2)
        commits = _commits(connection) - commits - looks  # ours
    return {
        "jobs_per_s": rate,
        "wal_bytes_per_job": (_wal(connection) - wal) / jobs,
        "cpu_s_per_1000_jobs": cpu / jobs * 1000,
        "commits_per_100_jobs": commits / jobs * 100,
        "seconds": total,
    }


def enqueue_many(jobs: int) -> Figures:
    """Bulk enqueue, 1,000 calls a statement, one client."""
    calls = [(n,) for n in range(1000)]
    noop.delay_many(calls)
    began = time.perf_counter()
    for _ in range(jobs // 1000):
        noop.delay_many(calls)
    return {"jobs_per_s": jobs / (time.perf_counter() - began)}


def enqueue_one(jobs: int) -> Figures:
    """Single enqueue and commit, one client, nobody idle."""
    for n in range(20):
        noop.delay(n)
    began = time.perf_counter()
    for n in range(jobs):
        noop.delay(n)
    return {"jobs_per_s": jobs / (time.perf_counter() - began)}


def pickup(connection: psycopg.Connection[Any], dsn: str, jobs: int) -> Figures:
    """An idle worker: from before delay() to the start of the body, and until get() returns."""
    with server.worker(connection, dsn, "-c", "2"):
        for _ in range(20):
            stamp.delay(time.time_ns()).get(timeout=10)
        waits, trips = [], []
        for _ in range(jobs):
            began = time.perf_counter()
            waits.append(stamp.delay(time.time_ns()).get(timeout=10) / 1e6)
            trips.append((time.perf_counter() - began) * 1e3)
            time.sleep(0.005)
    return {**_spread("pickup_ms", waits), **_spread("round_trip_ms", trips)}


def steady(connection: psycopg.Connection[Any], dsn: str, rate: int, seconds: float) -> Figures:
    """A paced producer: from before delay() to the start of the body."""
    with server.worker(connection, dsn, "-c", "2"):
        stamp.delay(time.time_ns()).get(timeout=10)
        began = time.perf_counter()
        results = []
        for n in range(int(rate * seconds)):
            due = began + n / rate - time.perf_counter()
            if due > 0:
                time.sleep(due)
            results.append(stamp.delay(time.time_ns()))
        offered = len(results) / (time.perf_counter() - began)
        waits = [result.get(timeout=30) / 1e6 for result in results]
    return {"offered_per_s": offered, **_spread("start_ms", waits)}


def idle(connection: psycopg.Connection[Any], dsn: str, seconds: float) -> Figures:
    """An idle worker with two children: memory and CPU."""
    with server.worker(connection, dsn, "-c", "2") as worker:
        time.sleep(2)
        before = worker.cpu()
        time.sleep(seconds)
        return {
            "memory_mb": worker.memory(),
            "cpu_percent": (worker.cpu() - before) / seconds * 100,
        }


def median_of(rounds: Sequence[Figures]) -> Figures:
    """The median of each figure."""
    return {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}


def repeated(times: int, measure: Callable[[], Figures]) -> tuple[Figures, list[Figures]]:
    """Measure so often; return the medians and every round."""
    rounds = [measure() for _ in range(times)]
    return median_of(rounds), rounds


def empty(connection: psycopg.Connection[Any]) -> None:
    """Forget all jobs."""
    connection.execute(
        "truncate pgtask.waiting, pgtask.ready, pgtask.running, pgtask.done, pgtask.payload,"
        " pgtask.attempt_error"
    )


def _left(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(
        "select (select count(*) from pgtask.ready) + (select count(*) from pgtask.running)"
    ).fetchone()
    assert row is not None
    return int(row[0])


def _wal(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("select pg_current_wal_insert_lsn() - '0/0'").fetchone()
    assert row is not None
    return int(row[0])


def _commits(connection: psycopg.Connection[Any]) -> int:
    connection.execute("select pg_stat_clear_snapshot()")
    row = connection.execute(
        "select xact_commit from pg_stat_database where datname = current_database()"
    ).fetchone()
    assert row is not None
    return int(row[0])


def _spread(name: str, values: Sequence[float]) -> Figures:
    ordered = sorted(values)
    at = {"p50": 0.5, "p99": 0.99}
    return {f"{name}_{p}": ordered[int(len(ordered) * share)] for p, share in at.items()}
