"""Pulse: the worker's heartbeat, and the maintenance that every worker does now and then."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from pgtask.broker import attempts
from pgtask.broker.attempts import WorkerRow
from pgtask.broker.link import Link, pause_after
from pgtask.errors import Unavailable
from pgtask.worker.children import Children
from pgtask.worker.claimer import Claimer
from pgtask.worker.completer import Completer

log = logging.getLogger("pgtask.worker")

BEAT = 5.0  # s
LEASE = 6 * BEAT  # silence after which a worker is taken for dead; not tunable apart from BEAT
LONGEST_NAP = 0.5  # s between two looks for due jobs
MAINTENANCE = 3600.0
PURGE = 60.0
PURGE_PAGE = 1000


class Pulse:
    """Registers the worker and keeps its lease; promotes, rescues, purges."""

    def __init__(self, link: Link, worker: UUID, retention: float) -> None:
        self._link = link
        self._worker = worker
        self._retention = retention
        self._registered = False
        self._seen: dict[UUID, tuple[int, float]] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, link: Link, worker: UUID, retention: float) -> AsyncIterator[Pulse]:
        """Yield a pulse; on leaving, after all work is done, the worker's lease ends."""
        pulse = cls(link, worker, retention)
        try:
            yield pulse
        finally:
            if pulse._registered:
                try:
                    await link.run(attempts.deregister(worker))
                except Unavailable as error:
                    log.warning("the lease could not be ended, it will run out: %s", error)

    async def register(self, row: WorkerRow) -> None:
        """Begin the lease."""
        await self._link.run(attempts.maintain(self._retention), deadline=30.0)
        await self._link.run(attempts.register(row))
        self._registered = True

    async def run(self, children: Children, completer: Completer, claimer: Claimer) -> None:
        """Beat and maintain until cancelled. Raises WorkerNotAlive when declared dead."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat(children, completer, claimer))
            for work in (
                lambda: self._promote(completer),
                self._rescue,
                self._purge,
                self._maintain,
            ):
                group.create_task(self._repeat(work))

    async def _beat(self, children: Children, completer: Completer, claimer: Claimer) -> None:
        while True:
            tally = dict(completer.tally)
            try:
                wishes = await self._link.run(attempts.heartbeat(self._worker, tally))
                completer.tally.subtract(tally)
                completer.tally += type(completer.tally)()  # drop the zeros
                children.cancel(job_id for job_id, _ in wishes)
            except Unavailable as error:
                log.warning("no heartbeat: %s", error)
            claimer.cancel_wished.clear()
            try:
                async with asyncio.timeout(BEAT):
                    await claimer.cancel_wished.wait()
            except TimeoutError:
                continue

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
            await asyncio.sleep(pause)

    async def _promote(self, completer: Completer) -> float:
        promoted, next_in = await self._link.run(attempts.promote(), deadline=30.0)
        if promoted >= 1000:
            return 0.0
        # What this worker sent back to wait is known before the table is read again.
        sooner = [delay for delay in (next_in, completer.retry_in) if delay is not None]
        completer.retry_in = None
        return max(0.005, min([*sooner, LONGEST_NAP]))

    async def _rescue(self) -> float:
        """Judge others by observed silence on our own monotonic clock: no clock jump, no outage fools it."""
        beats = await self._link.run(attempts.beats(), deadline=30.0)
        now = time.monotonic()
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
        rescued = await self._link.run(attempts.rescue(silent), deadline=30.0)
        for worker, jobs in rescued.items():
            log.warning("worker %s is dead: its %d jobs were taken back", str(worker)[:8], jobs)
        return BEAT

    async def _purge(self) -> float:
        purged = await self._link.run(
            attempts.purge(self._retention, PURGE_PAGE), deadline=30.0
        )
        return 0.1 if purged >= PURGE_PAGE else PURGE

    async def _maintain(self) -> float:
        await self._link.run(attempts.maintain(self._retention), deadline=30.0)
        return MAINTENANCE
