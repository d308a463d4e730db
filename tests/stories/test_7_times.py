"""Contract, line 7: how long things take at most when something breaks."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests import shop
from tests.conditions import eventually
from tests.standing import Connection, end_of, lines, outcomes, standing
from tests.workers import Start, lives


def test_a_dead_child_is_noticed_within_a_second_and_its_job_tried_again(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given a job that runs
    log = tmp_path / "log"
    start_worker("-c", "1")
    job = shop.nap.delay(60, str(log))
    eventually(lambda: lines(log))

    # when its process is killed
    killed = time.monotonic()
    os.kill(int(lines(log)[0].split()[1]), signal.SIGKILL)
    eventually(lambda: outcomes(connection, job.id))

    # then that is known within a second, and the next attempt begins
    assert time.monotonic() - killed < 1.0
    assert outcomes(connection, job.id) == ["crashed"]
    eventually(lambda: len(lines(log)) == 2)


def test_nothing_outlives_a_killed_supervisor_by_a_second_and_its_jobs_come_back(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given a worker that runs a sync and an async job, and an idle one
    log = tmp_path / "log"
    busy = start_worker("-c", "1")
    jobs = [
        shop.hold.options(backoff="const:0", jitter=0).delay(str(log)),
        shop.async_hold.options(backoff="const:0", jitter=0).delay(str(log)),
    ]
    eventually(lambda: len(lines(log)) == 2)
    family = busy.descendants()
    assert len(family) == 3
    start_worker("-c", "1")

    # when its supervisor is killed
    killed = time.monotonic()
    busy.signal(signal.SIGKILL)
    busy.wait()
    eventually(lambda: not any(lives(pid) for pid in family), timeout=2)

    # then all its processes are gone within a second
    assert time.monotonic() - killed < 1.0
    # and, once the lease is over, the other worker takes the jobs over
    log.with_name("log.go").touch()
    connection.execute("update pgtask.worker set alive = false where pid = %s", [busy.pid])
    for job in jobs:
        assert end_of(connection, job.id, timeout=15)[:3] == ("succeeded", None, 2)
        assert outcomes(connection, job.id) == ["lost"]


@pytest.mark.faults
def test_a_dead_workers_jobs_are_claimable_within_45_seconds(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    busy = start_worker("-c", "1")
    job = shop.hold.options(backoff="const:0", jitter=0).delay(str(log))
    eventually(lambda: lines(log))
    start_worker("-c", "1")

    killed = time.monotonic()
    busy.signal(signal.SIGKILL)
    eventually(lambda: len(lines(log)) == 2, timeout=60)

    assert 30 <= time.monotonic() - killed < 45
    assert outcomes(connection, job.id) == ["lost"]


def test_a_lost_wake_up_delays_a_job_by_a_second_at_most(
    start_worker: Start, connection: Connection
) -> None:
    start_worker("-c", "1")
    shop.add.delay(0, 0).get(timeout=10)
    waits = []
    for _ in range(3):
        # given that the flag that says a worker is idle is lost when a job is enqueued
        with connection.transaction():
            connection.execute("select setval('pgtask.idle_until', 0)")
            job = shop.add.using(connection).delay(1, 2)
        end_of(connection, job.id)
        row = connection.execute(
            "select extract(epoch from claimed_at - created_at)::float8 from pgtask.done"
            " where id = %s",
            [job.id],
        ).fetchone()
        assert row is not None
        waits.append(row[0])

    assert max(waits) < 1.0 + 0.1  # the poll, and the claim itself


def test_a_steady_trickle_is_not_left_to_the_poll(
    start_worker: Start, connection: Connection
) -> None:
    start_worker("-c", "2")
    shop.add.delay(0, 0).get(timeout=10)

    # when job after job comes, for longer than the idle flag lives
    began = time.monotonic()
    while time.monotonic() - began < 3.5:
        shop.add.delay(1, 2).get(timeout=10)

    # then hardly any waited for the next look at the queue
    row = connection.execute(
        "select percentile_cont(0.95) within group"
        " (order by extract(epoch from claimed_at - created_at)) from pgtask.done"
    ).fetchone()
    assert row is not None
    assert row[0] < 0.5


@pytest.mark.parametrize("task", [shop.too_slow, shop.async_too_slow], ids=["sync", "async"])
def test_a_hard_limit_is_enforced_within_a_second_after_it(
    task: object, start_worker: Start, connection: Connection
) -> None:
    start_worker("-c", "1")
    assert task in (shop.too_slow, shop.async_too_slow)
    limit = 0.5 if task is shop.too_slow else 0.3

    job = shop.too_slow.delay() if task is shop.too_slow else shop.async_too_slow.delay()

    end = end_of(connection, job.id)
    assert (end.state, end.reason) == ("failed", "timeout")
    assert limit <= time_it_ran(connection, job.id) < limit + 1.0


def test_a_coroutine_that_never_yields_is_stopped_too_and_its_neighbours_go_on(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given a coroutine that waits politely, and one that stops their event loop
    start_worker("-c", "1")
    polite, rude = tmp_path / "polite", tmp_path / "rude"
    neighbour = shop.async_hold.delay(str(polite))
    eventually(lambda: lines(polite))
    job = shop.async_stop_the_loop.options(timeout=0.3).delay(60, str(rude))

    # then the second is stopped in time
    end = end_of(connection, job.id)
    assert (end.state, end.reason) == ("failed", "timeout")
    assert time_it_ran(connection, job.id) < 0.3 + 1.0
    # and the first begins anew, uncounted
    eventually(lambda: len(lines(polite)) == 2)
    polite.with_name("polite.go").touch()
    assert end_of(connection, neighbour.id)[:3] == ("succeeded", None, 1)


def test_a_soft_limit_is_raised_in_the_task(start_worker: Start, connection: Connection) -> None:
    start_worker("-c", "1")

    job = shop.interrupted.delay()

    end = end_of(connection, job.id)
    assert (end.state, end.reason) == ("failed", "error")
    assert "SoftTimeLimitExceeded" in (end.error or "")
    assert 0.2 <= time_it_ran(connection, job.id) < 1.2


@pytest.mark.parametrize(
    "names", [["control"], ["claim"], ["listen"], ["control", "claim", "listen"]]
)
def test_work_resumes_within_ten_seconds_after_connections_were_cut(
    names: list[str], start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given a worker in the middle of a job
    log = tmp_path / "log"
    worker = start_worker("-c", "2")
    running = shop.hold.delay(str(log))
    eventually(lambda: lines(log))

    # when connections of it are cut
    cut_at = time.monotonic()
    cut = connection.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where application_name = any(%s) and datname = current_database()",
        [[f"pgtask:{name}" for name in names]],
    )
    assert cut.fetchall() == [(True,)] * len(names)

    # then new jobs run, and what ran is finished, by the same worker
    assert shop.add.delay(1, 2).get(timeout=15) == 3
    log.with_name("log.go").touch()
    assert end_of(connection, running.id)[:3] == ("succeeded", None, 1)
    assert time.monotonic() - cut_at < 10
    assert "declared dead" not in worker.log
    now = standing(connection, running.id)
    assert now is not None
    assert now.epoch == 1


def test_a_connection_that_hangs_is_given_up_and_work_resumes(
    start_worker: Start, connection: Connection
) -> None:
    # given a worker whose server processes do not answer any more, and do not hang up
    worker = start_worker("-c", "1")
    shop.add.delay(0, 0).get(timeout=10)
    backends = [
        pid
        for (pid,) in connection.execute(
            "select pid from pg_stat_activity where datname = current_database()"
            " and application_name in ('pgtask:control', 'pgtask:claim', 'pgtask:listen')"
        )
    ]
    assert len(backends) == 3
    for pid in backends:
        os.kill(pid, signal.SIGSTOP)
    try:
        # then it connects anew, and goes on
        assert shop.add.delay(1, 2).get(timeout=10) == 3
    finally:
        for pid in backends:
            os.kill(pid, signal.SIGCONT)
    assert "no answer within 5 s" in worker.log


def time_it_ran(connection: Connection, job_id: int) -> float:
    row = connection.execute(
        "select extract(epoch from finished_at - claimed_at)::float8 from pgtask.done"
        " where id = %s",
        [job_id],
    ).fetchone()
    assert row is not None
    return float(row[0])
