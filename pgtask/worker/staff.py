"""Staff: who works under one worker id, and how they begin."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from pgtask.broker import identity
from pgtask.broker.attempts import WorkerRow
from pgtask.broker.link import Link, pause_after
from pgtask.broker.session import Session
from pgtask.config import Config, redact, release
from pgtask.errors import AccessRefused, Unavailable
from pgtask.worker.children import Children
from pgtask.worker.claimer import Claimer
from pgtask.worker.completer import Completer
from pgtask.worker.errand import Errand
from pgtask.worker.limits import Terms
from pgtask.worker.pulse import Pulse

log = logging.getLogger("pgtask.worker")


class Staff(NamedTuple):
    """The parts of a worker, and the connections they share."""

    worker: UUID
    links: tuple[Link, Link, Link]  # control, claim, listen
    pulse: Pulse
    completer: Completer
    children: Children
    claimer: Claimer

    @classmethod
    async def begin(
        cls,
        life: contextlib.AsyncExitStack,
        config: Config,
        dsn: str,
        spec: str,
        name: str,
        tally: Counter[tuple[str, str]],
        *,
        errand: Errand,
    ) -> Staff:
        """Enter all of them into `life`, under a fresh id; the nesting order is the shutdown order.

        `tally` is what was not handed in before. Raises AppNotFound, Unavailable, and what the
        schema has against this code. Waits for a database that is away, where the errand is
        patient.
        """
        worker = uuid4()
        concurrency = config.concurrency or os.cpu_count() or 1
        if errand.once is not None:
            concurrency = 1
        session = Session(dsn, pooler=config.pooler, worker=True)
        listening = Session(config.listen_dsn, worker=True) if config.listen_dsn else session
        control = await life.enter_async_context(Link.open(session, "control"))
        claims = await life.enter_async_context(Link.open(session, "claim"))
        ear = await life.enter_async_context(Link.open(listening, "listen"))
        # Whoever drains a queue waits for the end of that, not for a database.
        answered = _until_answered if errand.is_patient else _at_once
        installation = ""

        async def look() -> None:
            nonlocal installation
            await control.check_schema()
            installation = (await control.run(identity.identity())).installation

        await answered(look)
        pulse = await life.enter_async_context(
            Pulse.open(claims, control, worker, config.retention, tally)
        )
        completer = await life.enter_async_context(Completer.open(control, worker, tally))
        children = await life.enter_async_context(
            Children.open(
                spec=spec,
                worker=worker,
                installation=installation,
                dsn=dsn,
                log=(config.log_level, config.log_format),
                concurrency=concurrency,
                async_concurrency=config.async_concurrency,
                terms=Terms(
                    config.max_jobs_per_child, config.max_memory_per_child, config.cancel_grace
                ),
                finished=completer.add,
                errand=errand,
            )
        )
        completer.expects_more = lambda: children.are_pressed
        completer.in_hands = children.holds
        row = WorkerRow(
            worker,
            name,
            os.getpid(),
            release(),
            config.queues,
            sorted(children.tasks),
            concurrency,
        )
        await answered(lambda: pulse.register(row))
        claimer = Claimer(
            claims,
            ear,
            worker,
            children,
            completer,
            patterns=config.queues,
            poll=config.poll,
            errand=errand,
        )
        staff = cls(worker, (control, claims, ear), pulse, completer, children, claimer)
        staff._introduce(config, dsn, spec, concurrency)
        return staff

    def status(self) -> str:
        """Say in a few words what it does and has done."""
        ended = self.completer.ended
        return (
            f"{self.children.in_flight} jobs in hand, {ended.total() - ended['released']} finished"
        )

    def _introduce(self, config: Config, dsn: str, spec: str, concurrency: int) -> None:
        tasks = self.children.tasks.values()
        sync = sum(not task.is_async for task in tasks)
        log.info(
            "worker %s on %s: pgtask %s, app %s, %d tasks (%d async), queues %s, %d children",
            str(self.worker)[:8],
            redact(dsn) or "libpq's defaults",
            release(),
            spec,
            len(tasks),
            len(tasks) - sync,
            ",".join(config.queues),
            concurrency if sync else 0,
        )
        if not tasks:
            log.warning("no task is registered in %s: this worker will claim nothing", spec)


async def _at_once(call: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await call()


async def _until_answered(call: Callable[[], Coroutine[Any, Any, None]]) -> None:
    failures = 0
    while True:
        try:
            return await call()
        except AccessRefused:
            raise
        except Unavailable as error:
            pause = pause_after(failures)
            failures += 1
            log.warning("waiting for the database, again in %.1f s: %s", pause, error)
            await asyncio.sleep(pause)
