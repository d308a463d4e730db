"""`--soak MINUTES`: 1,000 jobs a second while somebody holds the horizon back; claims over time."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from bench import job
from bench.app import enqueuing
from bench.catalog import PGTASK
from bench.claims import Claims, claims, count_claims
from bench.goals import judge_one
from bench.spread import percentiles
from bench.subject import Failed, Stand, Subject, Worker
from bench.words import say

RATE = 1000.0
WINDOW = 10.0
LATE_JOBS = 10
LATE_LIMIT = 30.0
FLAT, LATE = 1.2, 5.0

Release = Callable[[], float]


@contextmanager
def _snapshot(subject: Subject) -> Iterator[Release]:
    """A report that reads: repeatable read, nothing written."""
    with subject.postgres.connect(subject.database) as connection:
        connection.execute("begin isolation level repeatable read read only")
        connection.execute("select count(*) from pg_class")
        yield lambda: _end(connection)


@contextmanager
def _writer(subject: Subject) -> Iterator[Release]:
    """A transaction that has written something of its own and sits idle."""
    with subject.postgres.connect(subject.database) as connection:
        connection.execute("create table bench_written (n integer)")
        connection.execute("begin")
        connection.execute("insert into bench_written values (1)")
        yield lambda: _end(connection)


@contextmanager
def _late(subject: Subject) -> Iterator[Release]:
    """A transaction that has enqueued and stays open: its jobs stand behind everybody's mark."""
    with (
        enqueuing(subject.dsn) as tasks,
        subject.postgres.connect(subject.database) as connection,
    ):
        connection.execute("begin")
        enqueue = tasks.noop.using(connection)
        for number in range(LATE_JOBS):
            enqueue.delay(-1 - number)
        yield lambda: _end(connection)


def _end(connection: psycopg.Connection[Any]) -> float:
    connection.execute("commit")
    return time.time()


@contextmanager
def _pinned(subject: Subject) -> Iterator[Release]:
    """All three at once; the last one ends first, when told to."""
    with _snapshot(subject), _writer(subject), _late(subject) as release:
        yield release


def measure(stand: Stand, seconds: float) -> dict[str, Any]:
    """Windows of latency and claim time, and the verdicts."""
    with stand.fresh(PGTASK) as subject:
        # Before the worker: its sessions read the setting when they start.
        with subject.postgres.connect(subject.database) as look:
            count_claims(look)
        with subject.ready_worker() as worker, _pinned(subject) as release:
            found = _soaked(subject, worker, release, seconds)
    say(f"  { ({key: value for key, value in found.items() if key != 'windows'}) }")
    pins = {"pinned": found}
    return {"pins": pins, "goals": _goals(pins), "seconds_each": seconds, "rate": RATE}


def _soaked(subject: Subject, worker: Worker, release: Release, seconds: float) -> dict[str, Any]:
    samples: list[tuple[float, Claims]] = []
    begun = time.time()
    with subject.postgres.connect(subject.database) as look:
        with subject.starts("rate", RATE, seconds) as producer:
            while producer.poll() is None:
                samples.append((time.time(), claims(look)))
                worker.check()
                time.sleep(1.0)
            out, error = producer.communicate()
        if producer.returncode != 0:
            raise Failed(f"the producer ended with {producer.returncode}: {error[-400:]}")
        answer = json.loads(out.splitlines()[-1])
        dead = look.execute("select sum(n_dead_tup)::bigint from pg_stat_user_tables").fetchone()
    subject.wait_for(int(answer["jobs"]), worker, 10.0)
    ended = release()
    late = _late_starts(subject, ended, LATE_JOBS)
    records = [(sent / 1e6, (start - sent) / 1e3) for sent, start in subject.taken() if sent > 0]
    windows = list(_windows(begun, records, samples))
    return {
        "sent_per_s": answer["per_s"],
        "begun": len(records),
        "sent": answer["sent"],
        "dead_tuples": dead[0] if dead else 0,
        "late_s": max(late) if len(late) == LATE_JOBS else None,
        "late_begun": len(late),
        "windows": windows,
    }


def _late_starts(subject: Subject, ended: float, expected: int) -> list[float]:
    """Seconds from the COMMIT to the start of each late job."""
    deadline = time.monotonic() + LATE_LIMIT
    while True:
        records = job.read(subject.records)
        late = [start / 1e6 - ended for sent, start in records if sent < 0]
        if len(late) >= expected or time.monotonic() > deadline:
            return late
        time.sleep(0.2)


def _windows(
    begun: float, records: list[tuple[float, float]], samples: list[tuple[float, Claims]]
) -> Iterator[dict[str, Any]]:
    """Ten seconds each; the claim time is the median of the means of its seconds."""
    last = max((sent for sent, _ in records), default=begun)
    start = begun
    while start + WINDOW <= last + 1:
        waits = [wait for sent, wait in records if start <= sent < start + WINDOW]
        means = [
            mean
            for (at, after), (_, before) in zip(samples[1:], samples, strict=False)
            if start <= at < start + WINDOW and (mean := after.mean_since(before)) is not None
        ]
        yield {
            "at_s": start - begun + WINDOW / 2,
            **percentiles("ms", waits),
            "claim_ms": statistics.median(means) if means else None,
        }
        start += WINDOW


def _goals(pins: dict[str, Any]) -> list[dict[str, Any]]:
    verdicts = []
    for name, found in pins.items():
        for figure, what in (("claim_ms", "claim"), ("ms_p50", "enqueue to start p50")):
            values = [each[figure] for each in found["windows"] if each.get(figure) is not None]
            # The first window of the run has warm caches to find; two are enough to compare.
            ratio = values[-1] / values[0] if len(values) > 1 else None
            verdicts.append(
                judge_one("soak", f"{name}: {what}, last ÷ first", FLAT, ratio, at_least=False)
            )
    verdicts.append(
        judge_one(
            *("soak", "late committer: jobs begun after COMMIT, s"),
            *(LATE, pins["pinned"]["late_s"]),
            at_least=False,
        )
    )
    return verdicts
