"""oban for Python, the open source edition with its defaults."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from oban import Oban, job, schema  # type: ignore[import-not-found]  # lives in its own environment

from bench.job import record
from bench.program import Sender, main, told_to_end

DSN = os.environ["BENCH_DSN"]


async def run(sent: int) -> None:
    record(sent)


# Sent with enqueue(noop.new(...)): noop.enqueue(...) of release 0.7.0 nests its arguments twice.
run.__name__ = run.__qualname__ = "noop"
noop = job(queue="default")(run)


async def setup() -> None:
    pool = await Oban.create_pool(dsn=DSN)
    await schema.install(pool)
    await pool.close()


@asynccontextmanager
async def client() -> AsyncIterator[Sender]:
    pool = await Oban.create_pool(dsn=DSN)
    oban = Oban(pool=pool)
    await oban.start()
    yield Sender(
        lambda sent: oban.enqueue(noop.new(sent)),
        lambda many: oban.enqueue_many(*(noop.new(sent) for sent in many)),
    )
    await oban.stop()


async def work(concurrency: int) -> None:
    pool = await Oban.create_pool(dsn=DSN)
    oban = Oban(pool=pool, queues={"default": concurrency})
    await oban.start()
    await told_to_end()
    await oban.stop()


if __name__ == "__main__":
    # A job is found by its module's name, which must not be __main__.
    from bench.peers import oban as program

    main(program.setup, program.client, program.work)
