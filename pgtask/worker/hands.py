"""Hands: what a supervisor knows of one child, and of each attempt in its hands."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field
from typing import NamedTuple

from pgtask.broker.attempts import Claimed
from pgtask.worker import wire
from pgtask.worker.slot import Slot

STUCK = 0.05  # s a job may run before those behind it in the same child are taken back


@dataclass(slots=True)
class Held:
    """One attempt in a child's hands."""

    job: Claimed
    place: int
    timeout: float | None
    at_most_once: bool
    cost: float
    sent_at: float


class Room(NamedTuple):
    """How many more jobs of one kind of task may be claimed, beside those in hand."""

    is_async: bool
    free: int
    held: int
    tasks: list[str]


@dataclass(slots=True)
class Child:
    """One child process as its supervisor sees it."""

    number: int
    is_async: bool
    connection: socket.socket
    slot: Slot
    pid: int | None = None
    ready: bool = False
    held: dict[int, Held] = field(default_factory=dict)
    next_place: int = 1
    unsent: bytearray = field(default_factory=bytearray)
    frames: wire.FrameBuffer = field(default_factory=wire.FrameBuffer)
    born: float = field(default_factory=time.monotonic)
    hung_up: bool = False  # its end of the pipe is closed
    killed: str | None = None  # why the supervisor killed it
    culprits: set[int] = field(default_factory=set)
    taking: tuple[int, int, float] | None = None  # first place, end, when asked
    expected: float = 0.0  # seconds of work it holds, by what is known of its tasks

    @property
    def is_stuck(self) -> bool:
        """Whether its job has turned out long."""
        running = self.slot.running() if self.held else None
        return running is not None and running.seconds > STUCK
