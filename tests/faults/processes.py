"""Faults of processes: children, supervisors, whole workers that die, freeze or do not listen."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from contextlib import closing, suppress
from http import HTTPStatus
from http.client import HTTPConnection

from tests.conditions import eventually
from tests.faults import app, server
from tests.faults.conservation import Allowed
from tests.faults.scenario import Told, scenario
from tests.faults.stand import Stand
from tests.workers import Worker, lives

LEASE_BOUND = 45.0  # s within which a dead worker's jobs can be claimed again


@scenario("T1", "a child is killed in the middle of a task", quick=True)
def child_killed(stand: Stand) -> Told:
    worker = stand.worker("-c", "6")
    gate = stand.directory / "gate"
    jobs = stand.enqueue(*[lambda c: app.hold.using(c).delay(str(gate))] * 4)
    begins = eventually(lambda: stand.begun(*jobs), 30)
    with stand.load(100):
        victim = begins[0]
        at = time.monotonic()
        os.kill(victim.pid, signal.SIGKILL)
        eventually(lambda: _outcomes(stand, victim.job) == ["crashed"], 30)
        recovery = time.monotonic() - at
        again = eventually(lambda: stand.begun(victim.job, times=2), 30)
        assert again[-1].pid != victim.pid
        eventually(lambda: len(worker.children()) == 7, 30)
        gate.touch()
        eventually(lambda: stand.is_over(*jobs), 30)
    others = [job for job in jobs if job != victim.job]
    epochs = stand.ask("select distinct epoch from pgtask.done where id = any(%s)", others)
    assert epochs == [(1,)], "a neighbour was disturbed"
    return Told(recovery, 1.0, "until the crash is recorded")


@scenario(
    "T1b", "a child is killed every second, while all are busy", own=server.running, seconds=40
)
def a_child_a_second(stand: Stand) -> Told:
    worker = stand.worker("-c", "4")
    seconds = 6.0
    stand.enqueue_many("nap", 24_000)
    eventually(lambda: stand.finished() > 500, 30)
    dice = random.Random(1)
    calm, killing = 0.0, 0.0
    for _ in range(2):
        calm += _rate(stand, seconds)
        before, began = stand.finished(), time.monotonic()
        for _ in range(int(seconds)):
            os.kill(dice.choice(_busy_children(stand, worker)), signal.SIGKILL)
            time.sleep(1.0)
        killing += (stand.finished() - before) / (time.monotonic() - began)
    assert stand.number("select count(*) from pgtask.ready") > 0, "they were not busy all the time"
    share = killing / calm
    assert share >= 0.9, f"{killing / 2:.0f} jobs/s instead of {calm / 2:.0f}"
    return Told(None, None, f"{share:.0%} of {calm / 2:.0f} jobs/s", Allowed(doubles=True))


@scenario("T2", "the supervisor is killed, its children live", quick=True, seconds=60)
def supervisor_killed(stand: Stand) -> Told:
    return _worker_dies(stand, lambda worker: [worker.pid])


@scenario("T3", "every process of a worker is killed at once", seconds=60)
def host_lost(stand: Stand) -> Told:
    return _worker_dies(stand, lambda worker: [worker.pid, *worker.descendants()])


def _worker_dies(stand: Stand, victims: object) -> Told:
    assert callable(victims)
    worker = stand.worker()
    gate = stand.directory / "gate"
    jobs = stand.enqueue(
        *[lambda c: app.hold.using(c).delay(str(gate))] * 2,
        lambda c: app.async_hold.using(c).delay(str(gate)),
        lambda c: app.hold_lane.using(c).delay(str(gate)),
    )
    eventually(lambda: stand.begun(*jobs), 30)
    family = worker.descendants()
    stand.worker()
    with stand.load(30):
        at = time.monotonic()
        for pid in victims(worker):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not any(map(lives, family)), 30)
        orphaned = time.monotonic() - at
        worker.wait()
        eventually(lambda: stand.begun(*jobs, times=2), 90)
        recovery = time.monotonic() - at
        gate.touch()
        eventually(lambda: stand.is_over(*jobs), 60)
    assert all(_outcomes(stand, job) == ["lost"] for job in jobs)
    says = f"until its jobs run again; its children lived {orphaned:.2f} s longer"
    return Told(recovery, LEASE_BOUND, says, Allowed(doubles=True, counted=True))


@scenario("T4", "a whole worker is frozen for longer than its lease", quick=True, seconds=70)
def frozen(stand: Stand) -> Told:
    worker = stand.worker()
    gate = stand.directory / "gate"
    jobs = stand.enqueue(
        *[lambda c: app.hold.using(c).delay(str(gate))] * 2,
        lambda c: app.async_hold.using(c).delay(str(gate)),
    )
    eventually(lambda: stand.begun(*jobs), 30)
    former, family = stand.identity(worker), worker.descendants()
    stand.worker()
    with stand.load(30):
        at = time.monotonic()
        for pid in (worker.pid, *family):
            os.kill(pid, signal.SIGSTOP)
        eventually(lambda: stand.begun(*jobs, times=2), 90)
        recovery = time.monotonic() - at
        for pid in (worker.pid, *family):
            with suppress(ProcessLookupError):  # killed already by the one that woke first
                os.kill(pid, signal.SIGCONT)
        # It learns that it was given up, kills what it had, and begins anew.
        eventually(lambda: "declared dead" in worker.log, 30)
        eventually(lambda: not any(map(lives, family)), 30)
        eventually(lambda: stand.is_registered(worker), 30)
        assert stand.identity(worker) != former
        gate.touch()
        eventually(lambda: stand.is_over(*jobs), 60)
    epochs = stand.ask("select distinct epoch from pgtask.done where id = any(%s)", jobs)
    assert epochs == [(2,)]
    allowed = Allowed(doubles=True, overlaps=True, counted=True)
    return Told(recovery, LEASE_BOUND, "until its jobs run again", allowed)


@scenario("T7", "tasks call os._exit(0), sys.exit(), raise KeyboardInterrupt, GeneratorExit")
def tasks_that_leave(stand: Stand) -> Told:
    return _tasks_that_end_badly(stand, ["_exit", "exit", "interrupt", "generator"])


@scenario("T8", "tasks segfault, abort, overflow the C stack, kill themselves")
def tasks_that_crash(stand: Stand) -> Told:
    hows = ["segfault", "abort", "stack", "kill"]
    told = _tasks_that_end_badly(stand, hows)
    found = stand.ask("select distinct reason, crashes from pgtask.done where task like '%%.leave'")
    assert found == [("crashed", 3)], found
    return told


def _tasks_that_end_badly(stand: Stand, hows: list[str]) -> Told:
    worker = stand.worker("-c", "4")
    identity = stand.identity(worker)
    with stand.load(100) as load:
        before = time.monotonic(), stand.finished(), len(load.acknowledged)
        jobs = stand.enqueue(*[lambda c, how=how: app.leave.using(c).delay(how) for how in hows])
        eventually(lambda: stand.is_over(*jobs), 60)
        time.sleep(max(0.0, 4.0 - (time.monotonic() - before[0])))
        done, asked = stand.finished() - before[1], len(load.acknowledged) - before[2]
    states = stand.ask("select distinct state::text from pgtask.done where id = any(%s)", jobs)
    assert states == [("f",)], states
    assert stand.identity(worker) == identity
    # Whether a neighbour in the same child had reported is a matter of milliseconds.
    allowed = Allowed(doubles=True, counted=True, failures=jobs)
    return Told(None, None, f"others meanwhile: {done / max(asked, 1):.0%}", allowed)


@scenario("T11", "a task blocks all signals and passes its hard limit")
def deaf_task(stand: Stand) -> Told:
    return _passes_its_limit(stand, app.deaf)


@scenario("T12", "a task in C code keeps the GIL and passes its hard limit")
def task_in_c(stand: Stand) -> Told:
    return _passes_its_limit(stand, app.in_c)


def _passes_its_limit(stand: Stand, task: object) -> Told:
    assert task in (app.deaf, app.in_c)
    limit = 1.0
    worker = stand.worker()
    beat = "select beat from pgtask.worker where alive"
    with stand.load(50):
        before = stand.number(beat), time.monotonic()
        (job,) = stand.enqueue(lambda c: task.using(c).delay())
        (begin,) = eventually(lambda: stand.begun(job), 30)
        eventually(lambda: not lives(begin.pid), 30)
        late = time.monotonic() - begin.at - limit
        eventually(lambda: stand.is_over(job), 30)
        eventually(lambda: time.monotonic() - before[1] > 6.0, 30)
        beats = stand.number(beat) - before[0]
    reason = stand.ask("select reason from pgtask.done where id = %s", job)
    assert reason == [("timeout",)], reason
    assert beats >= 1, "the heart stopped"
    assert worker.process.poll() is None
    allowed = Allowed(counted=True, failures=[job])
    return Told(late, 1.0, "until it is dead, after the limit", allowed)


@scenario("T16", "every child dies at its start")
def stillborn(stand: Stand) -> Told:
    jobs = stand.enqueue(*[lambda c: app.effect.using(c).delay(1)] * 5)
    began = time.monotonic()
    worker = stand.worker(wait=False, FAULTS_START="raise")
    assert worker.wait(60) == 1
    assert "children in a row ended at start-up" in worker.log
    took = time.monotonic() - began
    rows = stand.ask("select count(*), max(attempt) from pgtask.ready where id = any(%s)", jobs)
    assert rows == [(5, 0)], rows
    return Told(None, None, f"the worker says so and ends after {took:.0f} s")


@scenario("T16h", "every child hangs at its start", seconds=90)
def never_born(stand: Stand) -> Told:
    jobs = stand.enqueue(*[lambda c: app.effect.using(c).delay(1)] * 5)
    began = time.monotonic()
    # As many at once as in a row are taken for a start-up that is broken.
    worker = stand.worker("-c", "5", "--health", "127.0.0.1:0", wait=False, FAULTS_START="hang")
    eventually(lambda: stand.is_registered(worker), 30)
    assert _readiness(worker) == HTTPStatus.SERVICE_UNAVAILABLE
    family = worker.descendants()
    assert worker.wait(120) == 1
    assert "children in a row ended at start-up" in worker.log
    took = time.monotonic() - began
    eventually(lambda: not any(map(lives, family)), 30)
    rows = stand.ask("select count(*), max(attempt) from pgtask.ready where id = any(%s)", jobs)
    assert rows == [(5, 0)], rows
    return Told(took, 75.0, "until the worker says so and ends; not ready meanwhile")


@scenario("T17", "TERM under load, TERM twice, INT, TERM while the database is away", seconds=30)
def stops(stand: Stand) -> Told:
    grace, slack = 2.0, 5.0
    gate = stand.directory / "gate"
    late = 0.0

    def stop(worker: Worker, *numbers: signal.Signals) -> int:
        nonlocal late
        at = time.monotonic()
        for number in numbers:
            worker.signal(number)
            eventually(lambda: "stop" in worker.log, 30)
        code = worker.wait(60)
        late = max(late, time.monotonic() - at - grace)
        return code

    start = ("--grace", f"{grace:g}s")
    relief = stand.worker()
    with stand.load(100):
        for number in (signal.SIGTERM, signal.SIGINT):
            assert stop(stand.worker(*start), number) == 0
    relief.signal(signal.SIGTERM)
    assert relief.wait(60) == 0
    # What does not end by itself.
    jobs = stand.enqueue(*[lambda c: app.hold.using(c).delay(str(gate))] * 2)
    worker = stand.worker(*start)
    eventually(lambda: stand.begun(*jobs), 30)
    assert stop(worker, signal.SIGTERM, signal.SIGTERM) == 128 + signal.SIGTERM
    counted = "select max(attempt) from pgtask.ready where id = any(%s)"
    assert stand.number(counted, jobs) == 0
    worker = stand.worker(*start)
    eventually(lambda: stand.begun(*jobs, times=2), 30)
    with stand.outage():
        eventually(lambda: "cannot be reached" in worker.log, 30)
        stop(worker, signal.SIGTERM)
    gate.touch()
    # Its row lives until its lease ends: nobody could be told.
    stand.worker()
    eventually(lambda: stand.is_over(*jobs), 90)
    # That one was killed in the middle of a job, and could not say so.
    allowed = Allowed(counted=False)
    return Told(late, slack, "until it has ended, after the grace", allowed)


def _readiness(worker: Worker) -> int:
    found = eventually(lambda: re.search(r"health on http://127\.0\.0\.1:(\d+)/", worker.log), 30)
    assert found is not None
    connection = HTTPConnection("127.0.0.1", int(found[1]), timeout=30)
    with closing(connection):
        connection.request("GET", "/readyz")
        return connection.getresponse().status


def _outcomes(stand: Stand, job: int) -> list[str]:
    return [row[0] for row in stand.ask("select outcome from pgtask.attempts where job = %s", job)]


def _rate(stand: Stand, seconds: float) -> float:
    before, began = stand.finished(), time.monotonic()
    time.sleep(seconds)
    return (stand.finished() - before) / (time.monotonic() - began)


def _busy_children(stand: Stand, worker: Worker) -> list[int]:
    """Those that have begun a job of late."""
    with stand.log.open("rb") as file:
        file.seek(max(0, stand.log.stat().st_size - 16_384))
        recent = {int(line.split()[2]) for line in file.read().splitlines()[1:]}
    children = worker.children()
    return [pid for pid in children if pid in recent] or children
