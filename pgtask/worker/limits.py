"""Limits: how much time and memory an attempt may take, and which ones have taken more."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pgtask.broker.attempts import Claimed
from pgtask.errors import ConfigError
from pgtask.size import show_size
from pgtask.worker.hands import Child, Culprit, Limit
from pgtask.worker.runner import read_policy
from pgtask.worker.zygote import TaskInfo

log = logging.getLogger("pgtask.worker")

MARGIN = 0.5  # s beyond its limit that a coroutine is given to end by itself
_CANCELLED = Culprit("cancelled")


class Terms(NamedTuple):
    """What the worker's settings say about every child; sizes in bytes."""

    max_jobs: int | None = None
    max_memory: int | None = None
    cancel_grace: float = 5.0


class Limits:
    """Knows what a job may take, by its own policy or else by its task."""

    def __init__(self, terms: Terms, tasks: Mapping[str, TaskInfo]) -> None:
        self.terms = terms
        self._tasks = tasks
        self._newborn: int | None = None
        self._warned: set[str] = set()

    def check(self, newborn: int | None, tasks: Iterable[TaskInfo]) -> None:
        """Refuse sizes that a child, which begins with `newborn` bytes, is beyond from the start.

        None: this system does not tell sizes. Raises ConfigError.
        """
        sizes = {f"memory_limit of {info.name}": info.memory_limit for info in tasks}
        sizes["max_memory_per_child"] = self.terms.max_memory
        for name, size in sizes.items():
            if size is None:
                continue
            if newborn is None:
                raise ConfigError(
                    f"{name} = {show_size(size)}: this system has no /proc that would tell how much"
                    " a child takes → leave it out here"
                )
            if size <= newborn:
                raise ConfigError(
                    f"{name} = {show_size(size)} is not more than the {show_size(newborn)} that a"
                    " child of this app takes before its first job → raise it"
                )
        self._newborn = newborn

    def note(self, child: Child, first: int, jobs: Sequence[Claimed]) -> None:
        """Remember until when coroutines must be over that an async child is given now."""
        now = time.monotonic()
        for place, job in enumerate(jobs, first):
            if (limit := self._timeout(job)) is not None:
                child.limits[place] = Limit(limit, now + limit)
            if job.policy and read_policy(job.policy).memory_limit is not None:
                self._warn(job, "coroutines share their process")

    def exceeded(self, child: Child) -> dict[int, Culprit]:
        """Return the attempts for which this child has to be killed now, by place."""
        if child.is_async:
            return self._late_coroutines(child) | _deaf(child)
        running = child.slot.running()
        if running is None or (job := child.held.get(running.place)) is None:
            return {}
        place, seconds = running
        if (limit := self._timeout(job)) is not None and seconds > limit:
            return {place: _timed_out(limit)}
        if (most := self._memory(job)) is not None and (size := resident(child.pid)) > most:
            return {place: self._too_large(most, size)}
        return {place: culprit for place, culprit in _deaf(child).items() if place == running.place}

    def outgrown(self, child: Child) -> str | None:
        """Say why this child should be replaced once it is done; None as long as it is good."""
        most = self.terms.max_memory
        if most is None or (child.weighed == child.next_place and not child.held):
            return None
        child.weighed = child.next_place
        size = resident(child.pid)
        return f"it takes {show_size(size)}, more than {show_size(most)}" if size > most else None

    def _late_coroutines(self, child: Child) -> dict[int, Culprit]:
        now = time.monotonic()
        # A loop that turns has cancelled them at their limits.
        late = {place: limit for place, limit in child.limits.items() if now > limit.until + MARGIN}
        if not late:
            return {}
        running = child.slot.running()
        if running is None or running.seconds < MARGIN:
            return {place: _timed_out(limit.seconds) for place, limit in late.items()}
        # It stops the loop, so the others could not keep their limits.
        if (own := late.get(running.place)) is not None:
            return {running.place: _timed_out(own.seconds)}
        message = f"the event loop stood still for {running.seconds:.1f} s, beyond others' timeouts"
        return {running.place: Culprit("crashed", "LoopBlocked", message)}

    def _timeout(self, job: Claimed) -> float | None:
        own = read_policy(job.policy).timeout if job.policy else None
        info = self._tasks.get(job.task)
        return own or (info.timeout if info is not None else None)

    def _memory(self, job: Claimed) -> int | None:
        own = read_policy(job.policy).memory_limit if job.policy else None
        info = self._tasks.get(job.task)
        most = own or (info.memory_limit if info is not None else None)
        if most is not None and self._newborn is None:
            self._warn(job, "this system does not tell how much a child takes")
            return None
        return most

    def _too_large(self, most: int, size: int) -> Culprit:
        message = (
            f"memory_limit of {show_size(most)} passed: its child took {show_size(size)}"
            " and was killed"
        )
        if self._newborn is not None and most <= self._newborn:
            message += f"; a child takes {show_size(self._newborn)} before its first job"
        return Culprit("crashed", "MemoryLimitExceeded", message)

    def _warn(self, job: Claimed, why: str) -> None:
        if job.task not in self._warned:
            self._warned.add(job.task)
            log.warning("memory_limit of job %d (%s) is not enforced: %s", job.id, job.task, why)


def resident(pid: int | None) -> int:
    """Return the bytes of memory a process has now; 0 for one that is gone or cannot be seen."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_bytes().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _timed_out(limit: float) -> Culprit:
    return Culprit(
        "timeout", "HardTimeLimit", f"timeout of {limit:g} s passed; the child was killed"
    )


def _deaf(child: Child) -> dict[int, Culprit]:
    """Return what was cancelled with a threat, and has not ended within its grace."""
    if not child.ultimata:
        return {}
    now = time.monotonic()
    return {
        place: _CANCELLED
        for place, until in child.ultimata.items()
        if now > until and place in child.held
    }
