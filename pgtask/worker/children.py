"""Children: what a worker's child processes are given, what they hold, and what comes of it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterable, Sequence, Set
from contextlib import asynccontextmanager
from uuid import UUID

from pgtask.broker.attempts import Claimed, Ended
from pgtask.worker import flaws, unwanted, verdicts, wire
from pgtask.worker.brood import Brood
from pgtask.worker.cancelling import Cancellations, nudge
from pgtask.worker.chances import later
from pgtask.worker.errand import Errand
from pgtask.worker.hands import STUCK, Child, Room
from pgtask.worker.limits import Limits, Terms
from pgtask.worker.nursery import Nursery
from pgtask.worker.pace import Pace
from pgtask.worker.waiting import Waiting
from pgtask.worker.zygote import TaskInfo

TICK = 0.05  # s between two looks at time limits and at jobs stuck behind a long one
IDLE_TICK = 0.25  # s, while there is nothing to look at
MANY = 64  # jobs in flight
PATIENCE = 0.5  # s all children may be busy with one job each before waiting jobs are given back

Finished = Callable[[list[Ended], list[str]], None]


class Children:
    """Hands jobs to a brood of children and turns what comes back into Ended.

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
        terms: Terms,
        finished: Finished,
        errand: Errand | None = None,
    ) -> None:
        self._brood = Brood(
            functools.partial(
                Nursery, spec=spec, worker=worker, installation=installation, dsn=dsn, log=log
            ),
            received=self._receive,
            died=self._judge,
        )
        self._all = self._brood.children
        self._concurrency = concurrency
        self._async_concurrency = async_concurrency
        self._finished = finished
        self._errand = errand or Errand()
        self.changed = asyncio.Event()
        self.tasks: dict[str, TaskInfo] = {}
        self._by_kind: dict[bool, list[str]] = {False: [], True: []}
        # Those of earlier code, too: what runs with it has its limits.
        self._ever_known: dict[str, TaskInfo] = {}
        self._limits = Limits(terms, self._ever_known)
        self._most_jobs = terms.max_jobs
        self._pace = Pace()
        self._waiting = Waiting(self._pace, async_concurrency, terms.max_jobs)
        self._cancellations = Cancellations(terms.cancel_grace)
        self._stopping = False
        self._fenced = False
        self._reloaded = False

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
        terms: Terms,
        finished: Finished,
        errand: Errand | None = None,
    ) -> AsyncIterator[Children]:
        """Yield children ready for jobs; on leaving they are killed and their jobs given back.

        Raises AppNotFound when the app cannot be imported, ConfigError when `terms` or a task's
        memory_limit leave a child no room, or no task fits the errand.
        """
        children = cls(
            spec=spec,
            worker=worker,
            installation=installation,
            dsn=dsn,
            log=log,
            concurrency=concurrency,
            async_concurrency=async_concurrency,
            terms=terms,
            finished=finished,
            errand=errand,
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
            await children._end()

    # What is asked about them ----------------------------------------------------------------

    @property
    def are_up(self) -> bool:
        """Whether any of them can take jobs, or is busy with some."""
        return self._brood.are_up

    @property
    def last_handshake(self) -> float:
        """When a child last shook hands, on the loop's clock."""
        return self._brood.last_handshake

    def longest(self) -> tuple[Claimed, float] | None:
        """Return the job that has run longest in a sync child, and for how many seconds."""
        found = [
            (job, running.seconds)
            for child in self._all.values()
            if not child.is_async
            and (running := child.slot.running()) is not None
            and (job := child.held.get(running.place)) is not None
        ]
        return max(found, key=lambda each: each[1], default=None)

    # Capacity and dispatch -------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """How many attempts the children hold."""
        return sum(len(child.held) for child in self._all.values()) + len(self._waiting)

    @property
    def are_pressed(self) -> bool:
        """Whether outcomes come one upon the other: nobody waits for the next to be recorded."""
        if self.in_flight >= MANY:
            return True
        sync = [
            len(child.held)
            for child in self._brood.in_force()
            if not child.is_async and child.predecessor is None
        ]
        return bool(sync) and min(sync) > 1

    @property
    def kinds(self) -> int:
        """How many kinds of task there are: sync, async, or both."""
        return sum(bool(tasks) for tasks in self._by_kind.values())

    def holds(self) -> set[tuple[int, int]]:
        """Return (job id, epoch) of every attempt in the children's hands."""
        attempts = {
            (job.id, job.epoch)
            for child in self._all.values()
            for place, job in child.held.items()
            if place not in child.void
        }
        attempts.update((job.id, job.epoch) for job in self._waiting)
        return attempts

    def rooms(self) -> list[Room]:
        """Return what may be claimed now: an entry for each kind of task that has room."""
        if self._fenced:
            return []
        free = {kind: -self._waiting.count(is_async=kind) for kind in (False, True)}
        held = dict.fromkeys((False, True), 0)
        for child in self._brood.in_force():
            held[child.is_async] += len(child.held)
            if not child.is_async and not self._stopping:
                free[False] += self._waiting.room(child)
        # One that is to end may still be busy: together they run no more than one alone.
        if any(child.is_async and child.takes for child in self._all.values()):
            free[True] += self._async_concurrency - held[True]
        return [
            Room(is_async, free[is_async], held[is_async], tasks)
            for is_async, tasks in self._by_kind.items()
            if free[is_async] > 0 and tasks
        ]

    def dispatch(self, jobs: Sequence[Claimed], *, is_async: bool, backlog: bool = False) -> None:
        """Hand claimed jobs to the children, in order; what finds no child waits here for one.

        With `backlog` there is more where these came from, and each child may hold more.
        """
        if not is_async:
            self._pace.expect(backlog=backlog)
        if flawed := flaws.found(jobs):
            ended = [flaws.failed(job, why) for job, why in flawed]
            self._tell(ended, [job.task for job, _ in flawed])
            ids = {job.id for job, _ in flawed}
            jobs = [job for job in jobs if job.id not in ids]
        if self._reloaded:
            # Claimed for what the code was like a moment ago, perhaps.
            self._sort(jobs)
        else:
            self._waiting.add(jobs, is_async=is_async)
        self._hand_out()

    def release_unstarted(self) -> list[Ended]:
        """Stop handing out; return what no child has, and start taking the rest back."""
        self._stopping = True
        released = [Ended(job.id, job.epoch, "released") for job in self._waiting.take_all()]
        for child in self._all.values():
            child.ask_back()
        return released

    def cancel(self, wishes: Iterable[tuple[int, bool]]) -> None:
        """Know from now on which jobs are to be cancelled: (job id, kill what does not listen).

        What has not begun ends; what runs is told once, and killed when the grace is over.
        """
        self._cancellations.heard(wishes)
        if self._cancellations:
            self._pass_wishes_on()

    def fence(self) -> None:
        """Stop what has a serial key, until lift_fence(): it will be given back, uncounted."""
        self._fenced = True
        self._end_all(self._waiting.take_if(lambda job: job.serial), "released")
        for child in self._all.values():
            unwanted.fence(child)
            self._stop_unwanted(child)

    def lift_fence(self) -> None:
        """Let jobs with a serial key run again."""
        self._fenced = False
        for child in self._all.values():
            unwanted.lift_fence(child)
        self.changed.set()

    def disown(self, lost: Set[tuple[int, int]]) -> int:
        """Let nothing count that becomes of these attempts; return how many were in hand."""
        gone = self._waiting.take_if(lambda job: (job.id, job.epoch) in lost)
        for child in self._all.values():
            gone += unwanted.disown(child, lost)
            self._stop_unwanted(child)
        self._waiting.chances.ended(gone)
        return len(gone)

    def _stop_unwanted(self, child: Child) -> None:
        if unwanted.stop(child):
            self._brood.kill(child, "fenced")

    def give_up(self) -> None:
        """Kill all children; what becomes of their jobs is known when they are buried."""
        self._stopping = True
        self._brood.give_up()

    def _hand_out(self) -> None:
        for child, jobs in self._waiting.spread(self._all.values()):
            self._give(child, jobs)
        for child, jobs in self._waiting.hand_out(self._all.values()):
            self._give(child, jobs)
        if self._waiting.chances.are_pending:
            self._see_to_last_chances()

    def _see_to_last_chances(self) -> None:
        chances = self._waiting.chances
        refused = chances.take_refused()
        if refused:
            ended = [Ended(job.id, job.epoch, "snoozed", delay=later()) for job in refused]
            self._finished(ended, [job.task for job in refused])
        lone = [
            child for child in self._brood.in_force() if child.is_lone and child.stopped is None
        ]
        if chances.lone is not None and not lone:
            self._brood.fork(is_async=True, is_lone=True)
        elif chances.lone is not None and lone[0].ready and not lone[0].held:
            job, chances.lone = chances.lone, None
            self._give(lone[0], [job])

    def _give(self, child: Child, jobs: list[Claimed]) -> None:
        if child.is_async:
            self._limits.note(child, child.next_place, jobs)
        child.pipe.send(wire.JOBS, child.take(jobs), jobs)
        if self._most_jobs is not None and not child.is_lone and child.given >= self._most_jobs:
            self._brood.retire(child, f"it was given {self._most_jobs} jobs")

    # What comes back -------------------------------------------------------------------------

    def _receive(self, child: Child, frame: bytes) -> None:
        kind = wire.kind_of(frame)
        if kind == wire.OUTCOMES:
            self._collect(child, *wire.decode_outcomes(frame)[1:])
        elif kind == wire.REFUSED:
            self._give_back(child, wire.decode_places(frame)[1])
        else:
            self._brood.shook_hands(child)
            self._hand_out()
            self.changed.set()

    def _collect(self, child: Child, runs: list[wire.Run], reports: list[wire.Report]) -> None:
        ended: list[Ended] = []
        tasks: list[str] = []
        if child.void or child.unwanted:
            runs, reports, stopped = unwanted.overruled(child, runs, reports)
            self._end_all(stopped, "released")
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
            self._tell(ended, tasks)
        if child.heir is not None or child.is_lone or child.apart:
            self._brood.dismiss(child)
        self._hand_out()
        self.changed.set()

    def _give_back(self, child: Child, places: Sequence[int]) -> None:
        if child.void:
            child.given_back += len(child.lose(child.void.intersection(places)))
        jobs = child.lose(places)
        child.given_back += len(jobs)
        if self._fenced:
            self._end_all([job for job in jobs if job.serial], "released")
            jobs = [job for job in jobs if not job.serial]
        if self._stopping:
            self._end_all(jobs, "released")
        else:
            self._sort(jobs, in_front=True)
            self._cancel_waiting()
        self._brood.dismiss(child)
        self._hand_out()
        self.changed.set()

    def _judge(self, child: Child, status: int) -> None:
        """A child is dead: each attempt that it held ends, is released, or is blamed."""
        child.lose(tuple(child.void))
        tasks = [job.task for job in child.held.values()]
        ended = [
            verdicts.doubted(each) if self._commits(task) else each
            for each, task in zip(verdicts.of_death(child, status), tasks, strict=True)
        ]
        child.held.clear()
        if ended:
            self._tell(ended, tasks)
        self._hand_out()
        self.changed.set()

    def _commits(self, task: str) -> bool:
        info = self._ever_known.get(task)
        return info is not None and info.commits

    def _end_all(self, jobs: Sequence[Claimed], verdict: str) -> None:
        if jobs:
            ended = [Ended(job.id, job.epoch, verdict) for job in jobs]
            self._tell(ended, [job.task for job in jobs])

    def _tell(self, ended: list[Ended], tasks: list[str]) -> None:
        self._finished(ended, tasks)
        self._waiting.chances.ended(ended)

    # The tick: limits, cancellations, and jobs behind a long one -----------------------------

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK if self.in_flight else IDLE_TICK)
            for child in list(self._all.values()):
                if child.killed is not None:
                    continue
                if child.held or child.taking:
                    self._look_at(child)
                    self._stop_unwanted(child)
                if child.takes and (why := self._limits.outgrown(child)) is not None:
                    child.ask_back()
                    self._brood.retire(child, why)
            if self._cancellations:
                self._pass_wishes_on()
            if self._waiting.count(is_async=False):
                self._release_behind_long_ones()
            self._brood.tick()

    def _look_at(self, child: Child) -> None:
        if culprits := self._limits.exceeded(child):
            child.culprits.update(culprits)
            self._brood.kill(child, next(iter(culprits.values())).verdict)
        elif child.taking is not None:
            if (places := child.came_back()) is not None:
                self._give_back(child, places)
        elif not child.is_async and len(child.held) > 1:
            running = child.slot.running()
            if running is not None and running.seconds > STUCK:
                # Outcomes travel together; those before a long job must not wait for its end.
                if any(place < running.place for place in child.held):
                    nudge(child)
                child.ask_back()

    def _release_behind_long_ones(self) -> None:
        """Where every child is busy for longer, what waits here may be better off elsewhere."""
        for child in self._brood.in_force():
            running = None if child.is_async else child.slot.running()
            if (
                not child.is_async
                and child.predecessor is None
                and (running is None or running.seconds < PATIENCE)
            ):
                return
        self._end_all(self._waiting.take_sync(), "released")

    def _pass_wishes_on(self) -> None:
        self._cancel_waiting()
        for child in self._all.values():
            if self._cancellations.tell(child):
                child.ask_back()

    def _cancel_waiting(self) -> None:
        if self._cancellations:
            self._end_all(self._waiting.take_if(self._cancellations.includes), "cancelled")

    # Reload ----------------------------------------------------------------------------------

    async def reload(self) -> None:
        """Import the app anew, in a zygote of its own whose children take over.

        What runs goes on with the old code to its end. What has not begun goes to the new children,
        or back to the database when the new code does not know its task. Raises AppNotFound,
        ConfigError, or StartFailed when the new children do not come up; then all is as it was.
        """
        async with self._brood.another() as nursery:
            loaded = await nursery.start()
            tasks = self._ours(loaded.tasks)
            self._limits.check(nursery.size(), tasks)
            await self._brood.come_up(
                [
                    self._brood.fork(is_async=is_async, nursery=nursery)
                    for is_async in self._wanted(tasks)
                ]
            )
            former = self._brood.change_over(nursery)
            # Without an await in between: from here on everything goes by the new code.
            self._reloaded = True
            self._know(tasks)
            self._sort(self._waiting.take_all())
            for child in former:
                child.ask_back()
                self._brood.dismiss(child)
            self._hand_out()
            self.changed.set()

    def _sort(self, jobs: Sequence[Claimed], *, in_front: bool = False) -> None:
        """Let these wait for a child, by what is known of their tasks now."""
        kinds: dict[bool | None, list[Claimed]] = {False: [], True: [], None: []}
        for job in jobs:
            info = self.tasks.get(job.task)
            kinds[None if info is None else info.is_async].append(job)
        for kind in (False, True):
            if in_front:
                self._waiting.put_back(kinds[kind], is_async=kind)
            else:
                self._waiting.add(kinds[kind], is_async=kind)
        self._end_all(kinds[None], "released")

    # Beginning and end -----------------------------------------------------------------------

    async def _start(self) -> None:
        loaded, size = await self._brood.load()
        tasks = self._ours(loaded)
        self._limits.check(size, tasks)
        self._know(tasks)
        for is_async in self._wanted(tasks):
            self._brood.fork(is_async=is_async)

    def _ours(self, tasks: Sequence[TaskInfo]) -> Sequence[TaskInfo]:
        """Those of the app's tasks whose jobs this worker takes."""
        self._errand.check([task.name for task in tasks])
        return [task for task in tasks if self._errand.takes(task.name)]

    def _know(self, tasks: Sequence[TaskInfo]) -> None:
        self.tasks = {task.name: task for task in tasks}
        self._ever_known.update(self.tasks)
        self._by_kind = {
            kind: [task.name for task in tasks if task.is_async is kind] for kind in (False, True)
        }

    def _wanted(self, tasks: Sequence[TaskInfo]) -> list[bool]:
        """The children that these tasks need, by kind."""
        kinds = {task.is_async for task in tasks} or {False}
        return [False] * (self._concurrency * (False in kinds)) + [True] * (True in kinds)

    async def _end(self) -> None:
        self.give_up()
        self._end_all(self._waiting.take_all(), "released")
        await self._brood.close()
