"""Verdicts: what a child's report, or its death, means for the attempts it held."""

from __future__ import annotations

import os
import signal

import msgspec

from pgtask.broker.attempts import Claimed, Ended
from pgtask.outcome import (
    Cancelled,
    Committed,
    Crashed,
    Failed,
    Failure,
    InDoubt,
    Outcome,
    Retried,
    Snoozed,
    Succeeded,
    TimedOut,
)
from pgtask.worker.hands import Child
from pgtask.worker.runner import read_policy


def of_report(job_id: int, epoch: int, outcome: Outcome) -> Ended:
    """Return what the child said, in the words of pgtask._finish."""
    match outcome:
        case Succeeded(result=result):
            return Ended(job_id, epoch, "succeeded", result)
        case Failed(failure=failure, reason=reason):
            return Ended(job_id, epoch, "failed", None, None, reason, *_texts(failure))
        case Retried(failure=failure, delay=delay):
            return Ended(job_id, epoch, "retried", None, delay, None, *_texts(failure))
        case Crashed(failure=failure, delay=delay):
            return Ended(job_id, epoch, "crashed", None, delay, None, *_texts(failure))
        case TimedOut(failure=failure, delay=delay):
            return Ended(job_id, epoch, "timeout", None, delay, None, *_texts(failure))
        case Snoozed(seconds=seconds):
            return Ended(job_id, epoch, "snoozed", None, seconds)
        case Cancelled():
            return Ended(job_id, epoch, "cancelled")
        case Committed():
            return Ended(job_id, epoch, "committed")
        case InDoubt(failure=failure):
            return doubted(Ended(job_id, epoch, "crashed", None, None, None, *_texts(failure)))


def of_death(child: Child, status: int) -> list[Ended]:
    """Return what becomes of each attempt a dead child held; `status` as from waitpid.

    The culprit's is timed out, cancelled or crashed; its neighbours are released, not counted,
    unless they must not begin twice.
    """
    how = description(child, status)
    running, begun = child.slot.running(), child.slot.begun()
    # Between two jobs it is the last one, whose outcome never came; between two steps of an event
    # loop nobody knows, and a job that always does this must not go on for ever.
    suspect = running.place if running is not None else None if child.is_async else begun
    ended: list[Ended] = []
    for place, job in child.held.items():
        culprit = child.culprits.get(place)
        if culprit is not None and culprit.verdict == "cancelled":
            ended.append(Ended(job.id, job.epoch, "cancelled"))
        elif culprit is not None:
            ended.append(_died(job, culprit.verdict, culprit.kind, culprit.message))
        elif child.killed is None and suspect in (place, None):
            ended.append(_died(job, "crashed", "ChildCrashed", f"the child {how}"))
        elif (child.is_async or place <= begun) and is_at_most_once(job):
            message = f"the child {how} ({child.killed or 'beside another job'})"
            ended.append(_died(job, "crashed", "ChildCrashed", message))
        else:
            ended.append(Ended(job.id, job.epoch, "released"))
    return ended


def doubted(ended: Ended) -> Ended:
    """Return the verdict for an attempt whose own transaction may have committed.

    It is exact: finish() waits for that transaction (busy), and where it has committed it finds no
    row of this attempt (stale).
    """
    return msgspec.structs.replace(ended, in_doubt=True)


def is_at_most_once(job: Claimed) -> bool:
    """Whether the job must not begin a second time."""
    return job.policy is not None and read_policy(job.policy).on_crash == "fail"


def description(child: Child, status: int) -> str:
    """Say how the child ended."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        known = number in {*signal.Signals}
        name = signal.Signals(number).name if known else f"signal {number}"  # a real-time one
        if number == signal.SIGKILL and child.killed is None:
            return f"was killed by {name} (out of memory?)"
        return f"was killed by {name}"
    return f"exited with status {os.waitstatus_to_exitcode(status)}"


def _texts(failure: Failure | None) -> tuple[str | None, str | None, str | None]:
    if failure is None:
        return None, None, None
    return failure.type, failure.message, failure.traceback


def _died(job: Claimed, verdict: str, kind: str, message: str) -> Ended:
    return Ended(job.id, job.epoch, verdict, None, None, None, kind, message, None)
