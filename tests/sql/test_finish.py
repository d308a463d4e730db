"""finish: every verdict, what is kept, and what is refused."""

from __future__ import annotations

import json
from uuid import uuid4

import psycopg
import pytest

from tests.sql.engine import Engine

FINAL = ["succeeded", "failed", "cancelled"]
LARGE = json.dumps("x" * 3000)


@pytest.mark.parametrize("verdict", [None, "succeeded"])
def test_success_goes_to_done_with_its_result(engine: Engine, verdict: str | None) -> None:
    worker, job = engine.running()
    assert (
        engine.finish(worker, [job], *([verdict] if verdict else []), results=['{"a":  1}']) == {}
    )

    row = engine.job(job.id)
    assert (row.state, row.reason, row.error) == ("succeeded", None, None)
    assert (row.worker, row.epoch, row.attempt) == (worker, 1, 1)
    assert row.created_at <= row.claimed_at <= row.finished_at
    assert engine.result(job.id).result == '{"a":  1}'


@pytest.mark.parametrize("verdict", [None, "succeeded"])
def test_a_large_result_stands_beside_the_row(engine: Engine, verdict: str | None) -> None:
    worker, job = engine.running()
    engine.finish(worker, [job], *([verdict] if verdict else []), results=[LARGE])

    assert engine.job(job.id).result is None
    assert engine.result(job.id).result == LARGE


@pytest.mark.parametrize("verdict", [None, "succeeded"])
def test_large_arguments_and_a_large_result_share_a_row(
    engine: Engine, verdict: str | None
) -> None:
    worker = engine.worker()
    job_id = engine.enqueue("y" * 3000)
    engine.finish(worker, engine.claim(worker), *([verdict] if verdict else []), results=[LARGE])

    payload = engine.one("select * from pgtask.payload")
    assert (payload.job, payload.args, payload.result) == (job_id, ["y" * 3000], "x" * 3000)


def test_failure_keeps_reason_error_and_traceback(engine: Engine) -> None:
    worker, job = engine.running()
    engine.finish(
        worker, [job], "failed", types=["ValueError"], messages=["no"], tracebacks=["line 1"]
    )

    row = engine.job(job.id)
    assert (row.state, row.reason, row.error) == ("failed", "error", "ValueError: no")
    error = engine.one("select * from pgtask.attempts")
    assert (error.job, error.attempt, error.epoch, error.outcome) == (job.id, 1, 1, "failed")
    assert (error.error_type, error.error_message, error.error_traceback) == (
        "ValueError",
        "no",
        "line 1",
    )
    assert error.worker == worker
    assert error.claimed_at <= error.ended_at


def test_a_failure_may_name_its_own_reason(engine: Engine) -> None:
    worker, job = engine.running()
    engine.finish(worker, [job], "failed", reasons=["timeout"])

    assert (engine.job(job.id).reason, engine.job(job.id).error) == ("timeout", "timeout")


def test_a_running_job_may_end_as_cancelled(engine: Engine) -> None:
    worker, job = engine.running()
    engine.finish(worker, [job], "cancelled")

    assert (engine.job(job.id).state, engine.job(job.id).reason) == ("cancelled", "cancelled")
    assert engine.count("attempt_error") == 0


@pytest.mark.parametrize("keep", ["all", "failures", "none"])
@pytest.mark.parametrize("verdict", [None, *FINAL])
def test_keep_says_what_is_left(engine: Engine, keep: str, verdict: str | None) -> None:
    worker = engine.worker()
    job_id = engine.enqueue("y" * 3000, keep=keep, key="k", serial="s")
    for _ in range(2):
        engine.finish(
            worker, engine.claim(worker), "retried", types=["E"], messages=["m"], delays=[0.0]
        )
        engine.promote(ahead=1)
    (job,) = engine.claim(worker)
    assert engine.finish(worker, [job], *([verdict] if verdict else []), results=[LARGE]) == {}

    kept = keep == "all" or (keep == "failures" and verdict in ("failed", "cancelled"))
    assert engine.where(job_id) == (["done"] if kept else [])
    assert engine.count("payload") == (1 if kept else 0)
    assert engine.count("attempt_error") == (2 + (verdict == "failed") if kept else 0)
    assert engine.count("job_key") == engine.count("slot") == 0


def test_errors_of_a_job_that_was_failed_then_retried_by_a_person_go_with_it(
    engine: Engine,
) -> None:
    worker, job = engine.running(keep="failures")
    engine.finish(worker, [job], "failed", types=["E"], messages=["m"])
    engine.retry(job.id)
    engine.finish(worker, engine.claim(worker))

    assert engine.count("jobs") == engine.count("attempt_error") == 0


@pytest.mark.parametrize("verdict", [None, *FINAL])
def test_result_ttl_becomes_an_instant(engine: Engine, verdict: str | None) -> None:
    worker, job = engine.running(policy={"result_ttl": 60})
    engine.finish(worker, [job], *([verdict] if verdict else []))

    assert (
        engine.value("select extract(epoch from purge_at - finished_at)::int from pgtask.done")
        == 60
    )


