"""awa-pg: a core in Rust, its queue storage, claims of 512, bulk by COPY."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import awa  # type: ignore[import-not-found]  # lives in its own environment

from bench.job import record
from bench.program import Sender, main, told_to_end

DSN = os.environ["BENCH_DSN"]
QUEUE = awa.PartitionedQueue("bench", 1)


@dataclass
class Noop:
    sent: int


async def run(job: Any) -> None:
    record(job.args.sent)


async def setup() -> None:
    client = awa.AsyncClient(DSN)
    await client.migrate()
    # The first worker of a fresh installation switches it over to the fast storage.
    client.task(Noop, queue="bench")(run)
    await client.start([("bench", 1)])
    await asyncio.sleep(1.5)
    await client.shutdown()


@asynccontextmanager
async def client() -> AsyncIterator[Sender]:
    connected = awa.AsyncClient(DSN)
    yield Sender(
        lambda sent: connected.insert(Noop(sent), **QUEUE.route_by_index(0)),
        lambda many: connected.enqueue_many_copy([Noop(sent) for sent in many], queue="bench"),
    )


async def work(concurrency: int) -> None:
    connected = awa.AsyncClient(DSN, max_connections=20)
    connected.task(Noop, queue=QUEUE.physical_queues[0])(run)
    await connected.start(
        QUEUE.queue_configs(max_workers_per_partition=concurrency, claim_batch_size=512)
    )
    await told_to_end()
    await connected.shutdown()


if __name__ == "__main__":
    main(setup, client, work)
