"""Serial keys: never two at once; the rest is parked and handed over."""

from __future__ import annotations

import pytest

from tests.sql.engine import Engine


def test_one_of_a_lane_runs_and_the_others_are_parked(engine: Engine) -> None:
    ids = [engine.enqueue(serial="s") for _ in range(3)]
    (job,) = engine.claim(engine.worker())

    assert (job.id, job.serial) == (ids[0], True)
    assert [engine.where(job_id) for job_id in ids[1:]] == [["waiting"], ["waiting"]]
    assert engine.all("select key, n, job from pgtask.slot") == [("s", 1, ids[0])]


def test_the_lane_goes_to_the_highest_priority(engine: Engine) -> None:
    low, high = engine.enqueue(serial="s"), engine.enqueue(serial="s", priority=5)

    assert [job.id for job in engine.claim(engine.worker())] == [high]
    assert engine.where(low) == ["waiting"]


def test_lanes_do_not_hinder_each_other(engine: Engine) -> None:
    ids = [engine.enqueue(serial=serial) for serial in ("b", "a", "c")]

    assert [job.id for job in engine.claim(engine.worker())] == ids


def test_parked_jobs_leave_room_for_those_behind_them(engine: Engine) -> None:
    worker = engine.worker()
    engine.enqueue(serial="s")
    assert len(engine.claim(worker)) == 1
    engine.enqueue_many([[]] * 20, serials=["s"] * 20)
    plain = engine.enqueue()

    assert [job.id for job in engine.claim(worker, 2)] == [plain]


@pytest.mark.parametrize(
    "verdict",
    [None, "succeeded", "failed", "cancelled", "retried", "snoozed", "crashed", "timeout", "lost"],
)
def test_every_end_of_an_attempt_hands_the_lane_over(engine: Engine, verdict: str | None) -> None:
    worker = engine.worker()
    first, second, third = (engine.enqueue(serial="s") for _ in range(3))
    (job,) = engine.claim(worker)
    assert engine.finish(worker, [job], *([verdict] if verdict else []), delays=[60.0]) == {}

    assert engine.where(second) == ["ready"]
    assert engine.where(third) == ["waiting"]
    assert [job.id for job in engine.claim(worker)] == [second]
    assert engine.job(first).state != "running"


def test_a_released_job_and_the_next_of_its_lane_do_not_run_together(engine: Engine) -> None:
    worker = engine.worker()
    ids = {engine.enqueue(serial="s") for _ in range(2)}
    (job,) = engine.claim(worker)
    engine.finish(worker, [job], "released")
    assert engine.count("ready") == 2

    assert len(engine.claim(worker)) == 1
    assert {row.id for row in engine.all("select id from pgtask.jobs")} == ids


def test_a_lane_is_emptied_in_order_one_by_one(engine: Engine) -> None:
    worker, ids, order = engine.worker(), [engine.enqueue(serial="s") for _ in range(5)], []
    while jobs := engine.claim(worker):
        order.append(jobs[0].id)
        assert len(jobs) == 1
        assert engine.finish(worker, jobs) == {}

    assert order == ids
    assert engine.count("slot") == 0


def test_a_missed_hand_over_is_cured_by_promote(engine: Engine) -> None:
    worker = engine.worker()
    first, second, third = (engine.enqueue(serial="s") for _ in range(3))
    (job,) = engine.claim(worker)
    engine.finish(worker, [job])
    engine.cancel(second)  # it was ready and had the turn
    assert engine.where(third) == ["waiting"]

    engine.promote()
    assert engine.where(third) == ["ready"]
    assert engine.job(first).state == "succeeded"


def test_promote_hands_nothing_over_while_the_lane_is_taken_or_has_a_next(engine: Engine) -> None:
    worker = engine.worker()
    for _ in range(4):
        engine.enqueue(serial="s")
    (job,) = engine.claim(worker)
    engine.promote()
    assert engine.count("ready") == 0

    engine.finish(worker, [job])
    engine.promote()
    assert engine.count("ready") == 1


def test_a_batch_that_is_recorded_in_part_frees_only_the_recorded_lanes(engine: Engine) -> None:
    worker = engine.worker()
    engine.enqueue_many([[], []], serials=["a", "b"])
    a, b = engine.claim(worker)
    parked = engine.enqueue_many([[], []], serials=["a", "b"])
    assert engine.claim(worker) == []

    assert engine.finish(
        worker, [a, (b.id, b.epoch - 1)], "retried", "succeeded", delays=[60.0, None]
    ) == {b.id: "stale"}
    assert engine.values("select key from pgtask.slot") == ["b"]
    assert engine.where(parked[0][0]) == ["ready"]
    assert engine.where(parked[1][0]) == ["waiting"]


def test_a_parked_job_counts_no_attempt(engine: Engine) -> None:
    engine.enqueue(serial="s")
    parked = engine.enqueue(serial="s")
    engine.claim(engine.worker())

    assert (engine.job(parked).attempt, engine.job(parked).epoch) == (0, 0)
