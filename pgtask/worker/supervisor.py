"""Supervisor: the parent process of a worker. It holds the lease and runs no user code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import Counter
from pathlib import Path
from typing import Protocol

from pgtask.broker.link import Link
from pgtask.config import Config
from pgtask.database import database_url
from pgtask.errors import WorkerNotAlive
from pgtask.worker import logs
from pgtask.worker.children import Children
from pgtask.worker.claimer import Claimer
from pgtask.worker.completer import Completer
from pgtask.worker.errand import Errand
from pgtask.worker.health import Health, served
from pgtask.worker.orders import LAST, LEAVE, Orders, Stage
from pgtask.worker.reload import reload_when_told, watch, watched
from pgtask.worker.service import Service
from pgtask.worker.staff import Staff

log = logging.getLogger("pgtask.worker")

PROGRESS = 5.0  # s between two lines about what a warm stop waits for


class Companion(Protocol):
    """What runs in the worker's process beside it, as a beat may: on its own connections."""

    async def run(self) -> None:
        """Go on until cancelled, which happens when the worker is told to end."""

    def reloaded(self) -> None:
        """Take note that the children have new code."""


def run_worker(
    config: Config,
    *,
    app_spec: str,
    errand: Errand | None = None,
    name: str = "",
    companion: Companion | None = None,
) -> int:
    """Run a worker until it is told to end, or its errand is done.

    Returns the process's exit code: 0, or 130 / 143 after a second INT / TERM.
    """
    logs.configure(config.log_level, config.log_format)
    supervisor = _Supervisor(config, app_spec, companion, errand or Errand(), name=name)
    try:
        return asyncio.run(supervisor.main())
    except BaseExceptionGroup as group:
        # A part that failed for good ends the process; say what it said.
        raise _first(group) from group


