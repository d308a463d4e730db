"""dramatiq on Redis: processes of threads, late acknowledgement."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import dramatiq  # type: ignore[import-not-found]  # lives in its own environment
import redis  # type: ignore[import-not-found]  # the same
from dramatiq.brokers.redis import RedisBroker  # type: ignore[import-not-found]  # the same
from dramatiq.results import Results  # type: ignore[import-not-found]  # the same
from dramatiq.results.backends import RedisBackend  # type: ignore[import-not-found]  # the same

from bench.job import record
from bench.program import Sender, become, blocking, main

REDIS = os.environ["BENCH_REDIS"]

broker = RedisBroker(url=f"{REDIS}/2")
broker.add_middleware(Results(backend=RedisBackend(url=f"{REDIS}/3")))
dramatiq.set_broker(broker)


def run(sent: int) -> int | None:
    record(sent)
    return None


def run_and_return(sent: int) -> int:
    record(sent)
    return sent


noop = dramatiq.actor(actor_name="noop")(run)
kept = dramatiq.actor(actor_name="kept", store_results=True)(run_and_return)


def setup() -> None:
    redis.Redis.from_url(REDIS).flushall()


@contextmanager
def client() -> Iterator[Sender]:
    yield blocking(
        noop.send, trip=lambda sent: kept.send(sent).get_result(block=True, timeout=10_000)
    )


def serve(processes: int, threads: int) -> None:
    become(
        *(sys.executable, "-m", "dramatiq", "bench.peers.dramatiq"),
        *("-p", str(processes), "-t", str(threads)),
    )


if __name__ == "__main__":
    main(setup, client, serve=serve)
