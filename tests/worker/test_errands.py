"""Errands: the tasks a worker was told to take, one job alone, and how many or how long at most."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from pgtask.errors import ConfigError
from pgtask.worker.errand import Errand, matches
from tests import shop
from tests.conditions import eventually
from tests.standing import Connection, counted, end_of, lines, standing, unfinished
from tests.workers import Start


@pytest.mark.parametrize(
    ("glob", "fits", "fits_not"),
    [
        ("mail.*", ["mail.send", "mail.", "mail.a.b"], ["mail", "xmail.send", "mailxsend"]),
        ("*.send", ["mail.send", ".send"], ["send", "mail.sends"]),
        ("a*z", ["az", "a.b.z"], ["azx", "bz"]),
        ("m?il", ["m?il"], ["mail"]),
        ("[ab]", ["[ab]"], ["a"]),
        ("a.b", ["a.b"], ["axb"]),
        ("*", ["anything"], []),
    ],
)
def test_only_the_star_is_special(glob: str, fits: list[str], fits_not: list[str]) -> None:
    assert all(matches(name, glob) for name in fits)
    assert not any(matches(name, glob) for name in fits_not)


def test_a_glob_that_no_task_fits_is_misspelt() -> None:
    errand = Errand(tasks=("mail.send", "maul.*"))

    with pytest.raises(ConfigError, match=r"--tasks 'maul\.\*': no registered task fits"):
        errand.check(["mail.send", "mail.bounce"])
    errand.check(["mail.send", "maul.x"])


def test_a_worker_takes_jobs_of_the_tasks_it_was_told_and_leaves_the_others(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    shop.note.delay(str(log), "mine")
    other = shop.add.delay(1, 2)

    names = ("--tasks", shop.note.name[:-1] + "*", "--tasks", "*.echo*")
    worker = start_worker("--drain", *names, wait=False)
    assert worker.wait() == 0, worker.log

    assert lines(log) == ["mine"]
    now = standing(connection, other.id)
    assert now is not None
    assert now.state == "ready"
    (tasks,) = connection.execute("select tasks from pgtask.workers").fetchone() or ((),)
    assert shop.note.name in tasks
    assert shop.add.name not in tasks


def test_a_worker_told_of_tasks_that_are_not_there_ends(start_worker: Start) -> None:
    worker = start_worker("--tasks", "no.such.*", wait=False)

    assert worker.wait() == 2
    assert "--tasks 'no.such.*': no registered task fits" in worker.log


# At most so many, or so long ---------------------------------------------------------------------


@pytest.mark.parametrize("drain", [(), ("--drain",)])
def test_a_worker_ends_after_so_many_jobs(
    start_worker: Start, connection: Connection, drain: tuple[str, ...]
) -> None:
    shop.add.delay_many([(n, 1) for n in range(20)])

    assert start_worker("-c", "2", "--max-jobs", "7", *drain, wait=False).wait() == 0

    assert counted(connection, shop.add.name, "succeeded") == 7
    assert unfinished(connection) == 13


def test_with_fewer_jobs_than_that_a_drain_ends_and_another_worker_waits(
    start_worker: Start, connection: Connection
) -> None:
    shop.add.delay_many([(n, 1) for n in range(3)])
    assert start_worker("-c", "1", "--max-jobs", "7", "--drain", wait=False).wait() == 0

    waiting = start_worker("-c", "1", "--max-jobs", "2")
    assert shop.add.delay(1, 1).get(timeout=10) == 2
    assert waiting.process.poll() is None
    shop.add.delay(1, 1)
    assert waiting.wait() == 0


def test_a_worker_claims_no_more_after_so_many_seconds(
    start_worker: Start, connection: Connection
) -> None:
    worker = start_worker("-c", "1", "--max-seconds", "1")
    assert shop.add.delay(1, 1).get(timeout=10) == 2

    assert worker.wait() == 0
    assert "1 s are over" in worker.log
    later = shop.add.delay(1, 1)
    now = standing(connection, later.id)
    assert now is not None
    assert now.state == "ready"


# One job -----------------------------------------------------------------------------------------


def test_one_job_is_run_whatever_its_queue_and_no_other(
    start_worker: Start, connection: Connection
) -> None:
    before = shop.add.options(queue="x", priority=9).delay(1, 2)
    job = shop.add.options(queue="x").delay(3, 4)

    worker = start_worker("-Q", "other", "--once", str(job.id), wait=False)
    assert worker.wait() == 0, worker.log

    assert job.get(timeout=1) == 7
    assert f"job {job.id} succeeded" in worker.log
    now = standing(connection, before.id)
    assert now is not None
    assert now.state == "ready"


def test_a_job_that_is_due_is_run_though_nobody_has_promoted_it(
    start_worker: Start, connection: Connection
) -> None:
    job = shop.add.options(countdown=3600).delay(3, 4)
    connection.execute("update pgtask.waiting set run_at = clock_timestamp()")

    assert start_worker("--once", str(job.id), wait=False).wait() == 0
    assert job.get(timeout=1) == 7


def test_one_job_that_fails_is_exit_1_with_its_error(
    start_worker: Start, connection: Connection
) -> None:
    job = shop.fail.delay("no such box")

    worker = start_worker("--once", str(job.id), wait=False)
    assert worker.wait() == 1

    assert end_of(connection, job.id).state == "failed"
    assert f"the attempt at job {job.id} ended failed; it is failed (error): " in worker.log


def test_one_job_that_cannot_be_run_is_exit_1_with_the_reason(
    start_worker: Start, connection: Connection
) -> None:
    later = shop.add.options(countdown=3600).delay(1, 1)
    paused = shop.add.options(queue="paused").delay(1, 1)
    connection.execute("select pgtask.pause_queue('paused')")
    row = connection.execute("select pgtask.enqueue('no.such.task')").fetchone()
    assert row is not None
    ended = shop.add.delay(1, 1)
    ended.cancel()

    for job_id, reason in {
        later.id: "it is due in ",
        paused.id: "queue 'paused' was paused",
        row[0]: "this worker does not run its task 'no.such.task'",
        ended.id: "it has ended cancelled",
    }.items():
        worker = start_worker("--once", str(job_id), wait=False)
        assert worker.wait() == 1, worker.log
        assert f"job {job_id} was not run: {reason}" in worker.log
    left = connection.execute("select count(*) from pgtask.running").fetchone()
    assert left == (0,)
    assert start_worker("--once", "123456789", wait=False).wait() == 6


def test_one_job_of_a_busy_lane_is_not_run(start_worker: Start, connection: Connection) -> None:
    worker = connection.execute("select gen_random_uuid()").fetchone()
    assert worker is not None
    first = shop.add.options(serial="s").delay(1, 1)
    second = shop.add.options(serial="s").delay(1, 1)
    connection.execute("select pgtask.claim(%s, lease => '1 hour')", worker)

    log = start_worker("--once", str(second.id), wait=False)
    assert log.wait() == 1
    assert f"its serial key 's' is busy: job {first.id} has it" in log.log
    connection.execute("select pgtask.release(%s)", worker)
    assert start_worker("--once", str(second.id), wait=False).wait() == 0


def test_told_to_end_a_worker_still_says_how_its_one_job_ended(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"
    job = shop.pass_gate.delay(str(gate), str(log))
    worker = start_worker("--once", str(job.id), wait=False)
    eventually(lambda: lines(log))
    worker.signal(signal.SIGTERM)
    eventually(lambda: "still waiting" in worker.log or worker.process.poll() is not None)
    gate.touch()

    assert worker.wait() == 0
    assert f"job {job.id} succeeded" in worker.log
