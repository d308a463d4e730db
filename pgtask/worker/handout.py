"""Handing out: which child gets which of the jobs that wait in the supervisor."""

from __future__ import annotations

import heapq
import math
import sys
from collections import deque
from collections.abc import Iterable

from pgtask.broker.attempts import Claimed
from pgtask.worker.hands import Child
from pgtask.worker.pace import Pace

Parts = list[tuple[Child, list[Claimed]]]


def spread(
    queued: deque[Claimed], children: Iterable[Child], pace: Pace, most_jobs: int | None
) -> Parts:
    """Take jobs from `queued` for sync children, each as far as its window goes.

    No child is given more than `most_jobs` in its life.
    """
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
        (child.expected(pace) if child.held else -1.0, place) for place, child in enumerate(able)
    ]
    heapq.heapify(loads)
    parts: list[list[Claimed]] = [[] for _ in able]
    while queued and loads:
        expected, place = loads[0]
        job = queued[0]
        # One that crashed before may do so again: it is alone in its child.
        cost = pace.of(job.task) if job.lives is None else math.inf
        if expected < 0.0:
            expected = 0.0
        elif not pace.fits(expected, cost):
            break
        part = parts[place]
        part.append(queued.popleft())
        if most_jobs is not None and able[place].begun + len(part) >= most_jobs:
            heapq.heappop(loads)
        else:
            heapq.heapreplace(loads, (expected + cost, place))
        if job.lives is not None:
            able[place].holds_suspect = True
    return [(child, part) for child, part in zip(able, parts, strict=True) if part]


def hand_out(
    queued: deque[Claimed], children: Iterable[Child], most_at_once: int, most_jobs: int | None
) -> Parts:
    """Take jobs from `queued` for async children, which together hold at most `most_at_once`.

    No child is given more than `most_jobs` in its life.
    """
    coroutines = [child for child in children if child.is_async]
    free = most_at_once - sum(len(child.held) for child in coroutines)
    parts: Parts = []
    for child in coroutines:
        most = min(free, (sys.maxsize if most_jobs is None else most_jobs) - child.begun)
        if not child.takes or most <= 0 or not queued:
            continue
        part = [queued.popleft() for _ in range(min(most, len(queued)))]
        free -= len(part)
        parts.append((child, part))
    return parts
