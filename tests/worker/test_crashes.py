"""What becomes of jobs when the process that runs them dies, and of what they left running."""

from __future__ import annotations

import functools
import json
import os
import signal
from pathlib import Path

import pytest

from pgtask.task import Task
from tests import rough, shop
from tests.conditions import eventually
from tests.standing import Connection, counted, end_of, lines, outcomes, standing, unfinished
from tests.workers import Start, lives


def test_a_crash_is_blamed_on_the_job_that_ran_and_not_on_its_neighbours(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given a child that expects quick jobs, and gets a lot of them, the first of which waits
    log, gate, open_gate = tmp_path / "log", tmp_path / "gate", tmp_path / "open"
    open_gate.touch()
    worker = start_worker("-c", "1")
    for job in shop.pass_gate.delay_many([(str(open_gate), "/dev/null")] * 60):
        end_of(connection, job.id)
    with connection.transaction():
        culprit = shop.pass_gate.using(connection).options(backoff="const:0", jitter=0)
        first = culprit.delay(str(gate), str(log))
        behind = shop.pass_gate.using(connection).delay_many([(str(open_gate), "/dev/null")] * 8)
    eventually(lambda: lines(log))

    # when the child is killed
    gate.touch()
    os.kill(int(lines(log)[0].split()[1]), signal.SIGSEGV)
    eventually(lambda: unfinished(connection) == 0)

    # then the first has an attempt more, the others have not
    if outcomes(connection, first.id):
        assert end_of(connection, first.id)[2:5] == (2, 2, 1)
    for job in behind:
        assert end_of(connection, job.id)[2:5:2] == (1, 0)
    assert f"job {first.id} (tests.shop.pass_gate) crashed" in worker.log
    assert "SIGSEGV" in worker.log


@pytest.mark.parametrize(("status", "times"), [(3, 1), (0, 1)])
def test_ending_the_process_is_a_crash_whatever_the_exit_status(
    status: int, times: int, start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    start_worker("-c", "1")

    job = shop.die.delay(str(tmp_path / "log"), times, status)

    assert job.get(timeout=10) == 2
    assert outcomes(connection, job.id) == ["crashed"]


def test_a_job_that_always_crashes_ends_failed(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    worker = start_worker("-c", "1")

    job = shop.die.options(max_attempts=10, max_crashes=2).delay(str(tmp_path / "log"), 99)

    end = end_of(connection, job.id)
    assert (end.state, end.reason, end.attempt, end.crashes) == ("failed", "crashed", 2, 2)
    assert shop.add.delay(1, 2).get(timeout=10) == 3
    assert "exited with status 3" in worker.log


def test_an_async_crash_is_blamed_on_the_coroutine_that_was_stepped(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given coroutines that wait, beside one that ends their process
    polite = tmp_path / "polite"
    start_worker("-c", "1")
    neighbours = [shop.async_hold.delay(str(polite)) for _ in range(5)]
    eventually(lambda: len(lines(polite)) == 5)
    job = shop.async_die.delay(str(tmp_path / "rude"), 1)

    # then it is tried again, and they begin anew, uncounted
    assert job.get(timeout=10) == 2
    polite.with_name("polite.go").touch()
    for neighbour in neighbours:
        assert end_of(connection, neighbour.id)[2:5] == (1, 2, 0)
    assert outcomes(connection, job.id) == ["crashed"]


def test_an_event_loop_killed_between_two_steps_counts_for_all_it_ran(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given coroutines that only wait
    log = tmp_path / "log"
    worker = start_worker("-c", "1")
    jobs = [shop.async_wait.delay(60, str(log)) for _ in range(3)]
    eventually(lambda: len(lines(log)) == 3)

    # when their process dies of what none of them did
    os.kill(int(lines(log)[0]), signal.SIGKILL)

    # then nobody can be told apart, and nobody goes on for ever
    eventually(lambda: all(outcomes(connection, job.id) == ["crashed"] for job in jobs))
    assert worker.process.poll() is None


def test_what_a_task_started_dies_with_its_child(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given a task that waits for a program it started
    log = tmp_path / "log"
    start_worker("-c", "1")
    job = shop.start_program.options(timeout=1.0).delay(str(log))
    eventually(lambda: lines(log))
    child, program = (int(pid) for pid in lines(log)[0].split())

    # when its time is up
    assert end_of(connection, job.id).reason == "timeout"

    # then neither is left
    eventually(lambda: not lives(child) and not lives(program), timeout=2)


def test_a_fork_that_returns_from_the_task_too_does_not_report(
    start_worker: Start, connection: Connection
) -> None:
    worker = start_worker("-c", "1")

    assert shop.fork_and_return.delay().get(timeout=10) == 1
    assert [shop.add.delay(n, 1).get(timeout=10) for n in range(5)] == [1, 2, 3, 4, 5]
    assert len(worker.children()) == 2


def test_cancelling_asks_a_running_job_and_terminating_does_not_ask(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    polite, rude = tmp_path / "polite", tmp_path / "rude"
    start_worker("-c", "2")
    asked = shop.hold.delay(str(polite))
    told = shop.nap.delay(60, str(rude))
    coroutine = shop.async_hold.delay(str(tmp_path / "async"))
    eventually(lambda: lines(polite) and lines(rude) and lines(tmp_path / "async"))

    assert asked.cancel() == "cancelling"
    assert told.cancel(terminate=True) == "cancelling"
    assert coroutine.cancel() == "cancelling"

    assert end_of(connection, told.id, timeout=30)[:2] == ("cancelled", "cancelled")
    assert end_of(connection, coroutine.id, timeout=30)[:2] == ("cancelled", "cancelled")
    assert end_of(connection, asked.id, timeout=30).state == "succeeded"
    assert lines(polite)[1:] == ["cancelled"]
    assert shop.add.delay(1, 2).get(timeout=10) == 3


def test_a_timeout_of_a_child_is_logged_and_counted(
    start_worker: Start, connection: Connection
) -> None:
    worker = start_worker("-c", "1")
    job = shop.too_slow.options(keep="none").delay()
    eventually(lambda: standing(connection, job.id) is None)

    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0

    assert f"job {job.id} (tests.shop.too_slow) timed out" in worker.log
    assert counted(connection, "tests.shop.too_slow", "timed out") == 1


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGSEGV, "was killed by SIGSEGV"),
        (signal.SIGABRT, "was killed by SIGABRT"),
        (signal.SIGKILL, "was killed by SIGKILL (out of memory?)"),
        (signal.SIGRTMIN + 5, f"was killed by signal {signal.SIGRTMIN + 5}"),
    ],
)
def test_the_signal_a_child_died_of_is_named(
    number: int, says: str, start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    worker = start_worker("-c", "1", app="tests.rough:app")

    job = rough.die_of.delay(number, str(tmp_path / "log"))

    assert job.get(timeout=30) == 2
    row = connection.execute(
        "select outcome, error_type, error_message from pgtask.attempts where job = %s", [job.id]
    ).fetchone()
    assert row == ("crashed", "ChildCrashed", f"the child {says}")
    assert says in worker.log
    assert end_of(connection, job.id).crashes == 1


@pytest.mark.parametrize(
    ("how", "kind"),
    [("exit", "SystemExit"), ("interrupt", "KeyboardInterrupt"), ("close", "GeneratorExit")],
)
@pytest.mark.parametrize("task", [rough.leave_in, rough.async_leave_in])
def test_a_task_that_would_leave_the_process_has_crashed_and_the_child_lives_on(
    task: Task[[str], int], how: str, kind: str, start_worker: Start, connection: Connection
) -> None:
    worker = start_worker("-c", "1", app="tests.rough:app")
    children = worker.both_children()

    job = task.delay(how)

    assert job.get(timeout=30) == 2
    row = connection.execute(
        "select outcome, error_type, error_message from pgtask.attempts where job = %s", [job.id]
    ).fetchone()
    assert row == ("crashed", kind, "so")
    assert end_of(connection, job.id).crashes == 1
    assert worker.children() == children


def test_a_task_that_says_not_to_retry_an_exit_fails_by_it(
    start_worker: Start, connection: Connection
) -> None:
    start_worker("-c", "1", app="tests.rough:app")

    end = end_of(connection, rough.exit_for_good.delay().id, timeout=30)

    assert (end.state, end.reason, end.attempt, end.crashes) == ("failed", "error", 1, 0)
    assert end.error == "SystemExit: no"


def doubtful(connection: Connection, task: str, *args: object) -> int:
    """Enqueue a job as it is after two crashes: the next one is its last."""
    row = connection.execute(
        "insert into pgtask.ready (id, epoch, attempt, crashes, max_attempts, task, queue, args)"
        " values (nextval('pgtask.seq'), 2, 2, 2, 9, %s, 'default', %s) returning id",
        [f"tests.{task}", json.dumps(args)],
    ).fetchone()
    assert row is not None
    return int(row[0])


def is_sent_back(connection: Connection, job: int) -> bool:
    now = standing(connection, job)
    return now is not None and (now.state, now.attempt) == ("scheduled", 2)


def test_what_a_task_has_printed_is_there_however_its_child_ends(
    start_worker: Start, connection: Connection
) -> None:
    worker = start_worker("-c", "1", app="tests.rough:app")

    rough.speak.delay("said in a task").get(timeout=30)
    for child in worker.children():
        os.kill(child, signal.SIGKILL)

    eventually(lambda: "said in a task" in worker.log, timeout=30)


@pytest.mark.faults
def test_children_of_a_worker_that_stands_still_are_killed_before_its_lease_is_over(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given a worker, of which only the process that holds the lease is stopped
    log = tmp_path / "log"
    worker = start_worker("-c", "1")
    job = shop.hold.delay(str(log))
    eventually(lambda: lines(log), timeout=30)
    children = worker.children()
    worker.signal(signal.SIGSTOP)

    # then nothing runs any more when others may take its jobs
    eventually(lambda: not any(map(lives, children)), timeout=40)

    # and when it goes on, nothing is counted
    log.with_name("log.go").touch()
    worker.signal(signal.SIGCONT)
    assert end_of(connection, job.id, timeout=60)[:5] == ("succeeded", None, 1, 2, 0)
    assert "this process stood still for" in worker.log


def test_of_jobs_whose_next_crash_is_the_last_a_worker_holds_one_at_a_time(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    jobs = [doubtful(connection, "shop.hold", str(log)) for _ in range(3)]
    other = tmp_path / "other"
    sound = shop.hold.delay(str(other))
    start_worker("-c", "4")

    # others run beside it, and its like are sent back, uncounted
    eventually(lambda: lines(log) and lines(other), timeout=30)
    first = int(lines(log)[0].split()[1])
    for job in set(jobs) - {first}:
        eventually(functools.partial(is_sent_back, connection, job), timeout=30)
    assert [line.split()[0] for line in lines(log)] == ["begin"]
    log.with_name("log.go").touch()
    other.with_name("other.go").touch()

    for job in jobs:
        end = end_of(connection, job, timeout=60)
        assert (end.state, end.attempt, end.crashes) == ("succeeded", 3, 2)
    assert end_of(connection, sound.id).state == "succeeded"
    # one after the other, because the others came when there was nobody
    assert [line.split()[0] for line in lines(log)] == ["begin", "end"] * 3


def test_a_coroutine_on_its_last_chance_has_a_process_of_its_own(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given coroutines beside which nobody should crash
    polite = tmp_path / "polite"
    worker = start_worker("-c", "1")
    neighbours = [shop.async_hold.delay(str(polite)) for _ in range(3)]
    eventually(lambda: len(lines(polite)) == 3, timeout=30)

    # when one comes that has done so twice
    bad = doubtful(connection, "shop.async_die", str(tmp_path / "bad"), 9)
    good = doubtful(connection, "shop.async_add", 1, 2)

    # then it is the only one that its third crash hurts
    end = end_of(connection, bad, timeout=30)
    assert (end.state, end.reason, end.crashes) == ("failed", "crashed", 3)
    assert end_of(connection, good, timeout=60)[:3] == ("succeeded", None, 3)
    polite.with_name("polite.go").touch()
    for neighbour in neighbours:
        assert end_of(connection, neighbour.id, timeout=30)[2:5] == (1, 1, 0)
    eventually(lambda: len(worker.children()) == 2, timeout=30)
