"""Cancelling: which of the jobs in hand are to end, and who has been told."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable

from pgtask.broker.attempts import Claimed
from pgtask.worker import wire
from pgtask.worker.hands import Child


class Cancellations:
    """Wishes as the last heartbeat brought them; the database drops one when its job has ended."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._wishes: dict[int, bool] = {}  # job id → whether to kill what does not listen

    def __bool__(self) -> bool:
        return bool(self._wishes)

    def heard(self, wishes: Iterable[tuple[int, bool]]) -> None:
        """Know of these, and of no others, from now on."""
        self._wishes = dict(wishes)

    def includes(self, job: Claimed) -> bool:
        """Whether this job is to be cancelled, and need not begin any more."""
        return job.id in self._wishes

    def tell(self, child: Child) -> bool:
        """Tell the child of its jobs that run; True when others have not begun."""
        wanted = {place: job.id for place, job in child.held.items() if job.id in self._wishes}
        if not wanted or child.killed is not None:
            return False
        if child.is_async:
            # Once: a coroutine that cleans up must not be cancelled in the middle of that.
            if untold := sorted(wanted.keys() - child.told):
                child.pipe.send(wire.CANCEL, untold)
            self._threaten(child, wanted)
            return False
        running = child.slot.running()
        if running is not None and running.place in wanted:
            child.slot.cancel(running.place)
            self._threaten(child, {running.place: wanted[running.place]})
        begun = child.slot.begun()
        return any(place > begun for place in wanted)

    def _threaten(self, child: Child, wanted: dict[int, int]) -> None:
        child.told.update(wanted)
        for place, job_id in wanted.items():
            if self._wishes[job_id]:
                child.ultimata.setdefault(place, time.monotonic() + self._grace)
                if not child.is_async:
                    # Again and again: what cannot be interrupted now can be a moment later.
                    child.slot.interrupt(place)
                    nudge(child)


def nudge(child: Child) -> None:
    """Have a sync child look at its slot, and send the outcomes it has."""
    if child.pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGURG)
