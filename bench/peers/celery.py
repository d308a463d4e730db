"""celery on Redis: early acknowledgement, results ignored; prefork, or several solo workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import redis  # type: ignore[import-not-found]  # lives in its own environment
from celery import Celery  # type: ignore[import-not-found]  # the same

from bench.job import record
from bench.program import Sender, become, blocking, main, spawn

REDIS = os.environ["BENCH_REDIS"]
SOLO = os.environ.get("BENCH_POOL") == "solo"

app = Celery("bench", broker=f"{REDIS}/0", backend=f"{REDIS}/1")
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=64,
    task_acks_late=False,
    worker_disable_rate_limits=True,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)


def run(sent: int) -> None:
    record(sent)


def run_and_return(sent: int) -> int:
    record(sent)
    return sent


noop = app.task(name="noop")(run)
kept = app.task(name="kept", ignore_result=False)(run_and_return)


def setup() -> None:
    redis.Redis.from_url(REDIS).flushall()


@contextmanager
def client() -> Iterator[Sender]:
    # No bulk publish: one producer that is used again is the documented fast way.
    with app.producer_pool.acquire(block=True) as producer:

        def many(sent: list[int]) -> None:
            for each in sent:
                noop.apply_async((each,), producer=producer)

        yield blocking(noop.delay, many, lambda sent: kept.delay(sent).get(timeout=10))


def serve(processes: int, concurrency: int) -> None:
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "bench.peers.celery",
        "worker",
        "-l",
        "WARNING",
    ]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    if not SOLO:
        become(*command, "-P", "prefork", "-c", str(processes))
    spawn([[*command, "-P", "solo", "-n", f"w{number}@bench"] for number in range(processes)])


if __name__ == "__main__":
    main(setup, client, serve=serve)
