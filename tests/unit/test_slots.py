"""Slots: the search over walls, with its omissions."""

from __future__ import annotations

import random
import time as clock
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgtask import Schedule, recurrence, slots, ticks
from pgtask.field import bits
from pgtask.omissions import Omissions
from pgtask.slots import Slots
from tests.unit.almanac import utc

SECONDS = st.sets(st.integers(0, 59), min_size=1, max_size=4).map(bits)
HOURS = st.sets(st.integers(0, 23), min_size=1, max_size=4).map(bits)


def seconds(moment: datetime) -> int:
    return int(moment.replace(tzinfo=UTC).timestamp())


@given(SECONDS, SECONDS, HOURS, st.integers(0, 3 * 86_400 - 1))
@settings(max_examples=40, deadline=None)
def test_the_first_slot_is_the_one_that_a_walk_over_each_second_finds(
    seconds_: int, minutes: int, hours: int, wall: int
) -> None:
    slots = Slots(seconds=seconds_, minutes=minutes, hours=hours)
    last = wall + 90_000
    walk = (
        at
        for at in range(wall, last + 1)
        if hours >> at // 3600 % 24 & 1 and minutes >> at // 60 % 60 & 1 and seconds_ >> at % 60 & 1
    )

    assert slots.first(wall, last) == next(walk, None)


def test_both_ends_are_included() -> None:
    slots = Slots(minutes=1, hours=1)
    assert slots.first(0, 0) == 0
    assert slots.first(1, 86_400) == 86_400
    assert slots.first(1, 86_399) is None
    assert slots.first(-86_400, -1) == -86_400
    assert slots.first(5, 4) is None


@pytest.mark.parametrize(
    ("year", "month", "expected"), [(2026, 1, 30), (2026, 2, 27), (2026, 5, 29), (2026, 7, 31)]
)
def test_the_last_working_day(year: int, month: int, expected: int) -> None:
    assert Slots(dates=0, last_workday=True).days(year, month) == 1 << expected


def test_a_fifth_weekday_is_not_in_every_month() -> None:
    slots = Slots(weekdays=0, nth_weekdays=((1, 5),))
    assert slots.days(2026, 3) == 1 << 30
    assert slots.days(2026, 2) == 0
    assert slots.possible()


RULE = {"hour": [8, 20], "minute": 15}


@pytest.mark.parametrize(
    ("exceptions", "expected"),
    [
        ([date(2026, 12, 25)], "12-24T20:15 12-26T08:15 12-26T20:15"),
        ([time(20, 15)], "12-25T08:15 12-26T08:15 12-27T08:15"),
        ([datetime(2026, 12, 25, 8, 15)], "12-24T20:15 12-25T20:15 12-26T08:15"),
        (["2026-12-25", "20:15"], "12-26T08:15 12-27T08:15 12-28T08:15"),
    ],
)
def test_exceptions(exceptions: list[date | time | datetime], expected: str) -> None:
    schedule = Schedule(rule=RULE, exceptions=exceptions)
    ticks = schedule.upcoming(utc("2026-12-24T09:00"))
    assert [f"{next(ticks):%m-%dT%H:%M}" for _ in range(3)] == expected.split()


def test_an_excepted_date_is_the_local_one() -> None:
    schedule = Schedule(
        rule={"hour": 0, "minute": 30}, tz="Asia/Tokyo", exceptions=[date(2026, 5, 5)]
    )
    ticks = schedule.upcoming(utc("2026-05-03T00:00"))
    assert [f"{next(ticks):%m-%dT%H:%M}" for _ in range(3)] == [
        "05-03T15:30",
        "05-05T15:30",
        "05-06T15:30",
    ]


def test_in_real_time_both_passes_of_an_excepted_time_are_left_out() -> None:
    schedule = Schedule(cron="*/30 2 * * *", tz="Europe/Paris", exceptions=[time(2, 30)])
    ticks = schedule.upcoming(utc("2026-10-24T12:00"))
    assert [f"{next(ticks):%dT%H:%M}" for _ in range(3)] == ["25T00:00", "25T01:00", "26T01:00"]


def test_an_excepted_slot_in_a_gap_leaves_the_gap_to_the_others() -> None:
    base = utc("2026-03-28T12:00")
    one = Schedule(cron="10,20 2 * * *", tz="Europe/Paris", exceptions=["02:10"])
    none = Schedule(cron="10,20 2 * * *", tz="Europe/Paris", exceptions=["2026-03-29"])
    assert one.next(base) == utc("2026-03-29T01:00")
    assert one.notes(utc("2026-03-29T01:00")) == "moved out of a gap (02:20 does not exist)"
    assert none.next(base) == utc("2026-03-30T00:10")


MINUTES = [time(hour, minute) for hour in range(24) for minute in range(60)]
YEARS = [date(2026, 1, 1) + timedelta(days=n) for n in range(366 * 9)]
END = "2035-01-01T00:00:00Z"
EVERY_OTHER_DAY = [date(2026, 5, 1) + timedelta(days=2 * n + 1) for n in range(5200)]
LAST_ONES = [datetime(2026, 5, 1, 23, 55) + timedelta(days=n) for n in range(9700)]


