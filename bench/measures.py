"""The measurements that every product goes through; each returns its figures and its samples."""

from __future__ import annotations

import time
from typing import NamedTuple

from bench.catalog import Product
from bench.spread import Figures, percentiles
from bench.subject import Failed, Stand, Subject, Worker


class Scale(NamedTuple):
    """How much of everything: jobs as a share of the catalogue's, and seconds."""

    jobs: float
    single: int
    trips: int
    idle_s: float
    steady_s: float
    pinned_s: float
    contention_s: float
    drain_limit_s: float = 40.0


FULL = Scale(1.0, 2000, 150, 6.0, 8.0, 60.0, 4.0, 15.0)
QUICK = Scale(0.25, 1000, 100, 5.0, 5.0, 0.0, 2.0, 15.0)
TINY = Scale(0.02, 100, 20, 2.0, 1.0, 6.0, 1.0, 10.0)

STEADY_RATE = 500.0
IDLE_RATE = 7.0
PINNED_RATE = 800.0


class Measured(NamedTuple):
    """What one round of a measurement found; samples in ms by figure name."""

    figures: Figures
    samples: dict[str, list[float]]


class _Mark(NamedTuple):
    """Costs so far, at some moment of a drain."""

    begun: int
    at: float
    cpu: float
    server: float
    bodies: float


def _mark(subject: Subject, worker: Worker, begun: int) -> _Mark:
    server = subject.server_cpu()
    bodies = subject.bodies_cpu()
    return _Mark(begun, time.monotonic(), worker.cpu() + server, server, bodies)


def drain(stand: Stand, product: Product, scale: Scale, *, keep: bool = False) -> Measured:
    """A full queue, no producer: the rate between the first and the last tenth of the starts."""
    with stand.fresh(product, **({"BENCH_KEEP": "all"} if keep else {})) as subject:
        jobs, written = _load(subject, product, int(product.jobs * scale.jobs))
        measured = drained(subject, jobs, scale.drain_limit_s)
    if "wal_execute" in measured.figures:
        measured.figures["wal_enqueue"] = written
        measured.figures["wal_life"] = written + measured.figures["wal_execute"]
    return measured


