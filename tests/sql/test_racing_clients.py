"""Fifty clients race for ten keys and ten lanes, and are killed: one job a key, one run a lane."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest

from tests.conditions import eventually
from tests.sql.engine import Engine
from tests.sql.specs import enqueue_many, enqueue_one

CLIENTS, CONSUMERS = 50, 12
KEYS = [f"{'kept' if n % 2 else 'replaced'}:{n}" for n in range(10)]
LANES = [f"lane:{n}" for n in range(10)]

# A replaced key may have a second job: the one that ran when it was replaced, and owns it no more.
TWICE = (
    "select 'pending', key from (select key from pgtask.waiting union all select key from"
    " pgtask.ready) j where key is not null group by key having count(*) > 1"
    " union all select 'unfinished', key from (select key from pgtask.waiting union all select key"
    " from pgtask.ready union all select key from pgtask.running) j where key like 'kept:%'"
    " group by key having count(*) > 1"
    " union all select 'running', serial from pgtask.running where serial is not null"
    " group by serial having count(*) > 1"
)
KILLED = (psycopg.errors.AdminShutdown, psycopg.OperationalError)


class Client:
    """Takes turns until told to stop; when its session is killed, it opens another."""

    def __init__(self, dsn: str, number: int, done: Counter[str]) -> None:
        self.dice = random.Random(number)
        self.done = done
        self._dsn = f"{dsn} application_name=race"
        self._turn: Callable[[Engine], None] = self.consume if number < CONSUMERS else self.produce
        self._worker = uuid4()

    def play(self, until: float) -> None:
        while time.monotonic() < until:
            with suppress(*KILLED), psycopg.connect(self._dsn, autocommit=True) as connection:
                self._play(Engine(connection), until)
            # What a killed session had claimed: given back, or left for its lease to end.
            if self.dice.random() < 0.5:
                with suppress(*KILLED), psycopg.connect(self._dsn, autocommit=True) as connection:
                    self._try(Engine(connection), "select * from pgtask.release(%s)", self._worker)
            self._worker = uuid4()

    def _play(self, engine: Engine, until: float) -> None:
        # Nobody may wait for long, and none in a ring.
        engine.connection.execute("set lock_timeout = '5s'")
        while time.monotonic() < until:
            self._turn(engine)

    def produce(self, engine: Engine) -> None:
        specs = [self._spec() for _ in range(self.dice.randint(1, 4))]
        with engine.connection.transaction(force_rollback=self.dice.random() < 0.1):
            if self.dice.random() < 0.5:
                enqueue_many(engine, *specs)
            else:
                enqueue_one(engine, specs[0])
        self.done["produced"] += 1

    def _spec(self) -> dict[str, Any]:
        key = self.dice.choice([None, *KEYS])
        return {
            "task": "t",
            "key": key,
            "on_conflict": "keep" if key and key.startswith("kept") else "replace",
            "serial": self.dice.choice([None, *LANES]),
            "delay": "20 ms" if self.dice.random() < 0.2 else None,
            "backoff": "const:0",
        }

    def consume(self, engine: Engine) -> None:
        claimed = self._try(
            engine, "select * from pgtask.claim(%s, %s, lease => '1 s')",
            self._worker, self.dice.randint(1, 5),
        )  # fmt: skip
        if claimed is None:
            self._worker = uuid4()
        for job in claimed or ():
            how = self.dice.choice(["complete", "complete", "fail", "snooze"])
            rest = ", interval '0'" if how == "snooze" else ""
            text = f"select pgtask.{how}(%s, %s, %s{rest})"
            if self._try(engine, text, self._worker, job.id, job.epoch) is not None:
                self.done[how] += 1

    def _try(self, engine: Engine, text: LiteralString, *params: object) -> list[Any] | None:
        """What the call answers; None when its worker is dead or unknown, or the attempt stale."""
        try:
            return engine.all(text, *params)
        except psycopg.Error as error:
            if error.sqlstate not in ("TQ001", "TQ004"):
                raise
            self.done["refused"] += 1
            return None


@pytest.mark.parametrize("seconds", [5.0, pytest.param(60.0, marks=pytest.mark.faults)])
def test_never_two_unfinished_of_a_key_nor_two_running_of_a_lane(
    engine: Engine, dsn: str, seconds: float
) -> None:
    done: Counter[str] = Counter()
    dice = random.Random(1)
    until = time.monotonic() + seconds
    twice: list[Any] = []
    stopped = threading.Event()

    def watch() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not stopped.is_set() and not twice:
                twice.extend(connection.execute(TWICE.encode()).fetchall())
                done["looks"] += 1

    def kill() -> None:
        sessions = engine.values(
            "select pid from pg_stat_activity where application_name = 'race'"
            " and datname = current_database()"
        )
        if sessions:
            engine.value("select pg_terminate_backend(%s)", dice.choice(sessions))
            done["killed"] += 1

    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        watching = pool.submit(watch)
        clients = [Client(dsn, number, done) for number in range(CLIENTS)]
        playing = [pool.submit(client.play, until) for client in clients]
        try:
            while time.monotonic() < until and not twice:
                kill()
                stopped.wait(0.05)
            for future in playing:
                future.result(60)
        finally:
            stopped.set()
        watching.result(10)
    assert twice == []
    assert min(done[what] for what in ("produced", "complete", "fail", "snooze", "looks")) > 50, (
        done
    )
    assert done["killed"] > 5 * seconds, done

    last = uuid4()

    def drained() -> bool:
        for job in engine.all("select * from pgtask.claim(%s, 500, lease => '1 min')", last):
            engine.all("select pgtask.complete(%s, %s, %s)", last, job.id, job.epoch)
        left = "select count(*) from pgtask.jobs where state not in ('succeeded', 'failed')"
        return not engine.value(left)

    # The leases of the killed end, and their jobs come back.
    eventually(drained, timeout=30)
    assert engine.count("job_key") == engine.count("slot") == 0
