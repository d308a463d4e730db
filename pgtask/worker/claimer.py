"""Claimer: free room and wake-ups → claimed jobs."""

from __future__ import annotations

import asyncio
import fnmatch
import logging
from collections.abc import Sequence
from uuid import UUID

from pgtask.broker import attempts, queues
from pgtask.broker.attempts import Ended
from pgtask.broker.link import Link, WakeUps, pause_after
from pgtask.errors import Unavailable
from pgtask.worker.children import Children
from pgtask.worker.completer import Completer

log = logging.getLogger("pgtask.worker")

MOST = 500  # jobs in one claim
LOOK_FOR_QUEUES = 1.0  # s between two looks for queues that this worker has not met
LATE = 60.0  # s after which a claim that was given up is over on the server too, by its time-out
LOOK_FOR_LATE = 5.0
DRAIN_POLL = 0.1
CATCH_BREATH = 0.25  # share of the room that must be free before a busy worker claims again


class Claimer:
    """Asks for as many jobs as there is room for: at once when woken, else every `poll` s."""

    def __init__(
        self,
        link: Link,
        ear: Link,
        worker: UUID,
        children: Children,
        completer: Completer,
        *,
        patterns: Sequence[str],
        poll: float,
    ) -> None:
        self._link = link
        self._ear = ear
        self._worker = worker
        self._children = children
        self._completer = completer
        self._patterns = patterns
        self._poll = poll
        self._queues: list[str] = [p for p in patterns if not any(c in p for c in "*?[")]
        self._woken = asyncio.Event()
        self.cancel_wished = asyncio.Event()
        self._looked = float("-inf")
        self._in_doubt = False
        self._late_until = self._reconciled = float("-inf")

    async def run(self, *, drain: bool = False) -> None:
        """Claim until cancelled; with `drain`, until nothing is left to claim or to wait for."""
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(self._listen())
            try:
                await self._claim_for_ever(drain=drain)
            finally:
                listening.cancel()

    async def _claim_for_ever(self, *, drain: bool) -> None:
        failures = 0
        while True:
            self._woken.clear()
            # Before the claim: what ends meanwhile may have enqueued more.
            over = self._is_over()
            try:
                await self._reconcile()
                room, tasks = self._children.room()
                if room < 1 or not tasks:
                    await self._changed(0.5)
                    continue
                found = await self._claim(room, tasks)
                failures = 0
            except Unavailable as error:
                self._in_doubt = True
                pause = pause_after(failures)
                failures += 1
                log.warning("claiming failed, again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
                continue
            if found >= min(room, MOST):
                await self._good_room()
            elif not drain:
                await self._idle(tasks, self._poll)
            elif found or not over:
                await self._idle(tasks, DRAIN_POLL)
            else:
                known = len(self._queues)
                await self._look_for_queues()
                if len(self._queues) == known:
                    return

    async def _claim(self, room: int, tasks: Sequence[str]) -> int:
        """Claim up to `room` jobs of these tasks; return how many there were."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._looked > LOOK_FOR_QUEUES:
            await self._look_for_queues()
            self._looked = loop.time()
        if not self._queues:
            return 0
        jobs = await self._link.run(
            attempts.claim(self._worker, min(room, MOST), self._queues, tasks)
        )
        if jobs:
            self._children.dispatch(jobs)
            # Every queue is first once in a while.
            self._queues.append(self._queues.pop(0))
        return len(jobs)

    def _is_over(self) -> bool:
        return not self._children.in_flight and not self._completer.backlog

    async def _reconcile(self) -> None:
        """After a lost answer: give back what the database thinks we hold and we do not know.

        Again and again for a while: the server may still be at work on a claim we gave up.
        """
        now = asyncio.get_running_loop().time()
        if self._in_doubt or self._completer.in_doubt:
            self._late_until = now + LATE
        elif now > self._late_until or now - self._reconciled < LOOK_FOR_LATE:
            return
        mine = self._children.holds() | self._completer.holds()
        held = await self._link.run(attempts.held(self._worker))
        unknown = [
            attempt
            for attempt in held
            if attempt not in mine
            and attempt not in self._children.holds()
            and attempt not in self._completer.holds()
        ]
        if unknown:
            log.info("giving back %d jobs whose claim was never answered", len(unknown))
            released = [Ended(job_id, epoch, "released") for job_id, epoch in unknown]
            await self._link.run(attempts.finish(self._worker, released))
        self._in_doubt = self._completer.in_doubt = False
        self._reconciled = now

    async def _look_for_queues(self) -> None:
        if len(self._queues) == len(self._patterns) and not any(
            c in p for p in self._patterns for c in "*?["
        ):
            return
        for name in await self._link.run(queues.with_work()):
            self._meet(name)

    def _meet(self, queue: str) -> bool:
        if queue in self._queues:
            return True
        if any(fnmatch.fnmatchcase(queue, pattern) for pattern in self._patterns):
            self._queues.append(queue)
            return True
        return False

    async def _good_room(self) -> None:
        """There is more: wait until a good part of the room is free, so that claims stay large."""
        while True:
            room, _ = self._children.room()
            if room >= max(1, CATCH_BREATH * (room + self._children.in_flight)):
                return
            if not await self._changed(0.05) and room > 0:
                return

    async def _idle(self, asked: Sequence[str], poll: float) -> None:
        """There is no more of what was asked for: wait for a wake-up, other room, or the poll."""
        try:
            async with asyncio.timeout(poll):
                while not self._woken.is_set():
                    # Full of one kind of task, only the other kind was asked for.
                    if len(asked) < len(self._children.tasks):
                        _, tasks = self._children.room()
                        if set(tasks) - set(asked):
                            return
                    self._children.changed.clear()
                    await _first_of(self._woken, self._children.changed)
        except TimeoutError:
            return

    async def _changed(self, seconds: float) -> bool:
        self._children.changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._children.changed.wait()
        except TimeoutError:
            return False
        return True

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                async for channel, payload in WakeUps(self._ear).listen():
                    if channel == "connected":
                        failures = 0
                        self._woken.set()
                    elif channel == "pgtask" and self._meet(payload):
                        self._woken.set()
                    elif channel == "pgtask_cancel" and payload == str(self._worker):
                        self.cancel_wished.set()
            except Unavailable as error:
                pause = pause_after(failures)
                failures += 1
                log.warning("listening failed, again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
