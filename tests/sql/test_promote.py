"""promote: due jobs become ready, the others wait."""

from __future__ import annotations

import pytest

from tests.sql.engine import Engine


def test_only_due_jobs_become_ready(engine: Engine) -> None:
    soon, later = engine.enqueue(delay=5.0), engine.enqueue(delay=60.0)
    assert engine.promote() == 0
    assert engine.promote(ahead=6) == 1

    assert (engine.job(soon).state, engine.job(later).state) == ("ready", "scheduled")


def test_jobs_become_ready_in_the_order_they_were_due(engine: Engine) -> None:
    late, early = engine.enqueue(delay=9.0), engine.enqueue(delay=5.0)
    engine.promote(ahead=60)

    assert [job.id for job in engine.claim(engine.worker())] == [early, late]


def test_everything_about_the_job_goes_with_it(engine: Engine) -> None:
    job_id = engine.enqueue(
        "x" * 3000, delay=5.0, queue="q", priority=4, max_attempts=9, max_crashes=8, keep="none",
        key="k", serial="s", policy={"timeout": 1}, headers='{"a": 1}', tags=["x"], expires_in=99.0,
    )  # fmt: skip
    before = engine.job(job_id)
    engine.promote(ahead=6)

    after = engine.job(job_id)
    assert after == before._replace(state="ready", run_at=None)


def test_it_tells_when_the_next_job_is_due(engine: Engine) -> None:
    assert engine.one("select * from pgtask.promote()") == (0, None)
    engine.enqueue(delay=60.0)
    promoted, next_in = engine.one("select * from pgtask.promote()")
    assert promoted == 0
    assert 55 < next_in <= 60


def test_a_page_is_not_exceeded_and_the_rest_is_overdue(engine: Engine) -> None:
    engine.enqueue_many([[]] * 5, delay=5.0)
    promoted, next_in = engine.one(
        "select * from pgtask.promote(3, clock_timestamp() + interval '6 s')"
    )
    assert promoted == 3
    assert next_in < 0
    assert engine.promote(ahead=6) == 2


def test_blocked_and_parked_jobs_have_no_time_and_are_left(engine: Engine) -> None:
    worker = engine.worker()
    engine.enqueue_many([[], []], serials=["s", "s"])
    assert len(engine.claim(worker)) == 1

    assert engine.promote(ahead=10**6) == 0
    assert engine.count("waiting") == 1


def test_idle_workers_are_woken_once_a_queue(engine: Engine) -> None:
    engine.connection.execute("listen pgtask")
    engine.enqueue_many([[]] * 3, delay=5.0, queue="a")
    engine.enqueue(delay=5.0, queue="b")
    assert engine.claim(engine.worker()) == []
    engine.promote(ahead=6)

    assert sorted(n.payload for n in engine.connection.notifies(timeout=0)) == ["a", "b"]


@pytest.mark.parametrize("verdict", ["retried", "crashed", "snoozed"])
def test_a_job_that_went_back_comes_again_with_its_counters(engine: Engine, verdict: str) -> None:
    worker, job = engine.running()
    engine.finish(worker, [job], verdict, delays=[5.0])
    before = engine.job(job.id)
    assert engine.promote(ahead=6) == 1

    after = engine.job(job.id)
    assert (after.attempt, after.epoch, after.crashes) == (
        before.attempt,
        before.epoch,
        before.crashes,
    )
    assert engine.claim(worker)[0].epoch == 2
