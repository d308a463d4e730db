"""pgqueuer: asyncpg and uvloop, its autovacuum settings; concurrency is the size of its batches."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import uvloop  # type: ignore[import-not-found]  # lives in its own environment
from pgqueuer import PgQueuer  # type: ignore[import-not-found]  # the same
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver  # type: ignore[import-not-found]  # same
from pgqueuer.queries import Queries  # type: ignore[import-not-found]  # the same

from bench.job import record
from bench.program import Sender, main

DSN = os.environ["BENCH_DSN"]
uvloop.install()


async def noop(job: Any) -> None:
    record(int(job.payload))


async def setup() -> None:
    queries = Queries(AsyncpgDriver(await asyncpg.connect(DSN)))
    await queries.install()
    await queries.optimize_autovacuum()


@asynccontextmanager
async def client() -> AsyncIterator[Sender]:
    queries = Queries(AsyncpgDriver(await asyncpg.connect(DSN)))
    yield Sender(
        lambda sent: queries.enqueue("noop", b"%d" % sent),
        lambda many: queries.enqueue(
            ["noop"] * len(many), [b"%d" % sent for sent in many], [0] * len(many)
        ),
    )


async def work(batch: int) -> None:
    pool = await asyncpg.create_pool(DSN, min_size=2, max_size=8)
    queue = PgQueuer(AsyncpgPoolDriver(pool))
    queue.entrypoint("noop")(noop)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queue.qm.shutdown.set)
    await queue.run(batch_size=batch, dequeue_timeout=timedelta(seconds=30))


if __name__ == "__main__":
    main(setup, client, work)
