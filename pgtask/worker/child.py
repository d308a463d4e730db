"""Child: the process where user code runs. Reads frames of jobs, writes frames of outcomes."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import signal
import socket
import sys
import time
import types
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any

from pgtask import failpoint
from pgtask.outcome import Cancelled, Succeeded
from pgtask.worker import wire
from pgtask.worker.slot import Slot

if TYPE_CHECKING:
    from pgtask.outcome import Outcome
    from pgtask.worker.runner import Runner

# Outcomes of short jobs travel together, but never wait longer than this for company.
FLUSH_AFTER = 40_000_000  # ns


def serve(runner: Runner, connection: socket.socket, slot: Slot) -> None:
    """Run sync jobs one after the other until the supervisor closes the pipe."""
    me = os.getpid()
    outbox = _Outbox(connection)

    def look(number: int, frame: types.FrameType | None) -> None:
        outbox.on_signal()
        if (place := slot.to_interrupt()) is not None:
            runner.interrupts.cancel(place, frame)

    # The supervisor asks for what is done when the job after it turns out long, and has a job
    # interrupted. With this signal, because where nobody handles it, it does nothing.
    signal.signal(signal.SIGURG, look)
    signal.siginterrupt(signal.SIGURG, False)  # noqa: FBT003 - has no name
    connection.sendall(wire.pack(wire.READY, me))
    while (frame := wire.receive(connection)) is not None:
        kind = wire.kind_of(frame)
        if kind == wire.STOP:
            return
        refused: list[int] = []
        _, first, jobs = wire.decode_jobs(frame)
        sent = began = time.monotonic_ns()
        for place, job in enumerate(jobs, first):
            if not slot.begin(place, began):
                refused.append(place)
                continue
            outcome = runner.run(job, slot.asker(place))
            if os.getpid() != me:
                os._exit(0)  # a fork that the task made and let return: the job is not its own
            slot.end()
            now = time.monotonic_ns()
            outbox.add(place, job.task, (now - began) / 1e9, outcome)
            began = now
            if now - sent > FLUSH_AFTER:
                outbox.flush()
                sent = began = time.monotonic_ns()
        outbox.flush()
        if refused:
            connection.sendall(wire.pack(wire.REFUSED, refused))


class _Outbox:
    """Outcomes that wait for company, to be sent in one frame."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._busy = False
        self._asked = False
        self._runs: list[wire.Run] = []
        self._reports: list[wire.Report] = []
        self._task = ""  # of the last run
        self._next = 0  # the place that would continue it

    def add(self, place: int, task: str, seconds: float, outcome: Outcome) -> None:
        # The signal may come at any point: what is half written here must not be sent.
        self._busy = True
        if type(outcome) is not Succeeded:
            self._reports.append(wire.Report(place, seconds, outcome))
        else:
            if place != self._next or task != self._task:
                self._runs.append(wire.Run(place, 0, 0.0))
                self._task = task
            self._next = place + 1
            run = self._runs[-1]
            if outcome.result is not None and run.results is None:
                run.results = [None] * run.count
            if run.results is not None:
                run.results.append(outcome.result)
            run.count += 1
            run.seconds += seconds
        self._busy = False
        if self._asked:
            self.flush()

    def flush(self) -> None:
        self._busy = True
        self._asked = False
        if self._runs or self._reports:
            data = wire.pack(wire.OUTCOMES, self._runs, self._reports)
            self._runs, self._reports, self._next = [], [], 0
            if failpoint.ARMED:
                failpoint.pass_point("report")
            self._connection.sendall(data)
        self._busy = False

    def on_signal(self) -> None:
        if self._busy:
            self._asked = True  # add() looks; flush() is sending all there is
        else:
            self.flush()


def serve_async(runner: Runner, connection: socket.socket, slot: Slot) -> None:
    """Run coroutines side by side on one event loop until the supervisor closes the pipe."""
    import asyncio

    asyncio.run(_AsyncChild(runner, connection, slot).main())


