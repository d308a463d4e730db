"""Attempts that go back to work: retried, snoozed, released, crashed, timed out, lost."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.types.json import Json

from tests.sql.engine import Engine

DIED = pytest.mark.parametrize("verdict", ["crashed", "lost"])


def _delay(engine: Engine, job_id: int) -> float:
    left = "select extract(epoch from run_at - clock_timestamp()) from pgtask.waiting where id = %s"
    return float(engine.value(left, job_id))


def test_a_retry_waits_as_told_and_counts(engine: Engine) -> None:
    worker, job = engine.running()
    engine.finish(
        worker, [job], "retried", delays=[60.0], types=["E"], messages=["m"], tracebacks=["tb"]
    )

    row = engine.job(job.id)
    assert (row.state, row.attempt, row.epoch, row.crashes) == ("scheduled", 1, 1, 0)
    assert 55 < _delay(engine, job.id) <= 60
    assert engine.one("select outcome, error_type from pgtask.attempts") == ("retried", "E")


def test_a_snooze_is_not_counted_and_no_error(engine: Engine) -> None:
    worker, job = engine.running()
    engine.finish(worker, [job], "snoozed", delays=[60.0])

    row = engine.job(job.id)
    assert (row.state, row.attempt, row.epoch) == ("scheduled", 0, 1)
    assert engine.count("attempt_error") == 0


def test_a_release_gives_the_attempt_back_and_wakes(engine: Engine) -> None:
    worker, job = engine.running()
    assert engine.claim(worker) == []
    engine.connection.execute("listen pgtask")
    engine.finish(worker, [job], "released")

    row = engine.job(job.id)
    assert (row.state, row.attempt, row.epoch) == ("ready", 0, 1)
    assert engine.count("attempt_error") == 0
    assert [n.payload for n in engine.connection.notifies(timeout=0)] == ["default"]


def test_a_released_job_takes_a_new_place_at_the_end_of_its_lane(engine: Engine) -> None:
    worker, job = engine.running()
    other = engine.enqueue()
    engine.finish(worker, [job], "released")

    assert [j.id for j in engine.claim(worker)] == [other, job.id]


@pytest.mark.parametrize("verdict", ["retried", "snoozed", "released"])
def test_python_decides_how_often_these_go_back(engine: Engine, verdict: str) -> None:
    worker, job = engine.running(max_attempts=1)
    engine.finish(worker, [job], verdict, delays=[60.0])

    assert engine.job(job.id).state in ("scheduled", "ready")


@DIED
def test_a_death_counts_as_attempt_and_as_crash(engine: Engine, verdict: str) -> None:
    worker, job = engine.running()
    engine.finish(worker, [job], verdict, delays=[60.0])

    row = engine.job(job.id)
    assert (row.state, row.attempt, row.crashes) == ("scheduled", 1, 1)
    assert engine.value("select outcome from pgtask.attempts") == verdict


@DIED
@pytest.mark.parametrize("options", [
    {"max_attempts": 1}, {"max_crashes": 1}, {"policy": {"on_crash": "fail"}},
])  # fmt: skip
def test_a_death_that_was_one_too_many_ends_the_job(
    engine: Engine, verdict: str, options: dict[str, Any]
) -> None:
    worker, job = engine.running(**options)
    engine.finish(worker, [job], verdict, types=["ChildDied"], messages=["signal 9"])

    row = engine.job(job.id)
    assert (row.state, row.reason, row.crashes) == ("failed", verdict, 1)
    assert row.error == "ChildDied: signal 9"


@DIED
def test_crashes_are_limited_apart_from_attempts(engine: Engine, verdict: str) -> None:
    worker = engine.worker()
    job_id = engine.enqueue(max_attempts=100, max_crashes=3)
    for expected in ("scheduled", "scheduled", "failed"):
        engine.finish(worker, engine.claim(worker), verdict, delays=[0.0])
        assert engine.job(job_id).state == expected
        engine.promote(ahead=1)
    assert engine.job(job_id).crashes == engine.job(job_id).attempt == 3


def test_a_timeout_counts_as_attempt_but_not_as_crash(engine: Engine) -> None:
    worker, job = engine.running(max_attempts=2, max_crashes=1, policy={"on_crash": "fail"})
    engine.finish(worker, [job], "timeout", delays=[0.0])
    assert (engine.job(job.id).state, engine.job(job.id).crashes) == ("scheduled", 0)

    engine.promote(ahead=1)
    engine.finish(worker, engine.claim(worker), "timeout")
    assert (engine.job(job.id).state, engine.job(job.id).reason) == ("failed", "timeout")
    assert engine.values("select outcome from pgtask.attempts") == ["timed out"] * 2


@pytest.mark.parametrize(
    "verdict", ["retried", "snoozed", "released", "crashed", "timeout", "lost"]
)
def test_a_job_that_was_asked_to_stop_does_not_go_back(engine: Engine, verdict: str) -> None:
    worker, job = engine.running()
    assert engine.cancel(job.id) == {job.id: "cancelling"}
    engine.finish(worker, [job], verdict, delays=[60.0])

    assert (engine.job(job.id).state, engine.job(job.id).reason) == ("cancelled", "cancelled")
    assert engine.count("cancel_request") == 0


@pytest.mark.parametrize(
    ("verdict", "state"), [(None, "succeeded"), ("succeeded", "succeeded"), ("failed", "failed")]
)
def test_a_job_that_was_asked_to_stop_too_late_has_ended_as_it_has(
    engine: Engine, verdict: str | None, state: str
) -> None:
    worker, job = engine.running()
    engine.cancel(job.id)
    engine.finish(worker, [job], *([verdict] if verdict else []))

    assert engine.job(job.id).state == state
    assert engine.count("cancel_request") == 0


@pytest.mark.parametrize(("backoff", "delays"), [
    (None, [2.718, 7.389, 20.086]), ("exp", [2.718, 7.389, 20.086]),
    ("const:5", [5, 5, 5]), ("linear:1.5", [1.5, 3, 4.5]), ([1, 60], [1, 60, 60]),
    ([0], [0, 0, 0]), ("const:1e3", [1000, 1000, 1000]),
    # What no client can enqueue must not hold up a rescue either.
    ([], [2.718]), ("const:x", [2.718]), ("linear:", [2.718]), (["x"], [2.718]),
    ({"a": 1}, [2.718]),
    ("const:1e99", [3e9]),
])  # fmt: skip
def test_backoff_has_its_shapes(engine: Engine, backoff: object, delays: list[float]) -> None:
    policy = Json({"backoff": backoff, "jitter": 0})
    found = [
        engine.value("select pgtask._backoff(%s, %s)", policy, n + 1) for n in range(len(delays))
    ]
    assert found == pytest.approx(delays, abs=0.001)


def test_backoff_stops_growing_and_never_is_negative(engine: Engine) -> None:
    assert engine.value("""select pgtask._backoff('{"jitter": 0}', 99)""") == pytest.approx(
        22026.47, abs=0.01
    )
    assert engine.value("""select pgtask._backoff('{"backoff": "const:1", "jitter": 0}', 0)""") == 1
    jittered = engine.values(
        """select pgtask._backoff('{"backoff": "const:10", "jitter": 5}', 1)"""
        " from generate_series(1, 200)"
    )
    assert min(jittered) == 0
    assert 10 < max(jittered) <= 60


def test_the_default_jitter_is_a_tenth(engine: Engine) -> None:
    delays = engine.values(
        'select pgtask._backoff(\'{"backoff": "const:10"}\', 1) from generate_series(1, 200)'
    )
    assert min(delays) >= 9
    assert max(delays) <= 11
    assert max(delays) - min(delays) > 0.5


def test_a_crash_without_a_delay_waits_by_the_policy_of_its_row(engine: Engine) -> None:
    worker, job = engine.running(policy={"backoff": [100, 200], "jitter": 0})
    engine.finish(worker, [job], "crashed")

    assert 95 < _delay(engine, job.id) <= 100
