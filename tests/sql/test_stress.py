"""Stress: four sessions do everything at once at random; afterwards everything must add up."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.sql.engine import Engine

SECONDS = 5.0
VERDICTS = ["succeeded"] * 5 + [
    "failed",
    "cancelled",
    "retried",
    "snoozed",
    "released",
    "crashed",
    "timeout",
]


class Player:
    """One session: a worker and a producer in one, with its own dice."""

    def __init__(self, engine: Engine, seed: int, shared: Shared) -> None:
        self.engine, self.dice, self.shared = engine, random.Random(seed), shared
        self.worker: UUID = engine.worker()
        self.held: list[Any] = []
        self.moves = [
            *[self.enqueue] * 4, *[self.claim] * 6, *[self.finish] * 8, *[self.promote] * 2,
            self.cancel, self.retry, self.rescue, self.die, self.beat, self.purge,
            *[self.reschedule] * 2, self.discard,
        ]  # fmt: skip

    def play(self, until: float) -> int:
        turns = 0
        while time.monotonic() < until:
            move = self.dice.choice(self.moves)
            try:
                move()
            except psycopg.Error as error:
                if error.sqlstate != "TQ001":  # declared dead by another player
                    raise
                self.held.clear()
                self.worker = self.engine.worker()
            turns += 1
        return turns

    def _some(self, most: int = 6) -> list[int]:
        last = self.shared.last or 1
        return [self.dice.randint(1, last) for _ in range(self.dice.randint(1, most))]

    def enqueue(self) -> None:
        dice, n = self.dice, self.dice.randint(1, 8)
        columns: dict[str, Any] = {}
        if dice.random() < 0.6:
            columns["keys"] = [dice.choice([None, *"abcdefgh"]) for _ in range(n)]
        if dice.random() < 0.6:
            columns["serials"] = [dice.choice([None, *"stu"]) for _ in range(n)]
        rows = self.engine.enqueue_many(
            [["x" * (3000 if dice.random() < 0.1 else 1)]] * n,
            on_conflict=dice.choice(["replace", "keep"]), delay=dice.choice([None, None, 0.02]),
            priority=dice.randint(-2, 2), keep=dice.choice(["all", "all", "failures", "none"]),
            expires_in=dice.choice([None, None, None, 0.05]), max_attempts=9,
            policy={"backoff": [0.01]}, **columns,
        )  # fmt: skip
        for job_id, created in rows:
            if created:
                self.shared.last = max(self.shared.last, job_id)

    def claim(self) -> None:
        self.held += self.engine.claim(self.worker, self.dice.randint(1, 6))

    def finish(self) -> None:
        if not self.held:
            return
        self.dice.shuffle(self.held)
        n = self.dice.randint(1, len(self.held))
        ended, self.held = self.held[:n], self.held[n:]
        verdicts = [self.dice.choice(VERDICTS) for _ in ended]
        if all(v == "succeeded" for v in verdicts):
            verdicts = []
        results = [self.dice.choice([None, "1", '"' + "r" * 2500 + '"']) for _ in ended]
        delays = [self.dice.choice([None, 0.0, 0.02]) for _ in ended]
        answers = self.engine.finish(self.worker, ended, *verdicts, results=results, delays=delays)
        self.held += [job for job in ended if answers.get(job.id) == "busy"]
        with self.shared.lock:
            for job in ended:
                if job.id not in answers:
                    # A fence that could be used twice would be a job that ended twice.
                    assert (job.id, job.epoch) not in self.shared.ended
                    self.shared.ended.add((job.id, job.epoch))

    def promote(self) -> None:
        self.engine.promote()

    def cancel(self) -> None:
        self.engine.cancel(*self._some(), terminate=self.dice.random() < 0.5)

    def reschedule(self) -> None:
        said = {
            "run_at": ["clock_timestamp() + interval '20 ms'", "now()", "null"],
            "priority": ["-2", "0", "2", "null"],
            "attempt": ["0", "null"],
            "max_attempts": ["9"],
        }
        chosen = ", ".join(f"{name} => {self.dice.choice(of)}" for name, of in said.items())
        # One that has had nine attempts is refused, and then all are as they were.
        try:
            self.engine.all(
                f"select * from pgtask.reschedule(%s::bigint[], {chosen})", self._some()
            )
        except psycopg.Error as error:
            if error.sqlstate != "TQ002":
                raise

    def discard(self) -> None:
        self.engine.all("select * from pgtask.discard(%s::bigint[])", self._some())

    def retry(self) -> None:
        self.engine.retry(*self._some())

    def rescue(self) -> None:
        self.engine.all("select * from pgtask.rescue()")
        self.shared.check_lanes(self.engine)

    def die(self) -> None:
        """Declare some worker, perhaps this one, silent."""
        beats = self.engine.all("select * from pgtask.beats()")
        if beats and self.dice.random() < 0.3:
            worker, beat = self.dice.choice(beats)
            self.engine.all("select * from pgtask.rescue(%s, %s)", [worker], [beat])

    def beat(self) -> None:
        self.engine.all(
            "select * from pgtask._heartbeat(%s, '{t}', '{succeeded}', '{1}')", self.worker
        )

    def purge(self) -> None:
        self.engine.all("select pgtask.purge('1.0 s', 20)")
        self.engine.all("select pgtask.purge(ids => %s::bigint[])", self._some())


class Shared:
    """What the players know of each other."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.ended: set[tuple[int, int]] = set()
        self.last = 0

    def check_lanes(self, engine: Engine) -> None:
        twice = (
            "select serial from pgtask.running where serial is not null"
            " group by serial having count(*) > 1"
        )
        assert engine.all(twice) == []


@pytest.mark.parametrize("seed", [1])
def test_everything_at_once_loses_nothing_and_blocks_nobody(
    engine: Engine, another: Callable[[], Engine], seed: int
) -> None:
    shared = Shared()
    players = [Player(another(), seed * 100 + n, shared) for n in range(4)]
    for player in players:  # no call may wait for long, and none in a ring
        player.engine.connection.execute("set lock_timeout = '3s'")
    until = time.monotonic() + SECONDS
    with ThreadPoolExecutor(4) as pool:
        turns = [future.result(60) for future in [pool.submit(p.play, until) for p in players]]
    assert min(turns) > 50
    assert len(shared.ended) > 100

    engine.all("select pgtask.deregister(id) from pgtask.worker")
    engine.all("select * from pgtask.rescue()")
    engine.check()
    worker = engine.worker()
    for _ in range(1000):
        engine.promote(ahead=10**4)
        jobs = engine.claim(worker, 100)
        assert engine.finish(worker, jobs) == {}
        if not engine.count("waiting") + engine.count("ready"):
            break
    assert engine.count("waiting") == engine.count("ready") == engine.count("running") == 0
    assert engine.count("job_key") == engine.count("slot") == engine.count("cancel_request") == 0
    engine.all("select pgtask.purge('0 s', 100000)")
    for table in ("done", "payload", "attempt_error"):
        assert engine.count(table) == 0
