"""Jobs behind a long one are taken back and run elsewhere; none runs twice, none is lost."""

from __future__ import annotations

import random
import signal
from collections import Counter
from pathlib import Path

from tests import shop
from tests.conditions import eventually
from tests.standing import Connection, end_of, lines, unfinished
from tests.workers import Start


def train(connection: Connection, path: Path) -> None:
    """Have the worker believe that pass_gate is quick."""
    path.touch()
    for job in shop.pass_gate.delay_many([(str(path), "/dev/null")] * 100):
        end_of(connection, job.id)


def test_jobs_behind_a_long_one_run_in_the_other_child(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given two children that expect quick jobs, and a lot of which one is not
    log, gate, open_gate = tmp_path / "log", tmp_path / "gate", tmp_path / "open"
    start_worker("-c", "2")
    train(connection, open_gate)
    with connection.transaction():
        slow = shop.pass_gate.using(connection).delay(str(gate), str(log))
        quick = shop.pass_gate.using(connection).delay_many([(str(open_gate), str(log))] * 40)

    # then all the others are done while it still runs
    for job in quick:
        assert end_of(connection, job.id, timeout=5).attempt == 1
    assert f"-{slow.id}" not in {line.split()[0] for line in lines(log)}
    gate.touch()
    assert end_of(connection, slow.id)[:3] == ("succeeded", None, 1)
    assert len(lines(log)) == 2 * 41
    assert len(set(lines(log))) == 2 * 41


def test_jobs_behind_a_long_one_go_to_another_worker_when_no_child_is_free(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given a worker whose only child has turned out to be busy for long
    log, gate, open_gate = tmp_path / "log", tmp_path / "gate", tmp_path / "open"
    start_worker("-c", "1")
    train(connection, open_gate)
    with connection.transaction():
        shop.pass_gate.using(connection).delay(str(gate), str(log))
        quick = shop.pass_gate.using(connection).delay_many([(str(open_gate), str(log))] * 10)
    eventually(lambda: lines(log))

    # when there is another worker
    start_worker("-c", "1")

    # then that one runs them
    for job in quick:
        assert end_of(connection, job.id, timeout=10).attempt == 1
    assert len({line.split()[1] for line in lines(log)}) == 2
    gate.touch()


def test_the_outcome_of_a_quick_job_does_not_wait_for_the_long_one_after_it(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log, gate, open_gate = tmp_path / "log", tmp_path / "gate", tmp_path / "open"
    start_worker("-c", "1")
    train(connection, open_gate)
    with connection.transaction():
        quick = shop.pass_gate.using(connection).delay(str(open_gate), str(log))
        slow = shop.pass_gate.using(connection).delay(str(gate), str(log))
    eventually(lambda: len(lines(log)) == 3)

    assert end_of(connection, quick.id, timeout=5).state == "succeeded"

    gate.touch()
    assert end_of(connection, slow.id).state == "succeeded"


def test_over_many_mixed_jobs_none_runs_twice_and_none_is_lost(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given jobs of one task, most of them quick, some not
    log = tmp_path / "log"
    seeded = random.Random(20)
    naps = [
        (seeded.choice((0.0,) * 30 + (0.001, 0.004, 0.03, 0.08, 0.2)), str(log))
        for _ in range(1200)
    ]
    worker = start_worker("-c", "3")
    jobs = [job for start in range(0, 1200, 100) for job in shop.nap.delay_many(naps[start:][:100])]

    # when all are done
    eventually(lambda: unfinished(connection) == 0, timeout=60)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0

    # then each has begun once and ended once, in one process, in its first attempt
    effects = Counter(lines(log))
    assert max(effects.values()) == 1
    by_job = Counter(line.split()[0] for line in effects)
    assert by_job == Counter(f"{sign}{job.id}" for job in jobs for sign in "+-")
    attempts = connection.execute("select distinct state, attempt from pgtask.jobs").fetchall()
    assert attempts == [("succeeded", 1)]
