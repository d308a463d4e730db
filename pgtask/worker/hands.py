"""Hands: what a supervisor knows of one child, and of each attempt in its hands."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pgtask.broker.attempts import Claimed
from pgtask.worker import wire
from pgtask.worker.pace import Pace
from pgtask.worker.slot import Slot

STUCK = 0.05  # s a job may run before those behind it in the same child are taken back


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


@dataclass(slots=True)
class Child:
    """One child process as its supervisor sees it."""

    number: int
    is_async: bool
    connection: socket.socket
    slot: Slot
    pid: int | None = None
    ready: bool = False
    held: dict[int, Claimed] = field(default_factory=dict)  # by place on its pipe
    tasks: Counter[str] = field(default_factory=Counter)  # of what it holds
    limits: dict[int, Limit] = field(default_factory=dict)  # async only; a sync child runs one job
    next_place: int = 1
    unsent: bytearray = field(default_factory=bytearray)
    frames: wire.FrameBuffer = field(default_factory=wire.FrameBuffer)
    born: float = field(default_factory=time.monotonic)
    hung_up: bool = False  # its end of the pipe is closed
    killed: str | None = None  # why the supervisor killed it
    culprits: dict[int, float] = field(default_factory=dict)  # job id → the limit (s) it passed
    taking: tuple[int, int, float] | None = None  # first place, end, when asked
    void: set[int] = field(default_factory=set)  # places of attempts that have no row any more
    unwanted: dict[int, float] = field(default_factory=dict)  # places → when told to stop, or 0

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
        if not held:
            self.tasks.clear()
        if self.limits:
            for place in places:
                self.limits.pop(place, None)
        if self.void or self.unwanted:
            self.void.difference_update(places)
            for place in places:
                self.unwanted.pop(place, None)
        return jobs

    def expected(self, pace: Pace) -> float:
        """Seconds of work it holds, by what is known of its tasks."""
        return sum(pace.of(task) * n for task, n in self.tasks.items())

    @property
    def is_stuck(self) -> bool:
        """Whether its job has turned out long."""
        running = self.slot.running() if self.held else None
        return running is not None and running.seconds > STUCK
