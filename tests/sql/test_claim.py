"""claim: which jobs, in which order, and in what state they leave ready."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.sql.engine import Engine


def test_a_claim_stamps_worker_epoch_and_attempt(engine: Engine) -> None:
    job_id = engine.enqueue(
        1, headers='{"a": 1}', tags=["x"], policy={"timeout": 1}, max_attempts=2
    )
    worker = engine.worker()
    (job,) = engine.claim(worker)

    assert (job.id, job.epoch, job.attempt, job.max_attempts) == (job_id, 1, 1, 2)
    assert (job.task, job.queue, job.args, job.kwargs) == ("t", "default", "[1]", None)
    assert (job.policy, job.headers, job.tags, job.serial) == (
        '{"timeout": 1}',
        '{"a": 1}',
        ["x"],
        False,
    )
    row = engine.job(job_id)
    assert (row.state, row.worker, row.epoch, row.attempt) == ("running", worker, 1, 1)
    assert row.claimed_at - row.created_at < timedelta(seconds=30)


@pytest.mark.parametrize(
    ("options", "left"),
    [({}, [None, 2, 1]), ({"max_crashes": 10}, [None, 2, 1]), ({"max_attempts": 10}, [None, 2, 1])],
)
def test_a_claim_tells_how_many_more_crashes_a_job_may_have_that_had_one(
    engine: Engine, options: dict[str, Any], left: list[int | None]
) -> None:
    engine.enqueue(policy={"backoff": "const:0"}, **options)
    worker = engine.worker()
    for lives in left:
        (job,) = engine.claim(worker)
        assert job.lives == lives
        engine.finish(worker, [job], "crashed")
        engine.promote()

    assert engine.job(job.id).state == "failed"


def test_priority_goes_before_age_and_age_before_nothing(engine: Engine) -> None:
    low, first, second, high = (engine.enqueue(priority=p) for p in (-1, 0, 0, 7))

    assert [job.id for job in engine.claim(engine.worker())] == [high, first, second, low]


def test_queues_are_emptied_in_the_order_given(engine: Engine) -> None:
    a, b = engine.enqueue(queue="a"), engine.enqueue(queue="b", priority=9)
    worker = engine.worker()

    assert [job.id for job in engine.claim(worker, 1, queues=["a", "b"])] == [a]
    assert [job.id for job in engine.claim(worker, 1, queues=["a", "b"])] == [b]


def test_one_claim_takes_from_several_queues_up_to_its_limit(engine: Engine) -> None:
    for queue in ("a", "b", "c"):
        engine.enqueue_many([[]] * 3, queue=queue)
    jobs = engine.claim(engine.worker(), 5, queues=["a", "b"])

    assert sorted(job.queue for job in jobs) == ["a", "a", "a", "b", "b"]
    assert engine.count("ready") == 4


def test_a_paused_queue_gives_nothing_until_it_is_resumed(engine: Engine) -> None:
    job_id, worker = engine.enqueue(), engine.worker()
    engine.all("select pgtask.pause_queue('default')")
    assert engine.claim(worker) == []
    assert engine.where(job_id) == ["ready"]

    engine.all("select pgtask.resume_queue('default')")
    assert [job.id for job in engine.claim(worker)] == [job_id]


def test_an_unknown_task_stays_in_ready_and_blocks_nobody(engine: Engine) -> None:
    unknown = engine.enqueue(task="unknown", priority=9)
    known, worker = engine.enqueue(), engine.worker()

    assert [job.id for job in engine.claim(worker, 1)] == [known]
    assert engine.claim(worker) == []
    assert engine.job(unknown).attempt == 0
    assert engine.where(unknown) == ["ready"]


@pytest.mark.parametrize("keep", ["all", "failures"])
def test_an_expired_job_ends_instead_of_running(engine: Engine, keep: str) -> None:
    job_id = engine.enqueue(
        "x" * 3000, expires_in=-1.0, key="k", keep=keep, policy={"result_ttl": 60}
    )
    assert engine.claim(engine.worker()) == []

    job = engine.job(job_id)
    assert (job.state, job.reason, job.attempt) == ("cancelled", "expired", 0)
    assert engine.value("select purge_at > finished_at + interval '59 s' from pgtask.done")
    assert engine.tally() == {"expired": 1}


def test_an_expired_job_that_keeps_nothing_leaves_nothing_but_its_count(engine: Engine) -> None:
    engine.enqueue("x" * 3000, expires_in=-1.0, key="k", keep="none")
    assert engine.claim(engine.worker()) == []

    assert engine.count("jobs") == engine.count("payload") == engine.count("job_key") == 0
    assert engine.tally() == {"expired": 1}


def test_a_job_that_expires_later_is_claimed(engine: Engine) -> None:
    job_id = engine.enqueue(expires_in=60.0)

    assert [job.id for job in engine.claim(engine.worker())] == [job_id]


def test_a_heap_of_expired_jobs_does_not_hide_the_live_one_behind_it(engine: Engine) -> None:
    engine.enqueue_many([[]] * 40, expires_in=-1.0)
    live = engine.enqueue()

    assert [job.id for job in engine.claim(engine.worker(), 2)] == [live]


def test_expired_and_serial_jobs_of_one_claim_are_told_apart(engine: Engine) -> None:
    expired = engine.enqueue(serial="s", expires_in=-1.0)
    first = engine.enqueue(serial="s", expires_in=60.0)
    second = engine.enqueue(serial="s", expires_in=60.0)
    plain = engine.enqueue()

    assert [job.id for job in engine.claim(engine.worker())] == [first, plain]
    assert engine.job(expired).reason == "expired"
    assert engine.where(second) == ["waiting"]


def test_a_claim_with_room_left_raises_the_idle_flag_for_a_while(engine: Engine) -> None:
    engine.enqueue_many([[]] * 2)
    worker = engine.worker()
    flag = "select last_value > extract(epoch from clock_timestamp()) * 1000 from pgtask.idle_until"
    assert len(engine.claim(worker, 1)) == 1
    assert engine.value(flag) is False

    assert len(engine.claim(worker, 2)) == 1
    assert engine.value(flag) is True


@pytest.mark.parametrize(("options", "commit"), [
    ({}, "off"), ({"expires_in": 60.0}, "on"), ({"serial": "s"}, "on"),
    ({"policy": {"on_crash": "fail"}}, "on"), ({"policy": {"timeout": 1}}, "off"),
])  # fmt: skip
def test_only_claims_that_may_be_lost_commit_asynchronously(
    engine: Engine, options: dict[str, Any], commit: str
) -> None:
    engine.enqueue(**options)
    worker = engine.worker()
    with engine.connection.transaction():
        engine.connection.execute("set local synchronous_commit = on")
        assert len(engine.claim(worker)) == 1
        assert engine.value("show synchronous_commit") == commit


def test_a_worker_that_is_not_there_or_not_alive_claims_nothing(engine: Engine) -> None:
    job_id, left = engine.enqueue(), engine.worker()
    engine.all("select pgtask.deregister(%s)", left)

    for worker in (left, uuid4(), None):
        with pytest.raises(psycopg.Error, match="not alive") as refused:
            engine.claim(worker)
        assert refused.value.sqlstate == "TQ001"
    assert engine.where(job_id) == ["ready"]


@pytest.mark.parametrize("n", [0, -1, None])
def test_a_claim_of_fewer_than_one_is_refused(engine: Engine, n: int | None) -> None:
    with pytest.raises(psycopg.Error, match="at least 1") as refused:
        engine.claim(engine.worker(), n)
    assert refused.value.sqlstate == "TQ002"


def test_no_queues_and_no_tasks_claim_nothing(engine: Engine) -> None:
    engine.enqueue()
    worker = engine.worker()

    assert engine.claim(worker, queues=[]) == engine.claim(worker, tasks=[]) == []
    assert engine.count("ready") == 1


def test_a_queue_named_twice_gives_each_job_once(engine: Engine) -> None:
    ids = [engine.enqueue() for _ in range(3)]

    assert [job.id for job in engine.claim(engine.worker(), queues=["default", "default"])] == ids
