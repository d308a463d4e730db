"""Claimer: free room and wake-ups → claimed jobs."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import logging
import math
from collections.abc import Sequence
from uuid import UUID

from pgtask.broker import attempts, queues
from pgtask.broker.attempts import Claimed, Ended
from pgtask.broker.link import Link, StatementFailed, WakeUps, pause_after
from pgtask.errors import Unavailable
from pgtask.worker.children import Children
from pgtask.worker.completer import Completer
from pgtask.worker.errand import Errand
from pgtask.worker.hands import Room
from pgtask.worker.windows import Windows

log = logging.getLogger("pgtask.worker")

WAKE, CANCEL = "pgtask", "pgtask_cancel"  # channels: names of queues, ids of workers
MOST = 500  # jobs in one claim
LOOK_FOR_WRITERS = 1.0  # s between two looks at the transactions in progress, at most
SOON, LATER = 0.005, 0.25  # s between looks whether one of them has ended
LOOK_FOR_QUEUES = 1.0  # s between two looks for queues that this worker has not met
LATE = 60.0  # s after which a claim that was given up is over on the server too, by its time-out
LOOK_FOR_LATE = 5.0
DRAIN_POLL = 0.1
DEAF_POLL = 0.2  # s, where nobody can be listened to
STEADY = 10.0  # s: a listening connection that breaks sooner was none
# From so many jobs a second on the worker looks by itself every few ms and asks not to be notified:
# a notifying commit takes a lock that all of the server's share.
OFTEN, SELDOM = 400.0, 200.0  # jobs/s: begin and end of that
BREATH = 0.002, 0.0005  # s between two such looks, above and below
MANY = 1000.0  # jobs/s
MEMORY = 0.05  # s over which the rate is measured
CATCH_BREATH = 0.5  # share of the room that must be free before a busy worker claims again


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
        errand: Errand | None = None,
    ) -> None:
        self._link = link
        self._ear = ear
        self._worker = worker
        self._children = children
        self._completer = completer
        self._patterns = patterns
        self._poll = poll
        self._errand = errand or Errand()
        self._queues: list[str] = [p for p in patterns if not any(c in p for c in "*?[")]
        self._woken = asyncio.Event()
        self.cancel_wished = asyncio.Event()
        self._looked = self._looked_for_writers = float("-inf")
        self._windows = {False: Windows(), True: Windows()}  # of sync and async tasks
        # Transactions that may have enqueued before the idle flag was up, and so will not notify.
        self._silent: set[int] = set()
        self._was_up = False  # the flag, all the time since they were looked for
        self._resting = False  # the last poll found nothing
        self._rate = 0.0  # jobs/s
        self._counted = float("-inf")
        self._often = False  # looks by itself, and is not notified
        self._swept = False  # the last claims looked from the front
        self._backlog: set[bool] = set()  # kinds of task whose last claim left more
        self._deaf = False  # behind a pooler: nothing is ever heard
        # What the database says we hold was last compared on this one of the link's connections.
        self._on = link.opened
        self._in_doubt = False
        self._late_until = self._reconciled = float("-inf")
        # When the loop last came round, and last came round without a failure.
        self.came_round = self.turned = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Claim until cancelled, or the errand is done: nothing is left to claim or to wait for.

        Relies on listen() running beside it.
        """
        if self._errand.once is not None:
            await self._run_one(self._errand.once)
            return
        clock = asyncio.get_running_loop().time
        failures = 0
        while True:
            self._woken.clear()
            self.came_round = clock()
            try:
                if await self._turn():
                    return
                self.turned = clock()
                failures = 0
            except (Unavailable, StatementFailed) as error:
                self._in_doubt = True
                self._was_up = False
                for windows in self._windows.values():
                    windows.forget()
                pause = pause_after(failures)
                failures += 1
                # What is no outage is for somebody to see to; until then the worker is not ready.
                level = logging.WARNING if isinstance(error, Unavailable) else logging.ERROR
                log.log(level, "claiming failed, again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)

    def start_over(self) -> None:
        """Other tasks than before are known: what was passed over may be ours now."""
        for windows in self._windows.values():
            windows.forget()
        self._was_up = self._resting = False
        self._wake()

    async def _run_one(self, job_id: int) -> None:
        """Claim this job and wait for its end; where it cannot be claimed, that is all."""
        job = await self._link.run(
            attempts.claim_job(self._worker, job_id, list(self._children.tasks))
        )
        if job is None:
            return
        self._children.dispatch([job], is_async=self._children.tasks[job.task].is_async)
        while not self._is_over():
            self._children.changed.clear()
            # Nothing is set when the outcome is recorded.
            await self._changed(DRAIN_POLL if self._children.in_flight else SOON)

    async def _turn(self) -> bool:
        """Claim for what there is room for, and wait for a reason to do so again.

        True when the errand is done.
        """
        drain = self._errand.drain
        # Before the claim: what ends meanwhile may have enqueued more.
        over = self._is_over()
        await self._reconcile()
        # Cleared before the look: what becomes free after it must not be missed.
        self._children.changed.clear()
        rooms = self._children.rooms()
        if self._completer.is_behind:
            self._was_up = False
            await self._let_others_be_notified()
            # A backlog of outcomes is worked off within some ms: no child should idle for it.
            await asyncio.sleep(DRAIN_POLL if self._completer.is_failing else SOON)
            return False
        if self._errand.max_jobs is not None and self._quota() <= 0:
            self._was_up = False
            await self._let_others_be_notified()
            if over:
                return True
            # What is given back before it began is claimed again.
            await self._changed(DRAIN_POLL)
            return False
        if not rooms:
            if drain and not self._children.kinds:
                return True  # an app without tasks
            self._was_up = False
            await self._let_others_be_notified()
            await self._changed(0.5)
            return False
        unannounced = self._often
        more, found = await self._claim_for(rooms)
        if not more:
            self._count(found)
        if more:
            await self._let_others_be_notified()
            await self._good_room(more)
        elif (
            drain
            and over
            and not found
            and not self._woken.is_set()
            and len(rooms) == self._children.kinds
        ):
            if not self._swept:
                # Only a look from the front sees everything.
                for windows in self._windows.values():
                    windows.sweep_next()
                return False
            known = len(self._queues)
            await self._look_for_queues()
            return len(self._queues) == known
        elif unannounced or self._often:
            # Not to wait for notifications before a claim has asked for them.
            await asyncio.sleep(BREATH[self._rate < MANY])
        else:
            asked = {room.is_async for room in rooms}
            await self._idle(asked, DRAIN_POLL if drain else self._poll)
        return False

    async def _claim_for(self, rooms: Sequence[Room]) -> tuple[set[bool], int]:
        """Return the kinds of task of which there may be more, and how many jobs were claimed."""
        more: set[bool] = set()
        found = 0
        self._swept = True
        # A claim for each kind of task: each gets the batch that fits it, and remembers its places.
        for room in rooms:
            limit = min(MOST, room.free)
            if self._errand.max_jobs is not None and (limit := min(limit, self._quota())) <= 0:
                continue
            jobs, is_all = await self._claim(limit, room)
            self._errand.taken += len(jobs)
            found += len(jobs)
            if len(jobs) >= limit or not is_all:
                more.add(room.is_async)
            # Only a claim that leaves room keeps the flag up.
            self._was_up = self._was_up and len(jobs) < limit and is_all and not self._often
        # At rest nobody needs to know who writes: no mark moves, and the flag stays up.
        self._resting = self._resting and not found
        if found:
            # Every queue is first once in a while.
            self._queues.append(self._queues.pop(0))
        # After the claims: whoever woke this worker does not wait for them.
        now = asyncio.get_running_loop().time()
        if now - self._looked > LOOK_FOR_QUEUES:
            self._looked = now
            known = len(self._queues)
            await self._look_for_queues()
            if len(self._queues) > known:
                self._woken.set()
        if not self._resting and now - self._looked_for_writers > LOOK_FOR_WRITERS:
            await self._look_for_writers()
        return more, found

    async def _claim(self, limit: int, room: Room) -> tuple[list[Claimed], bool]:
        """Return what was claimed, and whether fewer than `limit` mean that there is no more."""
        clock = asyncio.get_running_loop().time
        began = clock()
        windows = self._windows[room.is_async]
        in_backlog = room.is_async in self._backlog
        fresh = windows.fresh_ranges(self._queues, began) if in_backlog else None
        ranges, sweep = (fresh, False) if fresh else windows.ranges(self._queues, began)
        self._swept = self._swept and sweep
        # Without a queue to look in, too: it raises the flag that makes enqueues notify.
        jobs = await self._link.run(
            attempts.claim(
                self._worker,
                limit,
                ranges,
                room.tasks,
                None if fresh or self._deaf else 0.0 if self._often else self._poll,
            ),
            # A server that crashed may have lost claims: first see which.
            only_on=self._on,
        )
        if sweep:
            windows.swept(clock(), clock() - began)
        if jobs:
            if self._link.pooled:
                await self._replace_copies(jobs)
            self._children.dispatch(jobs, is_async=room.is_async, backlog=len(jobs) >= limit)
        # In the order of a claim the last of a lane is the furthest.
        last = {(job.queue, job.priority): job.seq for job in jobs}
        places = [(queue, priority, seq) for (queue, priority), seq in last.items()]
        short = len(jobs) < limit and not fresh
        windows.claimed(began, self._queues, places, short=short)
        # Where a fresh look found few, the next one looks further back.
        if len(jobs) >= limit:
            self._backlog.add(room.is_async)
        else:
            self._backlog.discard(room.is_async)
        return jobs, not fresh

    def _count(self, found: int) -> None:
        """Measure how many jobs come, and decide whether to wait for notifications."""
        now = asyncio.get_running_loop().time()
        passed = max(now - self._counted, 1e-6)
        self._counted = now
        self._rate += (found / passed - self._rate) * -math.expm1(-passed / MEMORY)
        if self._often and self._rate < SELDOM:
            self._often = False
        elif not self._often and self._rate > OFTEN:
            self._often = True

    async def _let_others_be_notified(self) -> None:
        # This one takes no more for now; the flag that it lowered was theirs, too.
        if self._often:
            self._often = False
            self._rate = 0.0
            await self._link.run(attempts.raise_flag(self._poll))

    def _quota(self) -> int:
        """How many more jobs may be claimed: what was given back did not count."""
        assert self._errand.max_jobs is not None
        return self._errand.max_jobs - self._errand.taken + self._completer.ended["released"]

    def _is_over(self) -> bool:
        return not self._children.in_flight and not self._completer.backlog

    async def _look_for_writers(self) -> set[int]:
        in_progress, last_seq = await self._link.run(attempts.writers())
        self._looked_for_writers = asyncio.get_running_loop().time()
        for windows in self._windows.values():
            windows.polled(self._looked_for_writers, in_progress, last_seq)
        return set(in_progress)

    async def _reconcile(self) -> None:
        """After a lost answer or connection: compare what we hold with what the database thinks.

        Again and again for a while: the server may still be at work on a claim we gave up.
        """
        now = asyncio.get_running_loop().time()
        if self._in_doubt or self._completer.in_doubt or self._link.opened != self._on:
            self._late_until = now + LATE
        elif now > self._late_until or now - self._reconciled < LOOK_FOR_LATE:
            return
        on = await self._link.connect()
        # No outcome on its way meanwhile: what has no row then is known, and stays known.
        async with self._completer.still():
            mine = self._children.holds() | self._completer.holds()
            rows = await self._link.run(attempts.held(self._worker), only_on=on)
            held = set(rows)
            self._let_go(mine - held)
            unknown = held - mine - self._children.holds() - self._completer.holds()
            if unknown:
                log.info("giving back %d jobs whose claim was never answered", len(unknown))
                released = [Ended(job_id, epoch, "released") for job_id, epoch in unknown]
                await self._link.run(attempts.finish(self._worker, released), only_on=on)
            self._in_doubt = self._completer.in_doubt = False
        self._on = on
        self._reconciled = now

    def _let_go(self, lost: set[tuple[int, int]]) -> None:
        """These attempts have no row: recorded by a call whose answer was lost, or never claimed.

        A crash, or a failover to a standby that lagged, may lose a claim. The job is ready again
        then, and its next claim may draw the same epoch: no old copy may be taken for that one.
        """
        self._completer.drop(lost)
        if gone := self._children.disown(lost):
            self._completer.tally["-", "stale"] += gone
            log.warning(
                "the database has lost the claims of %d jobs that were in hand here: what they do"
                " is not recorded, they run again",
                gone,
            )

    async def _replace_copies(self, jobs: Sequence[Claimed]) -> None:
        # A pooler hides that the server was away, and so that claims may have been lost.
        copies = {(job.id, job.epoch) for job in jobs} & (
            self._children.holds() | self._completer.holds()
        )
        if copies:
            async with self._completer.still():
                self._let_go(copies)

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

    async def _good_room(self, wanted: set[bool]) -> None:
        """There is more: wait until a good part of the room is free, so that claims stay large.

        What is enqueued meanwhile may be of the other kind of task, which has room.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._poll
        while loop.time() < until:
            rooms = self._children.rooms()
            for room in rooms:
                if room.is_async in wanted and (
                    room.free >= max(1, CATCH_BREATH * (room.free + room.held))
                ):
                    return
            others = any(room.is_async not in wanted for room in rooms)
            if others and self._woken.is_set():
                return
            self._children.changed.clear()
            try:
                async with asyncio.timeout(0.05):
                    await self._children.changed.wait()
            except TimeoutError:
                if any(room.is_async in wanted for room in rooms):
                    return

    async def _idle(self, asked: set[bool], poll: float) -> None:
        """There is no more of what was asked for: wait for a wake-up, other room, or the poll."""
        pause = SOON
        try:
            if self._deaf:
                poll = min(poll, DEAF_POLL)
            elif not self._was_up:
                # The flag is up by now. Whoever enqueued before, and has not committed yet, saw it
                # down: when one of these ends, look again.
                self._silent = await self._look_for_writers()
                self._was_up = True
                # One more claim, for who committed between the last one and this look.
                return
            async with asyncio.timeout(poll):
                while not self._woken.is_set():
                    # Full of one kind of task, only the other kind was asked for.
                    if {room.is_async for room in self._children.rooms()} - asked:
                        return
                    self._children.changed.clear()
                    if not self._silent:
                        await self._children.changed.wait()
                        continue
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(pause):
                            await self._children.changed.wait()
                        continue
                    pause = min(pause * 2, LATER)
                    left = self._silent & await self._look_for_writers()
                    if left < self._silent:
                        self._silent = left
                        return
        except TimeoutError:
            self._resting = not self._silent

    async def _changed(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._children.changed.wait()
        except TimeoutError:
            return False
        return True

    def _wake(self) -> None:
        self._woken.set()
        # One event to wait for, not two: each more is a turn of the loop before the claim is sent.
        self._children.changed.set()

    async def listen(self) -> None:
        """Hear wake-ups and wishes to cancel, until cancelled: longer than jobs are claimed."""
        failures = 0
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            try:
                heard = WakeUps(self._ear, WAKE, CANCEL).listen()
                async for channel, payload in heard:
                    if channel == "connected" or (channel == WAKE and self._meet(payload)):
                        self._wake()
                    elif channel == CANCEL and payload == str(self._worker):
                        self.cancel_wished.set()
            except Unavailable as error:
                if clock() - began > STEADY:
                    failures = 0
                pause = pause_after(failures)
                failures += 1
                log.warning("listening failed, again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
            else:
                self._deaf = True
                log.warning(
                    "looking for jobs every %g s: nobody can listen through a connection pooler;"
                    " PGTASK_LISTEN_DSN names a direct connection",
                    min(self._poll, DEAF_POLL),
                )
                return
