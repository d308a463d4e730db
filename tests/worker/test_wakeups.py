"""Wake-ups: no committed job waits for the slow poll, whatever enqueue and idling interleave."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests import shop
from tests.conditions import eventually
from tests.standing import Connection, unfinished
from tests.workers import Start

SLOW_POLL = "45"  # s: whoever waits for it fails the test
ROUNDS = 32
HOLDERS = 32  # transactions a round that stay open after their enqueue: a thousand in all
BURSTERS = 4
LONGEST = 0.4  # s


@pytest.mark.parametrize("workers", [1, 2])
def test_a_thousand_random_interleavings_lose_no_wake_up_for_longer_than_a_second(
    start_worker: Start, connection: Connection, dsn: str, workers: int
) -> None:
    # given workers that would find an unannounced job only after a long time
    for _ in range(workers):
        start_worker("-c", "1", "--poll", SLOW_POLL)

    # when, again and again, many enqueue until the worker asks not to be notified, others enqueue
    # before, meanwhile and after, and commit or roll back when it may have become idle again
    committed: dict[int, float] = {}
    with ThreadPoolExecutor(HOLDERS + BURSTERS) as pool:
        for number in range(ROUNDS):
            quiet = threading.Event()
            bursts = [pool.submit(burst, dsn, quiet) for _ in range(BURSTERS)]
            held = [pool.submit(hold, dsn, number * HOLDERS + n) for n in range(HOLDERS)]
            try:
                eventually(lambda: flag(connection) == 0, timeout=10)
            finally:
                quiet.set()
            for burst_ended in bursts:
                burst_ended.result()
            for ended in held:
                committed.update(ended.result())
            eventually(lambda: unfinished(connection) == 0, timeout=10)

    # then each job that was committed began within a second of it, and no other ever did
    begun = dict(
        connection.execute(
            "select id, extract(epoch from claimed_at)::float8 from pgtask.done"
        ).fetchall()
    )
    assert begun.keys() == committed.keys()
    assert not {job: begun[job] - at for job, at in committed.items() if begun[job] - at > 1.0}


def test_many_single_jobs_send_few_notifications(
    start_worker: Start, connection: Connection, dsn: str
) -> None:
    start_worker("-c", "1", "--poll", SLOW_POLL)
    quiet = threading.Event()
    with (
        psycopg.connect(dsn, autocommit=True) as ear,
        ThreadPoolExecutor(BURSTERS) as pool,
    ):
        ear.execute("listen pgtask")
        bursts = [pool.submit(burst, dsn, quiet, at_least=500) for _ in range(BURSTERS)]
        quiet.set()
        sent = sum(each.result() for each in bursts)
        heard = len(list(ear.notifies(timeout=0.2)))
    eventually(lambda: unfinished(connection) == 0, timeout=10)

    assert sent == BURSTERS * 500
    assert 0 < heard < sent / 4


def hold(dsn: str, seed: int) -> dict[int, float]:
    """Enqueue in a transaction that stays open; job id → when it was committed, if it was.

    The pauses are what is under test: they decide on which side of the idle flag each step falls.
    """
    dice = random.Random(seed)
    with psycopg.connect(dsn, autocommit=True) as connection:
        pause(dice.uniform(0, 0.1))
        with connection.transaction() as transaction:
            job = shop.noop.options(keep="all").using(connection).delay()
            pause(dice.uniform(0, LONGEST))
            kept = dice.random() < 0.9
            if not kept:
                raise psycopg.Rollback(transaction)
        return {job.id: now(connection)} if kept else {}


def burst(dsn: str, quiet: threading.Event, at_least: int = 0) -> int:
    """Enqueue single jobs as fast as one can, until it is quiet; return how many."""
    sent = 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        while sent < at_least or not quiet.is_set():
            shop.noop.using(connection).delay()
            sent += 1
    return sent


def pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def flag(connection: Connection) -> float:
    row = connection.execute("select last_value from pgtask.idle_until").fetchone()
    assert row is not None
    return float(row[0])


def now(connection: psycopg.Connection[Any]) -> float:
    row = connection.execute("select extract(epoch from clock_timestamp())::float8").fetchone()
    assert row is not None
    return float(row[0])
