"""Rules: fields that must all match."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from pgtask import Rule, Schedule, ScheduleInvalid
from tests.unit.almanac import utc


def after(base: str, n: int, spec: Any, **more: Any) -> list[str]:
    ticks = islice(Schedule(rule=spec, **more).upcoming(utc(base)), n)
    return [f"{tick:%Y-%m-%dT%H:%M}" for tick in ticks]


@pytest.mark.parametrize(
    ("rule", "base", "expected"),
    [
        ({"hour": [6], "minute": [45]}, "2025-03-10T06:45", "2025-03-11T06:45 2025-03-12T06:45"),
        (
            {"minute": [10, 40]},
            "2025-03-10T09:41",
            "2025-03-10T10:10 2025-03-10T10:40 2025-03-10T11:10",
        ),
        ({"hour": [19]}, "2025-03-10T19:57", "2025-03-10T19:58 2025-03-10T19:59 2025-03-11T19:00"),
        (
            {"hour": [5], "minute": [0, 10, 25, 40]},
            "2025-03-10T09:20",
            "2025-03-11T05:00 2025-03-11T05:10 2025-03-11T05:25 2025-03-11T05:40 2025-03-12T05:00",
        ),
        ({"hour": [17], "minute": [5, 30]}, "2025-03-10T09:20", "2025-03-10T17:05"),
        (
            {"date": ["last"], "hour": 18, "minute": 30},
            "2027-01-31T18:30",
            "2027-02-28T18:30 2027-03-31T18:30 2027-04-30T18:30",
        ),
        (
            {"date": [10, "last"], "hour": 3, "minute": 0},
            "2028-02-05T00:00",
            "2028-02-10T03:00 2028-02-29T03:00 2028-03-10T03:00 2028-03-31T03:00",
        ),
        (
            {"month": [1, 4, 7, 10], "date": 1, "hour": 0, "minute": 5},
            "2026-05-01T00:00",
            "2026-07-01T00:05 2026-10-01T00:05 2027-01-01T00:05",
        ),
        (
            {"date": 1, "dayOfWeek": 1, "hour": 6, "minute": 30},
            "2026-05-30T00:00",
            "2026-06-01T06:30 2027-02-01T06:30 2027-03-01T06:30",
        ),
        ({"dayOfWeek": 7, "hour": 0, "minute": 0}, "2026-05-04T00:00", "2026-05-10T00:00"),
        (
            {"hour": "9-17/4", "minute": "30"},
            "2026-05-04T10:00",
            "2026-05-04T13:30 2026-05-04T17:30",
        ),
        ({"date": 31, "hour": 0, "minute": 0}, "2026-01-31T00:00", "2026-03-31T00:00"),
    ],
)
def test_rules_in_utc(rule: dict[str, Any], base: str, expected: str) -> None:
    words = expected.split()
    assert after(base, len(words), rule) == words


def test_listed_years_end() -> None:
    rule = {"year": 2027, "month": 12, "date": 31, "hour": 23, "minute": 59}
    assert after("2026-05-01T00:00", 5, rule) == ["2027-12-31T23:59"]
    assert Schedule(rule=rule).next(utc("2027-12-31T23:59")) is None
    assert after("2026-05-01T00:00", 5, {**rule, "year": "2020-2026"}) == ["2026-12-31T23:59"]
    assert after("2026-05-01T00:00", 5, {**rule, "year": 2020}) == []
    assert after("2026-05-01T00:00", 1, {**rule, "year": 2150}) == ["2150-12-31T23:59"]
    assert after("2026-05-01T00:00", 1, {"year": 2150}, tz="Europe/Paris") == ["2149-12-31T23:00"]


def test_the_second_is_0_unless_told() -> None:
    assert Rule(minute=5) == Rule(second=0, minute=5) == Rule(second=None, minute=5)
    every = Schedule(rule=Rule(second="*/30", minute=5, hour=6))
    assert [f"{t:%M:%S}" for t in islice(every.upcoming(utc("2026-01-01T00:00")), 3)] == [
        "05:00",
        "05:30",
        "05:00",
    ]


def test_absent_and_starred_minutes_follow_real_time_and_listed_ones_the_wall() -> None:
    base = utc("2026-10-25T00:30")  # 02:30 in Paris, the first time
    ticks = {}
    for minute in ("*/15", [0, "*/30"], ["0", 15, 30, 45]):
        schedule = Schedule(rule={"hour": 2, "minute": minute}, tz="Europe/Paris")
        ticks[str(minute)] = [f"{tick:%d %H:%M}" for tick in islice(schedule.upcoming(base), 3)]
    assert ticks["*/15"] == ["25 00:45", "25 01:00", "25 01:15"]
    assert ticks["[0, '*/30']"] == ["25 01:00", "25 01:30", "26 01:00"]
    assert ticks["['0', 15, 30, 45]"] == ["25 00:45", "26 01:00", "26 01:15"]


def test_equal_rules_are_equal_however_they_are_written() -> None:
    one = Rule(hour=[20, "8", 8], minute="15", day_of_week=[7], date="LAST")
    other = Rule(hour=(8, 20), minute=[15], day_of_week=0, date=["last"])
    assert one == other
    assert hash(one) == hash(other)
    assert one.spec() == {"date": "last", "dayOfWeek": 0, "hour": [8, 20], "minute": 15}
    assert Rule.of(one.spec()) == one


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"minute": 75}, "minute 75: 75 is not between 0 and 59"),
        ({"minute": [0, 99]}, r"minute \[0, 99\]: 99 is not between 0 and 59"),
        ({"hour": 24}, "hour 24: .* → write a number from 0 to 23"),
        ({"date": [0]}, r"date \[0\]: 0 is not between 1 and 31"),
        ({"month": 0}, "month 0: 0 is not between 1 and 12"),
        ({"dayOfWeek": 8}, "dayOfWeek 8"),
        ({"year": 1969}, "year 1969: 1969 is not between 1970 and 2199"),
        ({"weekday": 1}, "key 'weekday': unknown key → did you mean dayOfWeek"),
        ({"minutes": 1}, "did you mean minute?"),
        ({"xyz": 1}, "there are date, dayOfWeek, hour"),
        ({"hour": "last"}, "hour 'last': 'last' is not a number"),
        ({"hour": True}, "hour True: True is not a number"),
        ({"hour": 6.5}, "6.5 is not a number"),
        ({"hour": []}, "hour .*lists nothing → leave it out"),
        ({"hour": [[1]]}, "is not a number"),
        ({"hour": [None]}, "None is not a number"),
        ({"hour": {"start": 1}}, "is not a number"),
        ({"hour": "22-2"}, "hour '22-2': .* → write 22-23,0-2"),
        ({"hour": -1}, "hour -1: -1 is negative"),
        ({"month": 2, "date": 30}, "date 30: no such day exists in month 2"),
        ({"month": 2, "date": 29, "year": [2026, 2027]}, "date 29: no such day"),
        ({}, "rule {}: says nothing → say every minute"),
        ({"second": 0}, "says nothing"),
        ({"hour": list(range(1001))}, "1001 items"),
        ({"tz": "UTC", "hour": 8}, "key 'tz': stands beside rule, not in it"),
        ([8], "neither an object nor cron text"),
    ],
)
def test_what_cannot_work_names_the_field(rule: Any, says: str) -> None:
    with pytest.raises(ScheduleInvalid, match=says):
        Schedule(rule=rule)


def test_29_february_is_found_over_eight_years() -> None:
    rule = {"month": 2, "date": 29, "hour": 0, "minute": 0}
    assert after("2096-02-29T00:00", 1, rule) == ["2104-02-29T00:00"]


def test_29_february_on_a_monday_is_found_even_where_it_takes_forty_years() -> None:
    rule = {"month": 2, "date": 29, "dayOfWeek": 1, "hour": 0, "minute": 0}
    assert after("2026-11-22T00:00", 2, rule) == ["2044-02-29T00:00", "2072-02-29T00:00"]
    assert after("2072-02-29T00:00", 1, rule) == ["2112-02-29T00:00"]
