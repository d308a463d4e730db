"""Supervisor: the parent process of a worker. It holds the lease and runs no user code."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import faulthandler
import logging
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from uuid import UUID, uuid4

from pgtask.broker import identity, migrate
from pgtask.broker.attempts import WorkerRow
from pgtask.broker.link import Link
from pgtask.config import Config, redact, release
from pgtask.database import database_url
from pgtask.errors import WorkerNotAlive
from pgtask.worker import logs
from pgtask.worker.children import Children
from pgtask.worker.claimer import Claimer
from pgtask.worker.completer import Completer
from pgtask.worker.pulse import Pulse

log = logging.getLogger("pgtask.worker")


class Stage(enum.IntEnum):
    """How urgently the worker was asked to end."""

    RUN, WARM, COLD = 0, 1, 2


def run_worker(config: Config, *, app_spec: str, drain: bool = False, name: str = "") -> int:
    """Run a worker until it is told to end or, with `drain`, until there is nothing to do.

    Returns the process's exit code: 0, or 130 / 143 after a second INT / TERM.
    """
    logs.configure(config.log_level, config.log_format)
    supervisor = _Supervisor(config, app_spec, drain=drain, name=name)
    try:
        return asyncio.run(supervisor.main())
    except BaseExceptionGroup as group:
        # A part that failed for good ends the process; say what it said.
        raise _first(group) from group


class _Supervisor:
    def __init__(self, config: Config, spec: str, *, drain: bool, name: str) -> None:
        self._config = config
        self._spec = spec
        self._drain = drain
        self._name = name or socket.gethostname()
        self._dsn = database_url(config)
        self._stage = Stage.RUN
        self._asked = asyncio.Event()
        self._code = 0
        self._tally: Counter[tuple[str, str]] = Counter()  # what was not handed in, over all lives

    async def main(self) -> int:
        with self._signals():
            while True:
                try:
                    await self._live()
                    return self._code
                except BaseExceptionGroup as group:
                    if not isinstance(_first(group), WorkerNotAlive):
                        raise
                # Stopped for longer than the lease: others have our jobs. Nothing of what ran here
                # counts any more; begin anew, under a new id.
                log.error("this worker was declared dead; its children are killed")
                if self._stage > Stage.RUN:
                    return self._code

    async def _live(self) -> None:
        """One life under one worker id. The nesting order is the shutdown order."""
        worker = uuid4()
        config = self._config
        concurrency = config.concurrency or os.cpu_count() or 1
        async with (
            Link.open(self._dsn, "control") as control,
            Link.open(self._dsn, "claim") as claims,
            Link.open(config.listen_dsn or self._dsn, "listen") as ear,
        ):
            await migrate.acheck(await control.connection())
            installation = (await control.run(identity.identity())).installation
            async with (
                Pulse.open(claims, control, worker, config.retention, self._tally) as pulse,
                Completer.open(control, worker, self._tally) as completer,
                Children.open(
                    spec=self._spec,
                    worker=worker,
                    installation=installation,
                    dsn=self._dsn,
                    log=(config.log_level, config.log_format),
                    concurrency=concurrency,
                    async_concurrency=config.async_concurrency,
                    finished=completer.add,
                ) as children,
            ):
                completer.expects_more = lambda: children.are_pressed
                completer.in_hands = children.holds
                await pulse.register(
                    WorkerRow(
                        worker,
                        self._name,
                        os.getpid(),
                        release(),
                        config.queues,
                        sorted(children.tasks),
                        concurrency,
                    )
                )
                self._announce(worker, children, concurrency)
                claimer = Claimer(
                    claims,
                    ear,
                    worker,
                    children,
                    completer,
                    patterns=config.queues,
                    poll=config.poll,
                )
                async with asyncio.TaskGroup() as group:
                    beating = group.create_task(pulse.run(children, completer, claimer))
                    try:
                        await self._claim_until_asked(claimer)
                        await self._end_warmly(children, completer)
                    finally:
                        beating.cancel()

    async def _claim_until_asked(self, claimer: Claimer) -> None:
        claiming = asyncio.create_task(claimer.run(drain=self._drain))
        asked = asyncio.create_task(self._asked.wait())
        try:
            await asyncio.wait((claiming, asked), return_when=asyncio.FIRST_COMPLETED)
            if claiming.done():
                await claiming  # a drain that is over, or what went wrong
        finally:
            for task in (claiming, asked):
                task.cancel()
            await asyncio.gather(claiming, asked, return_exceptions=True)

    async def _end_warmly(self, children: Children, completer: Completer) -> None:
        """Give back what has not begun; wait for what runs, for the grace or a second signal."""
        released = children.release_unstarted()
        completer.add(released, ["-"] * len(released))
        try:
            async with asyncio.timeout(self._config.grace):
                while children.in_flight and self._stage < Stage.COLD:
                    children.changed.clear()
                    self._asked.clear()
                    waits = [
                        asyncio.create_task(children.changed.wait()),
                        asyncio.create_task(self._asked.wait()),
                    ]
                    try:
                        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        for wait in waits:
                            wait.cancel()
        except TimeoutError:
            log.warning(
                "%d jobs still run after the grace of %g s: their children are killed, the jobs"
                " are given back",
                children.in_flight,
                self._config.grace,
            )

    def _announce(self, worker: UUID, children: Children, concurrency: int) -> None:
        sync = sum(not task.is_async for task in children.tasks.values())
        log.info(
            "worker %s on %s: pgtask %s, app %s, %d tasks (%d async), queues %s, %d children",
            str(worker)[:8],
            redact(self._dsn) or "libpq's defaults",
            release(),
            self._spec,
            len(children.tasks),
            len(children.tasks) - sync,
            ",".join(self._config.queues),
            concurrency if sync else 0,
        )
        if not children.tasks:
            log.warning("no task is registered in %s: this worker will claim nothing", self._spec)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        # HUP: the terminal was closed.
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
        for number in numbers:
            loop.add_signal_handler(number, self._on_signal, number)
        faulthandler.register(signal.SIGUSR1)
        try:
            yield
        finally:
            faulthandler.unregister(signal.SIGUSR1)
            for number in numbers:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stage >= Stage.COLD:
            log.error("%s again: leaving at once", number.name)
            os._exit(128 + number)
        if number == signal.SIGQUIT or self._stage == Stage.WARM:
            self._stage = Stage.COLD
            self._code = 128 + number
            log.warning(
                "cold stop: children are killed, their jobs are given back; once more: exit"
            )
        else:
            self._stage = Stage.WARM
            log.info(
                "warm stop: waiting up to %g s for what runs; once more: cold stop",
                self._config.grace,
            )
        self._asked.set()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
