"""Contract, line 6: at most one job per (schedule, tick), any number of beats."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

from tests import shop
from tests.beats import StartBeat
from tests.clockwork import check_conserved, column, put, shift, ticks
from tests.conditions import eventually
from tests.standing import Connection, end_of
from tests.workers import Start


def test_any_number_of_beats_make_one_job_a_tick(
    start_beat: StartBeat, connection: Connection
) -> None:
    # given many schedules of the same second, and several beats
    names = [f"s{number}" for number in range(60)]
    for name in names:
        put(connection, name, overlap="queue", catchup="all")
    for _ in range(4):
        start_beat()

    # when they have fired for a while, one of them killed in between
    eventually(lambda: len(ticks(connection, "s0")) >= 3)
    killed = start_beat()
    killed.kill()
    eventually(lambda: all(len(ticks(connection, name)) >= 6 for name in names), timeout=20)

    # then every second has its one job
    connection.execute("update pgtask.schedule set enabled = false")
    check_conserved(connection, names)
    for name in names:
        assert {b.at - a.at for a, b in pairwise(ticks(connection, name))} == {timedelta(seconds=1)}


def test_beats_that_find_the_same_ticks_overdue_make_up_for_each_once(
    start_beat: StartBeat, connection: Connection
) -> None:
    # given schedules that nobody has looked after for ten minutes
    names = [f"s{number}" for number in range(20)]
    for name in names:
        put(connection, name, {"every": 60}, catchup="all", overlap="queue")
    start_beat("--once", wait=False).wait()
    for name in names:
        shift(connection, name, -random.Random(name).randrange(600))

    # when five beats begin at the same moment
    for _ in range(5):
        start_beat(wait=False)

    eventually(lambda: all(column(connection, n, "next_at > clock_timestamp()") for n in names))
    check_conserved(connection, names)


def test_a_tick_whose_job_before_still_runs_is_skipped_and_says_so(
    start_beat: StartBeat, start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given a job that runs for longer than its schedule's interval
    log = tmp_path / "log"
    start_worker("-c", "2")
    put(connection, "s", task=shop.hold.name, args=json.dumps([str(log)]))
    start_beat()

    # then the ticks meanwhile make no job, and say why
    eventually(lambda: sum(tick.reason == "overlap" for tick in ticks(connection, "s")) >= 2)
    fired = [tick for tick in ticks(connection, "s") if tick.job is not None]
    assert len(fired) == 1

    # and when it has ended, the next one fires
    connection.execute("select pgtask.pause_queue('default')")
    log.with_name("log.go").touch()
    assert fired[0].job is not None
    assert end_of(connection, fired[0].job).state == "succeeded"
    eventually(lambda: sum(tick.job is not None for tick in ticks(connection, "s")) == 2)
    check_conserved(connection, ["s"])
