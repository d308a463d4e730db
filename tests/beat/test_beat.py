"""`pgtask beat`: what is due fires, once, whoever looks and whatever happens."""

from __future__ import annotations

import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import pairwise

import psycopg
import pytest

from tests.beats import StartBeat
from tests.clockwork import SECONDLY, check_conserved, column, jobs, put, shift, ticks
from tests.conditions import eventually
from tests.standing import Connection

HOURLY = {"every": 3600}


# Firing ------------------------------------------------------------------------------------------


def test_a_schedule_of_every_second_has_a_job_for_every_second(
    start_beat: StartBeat, connection: Connection
) -> None:
    put(connection, "s", overlap="queue")
    start_beat()

    eventually(lambda: len(ticks(connection, "s")) >= 4)

    check_conserved(connection, ["s"])
    fired = ticks(connection, "s")
    assert [b.at - a.at for a, b in pairwise(fired)] == [timedelta(seconds=1)] * (len(fired) - 1)
    assert all(tick.fired_at - tick.at < timedelta(seconds=1) for tick in fired)


def test_a_schedule_inserted_by_hand_is_noticed_within_three_seconds(
    start_beat: StartBeat, connection: Connection
) -> None:
    start_beat()

    put(connection, "s")

    eventually(lambda: column(connection, "s", "next_at"), timeout=1.5)
    eventually(lambda: ticks(connection, "s"), timeout=3)


def test_a_beat_without_an_app_fires_what_is_there_and_says_so(
    start_beat: StartBeat, connection: Connection
) -> None:
    put(connection, "s")
    beat = start_beat()

    eventually(lambda: jobs(connection, "s"))

    assert "no app" in beat.log


def test_once_fires_what_is_due_and_ends(start_beat: StartBeat, connection: Connection) -> None:
    put(connection, "s", HOURLY)
    assert start_beat("--once", wait=False).wait() == 0
    assert column(connection, "s", "next_at") is not None
    assert ticks(connection, "s") == []

    connection.execute("update pgtask.schedule set next_at = date_trunc('hour', now())")
    assert start_beat("--once", wait=False).wait() == 0

    assert len(jobs(connection, "s")) == 1
    check_conserved(connection, ["s"])


def test_an_instant_of_this_moment_fires_and_one_that_is_past_does_not(
    start_beat: StartBeat, connection: Connection
) -> None:
    start_beat()
    row = connection.execute(
        "select to_char(now() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),"
        " to_char((now() - interval '1 h') at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"
    ).fetchone()
    assert row is not None

    put(connection, "now", {"at": row[0]})
    put(connection, "past", {"at": row[1]})

    eventually(lambda: len(ticks(connection, "now")) == 1)
    eventually(lambda: column(connection, "past", "planned_revision = revision"))
    assert ticks(connection, "past") == []
    assert column(connection, "now", "next_at") is None


def test_a_schedule_that_overlaps_again_and_again_is_logged_once(
    start_beat: StartBeat, connection: Connection
) -> None:
    # given nobody who runs its first job
    put(connection, "s", overlap="skip")
    beat = start_beat()

    eventually(lambda: [tick.reason for tick in ticks(connection, "s")].count("overlap") >= 3)

    assert beat.log.count("schedule s: no job for tick") == 1


def test_an_idle_beat_asks_no_more_often_than_every_five_seconds(
    start_beat: StartBeat, connection: Connection
) -> None:
    put(connection, "s", {"every": 86_400})
    start_beat()
    eventually(lambda: column(connection, "s", "planned_revision = revision"))
    at_work = (
        "select pid, query_start from pg_stat_activity where datname = current_database()"
        " and application_name like 'pgtask:beat%'"
    )
    eventually(
        lambda: (
            connection.execute(
                f"select count(*) = 2 and max(query_start) < clock_timestamp() - interval '1 s'"
                f" from ({at_work}) as a".encode()
            ).fetchone()
            == (True,)
        ),
    )
    asked: set[tuple[int, datetime]] = set()

    def watch() -> bool:
        asked.update(connection.execute(at_work.encode()).fetchall())
        return len(asked) >= 2 + 3

    # Two are of its start. Then come a test of its ear, a look, and a test again.
    eventually(watch, timeout=25)

    when = sorted(start for _, start in asked)[1:]
    assert len({pid for pid, _ in asked}) == 2
    assert min(b - a for a, b in pairwise(when)) >= timedelta(seconds=5), when


# Errors ------------------------------------------------------------------------------------------