@pytest.mark.parametrize("verdict", [None, *FINAL, "retried", "snoozed", "released", "lost"])
def test_only_the_worker_with_the_epoch_may_say(engine: Engine, verdict: str | None) -> None:
    worker, job = engine.running()
    verdicts = [verdict] if verdict else []

    assert engine.finish(engine.worker(), [job], *verdicts) == {job.id: "stale"}
    assert engine.finish(uuid4(), [job], *verdicts) == {job.id: "stale"}
    assert engine.finish(None, [job], *verdicts) == {job.id: "stale"}
    assert engine.finish(worker, [(job.id, 0)], *verdicts) == {job.id: "stale"}
    assert engine.finish(worker, [(job.id, 2)], *verdicts) == {job.id: "stale"}
    assert engine.finish(worker, [(job.id, None)], *verdicts) == {job.id: "stale"}
    assert engine.finish(worker, [(99999, 1)], *verdicts) == {99999: "stale"}
    assert engine.where(job.id) == ["running"]


def test_an_older_attempt_in_a_batch_does_not_speak_for_the_current_one(engine: Engine) -> None:
    worker, first = engine.running()
    engine.finish(worker, [first], "retried", delays=[0.0])
    engine.promote(ahead=1)
    (second,) = engine.claim(worker)
    assert engine.finish(worker, [first, second], results=['"old"', '"new"']) == {}

    assert engine.job(first.id).result == "new"


@pytest.mark.parametrize("old_first", [True, False])
def test_nor_does_it_with_verdicts(engine: Engine, old_first: bool) -> None:  # noqa: FBT001
    worker, first = engine.running()
    engine.finish(worker, [first], "released")
    (second,) = engine.claim(worker)
    ended, verdicts = [first, second], ["failed", "snoozed"]
    if not old_first:
        ended, verdicts = ended[::-1], verdicts[::-1]
    assert engine.finish(worker, ended, *verdicts, delays=[60.0, 60.0]) == {}

    assert engine.job(first.id).state == "scheduled"


@pytest.mark.parametrize("verdicts", [(), ("retried", "retried"), ("failed", "failed")])
def test_an_attempt_that_stands_twice_in_a_batch_ends_once(
    engine: Engine, verdicts: tuple[str, ...]
) -> None:
    worker, job = engine.running(serial="s", key="k")

    assert engine.finish(worker, [job, job], *verdicts, delays=[60.0, 60.0]) == {}
    assert len(engine.where(job.id)) == 1


def test_a_batch_with_every_verdict_goes_everywhere(engine: Engine) -> None:
    worker = engine.worker()
    engine.enqueue_many([[n] for n in range(9)])
    jobs = engine.claim(worker)
    verdicts = (*FINAL, "retried", "snoozed", "released", "crashed", "timeout", "lost")
    assert engine.finish(worker, [*jobs, (10**9, 1)], *verdicts, "failed") == {10**9: "stale"}

    states = {v: engine.job(job.id).state for v, job in zip(verdicts, jobs, strict=True)}
    assert states == {
        "succeeded": "succeeded", "failed": "failed", "cancelled": "cancelled", "released": "ready",
        **dict.fromkeys(("retried", "snoozed", "crashed", "timeout", "lost"), "scheduled"),
    }  # fmt: skip


@pytest.mark.parametrize("verdict", ["", "ok", "Succeeded", None])
def test_an_unknown_verdict_is_refused_with_its_whole_batch(
    engine: Engine, verdict: str | None
) -> None:
    worker = engine.worker()
    engine.enqueue_many([[], []])
    jobs = engine.claim(worker)
    with pytest.raises(psycopg.Error, match="a verdict is") as refused:
        engine.finish(worker, jobs, "succeeded", verdict)

    assert refused.value.sqlstate == "TQ002"
    assert engine.count("running") == 2


def test_nothing_to_finish_is_nothing(engine: Engine) -> None:
    worker = engine.worker()

    assert engine.finish(worker, []) == {}
    assert engine.all("select * from pgtask._finish(%s, null, null, null)", worker) == []


def test_a_result_that_is_no_json_is_an_error_and_changes_nothing(engine: Engine) -> None:
    worker, job = engine.running()
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        engine.finish(worker, [job], results=["{"])

    assert engine.where(job.id) == ["running"]


def test_commit_job_finishes_inside_the_tasks_transaction(engine: Engine) -> None:
    worker, job = engine.running(serial="s", key="k")
    with engine.connection.transaction(force_rollback=True):
        engine.all("select pgtask.commit_job(%s, %s, %s, '1')", worker, job.id, job.epoch)
    assert engine.where(job.id) == ["running"]

    engine.all("select pgtask.commit_job(%s, %s, %s, '1')", worker, job.id, job.epoch)
    assert engine.job(job.id).state == "succeeded"


def test_commit_job_raises_for_a_stale_attempt(engine: Engine) -> None:
    worker, job = engine.running()
    for who, epoch in ((worker, 2), (worker, None), (uuid4(), 1)):
        with pytest.raises(psycopg.Error, match="no longer current") as refused:
            engine.all("select pgtask.commit_job(%s, %s, %s::int, null)", who, job.id, epoch)
        assert refused.value.sqlstate == "TQ004"

    assert engine.where(job.id) == ["running"]


def test_whoever_waits_hears_of_the_end_and_nobody_else_is_told(engine: Engine) -> None:
    engine.connection.execute("listen pgtask_done")
    worker, unwatched = engine.running()
    engine.finish(worker, [unwatched])
    worker, plain = engine.running(worker)
    worker, large = engine.running(worker, kwargs=[{"a": "x" * 3000}])
    for job in (plain, large):
        engine.all("select * from pgtask._watch(%s::bigint[])", [job.id])
    engine.finish(worker, [plain])
    engine.finish(worker, [large], "failed")

    assert [n.payload for n in engine.connection.notifies(timeout=0)] == [
        str(plain.id),
        str(large.id),
    ]
