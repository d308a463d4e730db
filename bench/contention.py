"""Enqueuing against others: 64 clients at once, and transactions that stay open; pgtask alone."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from bench.app import app, enqueuing, noop
from bench.catalog import PGTASK
from bench.environments import NotAvailable
from bench.measures import Measured, Scale
from bench.subject import Failed, Stand, Subject
from pgtask.broker.jobs import enqueue
from pgtask.signature import merge
from pgtask.task import Task

CLIENTS = 64
HOLDERS = 16
HELD = 0.05

_WAKE = "create or replace function pgtask._wake(p_queue text) returns void language plpgsql as "
# What is compared with: the same insert that never notifies, and one that always does.
VARIANTS = {
    "": "",
    "without_": _WAKE + "$$begin null; end$$",
    "plain_": _WAKE + "$$begin perform pg_notify('pgtask', p_queue); end$$",
}


def concurrent(stand: Stand, scale: Scale) -> Measured:
    """64 clients, one job and one COMMIT each time: nobody idle, then a worker at work."""
    pgbench = stand.postgres.bindir / "pgbench"
    if not pgbench.exists():
        raise NotAvailable(f"the PostgreSQL binaries in {pgbench.parent} have no pgbench")
    figures = {}
    for name, change in VARIANTS.items():
        with _changed(stand, change) as subject:
            figures[f"{name}nobody_idle_per_s"] = _pgbench(pgbench, subject, scale)
    for name in ("", "without_"):
        with _changed(stand, VARIANTS[name]) as subject, subject.ready_worker():
            figures[f"{name}worker_per_s"] = _pgbench(pgbench, subject, scale)
    for at in ("nobody_idle", "worker"):
        figures[f"{at}_ratio"] = figures[f"{at}_per_s"] / figures[f"without_{at}_per_s"]
    plain = figures["plain_nobody_idle_per_s"]
    figures["plain_ratio"] = plain / figures["without_nobody_idle_per_s"]
    return Measured(figures, {})


def lane(stand: Stand, scale: Scale) -> Measured:
    """16 clients that enqueue and keep their transaction open for 50 ms: one queue, 16 queues."""
    figures = {}
    for name, queues in (("one_queue", 1), ("many_queues", HOLDERS)):
        with stand.fresh(PGTASK) as subject, enqueuing(subject.dsn) as tasks:
            figures[f"{name}_per_s"] = _held(subject, tasks.noop, queues, scale.contention_s)
    figures["ratio"] = figures["one_queue_per_s"] / figures["many_queues_per_s"]
    return Measured(figures, {})


@contextmanager
def _changed(stand: Stand, change: str) -> Iterator[Subject]:
    with stand.fresh(PGTASK) as subject:
        if change:
            with stand.postgres.connect(subject.database) as connection:
                connection.execute(change.encode())
        yield subject


def _pgbench(pgbench: Path, subject: Subject, scale: Scale) -> float:
    """Transactions a second; the SQL is what `.delay()` sends."""
    options = merge(app.client.defaults, {"keep": "none"})
    statement = enqueue([options.signature(noop.name, "[0]", None, dict)])
    with psycopg.connect(subject.dsn) as connection:
        text = psycopg.ClientCursor(connection).mogrify(statement.text, statement.params)
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(text + ";\n")
        script.flush()
        command = [str(pgbench), "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "2"]
        command += ["-T", f"{scale.contention_s:g}", "-f", script.name, subject.database]
        told = subprocess.run(
            command,
            env={**os.environ, **subject.postgres.environment()},
            capture_output=True,
            text=True,
            check=False,
        )
    rate = re.search(r"^tps = ([\d.]+)", told.stdout, re.MULTILINE)
    if rate is None:
        raise NotAvailable(f"pgbench failed: {told.stderr[-400:]}")
    return float(rate.group(1))


def _held(subject: Subject, task: Task[[int], None], queues: int, seconds: float) -> float:
    """Enqueuing transactions a second of all holders together."""
    start, counts = threading.Barrier(HOLDERS), [0] * HOLDERS

    def hold(number: int) -> None:
        here = task.options(queue=f"lane{number % queues}")
        with psycopg.connect(subject.dsn) as connection:
            enqueue_here = here.using(connection)
            start.wait()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                enqueue_here.delay(0)
                time.sleep(HELD)
                connection.commit()
                counts[number] += 1

    threads = [threading.Thread(target=hold, args=(number,)) for number in range(HOLDERS)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    per_s = sum(counts) / (time.monotonic() - begun)
    if not per_s:
        raise Failed("no transaction that enqueues and stays open came to its end")
    return per_s
