"""Faults around keys and around the schema: deadlocks, a hot serial key, a migration under load."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import psycopg

from pgtask.broker import migrate
from tests.conditions import eventually
from tests.faults import app
from tests.faults.conservation import Allowed
from tests.faults.load import intend
from tests.faults.scenario import Told, scenario
from tests.faults.stand import Stand


@scenario("T38", "bulk enqueues with the same job keys in opposite orders, beside cancels")
def deadlock_storm(stand: Stand) -> Told:
    stand.worker()
    over = threading.Event()
    cancelled: list[int] = []
    errors: list[str] = []

    def enqueue(step: int) -> None:
        task = app.effect.options(key="{n}", on_conflict="keep")
        with psycopg.connect(stand.dsn) as connection:
            while not over.is_set():
                calls = [(n,) for n in range(40)][::step]
                with connection.transaction():
                    for job in task.using(connection).delay_many(calls):
                        intend(connection, job.id, "keyed")

    def cancel() -> None:
        dice = random.Random(38)
        with psycopg.connect(stand.dsn, autocommit=True) as connection:
            while not over.is_set():
                found = connection.execute(
                    "select id from pgtask.jobs where state in ('ready', 'scheduled')"
                    " order by id limit 40"
                ).fetchall()
                for (job,) in dice.sample(found, len(found) // 2):
                    cancelled.append(job)
                    connection.execute("select * from pgtask.cancel(%s)", [[job]])
                over.wait(0.01)

    def rescue() -> None:
        with psycopg.connect(stand.dsn, autocommit=True) as connection:
            while not over.wait(0.02):
                connection.execute("select * from pgtask.rescue()")
                connection.execute("select * from pgtask.promote()")

    def kept(call: object, *arguments: object) -> None:
        assert callable(call)
        try:
            call(*arguments)
        except Exception as error:  # noqa: BLE001 - it fails the scenario
            errors.append(f"{type(error).__name__}: {error}")

    calls = [(enqueue, 1), (enqueue, -1), (enqueue, 1), (enqueue, -1), (cancel,), (rescue,)]
    threads = [threading.Thread(target=kept, args=call) for call in calls]
    for thread in threads:
        thread.start()
    time.sleep(8.0)
    over.set()
    for thread in threads:
        thread.join()
    assert not errors, errors
    done = stand.finished()
    return Told(None, None, f"no deadlock reached anybody; {done} jobs ended",
                Allowed(failures=cancelled))  # fmt: skip


_HOLDER = (
    "select w.pid from pgtask.slot s join pgtask.running r on r.id = s.job"
    " join pgtask.worker w on w.id = r.worker"
)


@scenario("T56", "one serial key; a child dies every second, and a worker once", seconds=90)
def hot_serial_key(stand: Stand) -> Told:
    workers = [stand.worker("-c", "4"), stand.worker("-c", "4")]
    dice = random.Random(56)
    with stand.load(60, tasks={"in_lane": 1}, lanes=1):
        for _ in range(6):
            time.sleep(1.0)
            os.kill(dice.choice(dice.choice(workers).children()), signal.SIGKILL)
        # Whoever holds the key: it is free again when that one's lease has ended.
        holder = eventually(lambda: stand.ask(_HOLDER), 30)[0][0]
        at = stand.kill(next(worker for worker in workers if worker.pid == holder))
        before = stand.finished()
        eventually(lambda: stand.finished() > before + 20, 90)
        recovery = time.monotonic() - at
    assert stand.number("select count(*) from pgtask.slot") <= 1
    allowed = Allowed(doubles=True, counted=True)
    return Told(recovery, 45.0, "until the lane goes on, after the worker's death", allowed)


@scenario("T62", "every function of the schema is replaced under load, over and over")
def migrated_under_load(stand: Stand) -> Told:
    stand.worker()
    with stand.load(200) as load:
        stand.canary()
        for _ in range(5):
            stand.ask("update pgtask.repeatable set checksum = 'another'")
            with migrate.connection(stand.dsn) as connection:
                migrate.migrate(connection)
        # And once in vain.
        with psycopg.connect(stand.dsn) as connection:
            connection.execute("lock table pgtask.repeatable in share row exclusive mode")
            connection.execute("drop function pgtask.promote")
            time.sleep(0.5)
            connection.rollback()
        recovery = stand.canary()
    slowest = load.slowest
    assert slowest < 2.0, f"an enqueue took {slowest:.1f} s"
    return Told(recovery, 2.0, f"the slowest enqueue took {1000 * slowest:.0f} ms")
