"""Unwanted: attempts in hand that must not go on: behind the fence, or without a row any more."""

from __future__ import annotations

import time
from collections.abc import Set

from pgtask.broker.attempts import Claimed
from pgtask.outcome import Cancelled, Committed
from pgtask.worker import wire
from pgtask.worker.hands import Child

STOP_GRACE = 2.0  # s a coroutine that must stop has to do so, before its child is killed


def fence(child: Child) -> None:
    """Let nothing with a serial key go on in this child."""
    for place, job in child.held.items():
        if job.serial:
            child.unwanted.setdefault(place, 0.0)


def lift_fence(child: Child) -> None:
    """Want everything again but what has no row."""
    child.unwanted = {p: since for p, since in child.unwanted.items() if p in child.void}


def disown(child: Child, lost: Set[tuple[int, int]]) -> list[Claimed]:
    """Let nothing count that becomes of these attempts; return those that the child holds.

    What has not begun is not begun, what runs under a serial key is stopped, the rest may end.
    """
    begun = child.slot.begun()
    gone: list[Claimed] = []
    for place, job in child.held.items():
        if (job.id, job.epoch) in lost and place not in child.void:
            gone.append(job)
            child.void.add(place)
            if job.serial or (not child.is_async and place > begun):
                child.unwanted.setdefault(place, 0.0)
    return gone


def stop(child: Child) -> bool:
    """Tell the child, or take back, what must not go on in it; True when it has to be killed."""
    if not child.unwanted or child.killed is not None:
        return False
    if child.is_async:
        now = time.monotonic()
        untold = sorted(place for place, since in child.unwanted.items() if not since)
        if untold:
            child.unwanted.update(dict.fromkeys(untold, now))
            child.pipe.send(wire.CANCEL, untold)
        return any(now - since > STOP_GRACE for since in child.unwanted.values())
    running = child.slot.running()
    if running is not None and running.place in child.unwanted:
        job = child.held.get(running.place)
        if job is not None and job.serial:
            return True
    child.ask_back()
    return False


def overruled(
    child: Child, runs: list[wire.Run], reports: list[wire.Report]
) -> tuple[list[wire.Run], list[wire.Report], list[Claimed]]:
    """Leave out what nobody may hear, and return what we stopped, to be released.

    Nobody hears of attempts that have no row; but what a transaction of the task itself has
    committed did happen.
    """
    kept: list[wire.Run] = []
    for run in runs:
        if child.void.isdisjoint(range(run.first, run.first + run.count)):
            kept.append(run)
            continue
        for n in range(run.count):
            if run.first + n in child.void:
                child.lose((run.first + n,))
            else:
                result = None if run.results is None else [run.results[n]]
                kept.append(wire.Run(run.first + n, 1, run.seconds / run.count, result))
    told: list[wire.Report] = []
    stopped: list[Claimed] = []
    for report in reports:
        if report.place in child.void and not isinstance(report.outcome, Committed):
            child.lose((report.place,))
        elif report.place in child.unwanted and isinstance(report.outcome, Cancelled):
            stopped += child.lose((report.place,))
        else:
            told.append(report)
    return kept, told, stopped
