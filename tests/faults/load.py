"""Load: producers whose transactions write a business row and enqueue a job, some in vain."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from typing import Any

import psycopg

from pgtask.errors import Unavailable
from tests.faults import app

VAIN = 0.1  # share of the transactions that are rolled back on purpose
THREADS = 2
# How often each task is enqueued, in relation to the others.
MIXED = {"effect": 10, "async_effect": 3, "transfer": 4, "in_lane": 1, "stumbling": 2}


class InVain(Exception):
    """Rolls a transaction back on purpose."""


class Load:
    """So many jobs a second until left; `acknowledged` are the ids whose COMMIT was answered.

    A producer that loses its connection makes a new one, as an application would; any other error
    that pgtask brings into the application's transaction is kept in `errors`.
    """

    def __init__(
        self,
        dsn: str,
        rate: float,
        *,
        seed: int = 1,
        tasks: Mapping[str, int] = MIXED,
        lanes: int = 4,
        batch: int = 1,
    ) -> None:
        self._dsn = dsn
        self._pause = THREADS * batch / rate
        self._tasks = list(tasks)
        self._weights = list(tasks.values())
        self._lanes = lanes
        self._batch = batch
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._produce, args=(random.Random(seed * 100 + n),))
            for n in range(THREADS)
        ]
        self.acknowledged: list[int] = []
        self.errors: list[str] = []
        self.slowest = 0.0  # s, of a transaction that was committed

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _produce(self, dice: random.Random) -> None:
        due = time.monotonic() + dice.random() * self._pause
        while not self._over.is_set():
            try:
                with psycopg.connect(
                    self._dsn, connect_timeout=5, application_name="producer"
                ) as connection:
                    while not self._over.wait(max(0.0, due - time.monotonic())):
                        # What an outage kept back is not made up for: the rate is a rate.
                        due = max(due + self._pause, time.monotonic() - 1.0)
                        self._transact(connection, dice)
            except (psycopg.OperationalError, psycopg.InterfaceError, Unavailable):
                self._over.wait(0.1)
            except Exception as error:  # noqa: BLE001 - the report shows it
                self.errors.append(f"{type(error).__name__}: {error}")
                self._over.wait(0.1)

    def _transact(self, connection: psycopg.Connection[Any], dice: random.Random) -> None:
        began = time.monotonic()
        ids: list[int] = []
        try:
            with connection.transaction():
                for _ in range(self._batch):
                    ids.append(self._enqueue(connection, dice))
                if dice.random() < VAIN:
                    raise InVain
        except InVain:
            return
        self.acknowledged += ids
        self.slowest = max(self.slowest, time.monotonic() - began)

    def _enqueue(self, connection: psycopg.Connection[Any], dice: random.Random) -> int:
        name = dice.choices(self._tasks, self._weights)[0]
        n = dice.randrange(1_000_000)
        arguments = (n, n % self._lanes) if name == "in_lane" else (n,)
        job = getattr(app, name).using(connection).delay(*arguments)
        intend(connection, job.id, name)
        return int(job.id)


def intend(connection: psycopg.Connection[Any], job_id: int, task: str) -> None:
    """The business row beside a job."""
    connection.execute(
        "insert into public.intent values (%s, %s) on conflict do nothing", [job_id, task]
    )
