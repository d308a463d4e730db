"""Consumers in many sessions at the same jobs, some of which die: none is lost or run twice."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from tests.sql.consumers import Consumer
from tests.sql.engine import Engine
from tests.sql.races import Another

JOBS = 300
LANES = 5


class _Lanes:
    """Who is in each lane, as the consumers themselves see it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.inside: dict[str, int] = {}
        self.ended: list[int] = []
        self.overlaps: list[str] = []

    def enter(self, lane: str, job_id: int) -> None:
        with self._lock:
            if lane in self.inside:
                self.overlaps.append(f"{job_id} beside {self.inside[lane]} in {lane}")
            self.inside[lane] = job_id

    def leave(self, lane: str) -> None:
        with self._lock:
            self.inside.pop(lane, None)

    def end(self, job_id: int) -> None:
        with self._lock:
            self.ended.append(job_id)


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_a_claim_in_a_transaction_that_stays_open_keeps_no_other_waiting(
    engine: Engine, another: Another, ends: str
) -> None:
    lane = [engine.enqueue("t", serial="lane", priority=9) for _ in range(3)]
    free = [engine.enqueue("t") for _ in range(4)]
    worker, other = engine.worker(), another()
    engine.connection.execute("set statement_timeout = '5s'")
    consumer = Consumer(other)

    other.connection.execute("begin")
    job = consumer.one()
    assert job.id == lane[0]
    # A worker and another consumer pass by what is about to be held.
    assert {each.id for each in engine.claim(worker, 3)} == set(free[:3])
    assert [each.id for each in Consumer(engine).claim()] == free[3:]
    other.connection.execute(ends.encode())

    if ends == "commit":
        assert engine.claim(worker, 5) == []
        consumer.complete(job)
    else:
        engine.all("select pgtask.promote()")
    (next_one,) = engine.claim(worker, 5)
    # One in front of it in the lane that has been parked comes when it is handed over.
    assert next_one.id in lane


def test_any_number_of_consumers_end_each_job_once_and_share_no_lane(
    engine: Engine, dsn: str
) -> None:
    for n in range(JOBS):
        lane = f"lane{n % LANES}" if n % 2 else None
        engine.enqueue(
            lane, serial=lane, max_attempts=1000, max_crashes=1000, policy={"backoff": "const:0"}
        )
    lanes = _Lanes()

    def consume(seed: int) -> None:
        dice = random.Random(seed)
        with psycopg.connect(dsn, autocommit=True) as connection:
            mine = Engine(connection)
            while len(lanes.ended) < JOBS:
                _life(Consumer(mine), lanes, dice)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(consume, seed) for seed in range(8)]:
            future.result(60)

    assert lanes.overlaps == []
    assert sorted(lanes.ended) == engine.values("select id from pgtask.jobs order by id")
    assert engine.values("select distinct state from pgtask.jobs") == ["succeeded"]
    assert engine.tally()["succeeded"] == JOBS


def _life(consumer: Consumer, lanes: _Lanes, dice: random.Random) -> None:
    """Some claims of one consumer, which then leaves, or dies with a job in hand."""
    for _ in range(dice.randint(1, 5)):
        for job in consumer.claim(dice.randint(1, 4), lease="1 hour"):
            (lane,) = job.args
            if lane is not None:
                lanes.enter(lane, job.id)
            fate = dice.choice(["complete", "complete", "batch", "fail", "snooze", "die"])
            if lane is not None:
                lanes.leave(lane)
            if fate == "die":
                consumer.fall_silent("2 hours")
                return
            _end(consumer, job, fate, lanes)
    consumer.release()


def _end(consumer: Consumer, job: Any, fate: str, lanes: _Lanes) -> None:
    match fate:
        case "complete":
            consumer.complete(job)
            lanes.end(job.id)
        case "batch":
            while (answer := consumer.finish((job, "succeeded")).get(job.id)) is not None:
                assert answer == "busy"
            lanes.end(job.id)
        case "fail":
            consumer.fail(job, "x", "2000-01-01 00:00Z")
        case _:
            consumer.snooze(job, "0 seconds")
    with suppress(psycopg.errors.LockNotAvailable):
        consumer.heartbeat()
