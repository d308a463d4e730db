"""Completer: outcomes, gathered and finished in batches, sent until the database has answered."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence, Set
from contextlib import asynccontextmanager
from uuid import UUID

import psycopg

from pgtask.broker import attempts
from pgtask.broker.attempts import Ended
from pgtask.broker.link import Link, pause_after
from pgtask.errors import Refused, Unavailable

log = logging.getLogger("pgtask.worker")

MOST = 500  # outcomes in one statement
BEHIND = 10 * MOST  # outcomes held at which no more jobs should be claimed
LINGER = 0.05  # s a few outcomes wait for company while every child has more to do
BUSY_PAUSE = 0.05  # s before an outcome whose row was locked is sent again
LAST_FLUSH = 10.0  # s for what is left when the worker ends
LAST_TRIES = 2.5  # s of these during which an unreachable database is tried again
LAST_TRY = 1.0  # s for the last of these: a silent database must not hold up the end

_TALLY = {
    "timeout": "timed out",
    "committed": "succeeded",
}


class Completer:
    """Holds outcomes until they are recorded: capacity is free before, the lease is held."""

    def __init__(self, link: Link, worker: UUID, tally: Counter[tuple[str, str]]) -> None:
        self._link = link
        self._worker = worker
        self._waiting: deque[Ended] = deque()
        self._sending: list[Ended] = []
        self._unanswered: set[tuple[int, int]] = set()  # sent before, and perhaps recorded
        self._doubted: dict[tuple[int, int], str] = {}  # the task of each that is in doubt
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()  # a batch is there, or nobody has more to do
        self._patient = False  # the last batch failed: perhaps a row of it was locked
        self.tally = tally
        self.ended: Counter[str] = Counter()  # attempts by verdict, recorded or not
        self.in_doubt = False  # an answer was lost: reconcile before the next claim
        self.retry_in: float | None = (
            None  # the shortest delay of what was sent back, for the pulse
        )
        self._sender = asyncio.Lock()
        self._failures = 0
        self.expects_more: Callable[[], bool] = bool
        self.in_hands: Callable[[], set[tuple[int, int]]] = set

    @classmethod
    @asynccontextmanager
    async def open(
        cls, link: Link, worker: UUID, tally: Counter[tuple[str, str]]
    ) -> AsyncIterator[Completer]:
        """Yield a completer that counts in `tally`.

        On leaving it is flushed, and what the database says this worker holds but nobody here knows
        (the answer of a claim never came) is given back; all within a bounded time.
        """
        completer = cls(link, worker, tally)
        until = 0.0
        try:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(completer._run())
                try:
                    yield completer
                finally:
                    until = asyncio.get_running_loop().time() + LAST_TRIES
                    await completer._end(sending)
        finally:
            if await completer._flush(until):
                await completer._give_back_unknown()

    def add(self, ended: Sequence[Ended], tasks: Sequence[str]) -> None:
        """Take outcomes over; `tasks` names the task of each, for the tally and the log."""
        for (task, verdict), n in Counter(
            zip(tasks, [outcome.verdict for outcome in ended], strict=True)
        ).items():
            self.tally[task, _TALLY.get(verdict, verdict)] += n
            self.ended[verdict] += n
        for outcome, task in zip(ended, tasks, strict=True):
            if outcome.verdict == "succeeded":
                continue
            if outcome.in_doubt:
                self._doubted[outcome.id, outcome.epoch] = task
                # Told and counted when the database has said what it was.
                self._recount(task, outcome.verdict, -1)
            else:
                _tell(outcome, task)
        self._waiting.extend(outcome for outcome in ended if outcome.verdict != "committed")
        self._arrived.set()
        if len(self._waiting) >= MOST or not self.expects_more():
            self._full.set()

    def holds(self) -> set[tuple[int, int]]:
        """Return (job id, epoch) of every outcome that is not recorded yet."""
        return {(outcome.id, outcome.epoch) for outcome in (*self._waiting, *self._sending)}

    @property
    def backlog(self) -> int:
        """How many outcomes are not recorded yet."""
        return len(self._waiting) + len(self._sending)

    @property
    def is_behind(self) -> bool:
        """Whether outcomes can't be recorded, or not fast enough: more of them would pile up."""
        return self.is_failing or len(self._waiting) > BEHIND

    @property
    def is_failing(self) -> bool:
        """Whether the database did not take what was sent last."""
        return self._failures > 0 and self.backlog > 0

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """While inside, no outcome is on its way to the database."""
        async with self._sender:
            yield

    def drop(self, lost: Set[tuple[int, int]]) -> None:
        """Forget the outcomes of these attempts, which have no row. To be called inside still()."""
        dropped = [
            outcome
            for outcome in (*self._sending, *self._waiting)
            if (outcome.id, outcome.epoch) in lost
        ]
        if not dropped:
            return
        self._sending = [each for each in self._sending if (each.id, each.epoch) not in lost]
        self._waiting = deque(each for each in self._waiting if (each.id, each.epoch) not in lost)
        self._after(dropped, [(outcome.id, "stale") for outcome in dropped])

    async def _run(self) -> None:
        while True:
            if not self._waiting and not self._sending:
                self._arrived.clear()
                await self._arrived.wait()
            self._full.clear()
            if len(self._waiting) < MOST and self.expects_more():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LINGER):
                        await self._full.wait()
            try:
                async with self._sender:
                    await self._send()
                self._failures = 0
            except Unavailable as error:
                # Repeating is harmless: while this worker's row lives nobody else moves its rows.
                self.in_doubt = self._patient = True
                self._unanswered.update((ended.id, ended.epoch) for ended in self._sending)
                log.warning("outcomes of %d jobs wait for the database: %s", self.backlog, error)
                pause = pause_after(self._failures)
                self._failures += 1
                await asyncio.sleep(pause)

    async def _end(self, sending: asyncio.Task[None]) -> None:
        # Not in the middle of a statement: whether it committed would be unknown.
        try:
            async with asyncio.timeout(LAST_TRIES), self._sender:
                sending.cancel()
        except TimeoutError:
            self._unanswered.update((ended.id, ended.epoch) for ended in self._sending)
            sending.cancel()

    async def _give_back_unknown(self) -> None:
        try:
            held = await self._link.run(attempts.held(self._worker), deadline=2.0)
            known = self.holds() | self.in_hands()
            unknown = [attempt for attempt in held if attempt not in known]
            if unknown:
                log.info("giving back %d jobs whose claim was never answered", len(unknown))
                released = [Ended(job_id, epoch, "released") for job_id, epoch in unknown]
                await self._link.run(attempts.finish(self._worker, released), deadline=2.0)
        except Unavailable as error:
            log.warning("what this worker holds could not be looked up: %s", error)

    async def _flush(self, until: float) -> bool:
        """Record what is left; False when the database cannot be reached."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(LAST_FLUSH):
                while self._waiting or self._sending:
                    try:
                        await self._send(deadline=max(LAST_TRY, until - loop.time()))
                    except Unavailable:
                        if loop.time() > until:
                            raise
                        await asyncio.sleep(0.2)
        except (TimeoutError, Unavailable) as error:
            log.error("%d outcomes are lost, their jobs will run again: %s", self.backlog, error)
            return False
        return True

    async def _send(self, *, deadline: float = 10.0) -> None:
        while self._waiting and len(self._sending) < MOST:
            self._sending.append(self._waiting.popleft())
        try:
            answers = await self._link.run(
                attempts.finish(self._worker, self._sending, patient=self._patient),
                deadline=deadline,
            )
        except (Refused, Unavailable):
            raise
        except psycopg.Error as error:
            await self._send_one_by_one(error)
            return
        # What is locked still would hold up the next batch as well.
        self._patient = any(answer == "busy" for _, answer in answers)
        sent, self._sending = self._sending, []
        self._after(sent, answers)
        if any(answer == "busy" for _, answer in answers):
            await asyncio.sleep(BUSY_PAUSE)

    async def _send_one_by_one(self, error: psycopg.Error) -> None:
        """One outcome that PostgreSQL refuses must not hold up the others."""
        log.error("a batch of %d outcomes was refused: %s", len(self._sending), error)
        while self._sending:
            outcome = self._sending[0]
            try:
                answers = await self._link.run(attempts.finish(self._worker, [outcome]))
            except (Refused, Unavailable):
                raise
            except psycopg.Error as reason:
                text = str(reason).splitlines()[0]
                self._sending[0] = Ended(
                    outcome.id,
                    outcome.epoch,
                    "failed",
                    reason="error",
                    type="OutcomeRefused",
                    message=f"the outcome ({outcome.verdict}) could not be stored: {text}",
                    in_doubt=outcome.in_doubt,
                )
                if outcome.type == "OutcomeRefused":
                    raise  # not about the data
                continue
            self._sending.pop(0)
            self._after([outcome], answers)

    def _after(self, sent: Sequence[Ended], answers: Sequence[tuple[int, str]]) -> None:
        missed = dict(answers)
        for outcome in sent if missed else ():
            answer = missed.get(outcome.id)
            if answer == "busy":
                self._waiting.append(outcome)
            elif outcome.in_doubt:
                self._resolve(outcome, committed=answer == "stale")
            elif answer == "stale" and (outcome.id, outcome.epoch) in self._unanswered:
                # While this worker lives nobody else moves its rows: it was recorded before.
                log.debug("job %d: its outcome had been recorded already", outcome.id)
            elif answer == "stale":
                self.tally["-", "stale"] += 1
                log.warning(
                    "job %d: the outcome (%s) of attempt epoch %d came too late and was dropped",
                    outcome.id,
                    outcome.verdict,
                    outcome.epoch,
                )
        delays = [
            outcome.delay
            for outcome in sent
            if outcome.delay is not None and outcome.id not in missed
        ]
        if delays:
            self.retry_in = min(delays if self.retry_in is None else [*delays, self.retry_in])
        if self._doubted:
            for outcome in sent:
                if outcome.in_doubt and outcome.id not in missed:
                    self._resolve(outcome, committed=False)
        if self._unanswered:
            self._unanswered.difference_update((outcome.id, outcome.epoch) for outcome in sent)

    def _resolve(self, outcome: Ended, *, committed: bool) -> None:
        """The database has said what became of the task's own transaction: now it can be told."""
        attempt = outcome.id, outcome.epoch
        task = self._doubted.pop(attempt)
        if not committed:
            self._recount(task, outcome.verdict, 1)
            _tell(outcome, task)
        elif attempt in self._unanswered:
            log.info("job %d (%s): how it ended had been recorded already", outcome.id, task)
        else:
            self._recount(task, "committed", 1)
            log.info(
                "job %d (%s) had committed before this happened: %s",
                outcome.id,
                task,
                outcome.message or outcome.verdict,
            )

    def _recount(self, task: str, verdict: str, n: int) -> None:
        self.ended[verdict] += n
        key = task, _TALLY.get(verdict, verdict)
        self.tally[key] += n
        if not self.tally[key]:
            del self.tally[key]


def _tell(outcome: Ended, task: str) -> None:
    """Log how an attempt ended, unless it succeeded."""
    verdict = outcome.verdict
    if verdict in ("failed", "crashed", "timeout"):
        log.error(
            "job %d (%s) %s: %s: %s",
            outcome.id,
            task,
            _TALLY.get(verdict, verdict),
            outcome.type,
            outcome.message,
        )
    elif verdict == "retried":
        log.warning(
            "job %d (%s) will be retried in %.1f s: %s: %s",
            outcome.id,
            task,
            outcome.delay or 0.0,
            outcome.type,
            outcome.message,
        )