def each(step: int) -> list[time]:
    """The times of day that are so many seconds apart."""
    return [time(at // 3600, at // 60 % 60, at % 60) for at in range(0, 86_400, step)]


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(cron="15 8 * * *", exceptions=[time(8, 15)]),
        Schedule(cron="* * * * *", tz="Europe/Paris", exceptions=MINUTES),
        Schedule(cron="0 0 * * *", tz="Europe/Paris", exceptions=YEARS, end=END),
        Schedule(cron="* * * * * *", tz="Europe/Paris", exceptions=YEARS, end=END),
        Schedule(cron="*/5 * * * *", tz="Africa/Casablanca", exceptions=MINUTES),
        Schedule(every=60, tz="Europe/Paris", exceptions=MINUTES),
        Schedule(every=7, tz="Europe/Paris", exceptions=YEARS, end=END),
        Schedule(every=86_400, exceptions=[time(0)]),
        Schedule(
            rrule="DTSTART:20260101T080000\nRRULE:FREQ=DAILY", exceptions=[time(8)], tz="Asia/Tokyo"
        ),
        Schedule(
            rrule="DTSTART:20260101T080000\nRRULE:FREQ=MINUTELY",
            exceptions=MINUTES,
            tz="Asia/Tokyo",
        ),
        Schedule(at="2026-12-25T08:15:00Z", exceptions=["2026-12-25"]),
        # Times of day that are left come on no step, or on dates and moments that are excepted.
        Schedule(every=18, exceptions=[*each(18), *EVERY_OTHER_DAY]),
        Schedule(every=9, tz="Africa/Casablanca", exceptions=each(9)),
        Schedule(
            cron="*/5 * * * *",
            tz="Africa/Casablanca",
            exceptions=[*each(300)[:-1], *LAST_ONES],
            end="2052-01-01T00:00:00Z",
        ),
        *(
            Schedule(rrule=f"DTSTART:20260101T000000\nRRULE:FREQ={rule}", exceptions=exceptions)
            for rule, exceptions in (
                ("HOURLY;INTERVAL=2", each(7200)),
                ("MINUTELY;INTERVAL=5", each(300)),
                ("MINUTELY;INTERVAL=25", each(300)),
                ("SECONDLY;INTERVAL=350", each(50)),
                ("DAILY;BYHOUR=0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19", each(3600)),
            )
        ),
        Schedule(
            rrule="DTSTART;TZID=Asia/Kathmandu:19850101T000100\n"
            "RRULE:FREQ=MINUTELY;INTERVAL=2;BYMINUTE=1,3,5"
        ),
    ],
    ids=lambda schedule: schedule.explain().split(", but")[0],
)
def test_where_every_slot_is_excepted_there_is_none_within_a_second(schedule: Schedule) -> None:
    begin = clock.perf_counter()
    assert schedule.next(utc("2026-05-01T00:00")) is None
    assert clock.perf_counter() - begin < 1


@pytest.mark.parametrize("seed", range(60))
def test_looking_at_each_slot_and_at_those_that_are_left_gives_the_same(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a schedule of a random step, with exceptions that hit it now and then
    dice = random.Random(seed)
    step = dice.choice([1, 7, 60, 300, 420, 1500, 3600, 7200, 10_800, 25_200, 86_399, 100_000])
    name, unit = dice.choice([("SECONDLY", 1), ("MINUTELY", 60), ("HOURLY", 3600)])
    begin = datetime(2026, 3, 1) + timedelta(seconds=dice.randrange(86_400))
    few = dice.sample(each(step if 86_400 % step == 0 else 60), k=3)
    beside: dict[str, Any] = {
        "tz": dice.choice(["UTC", "Europe/Paris", "Australia/Lord_Howe", "Asia/Kathmandu"]),
        "exceptions": [
            *(few if dice.random() < 0.5 else each(dice.choice([60, 600, 3600]))),
            *(date(2026, 3, 20) + timedelta(days=dice.randrange(20)) for _ in range(5)),
            begin + timedelta(days=26, seconds=step * dice.randrange(9)),
        ],
        "end": utc("2026-05-01T00:00"),
    }
    rule = f"FREQ={name};INTERVAL={max(1, step // unit)}{dice.choice(['', ';BYDAY=SA,SU'])}"
    schedules = [
        Schedule(every=step, **beside),
        Schedule(rrule=f"DTSTART:{begin:%Y%m%dT%H%M%S}\nRRULE:{rule}", **beside),
    ]

    def found() -> list[list[datetime]]:
        after = utc("2026-03-27T20:00")
        return [list(islice(schedule.upcoming(after), 150)) for schedule in schedules]

    for module in (ticks, recurrence):
        monkeypatch.setattr(module, "FEW", 10**9)
    one_by_one = found()
    for module in (ticks, recurrence):
        monkeypatch.setattr(module, "FEW", -1)
    assert found() == one_by_one
    monkeypatch.setattr(slots, "MANY", 0)
    assert found() == one_by_one


def test_what_comes_after_nine_years_that_are_excepted_is_found() -> None:
    for schedule in (
        Schedule(cron="0 0 * * *", exceptions=YEARS),
        Schedule(cron="* * * * * *", exceptions=YEARS),
        Schedule(every=86_400, exceptions=YEARS),
    ):
        assert schedule.next(utc("2026-05-01T00:00")) == utc("2035-01-08T00:00")


def test_a_rule_of_seconds_goes_on_after_days_that_are_excepted() -> None:
    days = [date(2026, 5, 1) + timedelta(days=n) for n in range(20)]
    for schedule in (
        Schedule(rrule="DTSTART:20260101T080000\nRRULE:FREQ=SECONDLY", exceptions=days),
        Schedule(every=1, exceptions=days),
        Schedule(cron="* * * * * *", exceptions=days),
    ):
        assert schedule.next(utc("2026-04-30T23:59:59")) == utc("2026-05-21T00:00")


def test_a_time_that_no_slot_has_excepts_nothing() -> None:
    slots = Slots(minutes=1 << 15, hours=1 << 8)
    assert slots.outlasts(Omissions(times=frozenset({8 * 3600})))
    assert not slots.outlasts(Omissions(times=frozenset({8 * 3600 + 15 * 60})))
