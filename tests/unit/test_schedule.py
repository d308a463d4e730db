"""Schedule: bounds, intervals, single instants, the way back, and its form as data."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time as clock
from datetime import UTC, date, datetime, time, timedelta, timezone
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgtask import Rule, Schedule, ScheduleInvalid
from tests.unit.almanac import utc

BASE = utc("2026-05-01T00:00")


def after(base: str, n: int, schedule: Schedule) -> list[str]:
    return [f"{tick:%m-%dT%H:%M:%S}" for tick in islice(schedule.upcoming(utc(base)), n)]


# --- bounds -------------------------------------------------------------------------------------

TEN_MINUTES = Schedule.from_spec(
    {"start": "2026-05-04T08:00:00Z", "end": "2026-05-04T08:20:00Z", "rule": "*/10 * * * *"}
)


def test_start_and_end_are_included() -> None:
    expected = ["05-04T08:00:00", "05-04T08:10:00", "05-04T08:20:00"]
    assert after("2026-05-01T00:00", 9, TEN_MINUTES) == expected
    assert after("2026-05-04T08:05", 9, TEN_MINUTES) == expected[1:]
    assert TEN_MINUTES.next(utc("2026-05-04T08:20")) is None


def test_bounds_between_two_seconds_keep_only_what_is_inside() -> None:
    schedule = Schedule(
        cron="* * * * * *",
        start=utc("2026-05-04T08:00:00.5"),
        end=utc("2026-05-04T08:00:02.999999"),
    )
    assert after("2026-05-01T00:00", 9, schedule) == ["05-04T08:00:01", "05-04T08:00:02"]
    assert schedule.start == utc("2026-05-04T08:00:01")


def test_a_start_in_the_past_changes_nothing_and_an_end_in_the_past_ends() -> None:
    assert Schedule(cron="@daily", start=utc("2020-01-01T00:00")).next(BASE) == utc("2026-05-02")
    assert Schedule(cron="@daily", end=utc("2020-01-01T00:00")).next(BASE) is None


def test_a_start_inside_a_gap_is_the_instant_that_python_says() -> None:
    start = datetime(2026, 3, 29, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))  # 01:30 in UTC
    schedule = Schedule(cron="*/15 * * * *", tz="Europe/Berlin", start=start)
    assert schedule.next(utc("2026-03-01")) == utc("2026-03-29T01:30")


def test_a_start_inside_the_second_pass_leaves_out_the_first() -> None:
    start = datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))
    by_time = Schedule(cron="*/30 * * * *", tz="Europe/Berlin", start=start)
    on_wall = Schedule(cron="30 2 * * *", tz="Europe/Berlin", start=start)
    assert by_time.next(utc("2026-03-01")) == utc("2026-10-25T01:30")
    assert on_wall.next(utc("2026-03-01")) == utc("2026-10-26T01:30")


# --- intervals and single instants --------------------------------------------------------------


def test_every_is_aligned_to_the_epoch() -> None:
    assert after("2026-05-01T00:01", 2, Schedule(every=300)) == ["05-01T00:05:00", "05-01T00:10:00"]
    assert after("2026-05-01T00:05", 1, Schedule(every=300)) == ["05-01T00:10:00"]
    assert Schedule(every=timedelta(minutes=5)) == Schedule(every="300") == Schedule(every=300.0)
    assert Schedule(every=7).next(datetime(1969, 12, 31, 23, 59, 50, tzinfo=UTC)) == datetime(
        1969, 12, 31, 23, 59, 53, tzinfo=UTC
    )


def test_every_with_a_start_counts_from_it() -> None:
    schedule = Schedule(every=300, start=utc("2026-05-04T08:02:30"))
    assert after("2026-05-01T00:00", 2, schedule) == ["05-04T08:02:30", "05-04T08:07:30"]
    assert after("2026-05-04T08:02:30", 1, schedule) == ["05-04T08:07:30"]
    assert Schedule(every=3_155_760_000).next(BASE) == datetime(2070, 1, 1, tzinfo=UTC)


def test_at_fires_once() -> None:
    schedule = Schedule(at=datetime(2026, 12, 24, 18, tzinfo=timezone(timedelta(hours=1))))
    assert schedule.next(BASE) == utc("2026-12-24T17:00")
    assert schedule.next(utc("2026-12-24T16:59:59.999999")) == utc("2026-12-24T17:00")
    assert schedule.next(utc("2026-12-24T17:00")) is None
    assert schedule.spec() == {"at": "2026-12-24T17:00:00Z"}
    assert Schedule(at=utc("2026-12-24T17:00:00.1")).at == utc("2026-12-24T17:00:01")
    assert Schedule(at="2300-01-01T00:00:00Z").next(BASE) == datetime(2300, 1, 1, tzinfo=UTC)


SPECS = [
    {"cron": "*/7 * * * *"},
    {"cron": "30 2 * * *"},
    {"rule": {"hour": [1, 2, 3], "minute": [0, 30]}},
    {"rule": {"second": "*/20", "hour": 2}},
    {"every": 1234},
    {"every": 60, "exceptions": ["02:30", "2026-03-29T03:00"]},
    {"rrule": "DTSTART:20200101T023000\nRRULE:FREQ=DAILY"},
    {"rrule": "DTSTART:20200101T023000\nRRULE:FREQ=HOURLY;INTERVAL=5"},
    {"cron": "0 0 29 2 *"},
]


@given(
    st.sampled_from(SPECS),
    st.sampled_from(["Europe/Paris", "Australia/Lord_Howe", "America/Santiago", "Pacific/Apia"]),
    st.datetimes(datetime(2011, 1, 1), datetime(2040, 1, 1)),
)
@settings(max_examples=150, deadline=None)
def test_ticks_increase_after_any_base(spec: dict[str, Any], zone: str, base: datetime) -> None:
    previous = base.replace(tzinfo=UTC)
    for tick in islice(Schedule.from_spec(spec, tz=zone).upcoming(previous), 20):
        assert tick > previous
        assert tick.tzinfo is UTC
        previous = tick


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_at_the_ends_of_time_there_is_none(spec: dict[str, Any]) -> None:
    schedule = Schedule.from_spec(spec, tz="America/New_York")
    assert schedule.next(datetime.max.replace(tzinfo=UTC)) is None
    schedule.next(datetime.min.replace(tzinfo=UTC))
    assert (
        schedule.latest(datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), 3)
        is not None
    )


def test_a_base_without_an_offset_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError, match="after must be a datetime with an offset"):
        Schedule(cron="@daily").next(datetime(2026, 1, 1))


# --- the latest ticks ---------------------------------------------------------------------------


@given(
    st.sampled_from([spec for spec in SPECS if spec != {"cron": "0 0 29 2 *"}]),
    st.integers(0, 60 * 86_400),
    st.integers(0, 2 * 86_400),
    st.integers(1, 12),
)
@settings(max_examples=80, deadline=None)
def test_the_latest_are_the_last_of_all(
    spec: dict[str, Any], offset: int, width: int, most: int
) -> None:
    schedule = Schedule.from_spec(spec, tz="Europe/Paris")
    begin = utc("2026-03-01") + timedelta(seconds=offset)
    until = begin + timedelta(seconds=width)
    every = []
    for tick in schedule.upcoming(begin):
        if tick > until:
            break
        every.append(tick)

    assert schedule.latest(begin, until, most) == (every[-most:], len(every) > most)


def test_the_latest_of_many_are_found_without_walking_all() -> None:
    now = utc("2026-11-22T10:00")
    for schedule, most in (
        (Schedule(cron="* * * * * *"), 1000),
        (Schedule(every=1), 1000),
        (Schedule(cron="* * * 1 * *"), 1000),  # 86,400 in a day, then nothing for a month
        (Schedule(rule={"year": "1970-2000", "second": "*"}), 1000),
    ):
        begin = clock.perf_counter()
        ticks, more = schedule.latest(now - timedelta(days=20_000), now, most)
        assert clock.perf_counter() - begin < 2
        assert len(ticks) == most
        assert more


def test_the_latest_of_few() -> None:
    base = utc("2026-05-04T08:05")
    assert TEN_MINUTES.latest(base, base + timedelta(days=900), 5) == (
        [utc("2026-05-04T08:10"), utc("2026-05-04T08:20")],
        False,
    )
    assert TEN_MINUTES.latest(base, base + timedelta(days=900), 1) == (
        [utc("2026-05-04T08:20")],
        True,
    )
    assert TEN_MINUTES.latest(base, base, 5) == ([], False)
    assert TEN_MINUTES.latest(base, base - timedelta(days=1), 5) == ([], False)
    assert TEN_MINUTES.latest(base, base + timedelta(days=1), 0) == ([], True)


# --- notes --------------------------------------------------------------------------------------


def test_notes_say_what_a_clock_change_does() -> None:
    berlin = Schedule(cron="30 2 * * *", tz="Europe/Berlin")
    assert berlin.notes(utc("2026-03-29T01:00")) == "moved out of a gap (02:30 does not exist)"
    assert berlin.notes(utc("2026-10-25T00:30")) == "first pass of a repeated hour"
    assert berlin.notes(utc("2026-05-25T00:30")) == ""
    walked = Schedule(cron="*/30 * * * *", tz="Europe/Berlin")
    assert walked.notes(utc("2026-03-29T01:00")) == ""
    assert walked.notes(utc("2026-10-25T00:30")) == "first pass of a repeated hour"
    assert walked.notes(utc("2026-10-25T01:30")) == "second pass of a repeated hour"
    assert walked.notes(utc("2026-10-25T02:00")) == ""
    assert walked.notes(utc("2026-10-24T23:30")) == ""
    rrule = Schedule(rrule="DTSTART;TZID=Europe/Berlin:20260101T021500\nRRULE:FREQ=DAILY")
    assert rrule.notes(utc("2026-03-29T01:00")) == "moved out of a gap (02:15 does not exist)"


# --- as data ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "schedule"),
    [
        ("30 2 * * *", Schedule(cron="30 2 * * *")),
        (
            {"cron": "30 2 * * *", "tz": "Europe/Paris"},
            Schedule(cron="30 2 * * *", tz="Europe/Paris"),
        ),
        ({"rule": "30 2 * * *"}, Schedule(cron="30 2 * * *")),
        ({"rule": {"hour": [8, 20], "minute": 15}}, Schedule(rule=Rule(hour=[8, 20], minute=15))),
        ({"hour": ["8", 20], "minute": "15"}, Schedule(rule=Rule(hour=[8, 20], minute=15))),
        (
            {"hour": 0, "dayOfWeek": 7, "tz": "Asia/Tokyo"},
            Schedule(rule=Rule(hour=0, day_of_week=0), tz="Asia/Tokyo"),
        ),
        ({"every": "300"}, Schedule(every=300)),
        ({"at": "2026-12-24T18:00:00+01:00"}, Schedule(at=utc("2026-12-24T17:00"))),
        (
            {"every": 60, "exceptions": ["20:15", "2026-12-25T08:15", "2026-12-25", "20:15:00"]},
            Schedule(
                every=60,
                exceptions=[date(2026, 12, 25), datetime(2026, 12, 25, 8, 15), time(20, 15)],
            ),
        ),
        ({"every": 60, "jitter": "1.5"}, Schedule(every=60, jitter=timedelta(seconds=1.5))),
    ],
)
def test_specs_are_read_and_come_back(spec: Any, schedule: Schedule) -> None:
    read = Schedule.from_spec(spec)
    assert read == schedule
    assert hash(read) == hash(schedule)
    assert Schedule.from_json(read.to_json()) == read
    assert Schedule.from_json(read.to_json().encode()).to_json() == read.to_json()
    assert pickle.loads(pickle.dumps(read)) == read
    assert eval(f"{read!r}", {"Schedule": Schedule.from_spec}) == read


def test_the_canonical_text_is_sorted_and_says_only_what_was_said() -> None:
    schedule = Schedule(cron="0 8 * * mon", tz="Europe/Paris", jitter=30.0, end=utc("2027-01-01"))
    assert schedule.to_json() == (
        '{"cron": "0 8 * * MON", "end": "2027-01-01T00:00:00Z", "jitter": 30, "tz": "Europe/Paris"}'
    )
    assert Schedule(cron="0 8 * * *").to_json() == '{"cron": "0 8 * * *"}'


def test_a_default_zone_is_for_specs_that_name_none() -> None:
    assert Schedule.from_json('"@daily"').tz == "UTC"
    assert Schedule.from_json('"@daily"', tz="Asia/Tokyo").spec() == {
        "cron": "@daily",
        "tz": "Asia/Tokyo",
    }
    assert Schedule.from_json('{"cron": "@daily", "tz": "UTC"}', tz="Asia/Tokyo").tz == "UTC"
    rule = {"rrule": "DTSTART;TZID=Europe/Paris:20260101T080000\nRRULE:FREQ=DAILY"}
    assert Schedule.from_spec(rule, tz="Asia/Tokyo").tz == "Europe/Paris"


def test_a_schedule_never_changes() -> None:
    schedule = Schedule(cron="@daily")
    with pytest.raises(AttributeError, match="never changed"):
        schedule.cron = "@hourly"
    with pytest.raises(AttributeError):
        del schedule.cron


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("{}", "spec {}: an empty schedule"),
        ("[]", "spec .*neither an object nor a text"),
        ("null", "neither an object"),
        ("5", "neither an object"),
        ("nope", "is not JSON"),
        ("[" * 30_000, "spec .*is nested too deeply"),
        ('{"every": 1' + "0" * 400 + "}", "is not between 1 second and"),
        ('{"every": 5, "jitter": 1' + "0" * 400 + "}", "is not between 0 and 86400"),
        ('{"cron": "@daily", "tz": []}', "tz \\[\\]: is not the name of a zone"),
        ('{"cron": "@daily", "tz": "localtime"}', "no time zone known here → write an IANA name"),
        ('{"tz": "UTC"}', "says not when"),
        ('{"weekday": 1}', "key 'weekday': unknown key → did you mean dayOfWeek"),
        ('{"corn": "@daily"}', "did you mean cron"),
        ('{"cron": "@daily", "hour": 3}', "key 'hour': unknown key"),
        ('{"cron": "@daily", "every": 5}', "cron and every are given"),
        ('{"cron": "@daily", "rule": "@daily"}', "cron is given, too"),
        ('{"cron": null}', "cron None: is null → leave it out"),
        ('{"rule": {}}', "rule {}: says nothing"),
        ('{"rule": {"hour": 8}, "start": "tomorrow"}', "start 'tomorrow': is not an instant"),
        ('{"cron": "@daily", "end": 5}', "end 5: is not an instant"),
        ('{"at": "2026-12-24T18:00:00"}', "at '2026-12-24T18:00:00': has no offset"),
        ('{"at": "2026-02-30T18:00:00Z"}', "at '2026-02-30.*day is out of range"),
        ('{"at": "0001-01-01T00:00:00+14:00"}', "outside the years"),
        (
            '{"cron": "@daily", "start": "2026-12-24T18:00:00Z", "end": "2026-12-24T17:00:00Z"}',
            "end '2026-12-24T17:00:00Z': is before start",
        ),
        (
            '{"at": "2026-12-24T18:00:00Z", "end": "2026-12-24T17:00:00Z"}',
            "at .* is not between start and end",
        ),
        ('{"cron": "@daily", "tz": "Europe/Berln"}', "tz .*did you mean 'Europe/Berlin'"),
        ('{"cron": "@daily", "tz": "europe/berlin"}', "did you mean 'Europe/Berlin'"),
        ('{"cron": "@daily", "tz": "Europe"}', "tz 'Europe': is no time zone"),
        ('{"cron": "@daily", "tz": ""}', "tz '': is no time zone"),
        ('{"cron": "@daily", "tz": "../../etc/passwd"}', "is no time zone"),
        ('{"cron": "@daily", "tz": "localtime"}', "is no time zone"),
        ('{"cron": "@daily", "tz": "+02:00"}', "is no time zone"),
        ('{"cron": "@daily", "tz": "a\\u0000b"}', "is no time zone"),
        ('{"cron": "@daily", "tz": 5}', "tz 5: is not the name"),
        ('{"cron": "@daily", "exceptions": "2026-12-25"}', "exceptions .*is not a list"),
        ('{"cron": "@daily", "exceptions": ["2026-02-30"]}', "exceptions '2026-02-30'"),
        ('{"cron": "@daily", "exceptions": ["25:00"]}', "exceptions '25:00'"),
        ('{"cron": "@daily", "exceptions": [8]}', "exceptions 8: is not a date"),
        ('{"cron": "@daily", "exceptions": ["2026-02-20T08:00:00Z"]}', "has an offset"),
        ('{"cron": "@daily", "exceptions": ["08:00:00.5"]}', "is not a date, a time"),
        ('{"every": 0}', "every 0: is not between 1 second and"),
        ('{"every": 1.5}', "every 1.5: is not a whole number"),
        ('{"every": true}', "every True: is not a number"),
        ('{"every": "5m"}', "every '5m': is not a number of seconds"),
        ('{"every": NaN}', "every nan"),
        ('{"every": 1e99}', "is not between"),
        ('{"cron": "@daily", "jitter": -1}', "jitter -1: is not between 0 and 86400"),
    ],
)
def test_what_cannot_work_names_field_value_and_reason(spec: str, says: str) -> None:
    with pytest.raises(ScheduleInvalid, match=says):
        Schedule.from_json(spec)


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({}, "says nothing → give one of cron, rule, every, at, rrule"),
        ({"at": datetime(2026, 1, 1)}, "at '2026-01-01T00:00:00': has no offset from UTC"),
        ({"cron": "@daily", "start": datetime(2026, 1, 1)}, "start .*has no offset"),
        ({"cron": "@daily", "end": datetime(2026, 1, 1)}, "end .*has no offset"),
        ({"cron": "@daily", "exceptions": [BASE]}, "exceptions .*has an offset"),
        ({"cron": "@daily", "exceptions": [time(8, microsecond=1)]}, "not a whole second"),
        ({"cron": "@daily", "exceptions": [time(8)] * 10_001}, "10001 of them"),
        ({"cron": "@daily", "exceptions": date(2026, 1, 1)}, "is not a list"),
        ({"every": timedelta(milliseconds=1500)}, "not a whole number"),
        ({"rule": Rule(hour=8), "cron": "@daily"}, "cron and rule are given"),
    ],
)
def test_what_python_gives_is_checked_as_well(given_: dict[str, Any], says: str) -> None:
    with pytest.raises(ScheduleInvalid, match=says):
        Schedule(**given_)


def test_an_error_shows_no_more_of_a_value_than_can_be_read() -> None:
    with pytest.raises(ScheduleInvalid) as caught:
        Schedule(cron="x" * 999)
    assert len(str(caught.value)) < 1600


def test_schedules_need_neither_psycopg_nor_asyncio() -> None:
    program = (
        "import sys, types, pathlib;"
        "package = types.ModuleType('pgtask');"
        "package.__path__ = [str(pathlib.Path('pgtask').absolute())];"
        "sys.modules['pgtask'] = package;"
        "from pgtask.schedule import Schedule;"
        "Schedule(cron='@daily');"
        "print({'psycopg', 'asyncio', 'dateutil'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout == "set()\n"
