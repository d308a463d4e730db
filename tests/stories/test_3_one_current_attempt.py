"""Contract, line 3: at any moment one attempt can change a job's state; stale ones are refused."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests import shop
from tests.conditions import eventually
from tests.standing import (
    Connection,
    counted,
    declare_dead,
    end_of,
    lines,
    outcomes,
    standing,
    unfinished,
)
from tests.workers import Start


def test_a_worker_stopped_beyond_its_lease_changes_nothing_and_starts_anew(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given a worker that is stopped, with all its processes, while it runs a job
    log = tmp_path / "log"
    stopped = start_worker("-c", "1")
    job = shop.hold.options(backoff="const:0", jitter=0).delay(str(log))
    eventually(lambda: lines(log))
    family = [stopped.pid, *stopped.descendants()]
    for pid in family:
        os.kill(pid, signal.SIGSTOP)

    # when it is declared dead, and another worker finishes the job
    declare_dead(connection, stopped.pid)
    log.with_name("log.go").touch()
    other = start_worker("-c", "1")
    end = end_of(connection, job.id)
    assert (end.state, end.attempt, end.epoch) == ("succeeded", 2, 2)
    assert outcomes(connection, job.id) == ["lost"]
    other.signal(signal.SIGTERM)
    assert other.wait() == 0

    # and the first goes on
    for pid in reversed(family):
        os.kill(pid, signal.SIGCONT)

    # then its outcome is refused, and counted
    eventually(lambda: counted(connection, "-", "stale"), timeout=15)
    assert "came too late" in stopped.log
    assert standing(connection, job.id) == end
    # and it works again, under a new id
    stopped.wait_until_registered()
    assert "declared dead" in stopped.log
    assert shop.add.delay(1, 2).get(timeout=10) == 3
    ids = connection.execute("select alive from pgtask.worker where pid = %s", [stopped.pid])
    assert sorted(ids.fetchall()) == [(False,), (True,)]
    assert unfinished(connection) == 0


def test_a_worker_told_to_end_does_not_start_anew_when_it_was_declared_dead(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given a worker that waits for its last job
    log = tmp_path / "log"
    worker = start_worker("-c", "1")
    job = shop.hold.delay(str(log))
    eventually(lambda: lines(log))
    worker.signal(signal.SIGTERM)
    eventually(lambda: "warm stop" in worker.log)

    # when it is declared dead
    declare_dead(connection, worker.pid)
    worker_is_told(connection, worker.pid)

    # then it ends
    assert worker.wait(20) == 0
    assert outcomes(connection, job.id) == ["lost"]
    alive = connection.execute("select alive from pgtask.worker where pid = %s", [worker.pid])
    assert alive.fetchall() == [(False,)]


def worker_is_told(connection: Connection, pid: int) -> None:
    """Have the worker send a heartbeat now: a wish to cancel wakes it."""
    connection.execute(
        "select pg_notify('pgtask_cancel', id::text) from pgtask.worker where pid = %s", [pid]
    )
