"""`--growth`: how the drain changes with children, workers, the size of arguments, the backlog."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.app import enqueuing
from bench.catalog import PGTASK
from bench.claims import claims, count_claims
from bench.measures import Scale, drained
from bench.spread import Figures
from bench.subject import Failed, Stand, Subject
from bench.words import say

CHILDREN = (1, 2, 3, 4, 6, 8)
WORKERS = (1, 2, 3, 4)
KILOBYTES = (0.1, 1, 10, 100, 1000)
BACKLOG = (1_000, 10_000, 100_000, 1_000_000)
JOBS = 200_000
# Where no later point has 5 % more, the curve has ended.
GAIN = 1.05
PAYLOAD_BYTES = 200_000_000
CHUNK_BYTES = 4_000_000
LIMIT = 15.0


def measure(stand: Stand, scale: Scale) -> dict[str, Any]:
    """Every curve: a list of points, each with its figures."""
    jobs = int(JOBS * scale.jobs)
    curves: dict[str, list[Figures]] = {}
    for name, points in (
        ("children", _children(stand, jobs)),
        ("workers", _workers(stand, jobs)),
        ("payload", _payload(stand, scale)),
        ("backlog", _backlog(stand, scale)),
    ):
        for point in points:
            curves.setdefault(name, []).append(point)
            say(f"  {name} " + ", ".join(f"{key} {value:,.4g}" for key, value in point.items()))
    return {"curves": curves, "limits": {name: limit(curves[name]) for name in _GROWING}}


_GROWING = ("children", "workers")
_SHOWN = ("jobs_per_s", "jobs", "cpu_s_per_1000", "server_cpu_s_per_1000", "cores", "server_cores")


def limit(points: list[Figures]) -> Figures:
    """The first point after which no further one gains 5 %, and who works there."""
    for place, point in enumerate(points):
        further = [later["jobs_per_s"] for later in points[place + 1 :]]
        if not further or max(further) < point["jobs_per_s"] * GAIN:
            return point
    raise AssertionError("the last point has none after it")


def _children(stand: Stand, jobs: int) -> Iterator[Figures]:
    for children in CHILDREN:
        with _filled(stand, jobs) as subject:
            yield {"children": children, **_drain(subject, jobs, 1, children)}


def _workers(stand: Stand, jobs: int) -> Iterator[Figures]:
    for workers in WORKERS:
        with _filled(stand, jobs) as subject:
            yield {"workers": workers, **_drain(subject, jobs, workers, 1)}


def _payload(stand: Stand, scale: Scale) -> Iterator[Figures]:
    for kilobytes in KILOBYTES:
        size = int(kilobytes * 1000)
        jobs = max(100, int(min(JOBS / 2, PAYLOAD_BYTES / size) * scale.jobs))
        load = "x" * size
        chunk = max(1, min(1000, CHUNK_BYTES // size))
        with stand.fresh(PGTASK) as subject, enqueuing(subject.dsn) as tasks:
            for start in range(0, jobs, chunk):
                tasks.carry.delay_many([(0, load)] * min(chunk, jobs - start))
            yield {"kilobytes": kilobytes, **_drain(subject, jobs, 1, 2)}


def _backlog(stand: Stand, scale: Scale) -> Iterator[Figures]:
    for backlog in BACKLOG:
        jobs = max(1000, int(backlog * scale.jobs))
        with _filled(stand, jobs) as subject, stand.postgres.connect(subject.database) as look:
            count_claims(look)
            figures = _drain(subject, jobs, 1, 2)
            counted = claims(look)
            yield {"backlog": jobs, **figures, "claim_ms": counted.ms / max(counted.calls, 1)}


@contextmanager
def _filled(stand: Stand, jobs: int) -> Iterator[Subject]:
    with stand.fresh(PGTASK) as subject:
        batch = min(1000, jobs // 2)
        subject.call("many", jobs - batch, batch)  # after one batch to warm up
        with stand.postgres.connect(subject.database) as connection:
            connection.execute("analyze")
        yield subject


def _drain(subject: Subject, jobs: int, workers: int, children: int) -> Figures:
    try:
        figures = drained(subject, jobs, LIMIT, workers, children).figures
    except Failed as failure:
        say(f"  {failure}")
        return {"jobs_per_s": 0.0}
    return {name: figures[name] for name in _SHOWN if name in figures}