def test_a_broken_spec_stops_that_schedule_and_no_other(
    start_beat: StartBeat, connection: Connection
) -> None:
    put(connection, "good")
    put(connection, "bad", {"cron": "0 25 * * *"})
    put(connection, "worse", {"nonsense": True})
    beat = start_beat()

    eventually(lambda: len(ticks(connection, "good")) >= 2)

    assert "hour" in column(connection, "bad", "error")
    assert "nonsense" in column(connection, "worse", "error")
    assert "schedule bad does not fire until it is edited" in beat.log

    # and it fires once it is corrected
    connection.execute(
        "update pgtask.schedule set spec = %s where name = 'bad'", ['{"cron": "* * * * * *"}']
    )
    eventually(lambda: ticks(connection, "bad"))
    assert column(connection, "bad", "error") is None


def test_a_job_that_the_database_refuses_stops_its_schedule_and_no_other(
    start_beat: StartBeat, connection: Connection
) -> None:
    # given somebody's trigger that refuses jobs of one task
    names = [f"s{number}" for number in range(8)]
    for name in names:
        put(connection, name, task="refused" if name == "s5" else "t", overlap="queue")
    connection.execute(
        "create function public.refuse() returns trigger language plpgsql as $$ begin"
        " if new.task = 'refused' then raise exception 'not today'; end if; return new; end $$;"
        " create trigger refuse before insert on pgtask.ready for each row"
        " execute function public.refuse()"
    )
    try:
        beat = start_beat()
        eventually(lambda: column(connection, "s5", "error"))
        eventually(lambda: all(len(jobs(connection, n)) >= 2 for n in names if n != "s5"))
    finally:
        connection.execute("drop function public.refuse() cascade")

    assert "not today" in column(connection, "s5", "error")
    assert "schedule s5 does not fire" in beat.log
    assert jobs(connection, "s5") == []
    check_conserved(connection, names)


def test_a_fault_of_the_schema_breaks_no_schedule(
    start_beat: StartBeat, connection: Connection
) -> None:
    # given a function of the schema that stumbles over something
    row = connection.execute("select pg_get_functiondef('pgtask._make_job'::regproc)").fetchone()
    assert row is not None
    definition = str(row[0])
    head = definition[: definition.index("AS $function$")]
    put(connection, "s", overlap="queue")
    beat = start_beat()
    eventually(lambda: ticks(connection, "s"))
    try:
        connection.execute(f"{head} as $f$ begin perform nowhere.nothing(); end $f$".encode())
        eventually(lambda: "firing failed" in beat.log)
    finally:
        connection.execute(definition.encode())

    # then all goes on as soon as somebody has seen to it
    before = len(jobs(connection, "s"))
    eventually(lambda: len(jobs(connection, "s")) > before)
    assert column(connection, "s", "error") is None


# Edits -------------------------------------------------------------------------------------------


def test_an_edit_while_a_tick_is_due_fires_nothing_of_before(
    start_beat: StartBeat, connection: Connection, dsn: str
) -> None:
    # given a schedule that somebody edits, in a transaction that is open when it is due
    put(connection, "s", HOURLY)
    put(connection, "other", overlap="queue")
    start_beat()
    eventually(lambda: column(connection, "s", "next_at"))
    with psycopg.connect(dsn) as edit:
        edit.execute("update pgtask.schedule set spec = '{\"every\": 7200}' where name = 's'")
        seen = len(ticks(connection, "other"))
        # then the others go on meanwhile
        eventually(lambda: len(ticks(connection, "other")) >= seen + 3)
        edit.commit()

    eventually(lambda: column(connection, "s", "planned_revision = revision"))
    assert ticks(connection, "s") == []
    check_conserved(connection, ["other"])


def test_a_due_schedule_whose_row_is_locked_fires_when_it_is_free(
    start_beat: StartBeat, connection: Connection, dsn: str
) -> None:
    put(connection, "s", SECONDLY, catchup="all", overlap="queue")
    put(connection, "other", overlap="queue")
    start_beat()
    eventually(lambda: ticks(connection, "s"))

    with psycopg.connect(dsn) as lock:
        lock.execute("select from pgtask.schedule where name = 's' for update")
        seen, others = len(ticks(connection, "s")), len(ticks(connection, "other"))
        eventually(lambda: len(ticks(connection, "other")) >= others + 3)
        assert len(ticks(connection, "s")) == seen

    eventually(lambda: len(ticks(connection, "s")) >= seen + 3)
    check_conserved(connection, ["s", "other"])


