"""Contract, line 5: priority, then first in; serial never two; key at most one unfinished."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from tests import shop
from tests.conditions import eventually
from tests.standing import Connection, end_of, lines, standing, unfinished
from tests.workers import Start


def test_one_child_runs_by_priority_then_first_in(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given jobs of several priorities, mixed
    log = tmp_path / "log"
    priorities = [random.Random(5).choice((-100, -1, 0, 1, 100)) for _ in range(200)]
    for number, priority in enumerate(priorities):
        shop.note.options(priority=priority).delay(str(log), str(number))

    # when one child runs them
    assert start_worker("-c", "1", "--drain", wait=False).wait() == 0

    # then the higher ones came first, and within a priority the earlier ones
    in_order = sorted(range(200), key=lambda number: (-priorities[number], number))
    assert [int(line) for line in lines(log)] == in_order


def test_jobs_of_one_serial_key_never_overlap(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given many jobs of few lanes, two workers, four children
    log = tmp_path / "log"
    lanes = [number % 5 for number in range(150)]
    random.Random(5).shuffle(lanes)
    shop.in_lane.delay_many([(lane, str(log)) for lane in lanes])
    start_worker("-c", "2")
    start_worker("-c", "2")

    # when all are done
    eventually(lambda: unfinished(connection) == 0, timeout=40)

    # then no lane was entered before it was left
    inside = Counter[str]()
    for line in lines(log):
        lane = line[1:]
        inside[lane] += 1 if line[0] == "+" else -1
        assert inside[lane] in (0, 1), f"two jobs of lane {lane} at once"
    assert len(lines(log)) == 300
    assert connection.execute("select count(*) from pgtask.slot").fetchone() == (0,)


def test_a_serial_job_that_crashes_gives_its_lane_on(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    start_worker("-c", "2")

    crashing = shop.die.options(serial="one").delay(str(tmp_path / "die"), 1)
    after = shop.add.options(serial="one").delay(1, 2)

    assert after.get(timeout=10) == 3
    assert end_of(connection, crashing.id).state == "succeeded"


def test_with_a_key_at_most_one_job_is_unfinished(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given the same key five times, once more with on_conflict="keep"
    log = tmp_path / "log"
    jobs = [shop.note.options(key="report").delay(str(log), str(n)) for n in range(5)]
    kept = shop.note.options(key="report", on_conflict="keep").delay(str(log), "kept")

    # then one job is left, the last call
    assert unfinished(connection) == 1
    assert not kept.created
    assert kept.id == jobs[-1].id

    # and it alone runs
    assert start_worker("--drain", wait=False).wait() == 0
    assert lines(log) == ["4"]


def test_a_key_whose_owner_runs_passes_to_the_new_job(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given a running job with a key, enqueued anew
    log = tmp_path / "log"
    start_worker("-c", "2")
    owner = shop.hold.options(key="report").delay(str(log))
    eventually(lambda: lines(log))
    newer = shop.add.options(key="report").delay(1, 2)

    # then both may finish
    assert newer.get(timeout=10) == 3
    log.with_name("log.go").touch()
    assert end_of(connection, owner.id).state == "succeeded"
    assert connection.execute("select count(*) from pgtask.job_key").fetchone() == (0,)


def test_an_owner_that_lost_its_key_may_not_retry(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    start_worker("-c", "1")
    owner = shop.nap.options(key="report", timeout=1.0, queue="naps").delay(60, str(log))
    eventually(lambda: lines(log))
    newer = shop.add.options(key="report", queue="adds", countdown=60).delay(1, 2)

    end = end_of(connection, owner.id)

    assert end.state == "failed"
    assert end.reason in ("superseded", "timeout")
    now = standing(connection, newer.id)
    assert now is not None
    assert now.state == "scheduled"
