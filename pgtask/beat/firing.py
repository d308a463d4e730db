"""Firing: plans → the database, many in one statement, and no schedule in another's way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence

from pgtask.broker import schedules
from pgtask.broker.faults import is_locked, is_of_data
from pgtask.broker.link import Link, StatementFailed
from pgtask.broker.schedules import Due, Fire, Fired
from pgtask.errors import Refused, Unavailable

log = logging.getLogger("pgtask.beat")

TICKS = 1000  # in one statement, unless one schedule alone has more
DEADLINE = 10.0  # s
# What somebody else has in hand is asked for again after so long, then twice as long each time, at
# most so long: s. A row costs nothing to ask for, a key 0.1 s, for which its lock is waited for.
_HELD = {"locked": (0.05, 1.0), "key": (1.0, 10.0)}
FORGET = 60.0  # s


class Firing:
    """Hands plans in, and remembers which schedules could not be fired just now."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._held: dict[int, tuple[float, float]] = {}  # id → until when, after what pause
        self._told: dict[int, tuple[str, float]] = {}  # id → why a tick made no job, and when told
        self.fired = 0  # ticks that made a job

    def free(self, dues: Sequence[Due]) -> list[Due]:
        """Those that nobody had in hand a moment ago."""
        now = asyncio.get_running_loop().time()
        return [due for due in dues if self._held.get(due.id, (0.0, 0.0))[0] <= now]

    def pause(self, dues: Sequence[Due]) -> float:
        """Seconds until one of these is worth another try; 0 if somebody may have it done."""
        now = asyncio.get_running_loop().time()
        untils = [self._held[due.id][0] for due in dues if due.id in self._held]
        return max(0.0, min(untils) - now) if len(untils) == len(dues) else 0.0

    async def fire(self, dues: Sequence[Due], fires: Sequence[Fire]) -> None:
        """Hand them in. Raises Unavailable, and what PostgreSQL has against the statement itself.

        Each statement is repeatable: what is not as it was read is left alone.
        """
        now = asyncio.get_running_loop().time()
        self._held = {id_: held for id_, held in self._held.items() if held[0] > now - FORGET}
        self._told = {id_: told for id_, told in self._told.items() if told[1] > now - FORGET}
        of = {due.id: due for due in dues}
        missed = {(fire.id, tick.at): tick.missed for fire in fires for tick in fire.ticks}
        # Whose key was locked goes last, alone: the others must not wait for it once more.
        suspects = [[fire] for fire in fires if fire.id in self._held]
        clear = [fire for fire in fires if fire.id not in self._held]
        for batch in (*_batches(clear), *suspects):
            for answer in await self._fire(batch, of):
                self._note(answer, of[answer.id])
                if answer.tick_at is not None and (n := missed.get((answer.id, answer.tick_at))):
                    log.info(
                        "schedule %s: %d ticks before %s were missed",
                        of[answer.id].name,
                        n,
                        answer.tick_at,
                    )
        for fire in fires:
            if fire.error is not None:
                log.error(
                    "schedule %s does not fire until it is edited: %s", of[fire.id].name, fire.error
                )

    async def _fire(self, fires: Sequence[Fire], of: Mapping[int, Due]) -> list[Fired]:
        try:
            answers = await self._link.run(schedules.fire(fires), deadline=DEADLINE)
        except (Refused, StatementFailed, Unavailable) as error:
            if not (is_of_data(error) or is_locked(error)):
                raise
            if len(fires) > 1:
                # One of them is to blame: the others must not wait for somebody to see to it.
                # A lock costs its time-out each time it is met.
                half = 1 if is_locked(error) else len(fires) // 2
                parts = [fires[at : at + half] for at in range(0, len(fires), half)]
                return [answer for part in parts for answer in await self._fire(part, of)]
            return await self._fire_blamed(fires[0], of, error)
        busy = {answer.id for answer in answers if answer.tick_at is None}
        for fire in fires:
            if fire.id not in busy:
                self._held.pop(fire.id, None)
        return answers

    async def _fire_blamed(
        self, fire: Fire, of: Mapping[int, Due], error: Exception
    ) -> list[Fired]:
        if is_locked(error):
            # Its key belongs to a transaction that is open for longer than we wait.
            return [Fired(fire.id, None, None, "key")]
        if fire.error is not None:
            raise error  # not about the data
        text = str(error).splitlines()[0]
        log.error("schedule %s does not fire until it is edited: %s", of[fire.id].name, text)
        broken = fire._replace(next=None, ticks=(), error=text)
        return await self._link.run(schedules.fire([broken]), deadline=DEADLINE)

    def _note(self, answer: Fired, due: Due) -> None:
        if answer.tick_at is None:
            if answer.reason in _HELD:
                least, most = _HELD[answer.reason]
                _, before = self._held.get(due.id, (0.0, 0.0))
                pause = min(max(least, 2 * before), most)
                self._held[due.id] = asyncio.get_running_loop().time() + pause, pause
            if answer.reason == "key":
                log.warning("schedule %s waits for a lock on its key", due.name)
            log.debug("schedule %s was not fired: %s", due.name, answer.reason)
        elif answer.job is not None:
            self.fired += 1
            log.debug("schedule %s: tick %s is job %d", due.name, answer.tick_at, answer.job)
        elif answer.reason == "repeated":
            log.debug("schedule %s: tick %s was fired before", due.name, answer.tick_at)
        else:
            # Of a schedule that overlaps each second, a line a minute; its history has each tick.
            reason = str(answer.reason)
            level = logging.DEBUG
            if self._told.get(due.id, ("", 0.0))[0] != reason:
                level = logging.INFO
                self._told[due.id] = reason, asyncio.get_running_loop().time()
            log.log(level, "schedule %s: no job for tick %s: %s", due.name, answer.tick_at, reason)


def _batches(fires: Sequence[Fire]) -> Iterator[list[Fire]]:
    batch: list[Fire] = []
    ticks = 0
    for fire in fires:
        if batch and ticks + len(fire.ticks) > TICKS:
            yield batch
            batch, ticks = [], 0
        batch.append(fire)
        ticks += len(fire.ticks)
    if batch:
        yield batch