def drained(
    subject: Subject, jobs: int, limit: float, processes: int = 0, concurrency: int = 0
) -> Measured:
    """Start the workers on a queue of so many jobs; wait until it is empty or the time is over."""
    postgres = subject.postgres
    wal, commits = postgres.wal(), postgres.commits(subject.database)
    with subject.worker(processes, concurrency) as worker:
        marks = _watch(subject, worker, jobs, limit)
        time.sleep(1.0)  # for the last outcomes
        executed = postgres.wal() - wal
    # Sessions report their commits when they end.
    time.sleep(0.2)
    commits = postgres.commits(subject.database) - commits
    records = subject.taken()
    if len(records) < 2:
        raise Failed(f"{len(records)} of {jobs} jobs began within {limit:g} s")
    begun = [start for _, start in records]
    tenth = len(begun) // 10
    first, last = begun[tenth], begun[-1 - tenth]
    figures = {
        "jobs_per_s": (len(begun) - 2 * tenth - 1) / max(last - first, 1) * 1e6,
        "jobs": float(len(begun)),
        "finished_share": len(begun) / jobs,
    }
    if len(marks) == 2 and marks[1].begun > marks[0].begun:
        between = (marks[1].begun - marks[0].begun) / 1000
        figures["cpu_s_per_1000"] = (marks[1].cpu - marks[0].cpu) / between
        figures["server_cpu_s_per_1000"] = (marks[1].server - marks[0].server) / between
        seconds = marks[1].at - marks[0].at
        figures["cores"] = (marks[1].cpu - marks[0].cpu) / seconds
        figures["server_cores"] = (marks[1].server - marks[0].server) / seconds
        figures["body_cores"] = (marks[1].bodies - marks[0].bodies) / seconds
    if subject.redis is None:
        figures["wal_execute"] = executed / len(begun)
        figures["commits_per_1000"] = commits / len(begun) * 1000
    # A rate for each hundredth of the drain: how even it was.
    size = max(1, len(begun) // 100)
    steps = range(tenth, len(begun) - tenth - size, size)
    rates = [size / max(begun[at + size] - begun[at], 1) * 1e6 for at in steps]
    return Measured(figures, {"jobs_per_s": rates})


def bulk(stand: Stand, product: Product, scale: Scale) -> Measured:
    """Bulk enqueue by one client, at the product's batch size."""
    if not product.many:
        return Measured({}, {})
    with stand.fresh(product) as subject:
        wal = stand.postgres.wal()
        answer = subject.call(
            "many", max(product.many, product.bulk_jobs * scale.jobs), product.many
        )
        figures = {"jobs_per_s": answer["per_s"]}
        if subject.redis is None:
            figures["wal_per_job"] = (stand.postgres.wal() - wal) / answer["jobs"]
    return Measured(figures, {})


def single(stand: Stand, product: Product, scale: Scale) -> Measured:
    """One client, one job a call and a commit."""
    with stand.fresh(product) as subject:
        wal = stand.postgres.wal()
        answer = subject.call("one", scale.single)
        figures = {"jobs_per_s": answer["per_s"]}
        if subject.redis is None:
            figures["wal_per_job"] = (stand.postgres.wal() - wal) / answer["jobs"]
    return Measured(figures, {})


def pickup(stand: Stand, product: Product, scale: Scale) -> Measured:
    """A worker with nothing to do, a job now and then: from before the call to the body's start."""
    with stand.fresh(product) as subject, subject.ready_worker():
        subject.call("rate", IDLE_RATE, scale.idle_s)
        time.sleep(0.5)
        waits = _waits(subject.taken())
    return Measured(percentiles("ms", waits), {"ms": waits})


def steady(stand: Stand, product: Product, scale: Scale) -> Measured:
    """A producer of 500 a second, one commit each: from before the call to the body's start."""
    with stand.fresh(product) as subject, subject.ready_worker() as worker:
        answer = subject.call("rate", STEADY_RATE, scale.steady_s)
        subject.wait_for(int(answer["jobs"]), worker, 5.0)
        waits = _waits(subject.taken())
    return Measured({**percentiles("ms", waits), "sent_per_s": answer["per_s"]}, {"ms": waits})


def trip(stand: Stand, product: Product, scale: Scale) -> Measured:
    """Enqueue and wait for the result, one after the other."""
    if not product.trips:
        return Measured({}, {})
    # A product that polls for results once a second need not be asked three hundred times.
    trips = 10 if product.name == "chancy" else scale.trips
    with stand.fresh(product, BENCH_KEEP="all") as subject, subject.ready_worker():
        took: list[float] = subject.call("trips", trips)["ms"]
    return Measured(percentiles("ms", took), {"ms": took})


def idle(stand: Stand, product: Product, scale: Scale) -> Measured:
    """What a worker with nothing to do costs, after a pause in which it settles."""
    with stand.fresh(product) as subject, subject.ready_worker() as worker:
        time.sleep(2.0)
        before, server = worker.cpu(), subject.server_cpu()
        time.sleep(scale.idle_s)
        figures = {
            "memory_mb": worker.memory(),
            "cpu_percent": (worker.cpu() - before) / scale.idle_s * 100,
            "server_cpu_percent": (subject.server_cpu() - server) / scale.idle_s * 100,
        }
    return Measured(figures, {})


def pinned(stand: Stand, product: Product, scale: Scale) -> Measured:
    """800 a second for a minute, under an open snapshot: nothing it can see may be vacuumed."""
    if product.broker != "postgresql" or not scale.pinned_s:
        return Measured({}, {})
    edge = min(10.0, scale.pinned_s / 3)
    with (
        stand.fresh(product) as subject,
        subject.ready_worker() as worker,
        stand.postgres.connect(subject.database) as pin,
    ):
        pin.execute("begin isolation level repeatable read read only")
        pin.execute("select count(*) from pg_class")
        answer = subject.call("rate", PINNED_RATE, scale.pinned_s)
        subject.wait_for(int(answer["jobs"]), worker, 5.0)
        records = sorted(pair for pair in subject.taken() if pair[0])
        pin.execute("rollback")
    if not records:
        return Measured({}, {})
    begun, ended = records[0][0], records[-1][0]
    first = _waits([each for each in records if each[0] < begun + edge * 1e6])
    last = _waits([each for each in records if each[0] > ended - edge * 1e6])
    figures = {
        **percentiles("first_ms", first),
        **percentiles("last_ms", last),
        "sent_per_s": answer["per_s"],
        "begun_share": len(records) / answer["sent"],
    }
    figures["ratio"] = figures["last_ms_p50"] / figures["first_ms_p50"]
    return Measured(figures, {"first_ms": first, "last_ms": last})


def _load(subject: Subject, product: Product, jobs: int) -> tuple[int, float]:
    """Fill the queue; returns how many jobs stand in it and WAL bytes for each."""
    wal = subject.postgres.wal()
    if product.many:
        answer = subject.call("many", max(jobs, product.many), product.many)
    else:
        answer = subject.call("one", jobs)
    written = (subject.postgres.wal() - wal) / answer["jobs"]
    if subject.redis is None:
        # A table in production has statistics.
        with subject.postgres.connect(subject.database) as connection:
            connection.execute("analyze")
    return int(answer["jobs"]), written


def _watch(subject: Subject, worker: Worker, jobs: int, limit: float) -> list[_Mark]:
    """Wait until all have begun or the time is over; returns the costs after 10 % and at 90 %."""
    marks: list[_Mark] = []
    deadline = time.monotonic() + limit
    while (count := subject.count()) < jobs and time.monotonic() < deadline:
        worker.check()
        if count >= jobs * (0.1, 0.9, 2.0)[len(marks)]:
            marks.append(_mark(subject, worker, count))
        time.sleep(0.02)
    if len(marks) == 1 and count > marks[0].begun:
        # It was too fast, or too slow, to be seen at 90 %.
        marks.append(_mark(subject, worker, count))
    return marks


def _waits(records: list[tuple[int, int]]) -> list[float]:
    return [(begun - sent) / 1e3 for sent, begun in records if sent]
