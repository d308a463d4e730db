"""RRULE: what python-dateutil gives, made right for zones, and kept from searching for ever."""

from __future__ import annotations

import time as clock
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any

import pytest
from dateutil import rrule as dateutil
from hypothesis import given, settings
from hypothesis import strategies as st

from pgtask import Schedule, ScheduleInvalid
from tests.unit.almanac import utc

HELSINKI = "DTSTART;TZID=Europe/Helsinki:20260101T032000\nRRULE:"


def after(base: str, n: int, rule: str, **more: Any) -> list[str]:
    ticks = islice(Schedule(rrule=rule, **more).upcoming(utc(base)), n)
    return [f"{tick:%m-%dT%H:%M}" for tick in ticks]


def test_days_and_slower_mean_the_wall() -> None:
    assert after("2026-03-27T12:00", 3, HELSINKI + "FREQ=DAILY") == [
        "03-28T01:20",
        "03-29T01:00",
        "03-30T00:20",
    ]
    assert after("2026-10-23T12:00", 3, HELSINKI + "FREQ=DAILY") == [
        "10-24T00:20",
        "10-25T00:20",
        "10-26T01:20",
    ]


def test_hours_and_faster_follow_real_time() -> None:
    assert after("2026-03-28T21:00", 4, HELSINKI + "FREQ=HOURLY;INTERVAL=2") == [
        "03-28T21:20",
        "03-28T23:20",
        "03-29T01:20",
        "03-29T03:20",
    ]
    assert after("2026-10-24T21:00", 7, HELSINKI + "FREQ=MINUTELY;INTERVAL=20;BYHOUR=3") == [
        "10-25T00:00",
        "10-25T00:20",
        "10-25T00:40",
        "10-25T01:00",
        "10-25T01:20",
        "10-25T01:40",
        "10-26T01:00",
    ]


def test_an_hour_follows_an_hour_where_the_clock_is_set_by_half_of_one() -> None:
    rule = "DTSTART;TZID=Australia/Lord_Howe:20260101T091000\nRRULE:FREQ=HOURLY"
    ticks = list(islice(Schedule(rrule=rule).upcoming(utc("2026-04-03")), 60))
    assert {later - tick for tick, later in pairwise(ticks)} == {timedelta(hours=1)}


def test_weeks_and_months() -> None:
    assert after("2026-03-27T12:00", 3, HELSINKI + "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,TH") == [
        "04-06T00:20",
        "04-09T00:20",
        "04-20T00:20",
    ]
    assert after("2026-03-27T12:00", 2, HELSINKI + "FREQ=MONTHLY;BYDAY=-1FR") == [
        "04-24T00:20",
        "05-29T00:20",
    ]
    assert after("2026-03-27T12:00", 2, HELSINKI + "FREQ=MONTHLY;BYDAY=MO,TU;BYSETPOS=-1") == [
        "03-31T00:20",
        "04-28T00:20",
    ]


def test_the_end_of_a_rule() -> None:
    assert after("2026-03-27T12:00", 9, HELSINKI + "FREQ=DAILY;UNTIL=20260329") == [
        "03-28T01:20",
        "03-29T01:00",
    ]
    assert after("2026-03-27T12:00", 9, HELSINKI + "FREQ=DAILY;UNTIL=20260328T012000Z") == [
        "03-28T01:20"
    ]
    assert after("2026-03-27T12:00", 9, HELSINKI + "FREQ=MONTHLY;BYMONTHDAY=31;COUNT=4") == [
        "03-31T00:20",
        "05-31T00:20",
        "07-31T00:20",
    ]
    assert after("2026-01-01T02:00", 9, HELSINKI + "FREQ=HOURLY;INTERVAL=30;COUNT=3") == [
        "01-02T07:20",
        "01-03T13:20",
    ]


def test_start_stands_in_for_dtstart() -> None:
    start = utc("2026-01-05T09:30")
    assert after("2026-03-27T12:00", 1, "FREQ=DAILY", start=start, tz="Europe/Helsinki") == [
        "03-28T09:30"
    ]
    assert Schedule(rrule="FREQ=DAILY", start=start).spec() == {
        "rrule": "FREQ=DAILY",
        "start": "2026-01-05T09:30:00Z",
    }


def test_the_canonical_text_comes_back() -> None:
    text = "dtstart;TZID=Europe/Helsinki:20260101T032000\n RRULE:freq=daily;BYHOUR=8"
    schedule = Schedule(rrule=text)
    assert schedule.rrule == (
        "DTSTART;TZID=Europe/Helsinki:20260101T032000\nRRULE:FREQ=DAILY;BYHOUR=8"
    )
    assert schedule.tz == "Europe/Helsinki"
    assert Schedule.from_json(schedule.to_json()) == schedule


PARTS = st.fixed_dictionaries(
    {"INTERVAL": st.integers(1, 9).map(str)},
    optional={
        "BYMONTH": st.sampled_from(["1", "2,3", "10,11,12"]),
        "BYDAY": st.sampled_from(["MO", "TU,SA", "SU,MO,WE"]),
        "BYHOUR": st.sampled_from(["0", "3", "9,17"]),
        "BYMINUTE": st.sampled_from(["0", "15,45"]),
    },
)


