"""Catch-up: what beat makes of a schedule that it finds due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pgtask.beat.catchup import MOST, plan
from pgtask.beat.clock import Clock
from pgtask.broker.schedules import Due, Tick
from pgtask.schedule import Schedule

DAY = datetime(2026, 3, 10, tzinfo=UTC)
THIRDS = Schedule(cron="0,20,40 * * * *")
EACH_SECOND = Schedule(every=1)


def at(hour: int, minute: int, second: int = 0) -> datetime:
    return DAY.replace(hour=hour, minute=minute, second=second)


def due(
    now: datetime,
    next_at: datetime | None,
    catchup: str = "last",
    grace: float | None = None,
    *,
    planned: bool = True,
) -> Due:
    return Due(7, "s", 3, planned, "", next_at, catchup, "skip", grace, "t", now)


# The 10:00 tick fired, then no beat looked until 11:25.
@pytest.mark.parametrize(
    ("catchup", "grace", "ticks"),
    [
        ("last", None, [Tick(at(11, 20), None, 3)]),
        ("none", None, [Tick(at(11, 20), "missed", 3)]),
        ("all", None, [Tick(at(10, 20)), Tick(at(10, 40)), Tick(at(11, 0)), Tick(at(11, 20))]),
        ("last", 600, [Tick(at(11, 20), None, 3)]),
        ("last", 120, [Tick(at(11, 20), "late", 3)]),
        ("none", 120, [Tick(at(11, 20), "late", 3)]),
        ("all", 1800, [Tick(at(10, 40), "late", 1), Tick(at(11, 0)), Tick(at(11, 20))]),
        ("all", 60, [Tick(at(11, 20), "late", 3)]),
    ],
)
def test_ticks_that_were_missed_are_made_up_for_as_the_policy_says(
    catchup: str, grace: float | None, ticks: list[Tick]
) -> None:
    fire = plan(THIRDS, due(at(11, 25), at(10, 20), catchup, grace))

    assert list(fire.ticks) == ticks
    assert fire.next == at(11, 40)
    assert (fire.id, fire.revision, fire.seen, fire.error) == (7, 3, at(10, 20), None)


@pytest.mark.parametrize("catchup", ["last", "none", "all"])
@pytest.mark.parametrize("late", [0, 1, 5])
def test_a_tick_that_is_a_few_seconds_late_fires_whatever_the_policy(
    catchup: str, late: int
) -> None:
    fire = plan(THIRDS, due(at(10, 20, late), at(10, 20), catchup))

    assert fire.ticks == (Tick(at(10, 20)),)
    assert fire.next == at(10, 40)


def test_catching_up_with_all_makes_up_for_a_bounded_number() -> None:
    began = at(0, 0)
    now = began + timedelta(days=3)

    fire = plan(EACH_SECOND, due(now, began, "all"))

    given_up, *fired = fire.ticks
    assert [tick.at for tick in fired] == [
        now - timedelta(seconds=MOST - 1 - n) for n in range(MOST)
    ]
    assert given_up == Tick(fired[0].at - timedelta(seconds=1), "missed", MOST - 1)
    assert fire.next == now + timedelta(seconds=1)


def test_what_was_missed_is_counted_up_to_a_bound() -> None:
    began = at(0, 0)

    fire = plan(EACH_SECOND, due(began + timedelta(days=3), began, "last"))

    assert fire.ticks == (Tick(began + timedelta(days=3), None, MOST),)


def test_a_new_schedule_begins_now() -> None:
    fire = plan(THIRDS, due(at(11, 25), None, "all", planned=False))

    assert fire.ticks == ()
    assert fire.next == at(11, 40)


@pytest.mark.parametrize("late", [0, 3, 5])
def test_what_was_to_begin_a_moment_ago_begins_with_that(late: int) -> None:
    once = plan(Schedule(at=at(11, 0)), due(at(11, 0, late), None, planned=False))
    hourly = plan(Schedule(every=3600, start=at(11, 0)), due(at(11, 0, late), None, planned=False))

    assert once.ticks == hourly.ticks == (Tick(at(11, 0)),)
    assert (once.next, hourly.next) == (None, at(12, 0))


def test_an_instant_that_is_past_is_no_tick() -> None:
    fire = plan(Schedule(at=at(11, 0)), due(at(11, 0, 6), None, planned=False))

    assert (fire.ticks, fire.next) == ((), None)


def test_an_instant_that_came_while_no_beat_looked_fires_late() -> None:
    fire = plan(Schedule(at=at(11, 0)), due(at(15, 0), at(11, 0)))

    assert (fire.ticks, fire.next) == ((Tick(at(11, 0)),), None)


def test_a_plan_that_is_no_tick_any_more_fires_nothing() -> None:
    fire = plan(THIRDS, due(at(10, 31), at(10, 30)))

    assert (fire.ticks, fire.next) == ((), at(10, 40))


def test_a_schedule_that_is_to_be_planned_anew_keeps_what_is_due() -> None:
    # given that the clock was set back, but not before this tick
    fire = plan(THIRDS, due(at(10, 21), at(10, 20), planned=False))

    assert (fire.ticks, fire.next) == ((Tick(at(10, 20)),), at(10, 40))


def test_a_schedule_that_is_planned_anew_before_its_tick_fires_nothing() -> None:
    fire = plan(THIRDS, due(at(10, 10), DAY.replace(year=2027), planned=False))

    assert (fire.ticks, fire.next) == ((), at(10, 20))


# The clock ---------------------------------------------------------------------------------------


def test_a_clock_that_went_back_is_noticed_and_one_that_goes_on_or_ahead_is_not() -> None:
    clock = Clock()
    second = timedelta(seconds=1)

    assert not clock.went_back(DAY, 100.0, 100.1)
    assert not clock.went_back(DAY + 10 * second, 110.0, 110.1)
    # an answer that took long may be as old as the question
    assert not clock.went_back(DAY + 11 * second, 111.0, 140.0)
    assert not clock.went_back(DAY + 41 * second, 141.0, 141.1)
    assert not clock.went_back(DAY + 3600 * second, 142.0, 142.1)
    # set back by more than adjusting would
    assert not clock.went_back(DAY + 3600.2 * second, 143.0, 143.1)
    assert clock.went_back(DAY + 3500 * second, 144.0, 144.1)
    assert not clock.went_back(DAY + 3501 * second, 145.0, 145.1)