def test_a_key_in_the_hands_of_an_open_transaction_holds_up_its_schedule_alone(
    start_beat: StartBeat, connection: Connection, dsn: str
) -> None:
    put(connection, "keyed", key="mine")
    put(connection, "other", overlap="queue")
    with psycopg.connect(dsn) as lock:
        lock.execute("select pgtask.enqueue('t', key => 'mine')")
        # Not before: a tick of its own that fired first would make the next ones overlap.
        beat = start_beat()
        eventually(lambda: "waits for a lock on its key" in beat.log, timeout=20)
        seen = len(ticks(connection, "other"))
        eventually(lambda: len(ticks(connection, "other")) >= seen + 2, timeout=20)
    eventually(lambda: jobs(connection, "keyed"), timeout=15)
    assert column(connection, "keyed", "error") is None


def test_a_paused_schedule_does_not_fire_and_makes_up_for_nothing_when_resumed(
    start_beat: StartBeat, connection: Connection
) -> None:
    put(connection, "s", catchup="all", overlap="queue")
    start_beat()
    eventually(lambda: ticks(connection, "s"))
    connection.execute("select pgtask.pause_schedule('s', 'busy')")
    seen = len(ticks(connection, "s"))
    paused_at = connection.execute("select clock_timestamp()").fetchone()
    time.sleep(2.1)  # nothing is to happen
    assert len(ticks(connection, "s")) == seen

    connection.execute("select pgtask.resume_schedule('s')")

    eventually(lambda: len(ticks(connection, "s")) >= seen + 2)
    assert paused_at is not None
    resumed = ticks(connection, "s")[seen]
    assert resumed.at - paused_at[0] > timedelta(seconds=2)


# Clocks and plans --------------------------------------------------------------------------------


def test_a_plan_that_is_far_ahead_is_put_right_when_a_beat_starts(
    start_beat: StartBeat, connection: Connection
) -> None:
    # given what a clock that was a month ahead has left behind
    put(connection, "s")
    start_beat("--once", wait=False).wait()
    shift(connection, "s", 30 * 86_400)
    connection.execute("update pgtask.beat set seen_at = seen_at + interval '30 d'")

    beat = start_beat()

    eventually(lambda: len(ticks(connection, "s")) >= 1)
    assert "planned anew" in beat.log
    check_conserved(connection, ["s"])


@pytest.fixture
def set_clock(connection: Connection) -> Iterator[Callable[[str], None]]:
    """Have beats be told another time than the server's; it is right again at the end."""
    definitions = [
        str(text)
        for (text,) in connection.execute(
            "select pg_get_functiondef(oid) from pg_proc"
            " where pronamespace = 'pgtask'::regnamespace and proname in ('_due', '_planned')"
        )
    ]

    def ahead(interval: str) -> None:
        moved = f"(clock_timestamp() + interval '{interval}')"
        with connection.transaction():
            for text in definitions:
                connection.execute(text.replace("clock_timestamp()", moved).encode())

    yield ahead
    ahead("0")
    for text in definitions:
        connection.execute(text.encode())


def test_a_clock_that_is_set_back_stalls_nothing_and_doubles_nothing(
    start_beat: StartBeat, connection: Connection, set_clock: Callable[[str], None]
) -> None:
    # given a server whose clock is ahead
    set_clock("1 h")
    put(connection, "s", overlap="queue", catchup="all")
    put(connection, "daily", {"every": 86_400})
    beat = start_beat()
    eventually(lambda: len(ticks(connection, "s")) >= 2)
    first = ticks(connection, "s")[0].at

    # when it is put right
    set_clock("0")

    # then firing goes on at once by the time that it is now
    eventually(lambda: ticks(connection, "s")[0].at < first - timedelta(minutes=59))
    assert "clock was set back" in beat.log
    eventually(lambda: column(connection, "daily", "planned_revision = revision"))
    check_conserved(connection, ["s"])


def test_a_clock_that_is_set_forward_floods_nothing(
    start_beat: StartBeat, connection: Connection, set_clock: Callable[[str], None]
) -> None:
    put(connection, "last", overlap="queue")
    put(connection, "all", overlap="queue", catchup="all")
    start_beat()
    eventually(lambda: ticks(connection, "last") and ticks(connection, "all"))

    set_clock("1 day")

    eventually(lambda: any(tick.missed == 1000 for tick in ticks(connection, "last")))
    eventually(lambda: any(tick.reason == "missed" for tick in ticks(connection, "all")))
    assert len(ticks(connection, "last")) < 30
    assert 1000 <= len(ticks(connection, "all")) < 1030
    check_conserved(connection, ["last", "all"])


def test_a_plan_that_is_no_tick_any_more_does_not_fire(
    start_beat: StartBeat, connection: Connection
) -> None:
    # given a plan made by other rules of time
    put(connection, "s", {"cron": "0 0 29 2 *"})
    start_beat("--once", wait=False).wait()
    shift(connection, "s", -1)

    start_beat()

    eventually(lambda: column(connection, "s", "next_at > clock_timestamp()"))
    assert ticks(connection, "s") == []