@given(
    st.sampled_from(["YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY"]),
    PARTS,
    st.integers(0, 700),
)
@settings(max_examples=100, deadline=None)
def test_in_utc_dateutil_from_the_very_beginning_says_the_same(
    frequency: str, parts: dict[str, str], days: int
) -> None:
    rule = ";".join(f"{key}={value}" for key, value in {"FREQ": frequency, **parts}.items())
    text = f"DTSTART:20250115T031500\nRRULE:{rule}"
    base = datetime(2025, 1, 1) + timedelta(days=days)
    end = base + timedelta(days=40)
    try:
        schedule = Schedule(rrule=text)
    except ScheduleInvalid:
        return  # it never fires, and the oracle would search to the year 9999 for it
    oracle = dateutil.rrulestr(f"{text};UNTIL=20270801T000000").between(base, end)

    found, more = schedule.latest(
        base.replace(tzinfo=UTC), (end - timedelta(seconds=1)).replace(tzinfo=UTC), 5000
    )

    expected = [moment.replace(tzinfo=UTC) for moment in oracle]
    assert found == expected[-5000:]
    assert more == (len(expected) > 5000)


def test_old_rules_of_seconds_are_as_fast_as_new_ones() -> None:
    schedule = Schedule(rrule="DTSTART:19700101T000000\nRRULE:FREQ=SECONDLY;INTERVAL=7;BYMONTH=2")
    begin = clock.perf_counter()
    assert schedule.next(utc("2026-03-01")) == utc("2027-02-01T00:00:04")
    assert clock.perf_counter() - begin < 1


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("FREQ=DAILY", "DTSTART is missing"),
        (HELSINKI + "FREQ=FORTNIGHTLY", "FREQ is FORTNIGHTLY → write one of YEARLY"),
        (HELSINKI + "BYDAY=MO", "FREQ is None"),
        (HELSINKI + "FREQ=DAILY;BYHUOR=3", "BYHUOR is not understood"),
        (HELSINKI + "FREQ=DAILY;FREQ=DAILY", "FREQ is given twice"),
        (HELSINKI + "FREQ=DAILY;BYHOUR=24", "BYHOUR: 24 is not between 0 and 23"),
        (HELSINKI + "FREQ=DAILY;BYHOUR=x", "BYHOUR: 'X' is not a number"),
        (HELSINKI + "FREQ=DAILY;BYHOUR=", "BYHOUR has no value"),
        (HELSINKI + "FREQ=DAILY;INTERVAL=0", "INTERVAL: 0 is not between"),
        (HELSINKI + "FREQ=DAILY;COUNT=99999", "COUNT: 99999 is not between 1 and 10000"),
        (HELSINKI + "FREQ=DAILY;COUNT=5;UNTIL=20270101", "COUNT and UNTIL exclude"),
        (HELSINKI + "FREQ=DAILY;UNTIL=soon", "UNTIL SOON"),
        (HELSINKI + "FREQ=DAILY;UNTIL=20270230", "UNTIL 20270230T235959"),
        (HELSINKI + "FREQ=DAILY;BYWEEKNO=3", "BYWEEKNO does not go with FREQ=DAILY"),
        (HELSINKI + "FREQ=WEEKLY;BYDAY=2MO", "BYDAY: 2MO does not go with FREQ=WEEKLY"),
        (HELSINKI + "FREQ=MONTHLY;BYDAY=9MO", "count from 1 to 5"),
        (HELSINKI + "FREQ=MONTHLY;BYDAY=XX", "BYDAY: 'XX'"),
        (HELSINKI + "FREQ=MONTHLY;BYSETPOS=1", "BYSETPOS counts in"),
        (HELSINKI + "FREQ=DAILY;BYDAY=MO;BYSETPOS=1", "BYSETPOS does not go with"),
        (HELSINKI + "FREQ=WEEKLY;WKST=XX", "WKST: 'XX' is no weekday"),
        (HELSINKI + "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "no year has such a day"),
        (HELSINKI + "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30", "no year has such a day"),
        (HELSINKI + "FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=30", "no year has such a day"),
        (HELSINKI + "FREQ=DAILY;INTERVAL=7;BYDAY=MO", "no year has such a day"),
        (HELSINKI + "FREQ=HOURLY;INTERVAL=168;BYDAY=MO", "no year has such a day"),
        (HELSINKI + "FREQ=WEEKLY;BYDAY=MO;BYSETPOS=2", "no year has such a day"),
        ("DTSTART:tomorrow\nRRULE:FREQ=DAILY", "DTSTART TOMORROW"),
        ("DTSTART:20260101T000000", "RRULE is missing"),
        (HELSINKI + "FREQ=DAILY\nEXDATE:20260101T000000", "EXDATE is not understood → write exc"),
        (HELSINKI + "FREQ=DAILY\nRRULE:FREQ=DAILY", "is neither one DTSTART nor one RRULE"),
        ("FREQ=DAILY;" * 100, "longer than 1000"),
        (5, "is not a text"),
        ("", "RRULE is missing"),
    ],
)
def test_what_cannot_work_names_the_part_within_a_second(rule: str, says: str) -> None:
    begin = clock.perf_counter()
    with pytest.raises(ScheduleInvalid, match=says):
        Schedule(rrule=rule)
    assert clock.perf_counter() - begin < 1


def test_two_zones_are_one_too_many() -> None:
    with pytest.raises(ScheduleInvalid, match="DTSTART is in Europe/Helsinki, the schedule in UTC"):
        Schedule(rrule=HELSINKI + "FREQ=DAILY", tz="UTC")


def test_without_dateutil_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "dateutil", None)
    with pytest.raises(ScheduleInvalid, match="install the extra `rrule`"):
        Schedule(rrule=HELSINKI + "FREQ=DAILY")
