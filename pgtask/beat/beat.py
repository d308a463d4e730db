"""Beat: sleeps until the next tick or a change, and fires what is due. Any number may run."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

from pgtask.beat.clock import Clock
from pgtask.beat.declare import declared_by
from pgtask.beat.firing import Firing
from pgtask.beat.plans import Plans
from pgtask.broker import schedules
from pgtask.broker.link import Link, StatementFailed, WakeUps, pause_after
from pgtask.broker.schedules import Agenda
from pgtask.broker.session import Session
from pgtask.config import Config, redact, release
from pgtask.errors import AccessRefused, AppNotFound, BrokerError, Unavailable

log = logging.getLogger("pgtask.beat")

CHANGED = "pgtask_schedule"  # the channel
POLL = 2 * WakeUps.APART  # s: how long a lost notification may delay what somebody changed
DEAF_POLL = 5.0  # s, where nothing is ever heard
GOODBYE = 0.5  # s for the last word
STEADY = 10.0  # s: a listening connection that breaks sooner was none
MOST = 1000  # schedules in one look, and so in one statement that fires


class Beat:
    """Fires the schedules of one database, and declares those of one app, if there is one.

    No beat owns anything: one that is killed leaves nothing behind, two that find the same tick
    due fire it once.
    """

    def __init__(self, config: Config, dsn: str, spec: str | None) -> None:
        self.id = uuid4()
        self.began = asyncio.Event()  # it has looked at the schedules once
        self.declared = asyncio.Event()  # what the code says was read anew, well or not
        self.tried = 0.0  # when it last did, or tried to, by the loop's clock
        self._config = config
        self._dsn = dsn
        self._spec = spec
        self._clock = Clock()
        self._plans = Plans()
        self._woken = asyncio.Event()
        self._redeclare = asyncio.Event()
        self._deaf = False
        self._host = socket.gethostname()

    async def run(self) -> None:
        """Fire ticks until cancelled. Raises AppNotFound, AccessRefused, and about the schema."""
        async with self._begun() as ear, asyncio.TaskGroup() as group:
            group.create_task(self._listen(ear))
            group.create_task(self._check())
            if self._spec is not None:
                group.create_task(self._declare_anew(self._spec))
            await self._fire_for_ever()

    async def run_once(self) -> None:
        """Declare, fire what is due, and end. Raises what run does, and Unavailable."""
        async with self._begun(patient=False):
            while await self._turn() <= 0:
                pass

    def reloaded(self) -> None:
        """The app has new code: declare what that says."""
        self._redeclare.set()

    def status(self) -> str:
        """Say in a few words what it has done."""
        fired = self._firing.fired
        return f"{fired} tick{'' if fired == 1 else 's'} fired"

    # Beginning -------------------------------------------------------------------------------

    @asynccontextmanager
    async def _begun(self, *, patient: bool = True) -> AsyncIterator[Link]:
        """Yield the ear, once the database has answered and the app's schedules are declared."""
        config = self._config
        session = Session(self._dsn, pooler=config.pooler, worker=True)
        listening = Session(config.listen_dsn, worker=True) if config.listen_dsn else session
        async with AsyncExitStack() as stack:
            self._link = await stack.enter_async_context(Link.open(session, "beat"))
            ear = await stack.enter_async_context(Link.open(listening, "beat-ear"))
            self._firing = Firing(self._link)
            # Before the database is waited for: a broken app is to be seen at once.
            declared = None if self._spec is None else await declared_by(self._spec, self._dsn)
            await self._until_answered(patient=patient)
            self._introduce()
            if declared is not None:
                await self._declare(declared.app, declared.schedules)
            try:
                yield ear
            finally:
                await self._say_goodbye()

    async def _until_answered(self, *, patient: bool) -> None:
        failures = 0
        while True:
            try:
                return await self._link.check_schema()
            except AccessRefused:
                raise
            except Unavailable as error:
                if not patient:
                    raise
                pause = pause_after(failures)
                failures += 1
                log.warning("waiting for the database, again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)

    async def _say_goodbye(self) -> None:
        # Without it, it would be listed as living for half a minute.
        with suppress(BrokerError, StatementFailed):
            await self._link.run(schedules.ended(self.id), deadline=GOODBYE)

    def _introduce(self) -> None:
        log.info(
            "beat %s on %s: pgtask %s, %s",
            str(self.id)[:8],
            redact(self._dsn) or "libpq's defaults",
            release(),
            "no app: it fires what the database has" if self._spec is None else f"app {self._spec}",
        )

    # Declaring -------------------------------------------------------------------------------

    async def _declare(self, app: str, definitions: Sequence[Any]) -> None:
        """Write what the code declares. Raises BrokerError where the database refuses it."""
        failures = 0
        while True:
            try:
                became = await self._link.run(schedules.declare(app, definitions), deadline=30.0)
                break
            except Unavailable as error:
                pause = pause_after(failures)
                failures += 1
                log.warning("declaring failed, again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
        taken = sorted(name for name, what in became.items() if what == "taken")
        if taken:
            log.error(
                "schedules of app %s that exist already and are not its own: %s; give them other"
                " names, or remove the others: pgtask schedule rm",
                app,
                ", ".join(taken),
            )
        counts = Counter(what for what in became.values() if what != "taken")
        told = ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))
        log.info("schedules of app %s: %s", app, told or "none")

    async def _declare_anew(self, spec: str) -> None:
        while True:
            await self._redeclare.wait()
            self._redeclare.clear()
            try:
                declared = await declared_by(spec, self._dsn)
                await self._declare(declared.app, declared.schedules)
            except (AppNotFound, BrokerError, StatementFailed, OSError) as error:
                notes = "".join(f"\n{note.rstrip()}" for note in getattr(error, "__notes__", ()))
                log.error("not declared, the schedules of before go on: %s%s", error, notes)
            self.declared.set()

    # Firing ----------------------------------------------------------------------------------

    async def _fire_for_ever(self) -> None:
        clock = asyncio.get_running_loop().time
        failures = 0
        while True:
            self._woken.clear()
            self.tried = clock()
            try:
                pause = await self._turn()
            except (BrokerError, StatementFailed) as error:
                pause = pause_after(failures)
                failures += 1
                # What is no outage is for somebody to see to.
                level = logging.WARNING if isinstance(error, Unavailable) else logging.ERROR
                log.log(level, "firing failed, again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
                continue
            failures = 0
            self.began.set()
            if pause > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._woken.wait()

    async def _turn(self) -> float:
        """Fire what is due; return the seconds until there may be more, 0 for at once."""
        agenda = await self._look()
        if agenda is None:
            return 0.0
        free = self._firing.free(agenda.due)
        if free:
            await self._firing.fire(free, await self._plans.of(free))
            return self._firing.pause(free)
        poll = DEAF_POLL if self._deaf else POLL
        pause = poll if agenda.wait is None else min(agenda.wait, poll)
        return min(pause, self._firing.pause(agenda.due)) if agenda.due else pause

    async def _look(self) -> Agenda | None:
        """What is due; None where the database's clock was set back, and all is planned anew."""
        asked = time.monotonic()
        agenda = await self._link.run(
            schedules.due(self.id, self._host, os.getpid(), release(), MOST)
        )
        if not self._clock.went_back(agenda.now, asked, time.monotonic()):
            return agenda
        log.warning("the database's clock was set back, to %s: planning anew", agenda.now)
        await self._link.run(schedules.replan(), deadline=30.0)
        return None

    async def _check(self) -> None:
        """Once, compare every plan there is with what this code, its zones and the clock say."""
        after = failures = 0
        while True:
            try:
                agenda = await self._link.run(schedules.planned(after, MOST))
                differing = await self._plans.differing(agenda.due)
                if differing:
                    log.info(
                        "%d schedules are planned anew: the clock, or the rules of a zone, are not"
                        " what they were",
                        len(differing),
                    )
                    await self._firing.fire(agenda.due, differing)
                    self._woken.set()
            except (BrokerError, StatementFailed) as error:
                pause = pause_after(failures)
                failures += 1
                log.debug("checking the plans failed, again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
                continue
            if len(agenda.due) < MOST:
                return
            after = agenda.due[-1].id

    async def _listen(self, ear: Link) -> None:
        """Hear that somebody changed a schedule, until cancelled."""
        failures = 0
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            try:
                async for _ in WakeUps(ear, CHANGED, asked=lambda: self.tried).listen():
                    self._woken.set()
            except Unavailable as error:
                if clock() - began > STEADY:
                    failures = 0
                pause = pause_after(failures)
                failures += 1
                log.warning("listening failed, again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
            else:
                self._deaf = True
                self._woken.set()
                log.warning(
                    "looking for changed schedules every %g s: nobody can listen through a"
                    " connection pooler; PGTASK_LISTEN_DSN names a direct connection",
                    DEAF_POLL,
                )
                return