@pytest.mark.parametrize(
    ("catchup", "fired", "missed"), [("last", 1, 0), ("none", 0, 1), ("all", 10, 0)]
)
def test_what_was_missed_is_caught_up_with_as_its_policy_says(
    start_beat: StartBeat, connection: Connection, catchup: str, fired: int, missed: int
) -> None:
    put(connection, "s", {"every": 3600}, catchup=catchup, overlap="queue")
    start_beat("--once", wait=False).wait()
    shift(connection, "s", 0)
    connection.execute(
        "update pgtask.schedule set next_at = date_trunc('hour', clock_timestamp())"
        " - interval '9 h' where name = 's'"
    )

    start_beat("--once", wait=False).wait()

    made = ticks(connection, "s")
    assert sum(tick.job is not None for tick in made) == fired
    assert sum(tick.reason == "missed" for tick in made) == missed
    assert sum(tick.missed for tick in made) == (0 if catchup == "all" else 9)
    check_conserved(connection, ["s"])


# Ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_beat_that_is_told_to_end_ends_within_a_second(
    start_beat: StartBeat, connection: Connection, number: signal.Signals
) -> None:
    put(connection, "s", overlap="queue")
    beat = start_beat()
    eventually(lambda: ticks(connection, "s"))

    began = time.monotonic()
    beat.signal(number)

    assert beat.wait(10) == 0
    assert time.monotonic() - began < 2
    assert re.search(r"beat ended: \d+ ticks? fired", beat.log)
    assert connection.execute("select count(*) from pgtask.beats").fetchone() == (0,)
    check_conserved(connection, ["s"])


@pytest.mark.parametrize("point", ["after-_due", "before-_fire", "after-_fire"])
@pytest.mark.parametrize("action", ["kill", "cut"])
def test_a_beat_that_fails_between_due_and_fired_leaves_every_tick_with_one_job(
    start_beat: StartBeat, connection: Connection, point: str, action: str
) -> None:
    put(connection, "s", catchup="all", overlap="queue")
    beat = start_beat(wait=False, PGTASK_FAILPOINT=f"{point}:6:{action}")
    if action == "kill":
        assert beat.wait() == -signal.SIGKILL
        before = len(ticks(connection, "s"))
        start_beat()
    else:
        eventually(lambda: "firing failed" in beat.log, timeout=20)
        before = len(ticks(connection, "s"))

    eventually(lambda: len(ticks(connection, "s")) >= before + 2)

    check_conserved(connection, ["s"])
    assert {b.at - a.at for a, b in pairwise(ticks(connection, "s"))} == {timedelta(seconds=1)}


def test_five_beats_of_which_one_is_killed_each_second_make_one_job_a_tick(
    start_beat: StartBeat, connection: Connection
) -> None:
    _kill_one_each_second(start_beat, connection, seconds=8)


@pytest.mark.faults
def test_five_beats_of_which_one_is_killed_each_second_for_a_minute(
    start_beat: StartBeat, connection: Connection
) -> None:
    _kill_one_each_second(start_beat, connection, seconds=60)


def _kill_one_each_second(start_beat: StartBeat, connection: Connection, *, seconds: int) -> None:
    names = [f"{catchup}-{n}" for catchup in ("last", "none", "all") for n in range(3)]
    for name in names:
        put(connection, name, catchup=name.partition("-")[0], overlap="queue")
    beats = [start_beat(wait=False) for _ in range(5)]
    beats[0].wait_until_seen()
    dice = random.Random(seconds)
    for _ in range(seconds):
        time.sleep(1.0)  # the rhythm of what is played
        victim = dice.randrange(5)
        beats[victim].kill()
        beats[victim] = start_beat(wait=False)

    eventually(lambda: all(len(ticks(connection, name)) >= seconds - 6 for name in names))
    connection.execute("update pgtask.schedule set enabled = false")
    check_conserved(connection, names)
    for name in names:
        fired = ticks(connection, name)
        gaps = [b.at - a.at for a, b in pairwise(fired)]
        assert max(gaps) <= timedelta(seconds=2), (name, gaps)
        if name.startswith("all"):
            assert set(gaps) == {timedelta(seconds=1)}, (name, gaps)
            assert all(tick.reason is None for tick in fired)
        # What has no row of its own is counted by the one that stands for it.
        first, last = fired[0].at, fired[-1].at
        covered = len(fired) + sum(tick.missed for tick in fired)
        assert covered == (last - first).total_seconds() + 1, name
