"""Hands: what a supervisor knows of one child, and of each attempt in its hands."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pgtask.broker.attempts import Claimed
from pgtask.worker.pace import Pace
from pgtask.worker.pipe import Pipe
from pgtask.worker.slot import Slot

if TYPE_CHECKING:
    from pgtask.worker.nursery import Nursery

STUCK = 0.05  # s a job may run before those behind it in the same child are taken back

SURE = 0.025  # s after which a job has published its beginning that began when it was asked back


class Room(NamedTuple):
    """How many more jobs of one kind of task may be claimed, beside those in hand."""

    is_async: bool
    free: int
    held: int
    tasks: list[str]


class Limit(NamedTuple):
    """Until when an attempt in an async child must be over, on the monotonic clock."""

    seconds: float
    until: float


class Culprit(NamedTuple):
    """Why a child is killed for an attempt, in the words of pgtask._finish."""

    verdict: str
    kind: str = ""
    message: str = ""


@dataclass(slots=True, eq=False)
class Child:
    """One child process as its supervisor sees it."""

    number: int
    is_async: bool
    pipe: Pipe
    slot: Slot
    nursery: Nursery  # whose child it is: with the app as that one has it
    pid: int | None = None
    ready: bool = False
    held: dict[int, Claimed] = field(default_factory=dict)  # by place on its pipe
    tasks: Counter[str] = field(default_factory=Counter)  # of what it holds
    next_place: int = 1
    born: float = field(default_factory=time.monotonic)
    taking: tuple[int, int, float] | None = None  # first place, end, when asked
    given_back: int = 0  # jobs that it held and did not begin
    holds_suspect: bool = False  # a job that crashed before, and so is alone here
    is_lone: bool = False  # made for one job alone; never replaced

    # By place; left behind when the job ends, because no place comes twice.
    limits: dict[int, Limit] = field(default_factory=dict)  # async only; a sync child runs one job
    told: set[int] = field(default_factory=set)  # that it is cancelled
    ultimata: dict[int, float] = field(default_factory=dict)  # until when to end, being cancelled
    culprits: dict[int, Culprit] = field(default_factory=dict)

    void: set[int] = field(default_factory=set)  # places of attempts that have no row any more
    unwanted: dict[int, float] = field(default_factory=dict)  # places → when told to stop, or 0

    apart: bool = False  # has the app as it is not in force: not yet, or no more
    killed: str | None = None  # why the supervisor killed it
    heir: Child | None = None  # its successor, from when it gets nothing more
    predecessor: Child | None = None  # whose heir it is, until that one is done
    stopped: float | None = None  # when it was told to end, its work being done
    weighed: int = 1  # next_place when its memory was last looked at

    def take(self, jobs: Sequence[Claimed]) -> int:
        """Hold these jobs, in this order; return the place of the first."""
        first = self.next_place
        self.next_place += len(jobs)
        self.held.update(zip(range(first, self.next_place), jobs, strict=True))
        self.tasks.update([job.task for job in jobs])
        return first

    def lose(self, places: Collection[int]) -> list[Claimed]:
        """Let go of the jobs at these places and return them."""
        held = self.held
        jobs = [job for place in places if (job := held.pop(place, None)) is not None]
        for task, n in Counter([job.task for job in jobs]).items():
            self.tasks[task] -= n
        if self.limits:
            for place in places:
                self.limits.pop(place, None)
        if self.void or self.unwanted:
            self.void.difference_update(places)
            for place in places:
                self.unwanted.pop(place, None)
        if not held:
            self.tasks.clear()
            self.holds_suspect = False
            if self.told:
                self.told.clear()
                self.ultimata.clear()
        return jobs

    def ask_back(self) -> None:
        """Begin to take back what it has not begun; came_back() tells, a moment later."""
        if self.is_async or self.taking is not None:
            return
        first = self.slot.begun() + 1
        if first < self.next_place:
            self.slot.take_back(first, self.next_place)
            self.taking = (first, self.next_place, time.monotonic())

    def came_back(self) -> list[int] | None:
        """Return the places that were asked back and did not begin; None while that is unsure."""
        assert self.taking is not None
        first, end, asked_at = self.taking
        if time.monotonic() - asked_at < SURE:
            return None
        # What has begun meanwhile stays; what has not can no longer begin, or will be refused.
        begun = self.slot.begun()
        self.taking = None
        return [place for place in self.held if max(first, begun + 1) <= place < end]

    def expected(self, pace: Pace) -> float:
        """Seconds of work it holds, by what is known of its tasks."""
        if self.holds_suspect:
            return math.inf
        return sum(pace.of(task) * n for task, n in self.tasks.items())

    @property
    def takes(self) -> bool:
        """Whether it may be given jobs at all."""
        return (
            self.ready
            and self.killed is None
            and self.heir is None
            and not (self.is_lone or self.apart)
        )

    @property
    def given(self) -> int:
        """How many jobs it was given and has not given back."""
        return self.next_place - 1 - self.given_back

    @property
    def is_stuck(self) -> bool:
        """Whether its job has turned out long."""
        running = self.slot.running() if self.held else None
        return running is not None and running.seconds > STUCK
