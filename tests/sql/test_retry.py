"""retry: finished jobs run again by a person's wish."""

from __future__ import annotations

import pytest

from tests.sql.engine import Engine


@pytest.mark.parametrize("verdict", ["succeeded", "failed", "cancelled"])
def test_a_finished_job_is_ready_again_with_new_attempts_and_an_older_epoch(
    engine: Engine, verdict: str
) -> None:
    worker, job = engine.running(
        max_attempts=5, expires_in=60.0, tags=["x"], policy={"timeout": 1}, priority=3
    )
    engine.finish(worker, [job], "crashed", delays=[0.0])
    engine.promote(ahead=1)
    engine.finish(worker, engine.claim(worker), verdict, results=['"r"'])
    assert engine.retry(job.id) == {job.id: "retried"}

    row = engine.job(job.id)
    assert (row.state, row.attempt, row.crashes, row.epoch) == ("ready", 0, 0, 2)
    assert (row.max_attempts, row.expires_at, row.result) == (5, None, None)
    assert (row.tags, row.policy, row.priority) == (["x"], {"timeout": 1}, 3)
    assert engine.claim(worker)[0].epoch == 3


def test_large_arguments_stay_and_a_large_result_goes(engine: Engine) -> None:
    worker, large = engine.worker(), '"' + "r" * 3000 + '"'
    both, result = engine.enqueue("x" * 3000), engine.enqueue()
    engine.finish(worker, engine.claim(worker), results=[large, large])
    assert engine.count("payload") == 2
    assert engine.retry(both, result) == {both: "retried", result: "retried"}

    payload = engine.one("select * from pgtask.payload")
    assert (payload.job, payload.args, payload.result) == (both, ["x" * 3000], None)
    assert [len(job.args) for job in engine.claim(worker)] == [3004, 2]


def test_every_id_is_answered(engine: Engine) -> None:
    worker, running = engine.running()
    _, done = engine.running(worker)
    engine.finish(worker, [done])
    waiting, ready = engine.enqueue(delay=60.0), engine.enqueue()

    assert engine.retry(running.id, done.id, waiting, ready, 999999, None, done.id) == {
        running.id: "unfinished", done.id: "retried", waiting: "unfinished", ready: "unfinished",
        999999: "missing",
    }  # fmt: skip
    assert engine.retry() == engine.retry(None) == {}
    assert engine.all("select * from pgtask.retry(null)") == []


@pytest.mark.parametrize("delay", [None, 60.0], ids=["ready", "waiting"])
def test_a_job_whose_key_has_a_newer_owner_is_refused(engine: Engine, delay: float | None) -> None:
    worker, job = engine.running(key="k")
    engine.finish(worker, [job])
    newer = engine.enqueue(key="k", delay=delay)
    assert engine.retry(job.id) == {job.id: "refused"}
    assert engine.job(job.id).state == "succeeded"

    engine.cancel(newer)
    assert engine.retry(job.id) == {job.id: "retried"}


def test_of_two_jobs_with_one_key_one_is_retried(engine: Engine) -> None:
    worker = engine.worker()
    first, second = engine.running(worker, key="k"), None
    engine.finish(worker, [first[1]])
    second = engine.running(worker, key="k")
    engine.finish(worker, [second[1]])

    assert engine.retry(second[1].id, first[1].id) == {
        first[1].id: "retried", second[1].id: "refused",
    }  # fmt: skip


def test_a_key_left_with_another_job_that_has_ended_is_free(engine: Engine) -> None:
    worker, job = engine.running(key="k")
    engine.finish(worker, [job])
    _, newer = engine.running(worker, key="k")
    engine.finish(worker, [newer])
    engine.all("insert into pgtask.job_key values ('k', %s) returning key", newer.id)

    assert engine.retry(job.id) == {job.id: "retried"}
    assert engine.all("select * from pgtask.job_key") == [("k", job.id)]


def test_a_request_to_cancel_that_came_too_late_does_not_hit_the_new_run(engine: Engine) -> None:
    worker, job = engine.running()
    engine.finish(worker, [job])
    engine.all(
        "insert into pgtask.cancel_request (job, worker) values (%s, %s) returning job",
        job.id,
        worker,
    )
    engine.retry(job.id)
    (again,) = engine.claim(worker)
    engine.finish(worker, [again], "retried", delays=[60.0])

    assert engine.job(job.id).state == "scheduled"


def test_idle_workers_are_woken(engine: Engine) -> None:
    worker, job = engine.running()
    engine.finish(worker, [job])
    assert engine.claim(worker) == []
    engine.connection.execute("listen pgtask")
    engine.retry(job.id)

    assert [n.payload for n in engine.connection.notifies(timeout=0)] == ["default"]


def test_a_serial_job_takes_its_turn_again(engine: Engine) -> None:
    worker, job = engine.running(serial="s")
    engine.finish(worker, [job])
    _, other = engine.running(worker, serial="s")
    engine.retry(job.id)

    assert engine.claim(worker) == []
    engine.finish(worker, [other])
    assert [j.id for j in engine.claim(worker)] == [job.id]
