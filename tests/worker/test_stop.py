"""Ending a worker: warm, cold, at once, by drain, and without a database."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgtask.worker.pulse import BEAT
from tests import shop
from tests.conditions import eventually
from tests.conftest import TestServer
from tests.proxy import Proxy
from tests.standing import Connection, counted, end_of, lines, standing, unfinished
from tests.workers import Start, Worker, lives

SLACK = 2.0  # s for a machine with other things to do: the kernel's timer alone decides


def busy_worker(start_worker: Start, log: Path, *arguments: str) -> tuple[Worker, int]:
    """A worker with one child, which runs one job that waits for log + ".go"."""
    worker = start_worker("-c", "1", *arguments)
    job = shop.hold.delay(str(log))
    eventually(lambda: lines(log))
    return worker, job.id


def test_a_warm_stop_finishes_what_runs_and_gives_back_what_has_not_begun(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given a child that is known to be quick, and holds a job that is not, with others behind it
    log, gate, open_gate = tmp_path / "log", tmp_path / "gate", tmp_path / "open"
    open_gate.touch()
    worker = start_worker("-c", "1")
    for job in shop.pass_gate.delay_many([(str(open_gate), "/dev/null")] * 60):
        end_of(connection, job.id)
    with connection.transaction():
        first = shop.pass_gate.using(connection).delay(str(gate), str(log))
        behind = shop.pass_gate.using(connection).delay_many([(str(open_gate), str(log))] * 10)
    eventually(lambda: lines(log))

    # when it is told to end
    worker.signal(signal.SIGTERM)
    eventually(lambda: "warm stop" in worker.log)
    eventually(lambda: all_ready(connection, [job.id for job in behind]))
    gate.touch()

    # then the one that ran is done and the others are as they were
    assert worker.wait(10) == 0
    assert standing(connection, first.id) is not None
    assert end_of(connection, first.id, timeout=0.1)[:3] == ("succeeded", None, 1)
    assert len(lines(log)) == 2
    for job in behind:
        now = standing(connection, job.id)
        assert now is not None
        assert (now.state, now.attempt) == ("ready", 0)
    alive = connection.execute("select alive from pgtask.worker where pid = %s", [worker.pid])
    assert alive.fetchall() == [(False,)]


def all_ready(connection: Connection, ids: list[int]) -> bool:
    row = connection.execute(
        "select count(*) from pgtask.ready where id = any(%s)", [ids]
    ).fetchone()
    return row == (len(ids),)


def test_a_service_manager_that_signals_every_process_gets_a_warm_stop_too(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    worker, job_id = busy_worker(start_worker, log)

    for pid in [worker.pid, *worker.descendants()]:
        os.kill(pid, signal.SIGTERM)
    eventually(lambda: "warm stop" in worker.log)
    log.with_name("log.go").touch()

    assert worker.wait(10) == 0
    assert end_of(connection, job_id, timeout=0.1)[:3] == ("succeeded", None, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_is_a_cold_stop(
    number: signal.Signals, start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    worker, job_id = busy_worker(start_worker, tmp_path / "log")

    worker.signal(number)
    eventually(lambda: "warm stop" in worker.log)
    worker.signal(number)

    # its job is claimable at once, and nothing is counted against it
    assert worker.wait(10) == 128 + number
    now = standing(connection, job_id)
    assert now is not None
    assert now[:5] == ("ready", None, 0, 1, 0)


def test_quit_is_a_cold_stop_at_once(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    worker, job_id = busy_worker(start_worker, tmp_path / "log")

    worker.signal(signal.SIGQUIT)

    assert worker.wait(10) == 128 + signal.SIGQUIT
    now = standing(connection, job_id)
    assert now is not None
    assert (now.state, now.attempt) == ("ready", 0)


def test_interrupting_an_idle_worker_ends_it_at_once(start_worker: Start) -> None:
    worker = start_worker("-c", "1")

    worker.signal(signal.SIGINT)

    assert worker.wait(5) == 0


def test_after_the_grace_what_still_runs_is_given_back(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    worker, job_id = busy_worker(start_worker, tmp_path / "log", "--grace", "0.3s")

    worker.signal(signal.SIGTERM)

    assert worker.wait(10) == 0
    assert "1 jobs still run after the grace" in worker.log
    now = standing(connection, job_id)
    assert now is not None
    assert (now.state, now.attempt) == ("ready", 0)


def test_a_stopped_worker_has_counted_everything(
    start_worker: Start, connection: Connection
) -> None:
    worker = start_worker("-c", "1")
    for job in shop.add.delay_many([(1, 1)] * 30):
        end_of(connection, job.id)

    worker.signal(signal.SIGTERM)

    assert worker.wait(10) == 0
    assert counted(connection, "tests.shop.add", "succeeded") == 30


def test_drain_ends_when_nothing_is_left_not_even_what_the_last_jobs_enqueued(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    for number in range(5):
        shop.enqueue_note.delay(str(log), f"lane{number}")

    assert start_worker("--drain", "-c", "1", wait=False).wait() == 0

    assert sorted(lines(log)) == [f"in lane{number}" for number in range(5)]
    assert unfinished(connection) == 0


def test_drain_does_not_wait_for_what_is_due_later(
    start_worker: Start, connection: Connection
) -> None:
    later = shop.add.options(countdown=3600).delay(1, 2)
    failing = shop.flaky.options(backoff="const:3600").delay(2)

    assert start_worker("--drain", wait=False).wait() == 0

    for job in (later, failing):
        now = standing(connection, job.id)
        assert now is not None
        assert now.state == "scheduled"


@contextmanager
def outage(server: TestServer, dsn: str) -> Iterator[None]:
    """Nobody can connect to the database, and those who are, are thrown out."""
    database = str(conninfo_to_dict(dsn)["dbname"])
    with psycopg.connect(server.superuser_dsn, autocommit=True) as superuser:
        superuser.execute(f'alter database "{database}" allow_connections false'.encode())
        try:
            superuser.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s",
                [database],
            )
            yield
        finally:
            superuser.execute(f'alter database "{database}" allow_connections true'.encode())


def test_without_a_database_a_worker_still_ends_within_its_grace_and_five_seconds(
    start_worker: Start, server: TestServer, dsn: str, tmp_path: Path
) -> None:
    worker, _ = busy_worker(start_worker, tmp_path / "log", "--grace", "1s")
    with outage(server, dsn):
        eventually(lambda: "cannot be reached" in worker.log)

        told = time.monotonic()
        worker.signal(signal.SIGTERM)

        assert worker.wait(30) in (0, 1)
        assert time.monotonic() - told < 1.0 + 5.0 + SLACK


def test_a_job_that_ends_during_an_outage_is_recorded_after_it(
    start_worker: Start, server: TestServer, dsn: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    worker, job_id = busy_worker(start_worker, log)
    with outage(server, dsn):
        eventually(lambda: "cannot be reached" in worker.log)
        log.with_name("log.go").touch()
        eventually(lambda: "wait for the database" in worker.log)

    with psycopg.connect(dsn, autocommit=True) as connection:
        assert end_of(connection, job_id)[:4] == ("succeeded", None, 1, 1)
        assert shop.add.delay(1, 2).get(timeout=10) == 3
    assert "too late" not in worker.log


def test_a_closed_terminal_is_a_warm_stop(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given a worker that was started in a terminal, as the leader of its session
    screen, terminal = os.openpty()
    log = tmp_path / "log"
    worker = start_worker("-c", "1", terminal=terminal)
    os.close(terminal)
    job = shop.hold.delay(str(log))
    eventually(lambda: lines(log))

    # when the window is closed
    os.close(screen)
    eventually(lambda: "the terminal was closed" in worker.log, 30)
    eventually(lambda: "warm stop" in worker.log)
    log.with_name("log.go").touch()

    # then what runs may end
    assert worker.wait(30) == 0
    assert end_of(connection, job.id, timeout=0.1)[:3] == ("succeeded", None, 1)


def test_a_third_signal_leaves_at_once(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    worker, job_id = busy_worker(start_worker, tmp_path / "log")
    family = worker.descendants()
    worker.signal(signal.SIGTERM)
    eventually(lambda: "warm stop" in worker.log)

    # two more, before it can do anything about the first of them
    worker.signal(signal.SIGSTOP)
    worker.signal(signal.SIGINT)
    worker.signal(signal.SIGTERM)
    worker.signal(signal.SIGCONT)

    # nothing was recorded: its lease runs out by itself
    assert worker.wait() in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert "again: leaving at once" in worker.log
    now = standing(connection, job_id)
    assert now is not None
    assert now.state == "running"
    eventually(lambda: not any(lives(pid) for pid in family), 30)


def test_told_to_end_while_it_imports_the_app_a_worker_ends(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    (tmp_path / "endless.py").write_text(
        f"import time\nopen({str(log)!r}, 'a').write('importing\\n')\ntime.sleep(600)\n"
    )
    worker = start_worker(app="endless", wait=False, PYTHONPATH=str(tmp_path))
    eventually(lambda: lines(log), 30)
    family = worker.descendants()

    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0
    assert "told to end before it had begun" in worker.log
    assert connection.execute("select count(*) from pgtask.worker where alive").fetchone() == (0,)
    assert not any(lives(pid) for pid in family)


def test_told_to_end_while_it_connects_a_worker_ends(start_worker: Start) -> None:
    # given a server that takes connections and never says a word
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        worker = start_worker(wait=False, PGTASK_DSN=f"host=127.0.0.1 port={port} dbname=x")
        connected, _ = silent.accept()
        with connected:
            worker.signal(signal.SIGTERM)

            assert worker.wait() == 0
    assert "told to end before it had begun" in worker.log


def test_a_wish_to_cancel_is_heard_at_once_during_a_warm_stop(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given a worker that waits for four jobs
    worker = start_worker("-c", "4", "--grace", "100s")
    logs = [tmp_path / f"log{number}" for number in range(4)]
    jobs = [shop.hold.delay(str(log)) for log in logs]
    eventually(lambda: all(lines(log) for log in logs), 30)
    worker.signal(signal.SIGTERM)
    eventually(lambda: "warm stop" in worker.log)

    # when they are cancelled, each after the one before has heard it, so just after a heartbeat
    took = []
    for job, log in zip(jobs, logs, strict=True):
        began = time.monotonic()
        assert job.cancel()
        eventually(lambda log=log: "cancelled" in lines(log), 30)  # type: ignore[misc]
        took.append(time.monotonic() - began)

    # then none but the first can have waited for the next heartbeat; on a busy machine, one of them
    assert min(took[1:]) < BEAT / 2
    assert worker.wait() == 0
    for job in jobs:
        # it heard, and chose to return
        assert end_of(connection, job.id, timeout=0.1).state == "succeeded"


def test_a_warm_stop_says_what_it_waits_for_and_a_worker_what_it_has_done(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    worker, job_id = busy_worker(start_worker, log, "--grace", "100s")
    done = shop.add.options(priority=9).delay_many([(1, 1)] * 3)

    worker.signal(signal.SIGTERM)
    eventually(lambda: "still waiting" in worker.log, 30)
    log.with_name("log.go").touch()

    assert worker.wait() == 0
    said = f"1 jobs run, the longest is job {job_id} (tests.shop.hold), for "
    assert said in worker.log
    assert "worker ended: 1 jobs finished (1 succeeded), " in worker.log
    assert "given back before they began, 0 killed and given back" in worker.log
    for job in done:
        now = standing(connection, job.id)
        assert now is not None
        assert (now.state, now.attempt) == ("ready", 0)


def test_a_cold_stop_says_how_many_it_has_killed(start_worker: Start, tmp_path: Path) -> None:
    worker, _ = busy_worker(start_worker, tmp_path / "log")

    worker.signal(signal.SIGQUIT)

    assert worker.wait() == 128 + signal.SIGQUIT
    assert "worker ended: 0 jobs finished, 0 given back before they began, 1 killed" in worker.log


def test_without_a_database_a_second_signal_ends_a_worker_within_five_seconds(
    start_worker: Start, server: TestServer, dsn: str, tmp_path: Path
) -> None:
    worker, _ = busy_worker(start_worker, tmp_path / "log", "--grace", "100s")
    with outage(server, dsn):
        eventually(lambda: "cannot be reached" in worker.log)
        worker.signal(signal.SIGTERM)
        eventually(lambda: "warm stop" in worker.log)

        told = time.monotonic()
        worker.signal(signal.SIGTERM)

        assert worker.wait(30) in (128 + signal.SIGTERM, 1)
        assert time.monotonic() - told < 5.0 + SLACK


def test_a_database_that_goes_away_during_the_stop_does_not_hold_it_up(
    start_worker: Start, server: TestServer, dsn: str, tmp_path: Path
) -> None:
    worker, _ = busy_worker(start_worker, tmp_path / "log", "--grace", "2s")
    told = time.monotonic()
    worker.signal(signal.SIGTERM)
    eventually(lambda: "warm stop" in worker.log)

    with outage(server, dsn):
        assert worker.wait(30) in (0, 1)
        assert time.monotonic() - told < 2.0 + 5.0 + SLACK


def test_a_database_that_falls_silent_does_not_hold_up_the_stop(
    start_worker: Start, dsn: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with Proxy.before(dsn) as proxy:
        worker = start_worker("-c", "1", "--grace", "1s", PGTASK_DSN=proxy.dsn(dsn))
        shop.hold.delay(str(log))
        eventually(lambda: lines(log), 30)

        proxy.freeze()
        told = time.monotonic()
        worker.signal(signal.SIGTERM)

        assert worker.wait(30) in (0, 1)
        assert time.monotonic() - told < 1.0 + 5.0 + SLACK


def test_what_is_done_is_recorded_if_the_database_is_back_within_the_grace(
    start_worker: Start, server: TestServer, dsn: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    worker, job_id = busy_worker(start_worker, log, "--grace", "100s")
    with outage(server, dsn):
        eventually(lambda: "cannot be reached" in worker.log)
        worker.signal(signal.SIGTERM)
        eventually(lambda: "warm stop" in worker.log)
        log.with_name("log.go").touch()
        eventually(lambda: "wait for the database" in worker.log, 30)

    assert worker.wait() == 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert end_of(connection, job_id, timeout=0.1)[:3] == ("succeeded", None, 1)
