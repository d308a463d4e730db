"""Waiting: the jobs that no child has yet, and which child gets which of them."""

from __future__ import annotations

import heapq
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from pgtask.broker.attempts import Claimed
from pgtask.worker.chances import LastChances
from pgtask.worker.hands import Child
from pgtask.worker.pace import Pace

Parts = list[tuple[Child, list[Claimed]]]


class Waiting:
    """Jobs by kind of task, in order. No child is given more than `most_jobs` in its life."""

    def __init__(self, pace: Pace, async_concurrency: int, most_jobs: int | None) -> None:
        self._pace = pace
        self._async_concurrency = async_concurrency
        self._most_jobs = most_jobs
        self._sync: deque[Claimed] = deque()
        self._async: deque[Claimed] = deque()
        self.chances = LastChances()

    def __len__(self) -> int:
        return len(self._sync) + len(self._async) + (self.chances.lone is not None)

    def __iter__(self) -> Iterator[Claimed]:
        yield from self._sync
        yield from self._async
        if self.chances.lone is not None:
            yield self.chances.lone

    def add(self, jobs: Iterable[Claimed], *, is_async: bool) -> None:
        """Put jobs behind those of their kind."""
        (self._async if is_async else self._sync).extend(jobs)

    def put_back(self, jobs: Sequence[Claimed], *, is_async: bool) -> None:
        """Put jobs in front of those of their kind: they were claimed before what waits here."""
        (self._async if is_async else self._sync).extendleft(reversed(jobs))

    def count(self, *, is_async: bool) -> int:
        """How many of one kind can go to any child."""
        return len(self._async if is_async else self._sync)

    def take_sync(self) -> list[Claimed]:
        """Take out the jobs of sync tasks."""
        jobs = list(self._sync)
        self._sync.clear()
        return jobs

    def take_all(self) -> list[Claimed]:
        """Take out everything."""
        return self.take_if(lambda job: True)

    def take_if(self, condition: Callable[[Claimed], bool]) -> list[Claimed]:
        """Take out the jobs of which this is true."""
        taken = []
        for queued in (self._sync, self._async):
            some = [job for job in queued if condition(job)]
            if some:
                kept = [job for job in queued if not condition(job)]
                queued.clear()
                queued.extend(kept)
                taken += some
        if (lone := self.chances.lone) is not None and condition(lone):
            self.chances.lone = None
            taken.append(lone)
        return taken

    def room(self, child: Child) -> int:
        """How many more jobs of average length may be claimed for a sync child."""
        if not child.takes or child.taking is not None or child.predecessor is not None:
            return 0
        if not child.held:
            room = self._pace.batch(0.0)
        elif child.holds_suspect or child.is_stuck:
            return 0
        else:
            room = max(0, self._pace.batch(child.expected(self._pace)))
        return room if self._most_jobs is None else min(room, self._most_jobs - child.given)

    def spread(self, children: Iterable[Child]) -> Parts:
        """Take out jobs for sync children, for each as far as its window goes."""
        queued, pace, most_jobs = self._sync, self._pace, self._most_jobs
        if not queued:
            return []
        # Not behind a job that turned out long: what was just taken back would go there again.
        able = [
            child
            for child in children
            if not child.is_async
            and child.takes
            and child.predecessor is None
            and child.taking is None
            and not child.holds_suspect
            and not child.is_stuck
        ]
        # The child with least to do comes first, so that one job finds an idle child and many are
        # spread; an idle one takes any job, the others what fits into their window.
        loads = [
            (child.expected(pace) if child.held else -1.0, place)
            for place, child in enumerate(able)
        ]
        heapq.heapify(loads)
        parts: list[list[Claimed]] = [[] for _ in able]
        cost_of, fits = pace.of, pace.fits
        while queued and loads:
            expected, place = loads[0]
            job = queued[0]
            lives = job.lives
            if lives is None:
                cost = cost_of(job.task)
            elif self.chances.admits(job):
                cost = math.inf  # it may crash again: alone in its child
            else:
                queued.popleft()
                continue
            if expected < 0.0:
                expected = 0.0
            elif not fits(expected, cost):
                break
            parts[place].append(queued.popleft())
            heapq.heapreplace(loads, (expected + cost, place))
            if lives is not None:
                able[place].holds_suspect = True
            if most_jobs is not None and able[place].given + len(parts[place]) >= most_jobs:
                loads.remove((expected + cost, place))
                heapq.heapify(loads)
        return [(child, part) for child, part in zip(able, parts, strict=True) if part]

    def hand_out(self, children: Iterable[Child]) -> Parts:
        """Take out jobs for async children, which together hold what one may hold."""
        queued = self._async
        if not queued:
            return []
        coroutines = [child for child in children if child.is_async and not child.apart]
        free = self._async_concurrency - sum(len(child.held) for child in coroutines)
        parts: Parts = []
        for child in coroutines:
            if not child.takes:
                continue
            part: list[Claimed] = []
            most = min(free, (self._most_jobs or sys.maxsize) - child.given)
            while queued and len(part) < most:
                job = queued.popleft()
                if job.lives != 1:
                    part.append(job)
                elif self.chances.admits(job):
                    self.chances.lone = job  # coroutines share a process: it gets one of its own
            if part:
                free -= len(part)
                parts.append((child, part))
        return parts
