"""Brood: the living children of a worker: forked, replaced, recycled, killed, buried."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from pgtask.errors import PgTaskError
from pgtask.worker import verdicts, wire
from pgtask.worker.hands import Child
from pgtask.worker.nursery import START_LIMIT, Nursery
from pgtask.worker.pipe import Pipe
from pgtask.worker.slot import Slot
from pgtask.worker.zygote import Died, Forked, Frozen, Loaded, TaskInfo

log = logging.getLogger("pgtask.worker")

MAX_RESPAWN_PAUSE = 30.0
MAX_STILLBORN = 5  # children in a row that ended without a handshake: the start-up is broken
LINGER = 5.0  # s a child may take to end when it was told to
SIGN = 1.0  # s between two signs of life for the zygote
LAST_DEATHS = 2.0  # s to wait for those of killed children: a disk can hold one for ever
LOOK = 0.05  # s between two looks at children that start


class StartFailed(PgTaskError):
    """Children cannot be started: their start-up always fails."""


class MakeNursery(Protocol):
    """A Nursery but for who hears of its children."""

    def __call__(
        self, *, heard: Callable[[Nursery, Forked | Died | Frozen | None], None]
    ) -> Nursery: ...


class Brood:
    """The children by number, and the zygotes they come from: one, but around a reload.

    `received` is called with each frame of a child; `died` with a child that has ended and its
    status, as from waitpid, while its slot can still be read.
    """

    def __init__(
        self,
        make_nursery: MakeNursery,
        *,
        received: Callable[[Child, bytes], None],
        died: Callable[[Child, int], None],
    ) -> None:
        self._make_nursery = make_nursery
        self._nursery = make_nursery(heard=self._hear)
        self._others: set[Nursery] = set()  # with the app as it was before, or may be in a moment
        self._received = received
        self._died = died
        self.children: dict[int, Child] = {}
        self._by_pid: dict[int, Child] = {}
        self._numbers = 0
        self._stillborn = 0
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pauses: set[asyncio.TimerHandle] = set()
        self._buried = asyncio.Event()
        self._signed = 0.0
        self.is_ending = False  # none is replaced any more
        self.last_handshake = float("-inf")  # on the loop's clock

    async def load(self) -> tuple[list[TaskInfo], int | None]:
        """Start the zygote; return the tasks of the app, and the bytes it takes, where known.

        Raises AppNotFound when the app cannot be imported.
        """
        loaded: Loaded = await self._nursery.start()
        return loaded.tasks, self._nursery.size()

    @asynccontextmanager
    async def another(self) -> AsyncIterator[Nursery]:
        """Yield one more zygote, not started; on leaving it ends, unless it is in force by then."""
        self._others = {each for each in self._others if not each.has_ended}
        nursery = self._make_nursery(heard=self._hear)
        self._others.add(nursery)
        try:
            yield nursery
        finally:
            if nursery is not self._nursery:
                await self._abandon(nursery)

    async def come_up(self, newborn: Sequence[Child]) -> None:
        """Wait until these have shaken hands; raises StartFailed when one ends before."""
        while not all(child.ready for child in newborn):
            if any(child.number not in self.children for child in newborn):
                raise StartFailed("a child with the new code ended at its start-up")
            await asyncio.sleep(LOOK)

    def change_over(self, nursery: Nursery) -> list[Child]:
        """Put this zygote in force; return the children of the one before, to be dismissed."""
        former, self._nursery = self._nursery, nursery
        self._others.remove(nursery)
        self._others.add(former)
        for child in self.children.values():
            child.apart = child.nursery is not nursery
        self._dismiss_if_childless(former)
        return [child for child in self.children.values() if child.apart]

    @property
    def are_up(self) -> bool:
        """Whether any of them can take jobs, or is busy with some."""
        return any(child.ready and not child.killed for child in self.in_force())

    def in_force(self) -> Iterator[Child]:
        """Those with the app as it is now."""
        return (child for child in self.children.values() if not child.apart)

    def fork(
        self,
        *,
        is_async: bool,
        predecessor: Child | None = None,
        nursery: Nursery | None = None,
        is_lone: bool = False,
    ) -> Child:
        """Begin one more child; it can be given jobs when it has shaken hands.

        One of another nursery than that in force is given none before change_over().
        """
        pipe, theirs = Pipe.pair()
        self._numbers += 1
        nursery = nursery or self._nursery
        child = Child(
            self._numbers,
            is_async,
            pipe,
            Slot.create(),
            nursery,
            predecessor=predecessor,
            is_lone=is_lone,
            apart=nursery is not self._nursery,
        )
        self.children[child.number] = child
        with theirs:
            nursery.fork(child, theirs)
        pipe.on_arrival(lambda: self._receive(child))
        return child

    def shook_hands(self, child: Child) -> None:
        """The child is ready for jobs, so the start-up works."""
        child.ready = True
        self.last_handshake = asyncio.get_running_loop().time()
        if not child.apart:
            self._stillborn = 0

    def kill(self, child: Child, why: str) -> None:
        """Kill it, with all that its tasks have started."""
        child.killed = why
        if child.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)

    def retire(self, child: Child, why: str) -> None:
        """Have it end when it has done what it holds; its successor is forked now."""
        if child.heir is not None or child.apart or self.is_ending:
            return
        log.info("child %s is recycled: %s", child.pid, why)
        child.heir = self.fork(is_async=child.is_async, predecessor=child)
        self.dismiss(child)

    def dismiss(self, child: Child) -> None:
        """Tell a child to end that has done all that it was for; its heir, if any, takes over."""
        if child.heir is None and not child.is_lone and not child.apart:
            return
        if child.held or child.taking or child.stopped is not None:
            return
        child.stopped = time.monotonic()
        if child.heir is not None:
            child.heir.predecessor = None
        child.pipe.send(wire.STOP)

    def tick(self) -> None:
        """Look for children that neither start nor end. Raises what went wrong for good."""
        now = time.monotonic()
        if now - self._signed > SIGN:
            self._signed = now
            for nursery in (self._nursery, *self._others):
                nursery.sign()
        for child in list(self.children.values()):
            if child.killed is not None:
                continue
            if not child.ready and now - child.born > START_LIMIT:
                self.kill(child, "start-up")
            elif child.stopped is not None and now - child.stopped > LINGER:
                self.kill(child, "recycled")
        if self._failure.done():
            self._failure.result()

    def give_up(self) -> None:
        """Kill all children; none is replaced any more."""
        self.is_ending = True
        for pause in self._pauses:
            pause.cancel()
        for child in list(self.children.values()):
            self.kill(child, "shutdown")

    async def close(self) -> None:
        """Kill all children, and end the zygotes when they are buried."""
        self.give_up()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_DEATHS):
                while self.children:
                    self._buried.clear()
                    await self._buried.wait()
        for nursery in (self._nursery, *self._others):
            await nursery.close()

    async def _abandon(self, nursery: Nursery) -> None:
        children = [child for child in self.children.values() if child.nursery is nursery]
        for child in children:
            self.kill(child, "reload")
        await nursery.close()
        for child in children:
            # Nobody is left who would tell of their ends.
            if child.number in self.children:
                self._bury(child, signal.SIGKILL)

    def _dismiss_if_childless(self, nursery: Nursery) -> None:
        if nursery is not self._nursery and not any(
            child.nursery is nursery for child in self.children.values()
        ):
            nursery.dismiss()

    def _receive(self, child: Child) -> None:
        for frame in child.pipe.receive():
            self._received(child, frame)
        # The process may live a moment longer; its end is told by the zygote, if there is one.
        if child.pipe.is_hung_up and child.nursery.is_dead:
            self._bury(child, signal.SIGKILL)

    def _hear(self, nursery: Nursery, word: Forked | Died | Frozen | None) -> None:
        if word is None:
            if nursery is self._nursery:
                self._fail("the zygote, which starts the children, ended; was it killed?")
            for orphan in [each for each in self.children.values() if each.nursery is nursery]:
                self.kill(orphan, "shutdown")
                if orphan.pipe.is_hung_up or orphan.pid is None:
                    self._bury(orphan, signal.SIGKILL)
        elif isinstance(word, Forked):
            child = self.children.get(word.number)
            if child is not None:
                child.pid = word.pid
                self._by_pid[word.pid] = child
                if child.killed:
                    self.kill(child, child.killed)
        elif isinstance(word, Frozen):
            log.error("this process stood still for %.0f s: its children were killed", word.seconds)
            for child in self.children.values():
                if child.nursery is nursery:
                    child.killed = child.killed or "frozen"
        elif (dead := self._by_pid.pop(word.pid, None)) is not None:
            self._bury(dead, word.status)

    def _bury(self, child: Child, status: int) -> None:
        """A child is dead: what it had reported counts, the rest is judged."""
        # First, so that nobody hands it jobs any more.
        del self.children[child.number]
        if child.heir is not None:
            child.heir.predecessor = None
        for frame in child.pipe.rest():
            self._received(child, frame)
        child.pipe.close()
        self._by_pid.pop(child.pid or 0, None)
        if child.pid is not None and child.nursery.is_dead:
            # Else the zygote has done so before it let go of the pid.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
        self._died(child, status)
        child.slot.close()
        if not self.is_ending:
            if child.nursery is self._nursery:
                self._succeed(child, status)
            else:
                self._dismiss_if_childless(child.nursery)
        self._buried.set()

    def _succeed(self, child: Child, status: int) -> None:
        if not child.ready:
            self._stillborn += 1
            if self._stillborn >= MAX_STILLBORN:
                how = verdicts.description(child, status)
                self._fail(f"{self._stillborn} children in a row ended at start-up; the last {how}")
        if child.heir is None and not child.is_lone and not self._failure.done():
            loop = asyncio.get_running_loop()
            pause = 0.0 if child.ready else min(0.1 * 2**self._stillborn, MAX_RESPAWN_PAUSE)
            self._pauses = {p for p in self._pauses if p.when() > loop.time()}
            self._pauses.add(loop.call_later(pause, self._replace, child))

    def _replace(self, child: Child) -> None:
        # After a reload there are others already.
        if self.is_ending or child.nursery is not self._nursery:
            return
        predecessor = child.predecessor
        if predecessor is not None and predecessor.number not in self.children:
            predecessor = None
        successor = self.fork(is_async=child.is_async, predecessor=predecessor)
        if predecessor is not None:
            predecessor.heir = successor

    def _fail(self, reason: str) -> None:
        if not self._failure.done():
            self._failure.set_exception(StartFailed(reason))
