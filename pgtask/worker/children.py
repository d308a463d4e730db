"""Children: a worker's child processes, what each holds, what becomes of it when one dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from uuid import UUID

from pgtask.broker.attempts import Claimed, Ended
from pgtask.errors import PgTaskError
from pgtask.worker import verdicts, wire
from pgtask.worker.hands import STUCK, Child, Held, Room
from pgtask.worker.nursery import START_LIMIT, Nursery
from pgtask.worker.pace import Pace
from pgtask.worker.runner import NO_POLICY, read_policy
from pgtask.worker.slot import Slot
from pgtask.worker.zygote import Died, Forked, TaskInfo

log = logging.getLogger("pgtask.worker")

TICK = 0.05  # s between two looks at time limits and at jobs stuck behind a long one
IDLE_TICK = 0.25  # s, while there is nothing to look at
PATIENCE = 0.5  # s all children may be busy with one job each before waiting jobs are given back
MAX_RESPAWN_PAUSE = 30.0
MAX_STILLBORN = 5  # children in a row that ended without a handshake: the start-up is broken


class StartFailed(PgTaskError):
    """Children cannot be started: their start-up always fails."""


class Children:
    """Starts the zygote and its children, hands jobs out, turns what comes back into Ended.

    `finished` is called with the outcomes; `changed` is set when capacity may have grown.
    """

    def __init__(
        self,
        *,
        spec: str,
        worker: UUID,
        dsn: str,
        log: tuple[str, str],
        concurrency: int,
        async_concurrency: int,
        finished: Callable[[list[Ended], list[str]], None],
    ) -> None:
        self._nursery = Nursery(spec=spec, worker=worker, dsn=dsn, log=log, heard=self._hear)
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
        self._returned: deque[Claimed] = deque()
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
        return sum(len(child.held) for child in self._children.values()) + len(self._returned)

    @property
    def kinds(self) -> int:
        """How many kinds of task there are: sync, async, or both."""
        return sum(bool(tasks) for tasks in self._by_kind.values())

    def holds(self) -> set[tuple[int, int]]:
        """Return (job id, epoch) of every attempt in the children's hands."""
        attempts = {
            (held.job.id, held.job.epoch)
            for child in self._children.values()
            for held in child.held.values()
        }
        attempts.update((job.id, job.epoch) for job in self._returned)
        return attempts

    def rooms(self) -> list[Room]:
        """Return what may be claimed now: an entry for each kind of task that has room."""
        free = dict.fromkeys((False, True), 0)
        held = dict.fromkeys((False, True), 0)
        for job in self._returned:
            free[self.tasks[job.task].is_async] -= 1
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

    def dispatch(self, jobs: Iterable[Claimed]) -> None:
        """Hand claimed jobs to the children, in order; what finds no child waits here for one."""
        self._returned.extend(jobs)
        self._hand_out()

    def release_unstarted(self) -> list[Ended]:
        """Stop handing out; return what no child has, and start taking the rest back."""
        self._stopping = True
        released = [Ended(job.id, job.epoch, "released") for job in self._returned]
        self._returned.clear()
        for child in self._children.values():
            self._take_back(child)
        return released

    def cancel(self, wishes: Iterable[tuple[int, bool]]) -> None:
        """Pass wishes to cancel on to who runs the jobs: (job id, kill what does not listen)."""
        wanted = dict(wishes)
        for child in self._children.values():
            mine = wanted.keys() & child.held.keys()
            if not mine or child.killed:
                continue
            if child.is_async:
                self._send(child, wire.CANCEL, sorted(mine))
                continue
            running = child.slot.running()
            for job_id in mine:
                if running is not None and child.held[job_id].place == running.place:
                    child.slot.cancel(running.place)
                    if wanted[job_id]:
                        child.culprits.add(job_id)
                        self._kill(child, "cancelled")

    def _sync_room(self, child: Child) -> int:
        if child.taking is not None or self._stopping:
            return 0
        if not child.held:
            return self._pace.batch(0.0)
        running = child.slot.running()
        if running is not None and running.seconds > STUCK:
            return 0
        return max(0, self._pace.batch(child.expected))

    def _hand_out(self) -> None:
        frames: dict[int, list[wire.Job]] = {}
        # Fewest first, so that one job finds an idle child and many are spread.
        # Not behind a job that turned out long: what was just taken back would go there again.
        sync = sorted(
            (
                c
                for c in self._children.values()
                if not c.is_async and c.ready and not c.killed and not c.is_stuck
            ),
            key=lambda c: c.expected,
        )
        waiting: deque[Claimed] = deque()
        while self._returned:
            job = self._returned.popleft()
            info = self.tasks.get(job.task)
            child = None
            if info is not None and info.is_async:
                able = [
                    c
                    for c in self._children.values()
                    if c.is_async
                    and c.ready
                    and not c.killed
                    and len(c.held) < self._async_concurrency
                ]
                child = min(able, key=lambda c: len(c.held), default=None)
            elif sync:
                child = self._sync_child_for(job, sync)
            if child is None:
                waiting.append(job)
                continue
            frames.setdefault(child.number, []).append(self._hold(child, job))
        self._returned = waiting
        for number, jobs in frames.items():
            self._send(self._children[number], wire.JOBS, jobs)

    def _sync_child_for(self, job: Claimed, able: list[Child]) -> Child | None:
        cost = self._pace.of(job.task)
        best = min(able, key=lambda c: c.expected if c.held else -1.0)
        if best.taking is not None:
            return next((c for c in able if not c.held and c.taking is None), None)
        if not best.held or self._pace.fits(best.expected, cost):
            return best
        return None

    def _hold(self, child: Child, job: Claimed) -> wire.Job:
        info = self.tasks.get(job.task)
        policy = read_policy(job.policy) if job.policy else NO_POLICY
        timeout = policy.timeout or (info.timeout if info is not None else None)
        place = child.next_place
        child.next_place += 1
        cost = self._pace.of(job.task)
        once = policy.on_crash == "fail"
        child.held[job.id] = Held(job, place, timeout, once, cost, time.monotonic())
        child.expected += cost
        return wire.Job(
            place,
            job.id,
            job.epoch,
            job.attempt,
            job.max_attempts,
            job.task,
            job.queue,
            job.args,
            job.kwargs,
            job.policy,
            job.headers,
            job.tags,
        )

    # The pipes -------------------------------------------------------------------------------

    def _send(self, child: Child, kind: str, body: object) -> None:
        data = wire.pack(kind, body)
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
                self._collect(child, wire.decode_reports(frame)[1])
            elif kind == wire.REFUSED:
                places = set(wire.decode_places(frame)[1])
                self._give_back(child, [h for h in child.held.values() if h.place in places])
            else:
                child.ready = True
                self._stillborn = 0
                self._hand_out()
                self.changed.set()

    def _collect(self, child: Child, reports: list[wire.Report]) -> None:
        ended: list[Ended] = []
        tasks: list[str] = []
        for report in reports:
            held = child.held.get(report.id)
            if held is None or held.job.epoch != report.epoch:
                continue
            del child.held[report.id]
            child.expected -= held.cost
            if not child.is_async:
                self._pace.note(held.job.task, report.seconds)
            tasks.append(held.job.task)
            ended.append(verdicts.of_report(report.id, report.epoch, report.outcome))
        if not child.held:
            child.expected = 0.0
        if ended:
            self._finished(ended, tasks)
        if self._returned:
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
            if self._returned:
                self._release_behind_long_ones()
            if self._failure.done():
                self._failure.result()

    def _look_at(self, child: Child) -> None:
        running = child.slot.running()
        if child.is_async:
            now = time.monotonic()
            # The coroutine was cancelled at its limit; a loop that does not turn is killed.
            late = [
                held
                for held in child.held.values()
                if held.timeout is not None and now - held.sent_at > held.timeout + 0.5
            ]
            if late:
                # Where one coroutine stops the loop, the others could not keep their limits.
                stopping = [h for h in late if running is not None and h.place == running.place]
                child.culprits.update(held.job.id for held in stopping or late)
                self._kill(child, "timeout")
            return
        if child.taking is not None:
            self._conclude_taking(child)
        elif running is not None and running.seconds > STUCK and len(child.held) > 1:
            self._ask_for_outcomes(child, running.place)
            self._take_back(child)
        if running is None:
            return
        current = next((h for h in child.held.values() if h.place == running.place), None)
        if (
            current is not None
            and current.timeout is not None
            and running.seconds > current.timeout
        ):
            child.culprits.add(current.job.id)
            self._kill(child, "timeout")

    def _ask_for_outcomes(self, child: Child, place: int) -> None:
        # Outcomes travel together; those before a long job must not wait for its end.
        if child.pid is not None and any(held.place < place for held in child.held.values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGURG)

    def _release_behind_long_ones(self) -> None:
        """Where every child is busy for longer, what waits here may be better off elsewhere."""
        for child in self._children.values():
            running = None if child.is_async else child.slot.running()
            if not child.is_async and (running is None or running.seconds < PATIENCE):
                return
        released = [job for job in self._returned if not self.tasks[job.task].is_async]
        self._returned = deque(job for job in self._returned if self.tasks[job.task].is_async)
        if released:
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
            child, [h for h in child.held.values() if max(first, begun + 1) <= h.place < end]
        )

    def _give_back(self, child: Child, taken: list[Held]) -> None:
        for held in taken:
            del child.held[held.job.id]
            child.expected -= held.cost
        if self._stopping:
            self._finished(
                [Ended(h.job.id, h.job.epoch, "released") for h in taken],
                [h.job.task for h in taken],
            )
        else:
            self._returned.extend(h.job for h in sorted(taken, key=lambda h: h.place))
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
                        self._collect(child, wire.decode_reports(frame)[1])
        how = verdicts.description(child, status)
        ended = verdicts.of_death(child, status)
        tasks = [held.job.task for held in child.held.values()]
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
        ended = [Ended(job.id, job.epoch, "released") for job in self._returned]
        if ended:
            self._finished(ended, [job.task for job in self._returned])
            self._returned.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                while self._children:
                    self.changed.clear()
                    await self.changed.wait()
        await self._nursery.close()