class _Supervisor:
    def __init__(
        self, config: Config, spec: str, companion: Companion | None, errand: Errand, *, name: str
    ) -> None:
        self._config = config
        self._spec = spec
        self._companion = companion
        self._errand = errand
        self._until: float | None = None  # of the loop's clock: no claim after it
        self._name = name or socket.gethostname()
        self._dsn = database_url(config)
        self._watched: list[Path] = []
        if config.reload:
            self._watched = watched(spec, Path.cwd(), config.reload_dir)
            # Two saves in a second that change no length would find the first one's cache.
            os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
        self._tally: Counter[tuple[str, str]] = Counter()  # what was not handed in, over all lives
        self._health = Health(config.poll)

    async def main(self) -> int:
        async with contextlib.AsyncExitStack() as stack:
            self._orders = stack.enter_context(Orders.open(self._config.grace))
            self._service = stack.enter_context(Service.open(os.environ))
            if self._config.health is not None:
                await stack.enter_async_context(served(self._health, self._config.health))
            group = await stack.enter_async_context(asyncio.TaskGroup())
            # Before the app is imported, so that no change is missed.
            watching = (
                group.create_task(watch(self._watched, self._orders.reload))
                if self._watched
                else None
            )
            beside = None if self._companion is None else group.create_task(self._accompany())
            try:
                return await self._lives()
            finally:
                for task in (watching, beside):
                    if task is not None:
                        task.cancel()

    async def _accompany(self) -> None:
        """Run the companion until the worker is told to end."""
        assert self._companion is not None
        running = asyncio.create_task(self._companion.run())
        told = asyncio.create_task(self._orders.ending.wait())
        try:
            await asyncio.wait((running, told), return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                await running  # what went wrong
        finally:
            for task in (running, told):
                task.cancel()
            await asyncio.gather(running, told, return_exceptions=True)

    async def _lives(self) -> int:
        while True:
            try:
                await self._live()
                return self._orders.code
            except BaseExceptionGroup as group:
                if not isinstance(_first(group), WorkerNotAlive):
                    raise
            # Stopped for longer than the lease: others have our jobs. Nothing of what ran here
            # counts any more; begin anew, under a new id.
            log.error("this worker was declared dead; its children are killed")
            if self._orders.stage > Stage.RUN:
                return self._orders.code

    async def _live(self) -> None:
        """One life under one worker id."""
        staff: Staff | None = None
        killed = released = 0
        async with contextlib.AsyncExitStack() as life:
            async with self._orders.interruptible():
                staff = await Staff.begin(
                    life,
                    self._config,
                    self._dsn,
                    self._spec,
                    self._name,
                    self._tally,
                    errand=self._errand,
                )
            if staff is None or self._orders.stage > Stage.RUN:
                log.info("told to end before it had begun")
                return
            self._service.tell("READY=1", f"STATUS={staff.status()}")
            released = await self._work(staff)
            killed = staff.children.in_flight
            self._leave(staff)
        if self._errand.once is not None:
            self._errand.verdict = next(iter(+staff.completer.ended), None)
        self._sum_up(staff.completer, killed, staff.completer.ended["released"] - released - killed)

    async def _work(self, staff: Staff) -> int:
        """Claim until told to end, then wait for what runs; return what was released till then."""
        _, links, pulse, completer, children, claimer = staff
        with self._health.of(claimer, children):
            async with asyncio.TaskGroup() as group:
                beside = [
                    group.create_task(pulse.run(children, completer, claimer)),
                    group.create_task(claimer.listen()),
                    group.create_task(self._attend(staff)),
                ]
                reloading = group.create_task(
                    reload_when_told(
                        self._orders.reload, children, claimer, pulse, self._service, self._reloaded
                    )
                )
                try:
                    await self._claim_until_told(claimer, links[1])
                    reloading.cancel()
                    released = completer.ended["released"]
                    await self._end_warmly(staff)
                finally:
                    for link in links:
                        link.hurry()
                    for task in (*beside, reloading):
                        task.cancel()
        return released

    async def _claim_until_told(self, claimer: Claimer, claims: Link) -> None:
        claiming = asyncio.create_task(claimer.run())
        told = asyncio.create_task(self._orders.changed.wait())
        try:
            await asyncio.wait(
                (claiming, told), timeout=self._left(), return_when=asyncio.FIRST_COMPLETED
            )
            if claiming.done():
                await claiming  # an errand that is done, or what went wrong
            elif not told.done():
                log.info("%g s are over: no more jobs are claimed", self._errand.max_seconds)
        finally:
            claims.hurry()
            for task in (claiming, told):
                task.cancel()
            await asyncio.gather(claiming, told, return_exceptions=True)

    def _left(self) -> float | None:
        """Return for how many seconds more jobs are claimed; None: for ever."""
        if self._errand.max_seconds is None:
            return None
        now = asyncio.get_running_loop().time()
        if self._until is None:
            self._until = now + self._errand.max_seconds
        return max(0.0, self._until - now)

    async def _end_warmly(self, staff: Staff) -> None:
        """Give back what has not begun; wait for what runs, for the grace or a second signal.

        Outcomes, too: where the database is away, it has the grace to come back.
        """
        _, _, _, completer, children, _ = staff
        orders = self._orders
        clock = asyncio.get_running_loop().time
        until = next_report = clock()
        until += self._config.grace
        if orders.stage > Stage.RUN:
            self._health.is_stopping = True
            self._service.tell(
                "STOPPING=1",
                f"STATUS=ending: {staff.status()}",
                f"EXTEND_TIMEOUT_USEC={int((self._config.grace + LAST) * 1e6)}",
            )
            next_report += PROGRESS
        unstarted = children.release_unstarted()
        completer.add(unstarted, ["-"] * len(unstarted))
        while children.in_flight or completer.backlog:
            now = clock()
            if orders.stage >= Stage.COLD:
                return
            if now >= until:
                break
            if now >= next_report:
                self._report(children, completer, until - now)
                next_report = now + PROGRESS
            children.changed.clear()
            orders.changed.clear()
            # Nothing is set when the last outcome is recorded.
            most = PROGRESS if children.in_flight else 0.05
            await _first_of(
                children.changed, orders.changed, within=min(until, next_report, now + most) - now
            )
        if children.in_flight:
            log.warning(
                "%d jobs still run after the grace of %g s: their children are killed, the jobs"
                " are given back",
                children.in_flight,
                self._config.grace,
            )

    def _leave(self, staff: Staff) -> None:
        """From now on everything has its time: the process must end, database or not."""
        staff.children.give_up()
        leave_by = asyncio.get_running_loop().time() + LEAVE
        for link in staff.links:
            link.end_by(leave_by)

    def _reloaded(self) -> None:
        if self._companion is not None:
            self._companion.reloaded()

    # What it says ----------------------------------------------------------------------------

    async def _attend(self, staff: Staff) -> None:
        while True:
            self._health.look()
            self._service.attend(is_well=self._health.is_alive(), status=staff.status())
            await asyncio.sleep(self._service.pause)

    def _report(self, children: Children, completer: Completer, left: float) -> None:
        if not children.in_flight:
            log.info(
                "still waiting, up to %.0f s: %d outcomes are not recorded yet",
                left,
                completer.backlog,
            )
            return
        longest = children.longest()
        log.info(
            "still waiting, up to %.0f s: %d jobs run%s",
            left,
            children.in_flight,
            f", the longest is job {longest[0].id} ({longest[0].task}), for {longest[1]:.1f} s"
            if longest is not None
            else "",
        )

    def _sum_up(self, completer: Completer, killed: int, released: int) -> None:
        ended = +completer.ended
        del ended["released"]
        log.info(
            "worker ended: %d jobs finished%s, %d given back before they began, %d killed and given"
            " back",
            ended.total(),
            f" ({', '.join(f'{n} {verdict}' for verdict, n in sorted(ended.items()))})"
            if ended
            else "",
            max(0, released),
            killed,
        )


async def _first_of(*events: asyncio.Event, within: float) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=max(0.0, within), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
