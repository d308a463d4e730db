"""The process of `pgtask beat`: one beat, what it is told by signals, and who is told of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from pathlib import Path

from pgtask.beat.beat import POLL, Beat
from pgtask.config import Config
from pgtask.database import database_url
from pgtask.worker import logs
from pgtask.worker.orders import Orders, Sayings
from pgtask.worker.reload import watch, watched
from pgtask.worker.service import Service

log = logging.getLogger("pgtask.beat")

GRACE = 1.0  # s for what is being said to the database
STUCK = POLL + 20.0  # s without a turn after which the service manager hears nothing any more
_SAYINGS = Sayings(
    log,
    "told to end: leaving within %g s",
    "leaving now",
    "this beat could not end in time: it leaves",
)


def run_beat(config: Config, *, app_spec: str | None, once: bool = False) -> int:
    """Fire schedules until told to end or, with `once`, what is due now.

    Returns the process's exit code: 0, or 130 / 143 after a second INT / TERM.
    """
    logs.configure(config.log_level, config.log_format)
    beat = Beat(config, database_url(config), app_spec)
    try:
        return asyncio.run(_main(beat, config, app_spec, once=once))
    except BaseExceptionGroup as group:
        # A part that failed for good ends the process; say what it said.
        raise _first(group) from group


async def _main(beat: Beat, config: Config, spec: str | None, *, once: bool) -> int:
    directories: list[Path] = []
    if config.reload and spec is not None:
        directories = watched(spec, Path.cwd(), config.reload_dir)
    async with contextlib.AsyncExitStack() as stack:
        orders = stack.enter_context(Orders.open(GRACE, _SAYINGS))
        service = stack.enter_context(Service.open(os.environ))
        running: asyncio.Task[object] = asyncio.create_task(beat.run_once() if once else beat.run())
        beside: list[asyncio.Task[None]] = [
            asyncio.create_task(_attend(beat, service)),
            asyncio.create_task(_reload(beat, orders, service, has_app=spec is not None)),
        ]
        if directories:
            beside.append(asyncio.create_task(watch(directories, orders.reload)))
        told = asyncio.create_task(orders.ending.wait())
        try:
            await asyncio.wait((running, told, *beside), return_when=asyncio.FIRST_COMPLETED)
            for task in beside:
                if task.done():
                    await task  # what went wrong
            if running.done():
                await running  # over, or what went wrong
            service.tell("STOPPING=1")
        finally:
            for any_task in (running, told, *beside):
                any_task.cancel()
            await asyncio.gather(running, told, *beside, return_exceptions=True)
        log.info("beat ended: %s", beat.status())
        return orders.code


async def _attend(beat: Beat, service: Service) -> None:
    await beat.began.wait()
    service.tell("READY=1", f"STATUS={beat.status()}")
    clock = asyncio.get_running_loop().time
    while True:
        # While the database is away the beat is well: it tries again and again.
        service.attend(is_well=clock() - beat.tried < STUCK, status=beat.status())
        await asyncio.sleep(service.pause)


async def _reload(beat: Beat, orders: Orders, service: Service, *, has_app: bool) -> None:
    while True:
        await orders.reload.wait()
        orders.reload.clear()
        if not has_app:
            log.info("there is no app to load anew")
            continue
        service.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        beat.declared.clear()
        beat.reloaded()
        await beat.declared.wait()
        service.tell("READY=1")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
