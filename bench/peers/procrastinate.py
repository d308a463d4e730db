"""procrastinate: asynchronous workers, LISTEN on, jobs that succeeded are deleted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import procrastinate  # type: ignore[import-not-found]  # lives in its own environment

from bench.job import record
from bench.program import Sender, blocking, main

DSN = os.environ["BENCH_DSN"]


async def noop(sent: int) -> None:
    record(sent)


def app(connector: Any) -> tuple[Any, Any]:
    made = procrastinate.App(connector=connector)
    return made, made.task(name="noop")(noop)


def app_of_workers() -> Any:
    return app(procrastinate.PsycopgConnector(conninfo=DSN, min_size=1, max_size=20))[0]


async def setup() -> None:
    async with app_of_workers().open_async() as opened:
        await opened.schema_manager.apply_schema_async()


@contextmanager
def client() -> Iterator[Sender]:
    made, task = app(procrastinate.SyncPsycopgConnector(conninfo=DSN))
    with made.open():
        yield blocking(
            lambda sent: task.defer(sent=sent),
            lambda many: task.batch_defer(*({"sent": sent} for sent in many)),
        )


async def work(concurrency: int) -> None:
    async with app_of_workers().open_async() as opened:
        await opened.run_worker_async(
            concurrency=concurrency, delete_jobs="successful", listen_notify=True
        )


if __name__ == "__main__":
    main(setup, client, work)
