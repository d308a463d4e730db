"""Job keys: at most one unfinished job has one; replace, keep or raise."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from tests.sql.engine import Engine

BOTH = pytest.mark.parametrize("delay", [None, 60.0], ids=["ready", "waiting"])


@BOTH
def test_replace_rewrites_the_pending_owner_under_its_id(
    engine: Engine, delay: float | None
) -> None:
    first = engine.enqueue(1, key="k", delay=delay, priority=3, tags=["old"])
    born = engine.job(first).created_at
    rows = engine.enqueue_many([[2]], keys=["k"], queue="q", policy={"timeout": 1})

    assert rows == [(first, False)]
    job = engine.job(first)
    assert (job.state, job.args, job.queue, job.priority, job.tags) == ("ready", [2], "q", 0, None)
    assert (job.policy, job.created_at) == ({"timeout": 1}, born)
    assert engine.count("jobs") == engine.count("job_key") == 1


@BOTH
@pytest.mark.parametrize("on_conflict", ["keep", "raise"])
def test_keep_and_raise_answer_the_pending_owner_and_change_nothing(
    engine: Engine, delay: float | None, on_conflict: str
) -> None:
    first = engine.enqueue(1, key="k", delay=delay)
    before = engine.job(first)

    assert engine.enqueue_many([[2]], keys=["k"], on_conflict=on_conflict) == [(first, False)]
    assert engine.job(first) == before


@pytest.mark.parametrize("on_conflict", ["keep", "raise"])
def test_keep_and_raise_answer_the_running_owner(engine: Engine, on_conflict: str) -> None:
    _, job = engine.running(key="k")

    assert engine.enqueue_many([[2]], keys=["k"], on_conflict=on_conflict) == [(job.id, False)]
    assert engine.count("jobs") == 1


@pytest.mark.parametrize("on_conflict", ["replace", "keep", "raise"])
def test_the_key_of_a_finished_job_is_free(engine: Engine, on_conflict: str) -> None:
    worker, job = engine.running(key="k")
    engine.finish(worker, [job])
    ((second, created),) = engine.enqueue_many([[2]], keys=["k"], on_conflict=on_conflict)

    assert created
    assert second != job.id
    assert engine.all("select * from pgtask.job_key") == [("k", second)]


def test_replacing_keeps_the_epoch_and_begins_the_attempts_again(engine: Engine) -> None:
    worker, job = engine.running(key="k")
    engine.finish(worker, [job], "crashed", delays=[60.0])
    assert engine.job(job.id).attempt == engine.job(job.id).crashes == 1

    assert engine.enqueue(2, key="k") == job.id
    new = engine.job(job.id)
    assert (new.attempt, new.crashes, new.epoch) == (0, 0, 1)
    (again,) = engine.claim(worker)
    assert (again.id, again.epoch, again.attempt) == (job.id, 2, 1)
    assert engine.finish(worker, [job]) == {job.id: "stale"}


def test_replacing_swaps_large_arguments_for_small_ones_and_back(engine: Engine) -> None:
    job_id = engine.enqueue("x" * 3000, key="k")
    engine.check()
    engine.enqueue("small", key="k")
    assert engine.count("payload") == 0
    engine.enqueue("y" * 3000, key="k")
    engine.check()

    assert engine.claim(engine.worker())[0].args == '["' + "y" * 3000 + '"]'
    assert engine.where(job_id) == ["running"]


def test_one_call_with_one_key_twice_makes_one_job_of_the_last(engine: Engine) -> None:
    rows = engine.enqueue_many([[1], [2], [3]], keys=["k", "k", "other"])

    assert rows[0][0] == rows[1][0]
    assert [created for _, created in rows] == [True, False, True]
    assert engine.job(rows[0][0]).args == [2]


def _pass_on(engine: Engine, **options: Any) -> tuple[UUID, Any, int]:
    worker, owner = engine.running(key="k", **options)
    ((second, created),) = engine.enqueue_many([[2]], keys=["k"], delay=60.0)
    assert created
    assert second != owner.id
    return worker, owner, second


def test_the_key_of_a_running_job_passes_to_the_new_one_and_the_owner_may_finish(
    engine: Engine,
) -> None:
    worker, owner, second = _pass_on(engine)

    assert engine.finish(worker, [owner]) == {}
    assert engine.all("select * from pgtask.job_key") == [("k", second)]


@pytest.mark.parametrize(
    "verdict", ["retried", "snoozed", "released", "crashed", "timeout", "lost"]
)
def test_an_owner_that_lost_its_key_does_not_go_back_to_work(engine: Engine, verdict: str) -> None:
    worker, owner, second = _pass_on(engine)

    assert engine.finish(worker, [owner], verdict, delays=[0.0]) == {}
    job = engine.job(owner.id)
    assert (job.state, job.reason, job.error) == ("failed", "superseded", "superseded")
    assert engine.job(second).state == "scheduled"


def test_an_owner_that_lost_its_key_and_all_attempts_ends_for_its_own_reason(
    engine: Engine,
) -> None:
    worker, owner, _ = _pass_on(engine, max_attempts=1)
    engine.finish(worker, [owner], "crashed")

    assert engine.job(owner.id).reason == "crashed"


def test_an_owner_that_kept_its_key_may_retry(engine: Engine) -> None:
    worker, job = engine.running(key="k")
    engine.finish(worker, [job], "retried", delays=[60.0])

    assert engine.job(job.id).state == "scheduled"
    assert engine.all("select * from pgtask.job_key") == [("k", job.id)]


def test_a_third_job_rewrites_the_second_while_the_first_runs(engine: Engine) -> None:
    worker, owner, second = _pass_on(engine)

    assert engine.enqueue_many([[3]], keys=["k"]) == [(second, False)]
    assert engine.job(second).args == [3]
    engine.finish(worker, [owner])


def test_a_key_left_with_a_job_that_ended_is_free(engine: Engine) -> None:
    worker, job = engine.running()
    engine.finish(worker, [job])
    engine.all(
        "insert into pgtask.job_key values ('k', %s), ('gone', 999999) returning key", job.id
    )

    for key in ("k", "gone"):
        for on_conflict in ("keep", "replace"):
            engine.cancel(engine.enqueue(key=key, on_conflict=on_conflict, delay=60.0))
    assert engine.count("job_key") == 0


def test_a_parked_job_can_be_replaced(engine: Engine) -> None:
    worker = engine.worker()
    engine.enqueue(serial="s")
    parked = engine.enqueue(serial="s", key="k")
    assert len(engine.claim(worker)) == 1
    assert engine.where(parked) == ["waiting"]

    assert engine.enqueue(key="k") == parked
    assert [job.id for job in engine.claim(worker)] == [parked]
