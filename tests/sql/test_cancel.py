"""cancel: what has not begun ends, what runs is asked to stop."""

from __future__ import annotations

import pytest

from tests.sql.engine import Engine


@pytest.mark.parametrize("delay", [None, 60.0], ids=["ready", "waiting"])
@pytest.mark.parametrize("keep", ["all", "failures", "none"])
def test_a_pending_job_ends_at_once(engine: Engine, delay: float | None, keep: str) -> None:
    job_id = engine.enqueue("x" * 3000, delay=delay, keep=keep, key="k", policy={"result_ttl": 60})
    assert engine.cancel(job_id) == {job_id: "cancelled"}

    if keep != "none":
        job = engine.job(job_id)
        assert (job.state, job.reason, job.worker) == ("cancelled", "cancelled", None)
        assert (
            engine.value("select extract(epoch from purge_at - finished_at)::int from pgtask.done")
            == 60
        )
    else:
        assert engine.count("jobs") == engine.count("payload") == 0
    assert engine.count("job_key") == 0
    assert engine.tally() == {"cancelled": 1}


def test_a_running_job_is_asked_to_stop_and_its_worker_told(engine: Engine) -> None:
    engine.connection.execute("listen pgtask_cancel")
    worker, job = engine.running()
    other, _ = engine.running()
    assert engine.cancel(job.id) == {job.id: "cancelling"}

    assert engine.where(job.id) == ["running"]
    assert [n.payload for n in engine.connection.notifies(timeout=0)] == [str(worker)]
    assert engine.all("select * from pgtask._heartbeat(%s)", worker) == [(job.id, False)]
    assert engine.all("select * from pgtask._heartbeat(%s)", other) == []


def test_asking_again_can_harden_but_not_soften_the_request(engine: Engine) -> None:
    worker, job = engine.running()
    for terminate, expected in ((False, False), (True, True), (False, True), (None, True)):
        assert engine.cancel(job.id, terminate=terminate) == {job.id: "cancelling"}
        assert engine.all("select * from pgtask._heartbeat(%s)", worker) == [(job.id, expected)]


def test_many_at_once_answer_each_for_itself(engine: Engine) -> None:
    worker, running = engine.running()
    _, done = engine.running(worker)
    engine.finish(worker, [done])
    ready, waiting = engine.enqueue(), engine.enqueue(delay=60.0)

    assert engine.cancel(running.id, done.id, ready, waiting, 999999, None, ready) == {
        running.id: "cancelling", done.id: "finished", ready: "cancelled", waiting: "cancelled",
        999999: "missing",
    }  # fmt: skip


def test_nothing_to_cancel_is_nothing(engine: Engine) -> None:
    assert engine.cancel() == engine.cancel(None) == {}
    assert engine.all("select * from pgtask.cancel(null)") == []


def test_a_job_that_kept_nothing_is_missing(engine: Engine) -> None:
    worker, job = engine.running(keep="none")
    engine.finish(worker, [job])

    assert engine.cancel(job.id) == {job.id: "missing"}


def test_a_job_that_had_failed_attempts_leaves_its_errors_with_its_row_only(engine: Engine) -> None:
    worker = engine.worker()
    for keep, left in (("all", 1), ("failures", 2), ("none", 2)):
        _, job = engine.running(worker, keep=keep)
        engine.finish(worker, [job], "retried", delays=[60.0])
        engine.cancel(job.id)
        assert engine.count("attempt_error") == left


def test_a_parked_job_can_be_cancelled(engine: Engine) -> None:
    engine.enqueue(serial="s")
    parked = engine.enqueue(serial="s")
    engine.claim(engine.worker())

    assert engine.cancel(parked) == {parked: "cancelled"}


def test_whoever_waits_for_a_cancelled_job_hears_of_it(engine: Engine) -> None:
    engine.connection.execute("listen pgtask_done")
    job_id = engine.enqueue(delay=60.0)
    engine.all("select * from pgtask._watch(%s::bigint[])", [job_id])
    engine.cancel(job_id)

    assert [n.payload for n in engine.connection.notifies(timeout=0)] == [str(job_id)]


def test_a_cancel_that_is_rolled_back_has_not_been(engine: Engine) -> None:
    job_id = engine.enqueue(key="k")
    with engine.connection.transaction(force_rollback=True):
        assert engine.cancel(job_id) == {job_id: "cancelled"}

    assert engine.where(job_id) == ["ready"]
    assert engine.tally() == {}
