"""The words for a schedule."""

from __future__ import annotations

import pytest

from pgtask import Schedule


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ('"30 2 * * 1-5"', "at 02:30 on Monday through Friday"),
        ('"* * * * *"', "every minute"),
        ('"* * * * * *"', "every second"),
        ('"*/15 * * * *"', "every 15 minutes"),
        ('"*/7 * * * *"', "at minutes 0, 7, 14, 21, 28, 35, 42, 49 and 56 of every hour"),
        ('"0 * * * *"', "at minute 0 of every hour"),
        ('"10,40 * * * *"', "at minutes 10 and 40 of every hour"),
        ('"0 */2 * * *"', "at minute 0 of every 2nd hour"),
        ('"* 19 * * *"', "every minute of hour 19"),
        ('"*/5 9-17 * * 1-5"', "every 5 minutes of hours 9 through 17 on Monday through Friday"),
        ('"15,45 * * * * *"', "at seconds 15 and 45 of every minute"),
        ('"5 4 * * sun"', "at 04:05 on Sunday"),
        ('"0 0 L * *"', "at 00:00 on the last day of the month"),
        (
            '"0 0 15,LW 1-3 *"',
            "at 00:00 on the 15th and last working day of the month in January through March",
        ),
        ('"0 0 * * 2#2,5L"', "at 00:00 on the second Tuesday and last Friday of the month"),
        ('"0 0 * * 0,2#2"', "at 00:00 on Sunday and the second Tuesday of the month"),
        ('"30 6 1 * 1"', "at 06:30 on the 1st of the month or on Monday"),
        (
            '"0 5 */10 * 3"',
            "at 05:00 on the 1st, 11th, 21st and 31st of the month if that is Wednesday",
        ),
        (
            '{"date": [10, "last"], "hour": 3, "minute": 0}',
            "at 03:00 on the 10th and last day of the month",
        ),
        ('{"hour": 8, "minute": 0, "year": 2027}', "at 08:00 in 2027"),
        ('{"hour": 8, "minute": 0, "second": 5}', "at 08:00:05"),
        ('{"every": 300}', "every 5 minutes"),
        ('{"every": 3600}', "every hour"),
        ('{"every": 90}', "every 90 seconds"),
        ('{"at": "2026-12-24T18:00:00Z"}', "once, at 2026-12-24 18:00"),
        (
            '{"rrule": "DTSTART:20260101T090000\\nRRULE:FREQ=DAILY"}',
            "by the rule FREQ=DAILY",
        ),
    ],
)  # fmt: skip
def test_words(spec: str, words: str) -> None:
    assert Schedule.from_json(spec).explain() == f"{words}, in UTC"


def test_bounds_exceptions_and_jitter_are_said_in_local_time() -> None:
    schedule = Schedule.from_spec(
        {
            "cron": "0 8 * * *",
            "tz": "Europe/Berlin",
            "start": "2026-05-04T08:00:00Z",
            "end": "2026-12-31T23:00:00Z",
            "exceptions": ["2026-12-25", "20:15", "2026-12-25T08:15"],
            "jitter": 90,
        }
    )
    assert schedule.explain() == (
        "at 08:00, in Europe/Berlin, from 2026-05-04 10:00, until 2027-01-01 00:00, "
        "except on 2026-12-25, on 2026-12-25 at 08:15 and at 20:15, up to 90 seconds later"
    )


def test_many_exceptions_are_counted() -> None:
    schedule = Schedule(cron="0 8 * * *", exceptions=[f"2026-01-{day:02}" for day in range(1, 21)])
    assert schedule.explain().endswith("on 2026-01-06 and 14 more")
