"""Cron text: what it means, held against a reference that looks at every minute, and cronsim."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import cronsim
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pgtask import Schedule, ScheduleInvalid
from tests.unit.almanac import ticks, utc

# The tests look at some days around changes of all kinds.
CHANGES = [
    ("Europe/Paris", "2026-03-29T01:00"),
    ("Europe/Paris", "2026-10-25T01:00"),
    ("America/New_York", "2026-03-08T07:00"),
    ("America/New_York", "2026-11-01T06:00"),
    ("Australia/Lord_Howe", "2026-04-04T15:00"),  # half an hour back
    ("Australia/Lord_Howe", "2026-10-03T15:30"),
    ("Africa/Casablanca", "2026-02-15T02:00"),  # summer time is the normal one
    ("Africa/Casablanca", "2026-03-22T02:00"),
    ("America/Santiago", "2026-04-05T03:00"),  # at midnight
    ("America/Santiago", "2026-09-06T04:00"),
    ("Pacific/Apia", "2011-12-30T10:00"),  # a whole day is skipped
    ("Pacific/Kwajalein", "1993-08-21T12:00"),
    ("Antarctica/Troll", "2026-03-29T01:00"),  # two hours
    ("Antarctica/Troll", "2026-10-25T01:00"),
    ("America/Caracas", "2016-05-01T07:00"),  # no summer time, another standard
    ("UTC", "2026-01-01T00:00"),
]


def joined(item: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(item, min_size=1, max_size=3).map(",".join)


def field(low: int, high: int, *special: str, step: int = 7) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    ordered = st.tuples(number, number).map(sorted)
    plain = number.map(str)
    ranges = ordered.map(lambda pair: f"{pair[0]}-{pair[1]}")
    stepped = st.tuples(ranges | st.just("*"), st.integers(1, min(step, high - low - 1))).map(
        lambda pair: f"{pair[0]}/{pair[1]}"
    )
    items = plain | ranges | stepped
    if special:
        items = items | st.sampled_from(special)
    return st.just("*") | joined(items)


CRON = st.tuples(
    field(0, 59, step=30),
    field(0, 23) | st.sampled_from(["0", "1", "2", "3", "1,2,3", "23"]),
    st.just("*") | field(1, 31, "L", "LW"),
    st.just("*") | field(1, 12, "JAN", "mar-oct"),
    st.just("*") | field(0, 7, "MON", "2#2", "fri#5", "5L", "SUN"),
).map(" ".join)


@given(CRON, st.sampled_from(CHANGES))
@settings(max_examples=100, deadline=None)
@example("30 2 * * *", CHANGES[0])
@example("30 2 * * *", CHANGES[1])
@example("45 1,2 * * *", CHANGES[4])
@example("15,45 2 * * *", CHANGES[5])
@example("*/20 2 * * *", CHANGES[6])
@example("30 23,0 * * *", CHANGES[8])
@example("0,59 0-23 * * *", CHANGES[10])
@example("*/7 1-3 * * *", CHANGES[13])
def test_ticks_are_those_of_a_reference_that_looks_at_every_minute(
    cron: str, change: tuple[str, str]
) -> None:
    zone, middle = change
    begin, days = utc(middle) - timedelta(hours=36), 3
    try:
        schedule = Schedule(cron=cron, tz=zone)
    except ScheduleInvalid:
        assert ticks(cron, zone, begin, 1440) == []
        return
    expected = ticks(cron, zone, begin, days * 1440)

    end = begin + timedelta(days=days)
    found, _ = schedule.latest(begin - timedelta(seconds=1), end - timedelta(seconds=1), 10_000)
    assert found == [at for at in expected if at < end]
    walked = []
    for tick in schedule.upcoming(begin - timedelta(seconds=1)):
        if tick >= end:
            break
        walked.append(tick)
    assert walked == found


@pytest.mark.parametrize(
    "zone", ["Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"]
)
@pytest.mark.parametrize("cron", ["*/15 * * * *", "30 2 * * *", "5,35 0-3 * * 0,6"])
def test_a_year_is_right_to_the_minute(zone: str, cron: str) -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    expected = ticks(cron, zone, begin, 365 * 1440)

    found = [
        tick
        for tick in islice(
            Schedule(cron=cron, tz=zone).upcoming(begin - timedelta(seconds=1)), 40_000
        )
        if tick.year == 2026
    ]

    assert found == [at for at in expected if at.year == 2026]


@given(CRON, st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)))
@settings(max_examples=150, deadline=None)
def test_cronsim_agrees_where_no_clock_changes(cron: str, base: datetime) -> None:
    base = base.replace(tzinfo=UTC)
    assume(not re.search(r"\b(\d+)-\1/", cron))  # cronsim reads 5-5/2 as 5/2
    try:
        schedule = Schedule(cron=cron)
    except ScheduleInvalid:
        return
    found = list(islice(schedule.upcoming(base), 5))
    assert found == list(islice(cronsim.CronSim(cron.upper(), base), len(found)))


@pytest.mark.parametrize("cron", ["30 2 * * *", "0 12 * * 1", "*/30 * * * *", "0 * * * *"])
@pytest.mark.parametrize("day", ["2026-03-27", "2026-10-23"])
def test_cronsim_agrees_at_plain_changes(cron: str, day: str) -> None:
    base = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo("Europe/Berlin"))

    found = list(islice(Schedule(cron=cron, tz="Europe/Berlin").upcoming(base), 200))

    oracle = islice(cronsim.CronSim(cron, base), 200)
    assert found == [tick.astimezone(UTC) for tick in oracle]


@given(
    CRON,
    st.sampled_from(CHANGES),
    st.integers(-200_000, 200_000),
    st.integers(0, 999_999),
)
@settings(max_examples=200, deadline=None)
def test_ticks_increase_and_are_later_than_any_base(
    cron: str, change: tuple[str, str], seconds: int, microseconds: int
) -> None:
    try:
        schedule = Schedule(cron=cron, tz=change[0])
    except ScheduleInvalid:
        return
    base = utc(change[1]) + timedelta(seconds=seconds, microseconds=microseconds)

    previous = base
    for tick in islice(schedule.upcoming(base), 30):
        assert tick > previous
        assert tick.microsecond == 0
        previous = tick
    # From wherever one looks, the ticks are the same.
    found = list(islice(schedule.upcoming(base), 10))
    for n, tick in enumerate(found[:-1]):
        assert schedule.next(tick) == found[n + 1]
        assert schedule.next(tick + timedelta(microseconds=1)) == found[n + 1]
        assert schedule.next(tick - timedelta(microseconds=1)) == tick


def after(base: str, n: int, spec: str, tz: str = "UTC") -> list[str]:
    ticks = islice(Schedule(cron=spec, tz=tz).upcoming(utc(base)), n)
    return [f"{tick:%m-%dT%H:%M}" if tick.second == 0 else f"{tick:%H:%M:%S}" for tick in ticks]


def test_fields_in_utc() -> None:
    assert after("2027-01-30T05:00", 2, "15 4 30 * *") == ["03-30T04:15", "04-30T04:15"]
    assert after("2026-05-04T11:00:15", 3, "15,45 * * * * *") == [
        "11:00:45",
        "11:01:15",
        "11:01:45",
    ]
    assert after("2026-05-04T08:22", 6, "22,52 8-18/5 * * MON,FRI") == [
        "05-04T08:52",
        "05-04T13:22",
        "05-04T13:52",
        "05-04T18:22",
        "05-04T18:52",
        "05-08T08:22",
    ]


def test_day_of_month_or_weekday() -> None:
    assert after("2026-05-30T00:00", 6, "30 6 1 * 1") == [
        f"{day}T06:30" for day in ("06-01", "06-08", "06-15", "06-22", "06-29", "07-01")
    ]
    assert after("2026-05-30T00:00", 4, "0 5 */10 * 3") == [
        f"{day}T05:00" for day in ("07-01", "10-21", "11-11", "03-31")
    ]


@pytest.mark.parametrize(
    ("spec", "zone", "base", "expected"),
    [
        (
            "20 3 * * *",
            "Europe/Helsinki",
            "2026-03-27T12:00",
            "03-28T01:20 03-29T01:00 03-30T00:20",
        ),
        (
            "5,25,45 3 * * *",
            "Europe/Helsinki",
            "2026-03-28T12:00",
            "03-29T01:00 03-30T00:05 03-30T00:25 03-30T00:45",
        ),
        (
            "0 3,4 * * *",
            "Europe/Helsinki",
            "2026-03-28T12:00",
            "03-29T01:00 03-30T00:00 03-30T01:00",
        ),
        (
            "40 3 * * *",
            "Europe/Helsinki",
            "2026-10-23T12:00",
            "10-24T00:40 10-25T00:40 10-26T01:40",
        ),
        (
            "*/15 3 * * *",
            "Europe/Helsinki",
            "2026-10-24T12:00",
            "10-25T00:00 10-25T00:15 10-25T00:30 10-25T00:45 "
            "10-25T01:00 10-25T01:15 10-25T01:30 10-25T01:45 10-26T01:00",
        ),
        (
            "0,15,30,45 3 * * *",
            "Europe/Helsinki",
            "2026-10-24T12:00",
            "10-25T00:00 10-25T00:15 10-25T00:30 10-25T00:45 10-26T01:00",
        ),
        (
            "30 23 * * *",
            "America/Santiago",
            "2026-04-03T12:00",
            "04-04T02:30 04-05T02:30 04-06T03:30",
        ),
        (
            "*/20 * * * *",
            "Europe/Helsinki",
            "2026-10-25T00:20",
            "10-25T00:40 10-25T01:00 10-25T01:20 10-25T01:40 10-25T02:00",
        ),
        (
            "0 */3 * * *",
            "Europe/Helsinki",
            "2026-03-28T20:00",
            "03-28T22:00 03-29T03:00 03-29T06:00",
        ),
        # The day that Samoa never had: what belongs to it fires as the next day begins.
        ("0 9 * * *", "Pacific/Apia", "2011-12-29T12:00", "12-29T19:00 12-30T10:00 12-30T19:00"),
        ("30 2 29 3 *", "Europe/Berlin", "2026-01-01T00:00", "03-29T01:00 03-29T00:30"),
    ],
)
def test_daylight_saving(spec: str, zone: str, base: str, expected: str) -> None:
    words = expected.split()
    assert after(base, len(words), spec, zone) == words


def test_the_hours_of_a_day_with_a_change() -> None:
    schedule = Schedule(cron="10 * * * *", tz="America/Santiago")
    zone = ZoneInfo("America/Santiago")
    for day, count in ((datetime(2026, 9, 6), 23), (datetime(2026, 4, 4), 25)):
        base = day.replace(tzinfo=zone).astimezone(UTC) - timedelta(hours=12)
        local = [tick.astimezone(zone).date() for tick in islice(schedule.upcoming(base), 80)]
        assert local.count(day.date()) == count


def test_half_an_hour_set_back_is_walked_whole() -> None:
    # 02:00 on Lord Howe becomes 01:30: nothing of hour 2 was shown before.
    assert after("2026-04-04T14:00", 4, "*/20 2 * * *", "Australia/Lord_Howe") == [
        "04-04T15:30",
        "04-04T15:50",
        "04-04T16:10",
        "04-05T15:30",
    ]


def test_from_inside_the_second_pass_nothing_of_the_first_comes_again() -> None:
    schedule = Schedule(cron="40 3 * * *", tz="Europe/Helsinki")

    assert schedule.next(utc("2026-10-25T01:10")) == utc("2026-10-26T01:40")


def test_seconds_follow_the_same_policy() -> None:
    schedule = Schedule(cron="*/20 30 2 * * *", tz="Europe/Berlin")

    assert list(islice(schedule.upcoming(utc("2026-03-28T12:00")), 2)) == [
        utc("2026-03-29T01:00"),
        utc("2026-03-30T00:30"),
    ]


@pytest.mark.parametrize(
    ("alias", "cron"),
    [("@hourly", "0 * * * *"), ("@Daily", "0 0 * * *"), ("@midnight", "0 0 * * *"),
     ("@weekly", "0 0 * * 0"), ("@monthly", "0 0 1 * *"), ("@yearly", "0 0 1 1 *"),
     ("@annually", "0 0 1 1 *")],
)  # fmt: skip
def test_abbreviations(alias: str, cron: str) -> None:
    base = utc("2026-05-30T12:34")
    assert Schedule(cron=alias).next(base) == Schedule(cron=cron).next(base)
    assert Schedule(cron=alias).spec() == {"cron": alias.lower()}


def test_blanks_and_case_do_not_matter() -> None:
    assert Schedule(cron="  0  0 *   jan  mon ") == Schedule(cron="0 0 * JAN MON")


@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("0 25 * * *", "hour: 25 is not between 0 and 23 → write a number from 0 to 23"),
        ("60 * * * *", "minute: 60 is not between"),
        ("0 0 0 * *", "day of month: 0 is not between 1 and 31"),
        ("0 0 * 13 *", "month: 13"),
        ("0 0 * * 8", "day of week: 8 is not between 0 and 7"),
        ("99 0 0 * * *", "second: 99"),
        ("* * * *", "wrong number of fields, 4"),
        ("* * * * * * *", "wrong number of fields, 7 .* years only a rule"),
        ("", "wrong number of fields, 0"),
        ("0 22-2 * * *", "hour: the range 22-2 ends before it begins → write 22-23,0-2"),
        ("0 23-1 * * *", "write 23,0-1"),
        ("0 0 * * FRI-MON", "write FRI-SAT,SUN-MON"),
        ("0 0 * * 6-0", "write 6,0"),
        ("0 0 * * 7-1", "write 0-1"),
        ("0 0 28-3 * *", "day of month: .* write 28-31,1-3"),
        ("0 22-2/2 * * *", "list the numbers"),
        ("0 0 30 2 *", "no year has a day 30 in month 2"),
        ("0 0 31 4,6 *", "no year has a day 31"),
        ("? * * * *", 'minute: "\\?" is not understood → write "\\*"'),
        ("0 0 15W * *", "day of month: '15W', the nearest working day"),
        ("H * * * *", "minute: 'H', a hashed number"),
        ("R * * * *", "a random number"),
        ("0 0 L-3 * *", "day of month: 'L' is not understood here"),
        ("0 0 * * L", 'day of week: .* the last Friday is "5L"'),
        ("0 0 * * 1#6", "day of week: 1#6: '6' is not between 1 and 5"),
        ("*/0 * * * *", "minute: the step 0"),
        ("*/90 * * * *", "the step 90 is not between 1 and 59 → to count .* use every"),
        ("*/x * * * *", "the step 'X' is not a number"),
        ("1,,2 * * * *", "minute: a number is missing"),
        ("1- * * * *", "minute: a number is missing"),
        ("1-2-3 * * * *", "minute: '2-3' is not a number"),
        ("-1 * * * *", "minute: -1 is negative"),
        ("٠ * * * *", "minute: '٠' is not a number"),
        ("0 0 * JANUARY *", "month: 'JANUARY' is not a number"),
        ("@dayly", "did you mean @daily"),
        ("@reboot", "enqueue the job at start"),
        ("@every 5m", "every"),
        ("1" * 1001, "longer than 1000"),
        (5, "is not a text"),
    ],
)
def test_what_cannot_be_read_names_the_field_and_the_remedy(cron: str, says: str) -> None:
    with pytest.raises(ScheduleInvalid, match=says) as caught:
        Schedule(cron=cron)
    assert str(caught.value).startswith("cron ")
