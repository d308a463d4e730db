"""Pace: few jobs at a time where they are long or unknown, many where they are short."""

from __future__ import annotations

from pgtask.worker.pace import AHEAD, AHEAD_IN_BACKLOG, MOST, Pace


def test_while_nothing_is_known_a_child_gets_one_job() -> None:
    pace = Pace()

    assert pace.batch(0.0) == 1
    assert pace.batch(0.001) == 0
    assert not pace.fits(0.001, pace.of("new"))


def test_short_jobs_come_in_batches_of_a_window_of_work() -> None:
    pace = Pace()
    pace.note("short", 0.001)

    assert pace.batch(0.0) == int(AHEAD / 0.001)
    assert pace.batch(AHEAD - 0.0055) == 5
    assert pace.fits(0.005, pace.of("short"))


def test_a_batch_has_an_end_however_short_the_jobs() -> None:
    pace = Pace()
    pace.note("none", 0.000001)

    assert pace.batch(0.0) == MOST


def test_in_a_backlog_a_child_holds_more_work_and_afterwards_no_more_than_before() -> None:
    pace = Pace()
    pace.note("short", 0.001)

    pace.expect(backlog=True)
    assert pace.batch(0.0) == int(AHEAD_IN_BACKLOG / 0.001)
    assert pace.fits(AHEAD, pace.of("short"))

    pace.expect(backlog=False)
    assert pace.batch(0.0) == int(AHEAD / 0.001)
    assert not pace.fits(AHEAD, pace.of("short"))


def test_long_jobs_come_one_by_one() -> None:
    pace = Pace()
    pace.note("long", 3.0)

    assert pace.batch(0.0) == 1
    assert pace.batch(0.001) == 0


def test_a_task_that_becomes_slow_is_believed_soon() -> None:
    pace = Pace()
    pace.note("task", 0.0001)

    for _ in range(3):
        pace.note("task", 1.0)

    assert not pace.fits(0.0, pace.of("task"))
