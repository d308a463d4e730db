"""chancy: its asyncio executor with eager polling, polling once a second besides."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Lives in its own environment:
from chancy import Chancy, Queue, Worker, job  # type: ignore[import-not-found]  # as said

from bench.job import record
from bench.program import Sender, main

DSN = os.environ["BENCH_DSN"]
EXECUTOR = "chancy.executors.asyncex.AsyncExecutor"


async def run(*, sent: int) -> None:
    record(sent)


run.__name__ = run.__qualname__ = "noop"
noop = job(queue="default")(run)


async def setup() -> None:
    async with Chancy(DSN) as chancy:
        await chancy.migrate()


@asynccontextmanager
async def client() -> AsyncIterator[Sender]:
    async with Chancy(DSN) as chancy:

        async def many(sent: list[int]) -> None:
            async for _ in chancy.push_many([noop.job.with_kwargs(sent=each) for each in sent]):
                pass

        async def trip(sent: int) -> None:
            reference = await chancy.push(noop.job.with_kwargs(sent=sent))
            await chancy.wait_for_job(reference, interval=1)

        yield Sender(lambda sent: chancy.push(noop.job.with_kwargs(sent=sent)), many, trip)


async def work(concurrency: int) -> None:
    queue = Queue(
        "default",
        concurrency=concurrency,
        executor=EXECUTOR,
        polling_interval=1,
        eager_polling=True,
    )
    async with Chancy(DSN) as chancy:
        await chancy.declare(queue, upsert=True)
        async with Worker(chancy) as worker:
            await worker.wait_for_shutdown()


if __name__ == "__main__":
    # A job is found by its module's name, which must not be __main__.
    from bench.peers import chancy as program

    main(program.setup, program.client, program.work)
