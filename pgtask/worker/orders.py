"""Orders: what a process is told by signals: to end, how urgently, or to load its code anew."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import faulthandler
import logging
import os
import signal
from collections.abc import AsyncIterator, Iterator
from types import FrameType
from typing import NamedTuple

LEAVE = 4.0  # s for what is left to do when nothing runs any more: record, give back, say goodbye
LAST = 4.9  # s after the grace, or after a cold stop began, at which the process is gone


class Sayings(NamedTuple):
    """What a process says of itself when it is told to end; `warm` has a place for the grace."""

    log: logging.Logger
    warm: str
    cold: str
    late: str


OF_A_WORKER = Sayings(
    logging.getLogger("pgtask.worker"),
    "warm stop: waiting up to %g s for what runs; once more: cold stop",
    "cold stop: children are killed, their jobs are given back; once more: exit",
    "this worker could not end in time: it leaves, and its lease will run out",
)


class Stage(enum.IntEnum):
    """How urgently the process was asked to end."""

    RUN, WARM, COLD = 0, 1, 2


class Orders:
    """The last word on whether this process goes on. Belongs to the event loop's thread."""

    def __init__(self, grace: float, sayings: Sayings) -> None:
        self._grace = grace
        self._sayings = sayings
        self._terminal = _has_terminal()
        self._start_up: asyncio.Timeout | None = None
        self.stage = Stage.RUN
        self.code = 0  # the process's exit code
        self.changed = asyncio.Event()  # for one to wait for, who clears it
        self.ending = asyncio.Event()  # stays set once it was told to end
        self.reload = asyncio.Event()

    @classmethod
    @contextlib.contextmanager
    def open(cls, grace: float, sayings: Sayings = OF_A_WORKER) -> Iterator[Orders]:
        """Yield orders that listen to TERM, INT, QUIT and HUP; `grace` is that of a warm stop (s).

        Once it was told to end, the process ends within the grace and five seconds.
        """
        orders = cls(grace, sayings)
        loop = asyncio.get_running_loop()
        numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]
        for number in numbers:
            loop.add_signal_handler(number, orders._end, number)
        # Who starts a worker under nohup has said what HUP means.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
            loop.add_signal_handler(signal.SIGHUP, orders._hang_up)
        # Stays when this is left: threads of the interpreter can still hold up its end.
        signal.signal(signal.SIGALRM, orders._too_late)
        faulthandler.register(signal.SIGUSR1)
        try:
            yield orders
        finally:
            faulthandler.unregister(signal.SIGUSR1)
            for number in numbers:
                loop.remove_signal_handler(number)

    @contextlib.asynccontextmanager
    async def interruptible(self) -> AsyncIterator[None]:
        """Abandon the body, as if it ended there, when told to end; what it awaits is cancelled."""
        try:
            async with asyncio.timeout(None) as self._start_up:
                if self.stage > Stage.RUN:
                    self._start_up.reschedule(0.0)
                yield
        except TimeoutError:
            if self._start_up is None or not self._start_up.expired():
                raise
        finally:
            self._start_up = None

    def _end(self, number: signal.Signals) -> None:
        if self.stage >= Stage.COLD:
            self._sayings.log.error("%s again: leaving at once", number.name)
            os._exit(128 + number)
        if number == signal.SIGQUIT or self.stage == Stage.WARM:
            self.stage = Stage.COLD
            self.code = 128 + number
            self._be_gone_in(LAST)
            self._sayings.log.warning(self._sayings.cold)
        else:
            self.stage = Stage.WARM
            self._be_gone_in(self._grace + LAST)
            self._sayings.log.info(self._sayings.warm, self._grace)
        if self._start_up is not None:
            self._start_up.reschedule(0.0)
        self.changed.set()
        self.ending.set()

    def _hang_up(self) -> None:
        if self.stage > Stage.RUN:
            return
        # Who had a terminal and lost it was told to end by that; the others are told to reload.
        if self._terminal and not _has_terminal():
            self._sayings.log.info("the terminal was closed")
            self._end(signal.SIGHUP)
        else:
            self.reload.set()

    def _be_gone_in(self, seconds: float) -> None:
        # By the kernel's timer: neither a blocked loop nor a resolver's thread can stop it.
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        signal.setitimer(signal.ITIMER_REAL, min(left, seconds) if left else seconds)

    def _too_late(self, number: int, frame: FrameType | None) -> None:
        self._sayings.log.error(self._sayings.late)
        os._exit(self.code or 1)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
