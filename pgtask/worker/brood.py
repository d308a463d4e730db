"""Brood: the living children of a worker: forked, replaced, recycled, killed, buried."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
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
LAST_DEATHS = 5.0  # s to wait for those of killed children


class StartFailed(PgTaskError):
    """Children cannot be started: their start-up always fails."""


class MakeNursery(Protocol):
    """A Nursery but for who hears of its children."""

    def __call__(self, *, heard: Callable[[Forked | Died | Frozen | None], None]) -> Nursery: ...


class Brood:
    """The children by number, and the zygote they come from.

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
        self._nursery = make_nursery(heard=self._hear)
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

    async def load(self) -> tuple[list[TaskInfo], int | None]:
        """Start the zygote; return the tasks of the app, and the bytes it takes, where known.

        Raises AppNotFound when the app cannot be imported.
        """
        loaded: Loaded = await self._nursery.start()
        return loaded.tasks, self._nursery.size()

    def fork(
        self, *, is_async: bool, predecessor: Child | None = None, is_lone: bool = False
    ) -> Child:
        """Begin one more child; it can be given jobs when it has shaken hands."""
        pipe, theirs = Pipe.pair()
        self._numbers += 1
        child = Child(
            self._numbers,
            is_async,
            pipe,
            Slot.create(),
            predecessor=predecessor,
            is_lone=is_lone,
        )
        self.children[child.number] = child
        with theirs:
            self._nursery.fork(child, theirs)
        pipe.on_arrival(lambda: self._receive(child))
        return child

    def shook_hands(self, child: Child) -> None:
        """The child is ready for jobs, so the start-up works."""
        child.ready = True
        self._stillborn = 0

    def kill(self, child: Child, why: str) -> None:
        """Kill it, with all that its tasks have started."""
        child.killed = why
        if child.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)

    def retire(self, child: Child, why: str) -> None:
        """Have it end when it has done what it holds; its successor is forked now."""
        if child.heir is not None or self.is_ending:
            return
        log.info("child %s is recycled: %s", child.pid, why)
        child.heir = self.fork(is_async=child.is_async, predecessor=child)
        self.dismiss(child)

    def dismiss(self, child: Child) -> None:
        """Tell a child to end that has done all that it was for; its heir, if any, takes over."""
        if child.heir is None and not child.is_lone:
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
            self._nursery.sign()
        for child in list(self.children.values()):
            if child.killed is not None:
                continue
            if not child.ready and now - child.born > START_LIMIT:
                self.kill(child, "start-up")
            elif child.stopped is not None and now - child.stopped > LINGER:
                self.kill(child, "recycled")
        if self._failure.done():
            self._failure.result()

    async def close(self) -> None:
        """Kill all children, and end the zygote when they are buried."""
        self.is_ending = True
        for pause in self._pauses:
            pause.cancel()
        for child in list(self.children.values()):
            self.kill(child, "shutdown")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_DEATHS):
                while self.children:
                    self._buried.clear()
                    await self._buried.wait()
        await self._nursery.close()

    def _receive(self, child: Child) -> None:
        for frame in child.pipe.receive():
            self._received(child, frame)
        # The process may live a moment longer; its end is told by the zygote, if there is one.
        if child.pipe.is_hung_up and self._nursery.is_dead:
            self._bury(child, signal.SIGKILL)

    def _hear(self, word: Forked | Died | Frozen | None) -> None:
        if word is None:
            self._fail("the zygote, which starts the children, ended; was it killed?")
            for orphan in list(self.children.values()):
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
        if child.pid is not None and self._nursery.is_dead:
            # Else the zygote has done so before it let go of the pid.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
        self._died(child, status)
        child.slot.close()
        if not self.is_ending:
            self._succeed(child, status)
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
        if self.is_ending:
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