class _AsyncChild:
    def __init__(self, runner: Runner, connection: socket.socket, slot: Slot) -> None:
        self._runner = runner
        self._connection = connection
        self._slot = slot
        self._tasks: dict[int, Any] = {}  # by place, as all of these
        self._begun: set[int] = set()
        self._cancelled: set[int] = set()
        self._reports: collections.deque[wire.Report] = collections.deque()

    async def main(self) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        self._connection.settimeout(0)
        await loop.sock_sendall(self._connection, wire.pack(wire.READY, os.getpid()))
        frames = wire.FrameBuffer()
        self._wake = asyncio.Event()
        sender = asyncio.create_task(self._send())
        try:
            while data := await loop.sock_recv(self._connection, 262_144):
                for frame in frames.feed(data):
                    kind = wire.kind_of(frame)
                    if kind == wire.STOP:
                        return
                    if kind == wire.CANCEL:
                        self._cancel(wire.decode_places(frame)[1])
                        continue
                    _, first, jobs = wire.decode_jobs(frame)
                    for place, job in enumerate(jobs, first):
                        self._tasks[place] = asyncio.create_task(self._run(place, job))
        finally:
            sender.cancel()
            for task in self._tasks.values():
                task.cancel()

    async def _run(self, place: int, job: wire.Job) -> None:
        began = time.monotonic()
        if place in self._cancelled:
            outcome: Outcome = Cancelled()
        else:
            self._begun.add(place)
            call = self._runner.run_async(job, lambda: place in self._cancelled)
            outcome = await self._watched(call, place)
            self._begun.discard(place)
        self._tasks.pop(place, None)
        self._cancelled.discard(place)
        self._reports.append(wire.Report(place, time.monotonic() - began, outcome))
        self._wake.set()

    def _watched(self, call: Awaitable[Outcome], place: int) -> Awaitable[Outcome]:
        # Publish whose coroutine is being stepped, so that a crash, or a loop that no longer turns,
        # blames that one and not its neighbours.
        slot = self._slot

        @types.coroutine
        def steps() -> Generator[Any, Any, Outcome]:
            inner = call.__await__()
            send: Callable[[], Any] = lambda: next(inner)  # noqa: E731
            while True:
                slot.begin(
                    place, time.monotonic_ns()
                )  # never refused: coroutines are not taken back
                try:
                    yielded = send()
                except StopIteration as stop:
                    outcome: Outcome = stop.value
                    return outcome
                finally:
                    slot.end()
                try:
                    sent = yield yielded
                except BaseException as error:  # noqa: BLE001 - passed on to the coroutine
                    send = _thrower(inner, error)
                else:
                    send = _sender(inner, sent)

        return steps()

    def _cancel(self, places: list[int]) -> None:
        for place in places:
            if (task := self._tasks.get(place)) is not None:
                self._cancelled.add(place)
                # A coroutine that is cancelled before its first step could not report it.
                if place in self._begun:
                    task.cancel()

    async def _send(self) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            reports = list(self._reports)
            self._reports.clear()
            if failpoint.ARMED:
                failpoint.pass_point("report")
            await loop.sock_sendall(self._connection, wire.pack(wire.OUTCOMES, [], reports))


def _thrower(inner: Any, error: BaseException) -> Callable[[], Any]:
    return lambda: inner.throw(error)


def _sender(inner: Any, value: Any) -> Callable[[], Any]:
    return lambda: next(inner) if value is None else inner.send(value)


def reset_process() -> None:
    """After the fork: default signals, a process group, first in line for the OOM killer."""
    for number in (signal.SIGINT, signal.SIGCHLD, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    # A service manager may tell every process of the worker to end or to reload: the supervisor
    # alone decides. Handled, not ignored: what a task starts must not inherit it.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: None)
    # What a task forks is none of our children: it ends when it is told to.
    # Held back meanwhile, so that none is lost between the fork and the change of hands.
    told = {signal.SIGTERM, signal.SIGHUP, signal.SIGURG}
    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, told),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, told),
        after_in_child=_be_an_ordinary_process,
    )
    # Killed at any time: what a task has printed must be out by then.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    # The terminal's Ctrl-C is for the supervisor, which decides what it means for the jobs here.
    with contextlib.suppress(PermissionError):
        os.setpgid(0, 0)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("500")


def _be_an_ordinary_process() -> None:
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGURG)
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
