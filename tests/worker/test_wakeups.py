"""Wake-ups: no committed job waits for the slow poll, whatever enqueue and idling interleave."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from tests import shop
from tests.conditions import eventually
from tests.standing import Connection, unfinished
from tests.workers import Start

SLOW_POLL = "45"  # s: whoever waits for it fails the test
SOON = 3.0  # s: the contract's second, and what a busy machine adds
ROUNDS = 32
HOLDERS = 32  # transactions a round that stay open after their enqueue: a thousand in all
BURSTERS = 2
BURST = """
do $$ begin
  for i in 1..50 loop
    perform pgtask.enqueue('tests.shop.noop', keep => 'failures');
    commit;
    perform pg_sleep(0.001);
  end loop;
end $$
"""
LONGEST = 0.4  # s


@pytest.mark.parametrize("workers", [1, 2])
def test_a_thousand_random_interleavings_lose_no_wake_up(
    start_worker: Start, connection: Connection, dsn: str, workers: int
) -> None:
    # given workers that would find an unannounced job only after a long time
    for _ in range(workers):
        start_worker("-c", "1", "--poll", SLOW_POLL)

    # when, again and again, many enqueue until the worker asks not to be notified, others enqueue
    # before, meanwhile and after, and commit or roll back when it may have become idle again
    committed: dict[int, float] = {}
    lowered = 0
    with ThreadPoolExecutor(HOLDERS + BURSTERS) as pool:
        for number in range(ROUNDS):
            quiet = threading.Event()
            bursts = [pool.submit(burst, dsn, quiet) for _ in range(BURSTERS)]
            held = [pool.submit(hold, dsn, number * HOLDERS + n) for n in range(HOLDERS)]
            # A machine too busy to keep up leaves the flag as it is: that round tests less.
            with suppress(AssertionError):
                eventually(lambda: flag(connection) == 0, timeout=2)
                lowered += 1
            quiet.set()
            for burst_ended in bursts:
                burst_ended.result()
            for ended in held:
                committed.update(ended.result())
            eventually(lambda: unfinished(connection) == 0, timeout=10)

    assert lowered > 0

    # then each job that was committed began soon after it, and no other ever did
    begun = dict(
        connection.execute(
            "select id, extract(epoch from claimed_at)::float8 from pgtask.done"
        ).fetchall()
    )
    assert begun.keys() == committed.keys()
    assert not {job: begun[job] - at for job, at in committed.items() if begun[job] - at > SOON}


def test_a_busy_worker_is_not_notified(
    start_worker: Start, connection: Connection, dsn: str
) -> None:
    # given many single jobs, one after the other, and a worker
    start_worker("-c", "1")
    quiet = threading.Event()
    with (
        psycopg.connect(dsn, autocommit=True) as ear,
        ThreadPoolExecutor(BURSTERS) as pool,
    ):
        ear.execute("listen pgtask")
        bursts = [pool.submit(burst, dsn, quiet) for _ in range(BURSTERS)]
        # when it has noticed, then few of them notify
        try:
            eventually(lambda: share_that_notifies(connection, ear) < 0.5, timeout=30)
        finally:
            quiet.set()
        for each in bursts:
            each.result()

    # and none is forgotten
    eventually(lambda: unfinished(connection) == 0, timeout=30)


def share_that_notifies(connection: Connection, ear: psycopg.Connection[Any]) -> float:
    """Of the jobs enqueued in half a second."""
    before = last_seq(connection)
    heard = len(list(ear.notifies(timeout=0.5)))
    return heard / max(1, last_seq(connection) - before)


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


def burst(dsn: str, quiet: threading.Event) -> None:
    """Enqueue single jobs, a transaction each, until it is quiet.

    On the server, where a busy machine still gets through many more a second than make a worker
    lower the flag, and with a pause after each, so that it is never more than a worker can take.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        while not quiet.is_set():
            connection.execute(BURST)


def pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def flag(connection: Connection) -> int:
    row = connection.execute("select last_value from pgtask.idle_until").fetchone()
    assert row is not None
    return int(row[0])


def last_seq(connection: Connection) -> int:
    row = connection.execute("select last_value from pgtask.seq").fetchone()
    assert row is not None
    return int(row[0])


def now(connection: psycopg.Connection[Any]) -> float:
    row = connection.execute("select extract(epoch from clock_timestamp())::float8").fetchone()
    assert row is not None
    return float(row[0])
