"""Pulse: the worker's heartbeat, and the maintenance that every worker does now and then."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from pgtask.broker import attempts
from pgtask.broker.attempts import WorkerRow
from pgtask.broker.link import Link, StatementFailed, pause_after
from pgtask.errors import Unavailable, WorkerNotAlive
from pgtask.worker.children import Children
from pgtask.worker.claimer import Claimer
from pgtask.worker.completer import Completer

log = logging.getLogger("pgtask.worker")

BEAT = 5.0  # s
FENCE = 4 * BEAT  # without a heartbeat; before others may take the lease for lost
LEASE = 6 * BEAT  # silence after which a worker is taken for dead; not tunable apart from BEAT
UPKEEP = 5.0  # s for one statement of maintenance: outcomes wait behind it
LONGEST_NAP = 0.5  # s between two looks for due jobs
MAINTENANCE = 3600.0
SWEEP = 5.0
PURGE = 60.0
PURGE_PAGE = 1000
DAY = 86_400.0
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Pulse:
    """Registers the worker and keeps its lease; promotes, rescues, purges."""

    def __init__(
        self,
        lease: Link,
        link: Link,
        worker: UUID,
        retention: float,
        tally: Counter[tuple[str, str]],
    ) -> None:
        self._lease = lease  # not the one where statements may take long
        self._link = link
        self._worker = worker
        self._retention = retention
        self._tally = tally
        self._registered = False
        self._heard = _now()  # when the heartbeat that was answered last was sent
        self._unlearned: Sequence[str] | None = None  # the tasks that the worker's row should have
        self._looked = float("-inf")
        self._seen: dict[UUID, tuple[int, float]] = {}

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        lease: Link,
        link: Link,
        worker: UUID,
        retention: float,
        tally: Counter[tuple[str, str]],
    ) -> AsyncIterator[Pulse]:
        """Yield a pulse; on leaving, after all work is done, the worker's lease ends."""
        pulse = cls(lease, link, worker, retention, tally)
        try:
            yield pulse
        finally:
            if pulse._registered:
                await pulse._leave()

    async def register(self, row: WorkerRow) -> None:
        """Begin the lease."""
        await self._link.run(attempts.maintain(self._retention), deadline=30.0)
        # Before the answer: it may be lost, or the worker told to end while it waits, and no lease
        # must be left behind.
        self._registered = True
        sent = _now()
        await self._lease.run(attempts.register(row))
        self._heard = sent

    async def learn(self, tasks: Sequence[str]) -> None:
        """Tell the database what this worker knows now; while it is away, a heartbeat will."""
        self._unlearned = tasks
        try:
            await self._teach()
        except Unavailable as error:
            log.debug("what this worker knows cannot be told yet: %s", error)

    async def _teach(self) -> None:
        if (tasks := self._unlearned) is not None:
            await self._lease.run(attempts.learn(self._worker, tasks))
            if self._unlearned is tasks:
                self._unlearned = None

    async def _leave(self) -> None:
        try:
            await self._hand_in(deadline=1.5)
            await self._lease.run(attempts.deregister(self._worker), deadline=1.5)
        except WorkerNotAlive:
            log.debug("there is no lease to end: this worker was declared dead")
        except Unavailable as error:
            log.warning("the lease could not be ended, it will run out: %s", error)

    async def run(self, children: Children, completer: Completer, claimer: Claimer) -> None:
        """Beat and maintain until cancelled. Raises WorkerNotAlive when declared dead."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat(children, claimer))
            group.create_task(self._fence(children))
            for work in (
                lambda: self._promote(completer),
                self._rescue,
                self._purge,
                self._maintain,
            ):
                group.create_task(self._repeat(work))

    async def _beat(self, children: Children, claimer: Claimer) -> None:
        failures = 0
        while True:
            claimer.cancel_wished.clear()
            pause = BEAT
            try:
                children.cancel(await self._hand_in(deadline=5.0))
                failures = 0
                await self._teach()
            except Unavailable as error:
                log.warning("no heartbeat: %s", error)
                # Others watch: the first one after an outage comes soon.
                pause = pause_after(failures)
                failures += 1
            try:
                async with asyncio.timeout(pause):
                    await claimer.cancel_wished.wait()
            except TimeoutError:
                continue

    async def _fence(self, children: Children) -> None:
        """While no heartbeat succeeds for long, nothing runs here whose code must not overlap.

        The tables need no such fence: whoever lost its lease changes nothing there. It is for what
        code under a serial key does elsewhere. All else goes on, and is recorded after the outage.
        """
        fenced = False
        while True:
            silence = _now() - self._heard
            if silence >= FENCE and not fenced:
                fenced = True
                log.error(
                    "no heartbeat for %.0f s: jobs with a serial key are stopped and will be given"
                    " back, as another worker may start them; all other jobs go on",
                    silence,
                )
                children.fence()
            elif silence < FENCE and fenced:
                fenced = False
                log.warning("heartbeats succeed again: jobs with a serial key are run again")
                children.lift_fence()
            # Short: this sleep does not count the time that the machine is suspended.
            await asyncio.sleep(min(1.0, max(0.05, FENCE - silence)) if not fenced else 0.25)

    async def _hand_in(self, *, deadline: float) -> list[tuple[int, bool]]:
        sent = _now()
        counted = dict(self._tally)
        wishes = await self._lease.run(attempts.heartbeat(self._worker, counted), deadline=deadline)
        self._heard = sent
        _take_off(self._tally, counted)
        return wishes

    async def _repeat(self, work: Callable[[], Coroutine[Any, Any, float]]) -> None:
        failures = 0
        while True:
            try:
                pause = await work()
                failures = 0
            except Unavailable as error:
                log.debug("maintenance waits for the database: %s", error)
                pause = pause_after(failures)
                failures += 1
            except StatementFailed as error:
                # One row that nobody foresaw must not end all workers, one after the other.
                log.error("maintenance failed, again in %g s: %s", SWEEP, error)
                pause = SWEEP
            await asyncio.sleep(pause)

    async def _promote(self, completer: Completer) -> float:
        promoted, next_in = await self._link.run(attempts.promote(), deadline=UPKEEP)
        if promoted >= 1000:
            return 0.0
        # What this worker sent back to wait is known before the table is read again.
        sooner = [delay for delay in (next_in, completer.retry_in) if delay is not None]
        completer.retry_in = None
        return max(0.005, min([*sooner, LONGEST_NAP]))

    async def _rescue(self) -> float:
        """Judge others by silence observed on our own monotonic clock, which does not jump."""
        beats = await self._link.run(attempts.beats(), deadline=UPKEEP)
        now = time.monotonic()
        away = now - self._looked
        if away > LEASE / 3:
            # We were away, or the database was. Nobody could be seen, and nobody could be heard:
            # that time is not theirs.
            self._seen = {w: (beat, since + away) for w, (beat, since) in self._seen.items()}
        self._looked = now
        self._seen = {
            worker: seen
            if (seen := self._seen.get(worker)) is not None and seen[0] == beat
            else (beat, now)
            for worker, beat in beats.items()
        }
        silent = {
            worker: beat
            for worker, (beat, since) in self._seen.items()
            if worker != self._worker and now - since >= LEASE
        }
        rescued = await self._link.run(attempts.rescue(silent), deadline=UPKEEP)
        for worker, jobs in rescued.items():
            log.warning("worker %s is dead: its %d jobs were taken back", str(worker)[:8], jobs)
        return BEAT

    async def _purge(self) -> float:
        # Whole days are dropped, which costs nothing a job; row by row goes what they leave.
        age = self._retention + DAY if self._retention >= DAY else self._retention
        purged = await self._link.run(attempts.purge(age, PURGE_PAGE), deadline=UPKEEP)
        return 0.1 if purged >= PURGE_PAGE else PURGE

    async def _maintain(self) -> float:
        changed = await self._link.run(attempts.maintain(self._retention), deadline=UPKEEP)
        # A day is detached by one call, and cleaned up after and dropped by the next.
        return SWEEP if changed else MAINTENANCE


def _now() -> float:
    # Others' clocks went on while this machine was suspended, hence not the monotonic clock.
    return time.clock_gettime(_CLOCK)


def _take_off(tally: Counter[tuple[str, str]], counted: Mapping[tuple[str, str], int]) -> None:
    for key, n in counted.items():
        tally[key] -= n
        if not tally[key]:
            del tally[key]
