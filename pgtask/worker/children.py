"""Children: a worker's child processes, what each holds, what becomes of it when one dies."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from pgtask.broker.attempts import Claimed, Ended
from pgtask.errors import PgTaskError
from pgtask.worker import verdicts, wire
from pgtask.worker.hands import STUCK, Child, Limit, Room
from pgtask.worker.nursery import START_LIMIT, Nursery
from pgtask.worker.pace import Pace
from pgtask.worker.runner import read_policy
from pgtask.worker.slot import Slot
from pgtask.worker.zygote import Died, Forked, TaskInfo

log = logging.getLogger("pgtask.worker")

TICK = 0.05  # s between two looks at time limits and at jobs stuck behind a long one
IDLE_TICK = 0.25  # s, while there is nothing to look at
MANY = 64  # jobs in flight
PATIENCE = 0.5  # s all children may be busy with one job each before waiting jobs are given back
MAX_RESPAWN_PAUSE = 30.0
MAX_STILLBORN = 5  # children in a row that ended without a handshake: the start-up is broken


class StartFailed(PgTaskError):
    """Children cannot be started: their start-up always fails."""


class Children:
    """Starts the zygote and its children, hands jobs out, turns what comes back into Ended.

    `finished` is called with outcomes and the task of each; `changed` is set when capacity may
    have grown.
    """

    def __init__(
        self,
        *,
        spec: str,
        worker: UUID,
        installation: str,
        dsn: str,
        log: tuple[str, str],
        concurrency: int,
        async_concurrency: int,
        finished: Callable[[list[Ended], list[str]], None],
    ) -> None:
        self._nursery = Nursery(
            spec=spec,
            worker=worker,
            installation=installation,
            dsn=dsn,
            log=log,
            heard=self._hear,
        )
        self._concurrency = concurrency
        self._async_concurrency = async_concurrency
        self._finished = finished
        self.changed = asyncio.Event()
        self.tasks: dict[str, TaskInfo] = {}
        self._by_kind: dict[bool, list[str]] = {False: [], True: []}
        self._children: dict[int, Child] = {}
        self._by_pid: dict[int, Child] = {}
        self._numbers = 0
        self._stillborn = 0
        self._pace = Pace()
        # What no child has yet, by kind of task, in order.
        self._queued: dict[bool, deque[Claimed]] = {False: deque(), True: deque()}
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pauses: set[asyncio.TimerHandle] = set()
        self._stopping = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        *,
        spec: str,
        worker: UUID,
        installation: str,
        dsn: str,
        log: tuple[str, str],
        concurrency: int,
        async_concurrency: int,
        finished: Callable[[list[Ended], list[str]], None],
    ) -> AsyncIterator[Children]:
        """Yield children ready for jobs; on leaving they are killed and their jobs given back.

        Raises AppNotFound when the app cannot be imported.
        """
        children = cls(
            spec=spec,
            worker=worker,
            installation=installation,
            dsn=dsn,
            log=log,
            concurrency=concurrency,
            async_concurrency=async_concurrency,
            finished=finished,
        )
        try:
            await children._start()
            async with asyncio.TaskGroup() as group:
                ticking = group.create_task(children._tick())
                try:
                    yield children
                finally:
                    ticking.cancel()
        finally:
            await children._kill_all()

    # Capacity and dispatch -------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """How many attempts the children hold."""
        held = sum(len(child.held) for child in self._children.values())
        return held + sum(map(len, self._queued.values()))

    @property
    def are_pressed(self) -> bool:
        """Whether outcomes come one upon the other: nobody waits for the next to be recorded."""
        if self.in_flight >= MANY:
            return True
        sync = [len(child.held) for child in self._children.values() if not child.is_async]
        return bool(sync) and min(sync) > 1

    @property
    def kinds(self) -> int:
        """How many kinds of task there are: sync, async, or both."""
        return sum(bool(tasks) for tasks in self._by_kind.values())

    def holds(self) -> set[tuple[int, int]]:
        """Return (job id, epoch) of every attempt in the children's hands."""
        attempts = {
            (job.id, job.epoch) for child in self._children.values() for job in child.held.values()
        }
        attempts.update((job.id, job.epoch) for job in self._waiting())
        return attempts

    def rooms(self) -> list[Room]:
        """Return what may be claimed now: an entry for each kind of task that has room."""
        free = {is_async: -len(queued) for is_async, queued in self._queued.items()}
        held = dict.fromkeys((False, True), 0)
        for child in self._children.values():
            held[child.is_async] += len(child.held)
            if not child.ready or child.killed:
                continue
            free[child.is_async] += (
                self._async_concurrency - len(child.held)
                if child.is_async
                else self._sync_room(child)
            )
        return [
            Room(is_async, free[is_async], held[is_async], tasks)
            for is_async, tasks in self._by_kind.items()
            if free[is_async] > 0 and tasks
        ]

    def dispatch(self, jobs: Sequence[Claimed], *, is_async: bool) -> None:
        """Hand claimed jobs to the children, in order; what finds no child waits here for one."""
        self._queued[is_async].extend(jobs)
        self._hand_out()

    def release_unstarted(self) -> list[Ended]:
        """Stop handing out; return what no child has, and start taking the rest back."""
        self._stopping = True
        released = [Ended(job.id, job.epoch, "released") for job in self._waiting()]
        for queued in self._queued.values():
            queued.clear()
        for child in self._children.values():
            self._take_back(child)
        return released

    def cancel(self, wishes: Iterable[tuple[int, bool]]) -> None:
        """Pass wishes to cancel on to who runs the jobs: (job id, kill what does not listen)."""
        wanted = dict(wishes)
        for child in self._children.values() if wanted else ():
            mine = {place: job.id for place, job in child.held.items() if job.id in wanted}
            if not mine or child.killed:
                continue
            if child.is_async:
                self._send(child, wire.CANCEL, sorted(mine.values()))
                continue
            running = child.slot.running()
            if running is not None and running.place in mine:
                child.slot.cancel(running.place)
                if wanted[mine[running.place]]:
                    child.culprits[mine[running.place]] = 0.0
                    self._kill(child, "cancelled")

    def _waiting(self) -> list[Claimed]:
        return [job for queued in self._queued.values() for job in queued]

    def _sync_room(self, child: Child) -> int:
        if child.taking is not None or self._stopping:
            return 0
        if not child.held:
            return self._pace.batch(0.0)
        running = child.slot.running()
        if running is not None and running.seconds > STUCK:
            return 0
        return max(0, self._pace.batch(child.expected(self._pace)))

    def _hand_out(self) -> None:
        if self._queued[False]:
            self._hand_out_sync(self._queued[False])
        if self._queued[True]:
            self._hand_out_async(self._queued[True])

    def _hand_out_sync(self, queued: deque[Claimed]) -> None:
        # Not behind a job that turned out long: what was just taken back would go there again.
        able = [
            child
            for child in self._children.values()
            if not child.is_async
            and child.ready
            and child.killed is None
            and child.taking is None
            and not child.is_stuck
        ]
        # The child with least to do comes first, so that one job finds an idle child and many are
        # spread; an idle one takes any job, the others what fits into their window.
        loads = [
            (child.expected(self._pace) if child.held else -1.0, place)
            for place, child in enumerate(able)
        ]
        heapq.heapify(loads)
        parts: list[list[Claimed]] = [[] for _ in able]
        pace = self._pace
        while queued and loads:
            expected, place = loads[0]
            cost = pace.of(queued[0].task)
            if expected < 0.0:
                expected = 0.0
            elif not pace.fits(expected, cost):
                break
            heapq.heapreplace(loads, (expected + cost, place))
            parts[place].append(queued.popleft())
        for child, part in zip(able, parts, strict=True):
            if part:
                self._send(child, wire.JOBS, child.take(part), part)

    def _hand_out_async(self, queued: deque[Claimed]) -> None:
        able = [
            child
            for child in self._children.values()
            if child.is_async and child.ready and child.killed is None
        ]
        parts: list[list[Claimed]] = [[] for _ in able]
        for child, part in zip(able, parts, strict=True):
            while queued and len(child.held) + len(part) < self._async_concurrency:
                part.append(queued.popleft())
            if not part:
                continue
            first = child.take(part)
            now = time.monotonic()
            for place, job in enumerate(part, first):
                if (limit := self._timeout(job)) is not None:
                    child.limits[place] = Limit(limit, now + limit)
            self._send(child, wire.JOBS, first, part)

    def _timeout(self, job: Claimed) -> float | None:
        own = read_policy(job.policy).timeout if job.policy else None
        info = self.tasks.get(job.task)
        return own or (info.timeout if info is not None else None)

    def _commits(self, task: str) -> bool:
        info = self.tasks.get(task)
        return info is not None and info.commits

    # The pipes -------------------------------------------------------------------------------

    def _send(self, child: Child, kind: str, *body: object) -> None:
        data = wire.pack(kind, *body)
        if not child.unsent:
            try:
                sent = child.connection.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return  # it died; its end of the pipe tells _received
            if sent == len(data):
                return
            data = data[sent:]
            asyncio.get_running_loop().add_writer(child.connection, self._flush, child)
        child.unsent += data

    def _flush(self, child: Child) -> None:
        try:
            sent = child.connection.send(child.unsent)
        except BlockingIOError:
            return
        except OSError:
            sent = len(child.unsent)
        del child.unsent[:sent]
        if not child.unsent:
            asyncio.get_running_loop().remove_writer(child.connection)

    def _receive(self, child: Child) -> None:
        try:
            data = child.connection.recv(1_048_576)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            # The process may live a moment longer; its end is told by the zygote, if there is one.
            asyncio.get_running_loop().remove_reader(child.connection)
            child.hung_up = True
            if self._nursery.is_dead:
                self._bury(child, signal.SIGKILL)
            return
        for frame in child.frames.feed(data):
            kind = wire.kind_of(frame)
            if kind == wire.OUTCOMES:
                self._collect(child, *wire.decode_outcomes(frame)[1:])
            elif kind == wire.REFUSED:
                self._give_back(child, wire.decode_places(frame)[1])
            else:
                child.ready = True
                self._stillborn = 0
                self._hand_out()
                self.changed.set()

    def _collect(self, child: Child, runs: list[wire.Run], reports: list[wire.Report]) -> None:
        ended: list[Ended] = []
        tasks: list[str] = []
        for run in runs:
            jobs = child.lose(range(run.first, run.first + run.count))
            # A child reports no job twice, and what was taken back it does not begin.
            assert len(jobs) == run.count
            task = jobs[0].task
            if not child.is_async:
                self._pace.note(task, run.seconds / run.count, run.count)
            if run.results is None:
                ended += [Ended(job.id, job.epoch, "succeeded") for job in jobs]
            else:
                ended += [
                    Ended(job.id, job.epoch, "succeeded", result)
                    for job, result in zip(jobs, run.results, strict=True)
                ]
            tasks += [task] * run.count
        for report in reports:
            for job in child.lose((report.place,)):
                if not child.is_async:
                    self._pace.note(job.task, report.seconds)
                tasks.append(job.task)
                ended.append(verdicts.of_report(job.id, job.epoch, report.outcome))
        if ended:
            self._finished(ended, tasks)
        self._hand_out()
        self.changed.set()

    # Time limits, and jobs behind a long one ----------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK if self.in_flight else IDLE_TICK)
            for child in list(self._children.values()):
                if (child.held or child.taking) and not child.killed:
                    self._look_at(child)
                elif not child.ready and time.monotonic() - child.born > START_LIMIT:
                    self._kill(child, "start-up")
            if self._queued[False]:
                self._release_behind_long_ones()
            if self._failure.done():
                self._failure.result()

    def _look_at(self, child: Child) -> None:
        running = child.slot.running()
        if child.is_async:
            now = time.monotonic()
            # The coroutine was cancelled at its limit; a loop that does not turn is killed.
            late = {
                place: limit for place, limit in child.limits.items() if now > limit.until + 0.5
            }
            if late:
                # Where one coroutine stops the loop, the others could not keep their limits.
                if running is not None and running.place in late:
                    late = {running.place: late[running.place]}
                for place, limit in late.items():
                    child.culprits[child.held[place].id] = limit.seconds
                self._kill(child, "timeout")
            return
        if child.taking is not None:
            self._conclude_taking(child)
        elif running is not None and running.seconds > STUCK and len(child.held) > 1:
            self._ask_for_outcomes(child, running.place)
            self._take_back(child)
        if running is None or (job := child.held.get(running.place)) is None:
            return
        limit_of_job = self._timeout(job)
        if limit_of_job is not None and running.seconds > limit_of_job:
            child.culprits[job.id] = limit_of_job
            self._kill(child, "timeout")

    def _ask_for_outcomes(self, child: Child, place: int) -> None:
        # Outcomes travel together; those before a long job must not wait for its end.
        if child.pid is not None and any(held < place for held in child.held):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGURG)

    def _release_behind_long_ones(self) -> None:
        """Where every child is busy for longer, what waits here may be better off elsewhere."""
        for child in self._children.values():
            running = None if child.is_async else child.slot.running()
            if not child.is_async and (running is None or running.seconds < PATIENCE):
                return
        released = list(self._queued[False])
        self._queued[False].clear()
        self._finished(
            [Ended(job.id, job.epoch, "released") for job in released],
            [job.task for job in released],
        )

    def _take_back(self, child: Child) -> None:
        if child.is_async or child.taking is not None:
            return
        first = child.slot.begun() + 1
        if first >= child.next_place:
            return
        child.slot.take_back(first, child.next_place)
        child.taking = (first, child.next_place, time.monotonic())

    def _conclude_taking(self, child: Child) -> None:
        assert child.taking is not None
        first, end, asked_at = child.taking
        if time.monotonic() - asked_at < TICK / 2:
            return
        # What has begun meanwhile stays; what has not can no longer begin, or will be refused.
        begun = child.slot.begun()
        child.taking = None
        self._give_back(
            child, [place for place in child.held if max(first, begun + 1) <= place < end]
        )

    def _give_back(self, child: Child, places: Sequence[int]) -> None:
        jobs = child.lose(places)
        if self._stopping:
            self._finished(
                [Ended(job.id, job.epoch, "released") for job in jobs], [job.task for job in jobs]
            )
        else:
            # In front: they were claimed before what waits here.
            self._queued[False].extendleft(reversed(jobs))
            self._hand_out()
        self.changed.set()

    # Life and death ----------------------------------------------------------------------------

    async def _start(self) -> None:
        loaded = await self._nursery.start()
        self.tasks = {task.name: task for task in loaded.tasks}
        for task in loaded.tasks:
            self._by_kind[task.is_async].append(task.name)
        if self._by_kind[False] or not loaded.tasks:
            for _ in range(self._concurrency):
                self._fork(is_async=False)
        if self._by_kind[True]:
            self._fork(is_async=True)

    def _fork(self, *, is_async: bool) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        ours.settimeout(0)
        self._numbers += 1
        child = Child(self._numbers, is_async, ours, Slot.create())
        self._children[child.number] = child
        with theirs:
            self._nursery.fork(child, theirs)
        asyncio.get_running_loop().add_reader(ours, self._receive, child)

    def _hear(self, announcement: Forked | Died | None) -> None:
        if announcement is None:
            if not self._failure.done():
                self._failure.set_exception(
                    StartFailed("the zygote, which starts the children, ended; was it killed?")
                )
            for orphan in list(self._children.values()):
                self._kill(orphan, "shutdown")
                if orphan.hung_up or orphan.pid is None:
                    self._bury(orphan, signal.SIGKILL)
        elif isinstance(announcement, Forked):
            child = self._children.get(announcement.number)
            if child is not None:
                child.pid = announcement.pid
                self._by_pid[announcement.pid] = child
                if child.killed:
                    self._kill(child, child.killed)
        elif (child := self._by_pid.pop(announcement.pid, None)) is not None:
            self._bury(child, announcement.status)

    def _kill(self, child: Child, why: str) -> None:
        child.killed = why
        if child.pid is not None:
            # Its process group: what the task started must not outlive it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)

    def _bury(self, child: Child, status: int) -> None:
        """A child is dead: what it had reported counts, the rest is judged."""
        with contextlib.suppress(BlockingIOError, OSError):
            while data := child.connection.recv(1_048_576):
                for frame in child.frames.feed(data):
                    if wire.kind_of(frame) == wire.OUTCOMES:
                        self._collect(child, *wire.decode_outcomes(frame)[1:])
        how = verdicts.description(child, status)
        tasks = [job.task for job in child.held.values()]
        ended = [
            verdicts.doubted(each) if self._commits(task) else each
            for each, task in zip(verdicts.of_death(child, status), tasks, strict=True)
        ]
        loop = asyncio.get_running_loop()
        loop.remove_reader(child.connection)
        loop.remove_writer(child.connection)
        child.connection.close()
        child.slot.close()
        del self._children[child.number]
        if child.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
        child.held.clear()
        if ended:
            self._finished(ended, tasks)
        if not child.ready and not self._stopping:
            self._stillborn += 1
        if self._stillborn >= MAX_STILLBORN and not self._failure.done():
            self._failure.set_exception(
                StartFailed(
                    f"{self._stillborn} children in a row ended at start-up; the last {how}"
                )
            )
        if not self._stopping and not self._failure.done():
            pause = 0.0 if child.ready else min(0.1 * 2**self._stillborn, MAX_RESPAWN_PAUSE)
            self._pauses = {p for p in self._pauses if p.when() > loop.time()}
            self._pauses.add(loop.call_later(pause, lambda: self._respawn(child.is_async)))
        self.changed.set()

    def _respawn(self, is_async: bool) -> None:  # noqa: FBT001 - a callback
        if not self._stopping:
            self._fork(is_async=is_async)

    async def _kill_all(self) -> None:
        self._stopping = True
        for pause in self._pauses:
            pause.cancel()
        for child in list(self._children.values()):
            self._kill(child, "shutdown")
        waiting = self._waiting()
        if waiting:
            self._finished(
                [Ended(job.id, job.epoch, "released") for job in waiting],
                [job.task for job in waiting],
            )
            for queued in self._queued.values():
                queued.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                while self._children:
                    self.changed.clear()
                    await self.changed.wait()
        await self._nursery.close()
