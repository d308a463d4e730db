"""Plans: what beat makes of the schedules it reads; a spec is parsed once for each revision."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from pgtask.beat.catchup import plan
from pgtask.broker.schedules import Due, Fire
from pgtask.errors import ScheduleInvalid
from pgtask.schedule import Schedule

log = logging.getLogger("pgtask.beat")

BREATH = 10  # schedules between two turns of the event loop
MOST = 50_000  # parsed specs kept


class Plans:
    """Turns what is due into what to fire."""

    def __init__(self) -> None:
        self._parsed: dict[int, tuple[int, Schedule]] = {}

    async def of(self, dues: Sequence[Due]) -> list[Fire]:
        """What to do about each; a schedule that cannot be understood gets its error."""
        fires = []
        for number, due in enumerate(dues):
            if number % BREATH == BREATH - 1:
                await asyncio.sleep(0)
            fires.append(self._of(due))
        return fires

    async def differing(self, dues: Sequence[Due]) -> list[Fire]:
        """Those of these that were planned by other rules of time, or another clock, than now.

        What is due already is left to be fired, and finds its next tick by that.
        """
        fires = []
        for number, due in enumerate(dues):
            if number % BREATH == BREATH - 1:
                await asyncio.sleep(0)
            if due.next_at is not None and due.next_at <= due.now:
                continue
            fire = self._of(due)
            if fire.error is not None or fire.next != due.next_at:
                fires.append(fire._replace(ticks=()))
        return fires

    def _of(self, due: Due) -> Fire:
        try:
            return plan(self._schedule(due), due)
        except ScheduleInvalid as error:
            return _broken(due, str(error))
        except Exception as error:
            # No spec may keep the others from firing.
            log.exception("schedule %s cannot be evaluated", due.name)
            return _broken(due, f"{type(error).__name__}: {error}")

    def _schedule(self, due: Due) -> Schedule:
        known = self._parsed.get(due.id)
        if known is None or known[0] != due.revision:
            if len(self._parsed) >= MOST:
                self._parsed.clear()
            known = self._parsed[due.id] = due.revision, Schedule.from_json(due.spec)
        return known[1]


def _broken(due: Due, error: str) -> Fire:
    return Fire(due.id, due.revision, due.next_at, None, (), error)
