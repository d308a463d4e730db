"""rescue: the jobs of dead workers go back; workers that beat are spared."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.sql.engine import Engine


def _rescue(engine: Engine, silent: dict[UUID, int | None] | None = None) -> dict[UUID, int]:
    silent = silent or {}
    rows = engine.all(
        "select * from pgtask.rescue(%s::uuid[], %s::bigint[])", list(silent), list(silent.values())
    )
    return dict(rows)


def _beats(engine: Engine) -> dict[UUID, int]:
    return dict(engine.all("select * from pgtask.beats()"))


def test_the_jobs_of_a_silent_worker_wait_for_their_next_attempt(engine: Engine) -> None:
    worker, job = engine.running(serial="s", key="k")
    assert _rescue(engine, {worker: 0}) == {worker: 1}

    row = engine.job(job.id)
    assert (row.state, row.attempt, row.crashes, row.epoch) == ("scheduled", 1, 1, 1)
    error = engine.one("select * from pgtask.attempts")
    assert (error.outcome, error.error_type, error.worker) == ("lost", "WorkerLost", worker)
    assert str(worker)[:8] in error.error_message
    assert engine.tally() == {"lost": 1}
    dead = engine.one("select alive, died_at, running from pgtask.workers")
    assert (dead.alive, dead.running) == (False, 0)
    assert dead.died_at is not None
    assert engine.finish(worker, [job]) == {job.id: "stale"}


def test_a_worker_that_beat_since_it_was_observed_is_spared(engine: Engine) -> None:
    worker, job = engine.running()
    seen = _beats(engine)[worker]
    engine.all("select * from pgtask._heartbeat(%s)", worker)

    assert _rescue(engine, {worker: seen}) == {}
    assert engine.where(job.id) == ["running"]
    assert worker in _beats(engine)


def test_living_workers_are_left_alone(engine: Engine) -> None:
    _, job = engine.running()

    assert _rescue(engine) == _rescue(engine, {uuid4(): 0}) == {}
    assert engine.where(job.id) == ["running"]


def test_an_observation_without_a_beat_kills_nobody(engine: Engine) -> None:
    worker, _ = engine.running()

    assert _rescue(engine, {worker: None}) == {}
    assert engine.all("select * from pgtask.rescue(null, null)") == []


def test_jobs_of_a_worker_that_left_or_has_no_row_are_taken_back(engine: Engine) -> None:
    left, missing = engine.running()[0], engine.running()[0]
    engine.all("select pgtask.deregister(%s)", left)
    engine.all("delete from pgtask.worker where id = %s returning id", missing)

    assert _rescue(engine) == {left: 1, missing: 1}
    assert engine.count("running") == 0
    assert _rescue(engine) == {}


def test_more_jobs_than_a_page_are_taken_back_by_one_call(engine: Engine) -> None:
    worker = engine.worker()
    engine.enqueue_many([[]] * 1203)
    assert len(engine.claim(worker, 2000)) == 1203

    assert _rescue(engine, {worker: 0}) == {worker: 1203}
    assert engine.tally() == {"lost": 1203}


@pytest.mark.parametrize("options", [
    {"max_attempts": 1}, {"max_crashes": 1}, {"policy": {"on_crash": "fail"}},
])  # fmt: skip
def test_a_job_without_another_try_ends_as_lost(engine: Engine, options: dict[str, Any]) -> None:
    worker, job = engine.running(**options)
    _rescue(engine, {worker: 0})

    assert (engine.job(job.id).state, engine.job(job.id).reason) == ("failed", "lost")


def test_one_job_with_an_unreadable_policy_does_not_stop_the_rescue(engine: Engine) -> None:
    worker = engine.worker()
    bad, good = engine.enqueue(), engine.enqueue()
    assert len(engine.claim(worker)) == 2
    engine.all(
        """update pgtask.running set policy = '{"backoff": "const:x", "jitter": "y"}'"""
        " where id = %s returning id", bad,
    )  # fmt: skip

    assert _rescue(engine, {worker: 0}) == {worker: 2}
    assert engine.job(bad).state == engine.job(good).state == "scheduled"


def test_a_job_asked_to_stop_ends_when_its_worker_dies(engine: Engine) -> None:
    worker, job = engine.running()
    engine.cancel(job.id)
    _rescue(engine, {worker: 0})

    assert engine.job(job.id).state == "cancelled"


def test_a_request_to_stop_that_missed_its_job_is_made_again(engine: Engine) -> None:
    worker, running = engine.running()
    waiting, ready = engine.enqueue(delay=60.0), engine.enqueue()
    _, done = engine.running(worker, queue="other")
    engine.finish(worker, [done])
    ids = [running.id, waiting, ready, done.id, 999999]
    for job_id in ids:  # as left behind by calls of cancel that overlapped with a finish
        engine.all(
            "insert into pgtask.cancel_request (job, worker, terminate) values (%s, %s, true)"
            " returning job", job_id, uuid4(),
        )  # fmt: skip
    _rescue(engine)

    assert engine.job(waiting).state == engine.job(ready).state == "cancelled"
    assert engine.job(done.id).state == "succeeded"
    assert engine.all("select job, worker, terminate from pgtask.cancel_request") == [
        (running.id, worker, True)
    ]
