"""Faults at one instruction: between a COMMIT and its answer, between an effect and its outcome."""

from __future__ import annotations

import time

from tests.conditions import eventually
from tests.faults.conservation import Allowed
from tests.faults.processes import LEASE_BOUND
from tests.faults.scenario import Told, scenario
from tests.faults.stand import Stand

RECONCILED = 10.0


@scenario("T22", "the connection breaks between a claim's COMMIT and its answer", quick=True)
def claim_unanswered(stand: Stand) -> Told:
    points = ",".join(f"after-claim:{n}:cut" for n in (5, 20, 21, 60, 120))
    worker = stand.worker(PGTASK_FAILPOINT=points)
    with stand.load(100, batch=5):
        eventually(lambda: worker.log.count("claiming failed") >= 5, 60)
        time.sleep(1.0)
    began = time.monotonic()
    eventually(lambda: stand.number(_HELD) == 0, 60)
    recovery = time.monotonic() - began
    assert "whose claim was never answered" in worker.log
    return Told(recovery, RECONCILED, "until nothing is held, after the load")


@scenario("T23", "the connection breaks between a finish's COMMIT and its answer", quick=True)
def finish_unanswered(stand: Stand) -> Told:
    points = ",".join(f"after-finish:{n}:cut" for n in (5, 20, 21, 60, 120))
    worker = stand.worker(PGTASK_FAILPOINT=points)
    with stand.load(100, batch=5):
        eventually(lambda: worker.log.count("wait for the database") >= 5, 60)
        time.sleep(1.0)
    began = time.monotonic()
    eventually(lambda: stand.number(_HELD) == 0, 60)
    recovery = time.monotonic() - began
    assert "too late" not in worker.log, "an outcome that had been recorded was called stale"
    return Told(recovery, RECONCILED, "until nothing is held, after the load")


@scenario("K1", "a worker dies between a claim's COMMIT and its answer", seconds=60)
def dies_after_claim(stand: Stand) -> Told:
    return _dies_at(stand, "after-claim", 6, Allowed(doubles=True, counted=True))


@scenario("K2", "a worker dies with outcomes in hand", seconds=60)
def dies_before_finish(stand: Stand) -> Told:
    return _dies_at(stand, "before-finish", 3, Allowed(doubles=True, counted=True))


@scenario("K3", "a worker dies between a finish's COMMIT and its answer", seconds=60)
def dies_after_finish(stand: Stand) -> Told:
    return _dies_at(stand, "after-finish", 3, Allowed(doubles=True, counted=True))


@scenario("K4", "children die between a task's effect and its outcome", quick=True)
def dies_before_report(stand: Stand) -> Told:
    worker = stand.worker("-c", "2", PGTASK_FAILPOINT="report:25")
    with stand.load(100):
        eventually(lambda: worker.log.count(" crashed: ") >= 6, 60)
    return Told(stand.canary(), None, "", Allowed(doubles=True, counted=True))


@scenario("K5", "a worker dies between a rescue's COMMIT and its answer", seconds=100)
def dies_after_rescue(stand: Stand) -> Told:
    # The first rescues find nobody; the one that finds the dead worker is cut off.
    doomed = stand.worker()
    with stand.load(30):
        stand.canary()
        stand.kill(doomed)
        second = stand.worker(PGTASK_FAILPOINT="after-rescue:8")
        eventually(lambda: second.process.poll() is not None, 90)
        began = time.monotonic()
        stand.worker()
        stand.canary()
    eventually(lambda: stand.number(_HELD) == 0, 90)
    recovery = time.monotonic() - began
    return Told(recovery, LEASE_BOUND, "until nothing is held", Allowed(doubles=True, counted=True))


def _dies_at(stand: Stand, point: str, passage: int, allowed: Allowed) -> Told:
    stand.enqueue_many("nap", 300)
    dead = "select count(*) from pgtask.running r join pgtask.worker w on w.id = r.worker"
    held = 0
    # Not every claim finds something; one that dies with nothing in hand tells nothing.
    while not held:
        assert passage < 20, "it never held anything"
        doomed = stand.worker(wait=False, PGTASK_FAILPOINT=f"{point}:{passage}")
        eventually(lambda doomed=doomed: doomed.process.poll() is not None, 60)  # type: ignore[misc]
        died = time.monotonic()
        held = stand.number(f"{dead} where w.pid = %s", doomed.pid)
        passage += 1
    stand.worker()
    with stand.load(60):
        eventually(lambda: stand.number(f"{dead} where w.pid = %s", doomed.pid) == 0, 90)
        recovery = time.monotonic() - died
    return Told(recovery, LEASE_BOUND, f"until its {held} jobs can be claimed", allowed)


_HELD = "select count(*) from pgtask.running"
