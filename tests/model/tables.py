"""The SQL functions as the model has them: one method is one transaction of one function."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tests.model.state import ENDED, NOBODY, PENDING, Database, Row, Rules, Scope


class Outcome(NamedTuple):
    """How an attempt ended, and which claim began it."""

    job: int
    epoch: int
    verdict: str
    claim: int


class NotAlive(Exception):
    """TQ001."""


class Tables:
    """The tables within one transaction. `wrong` collects what should not have been possible."""

    def __init__(self, scope: Scope, rules: Rules, db: Database) -> None:
        self._jobs, self._rules = scope.jobs, rules
        self.rows = list(db.rows)
        self.slot, self.key = db.slot, db.key
        self.wishes, self.alive = list(db.wishes), list(db.alive)
        self.wrong: list[str] = []

    def commit(self) -> Database:
        return Database(
            tuple(self.rows), self.slot, self.key, tuple(self.wishes), tuple(self.alive)
        )

    # What workers call --------------------------------------------------------------------------

    def register(self, worker: int) -> None:
        self.alive[worker] = True

    def deregister(self, worker: int) -> None:
        self.alive[worker] = False

    def claim(
        self, worker: int, jobs: Iterable[int], claims: Sequence[int], *, asked: bool = False
    ) -> tuple[list[tuple[int, Row]], bool]:
        """Return what was claimed, and whether this commit is durable.

        `asked`: it looked for the lease while that still held, and commits only now.
        """
        if not self.alive[worker] and not asked and self._rules.claim_asks_for_the_lease:
            raise NotAlive
        claimed = []
        durable = False
        for job in jobs:
            row = self._row(job, ("ready",))
            if row is None:
                continue
            spec = self._jobs[job]
            durable |= spec.serial and self._rules.serial_claims_are_durable
            durable |= spec.once and self._rules.once_claims_are_durable
            if spec.serial:
                if self.slot != NOBODY and self.slot != job:
                    self._move(job, row, row._replace(table="parked"))
                    continue
                self.slot = job
            if not self.alive[worker] and not asked:
                self.wrong.append("lease: a job was claimed by a worker that was declared dead")
            new = Row(
                "running",
                row.epoch + self._rules.claim_raises_the_epoch,
                row.attempt + 1,
                row.crashes,
                worker,
                claims[job] + 1,
            )
            self._move(job, row, new)
            claimed.append((job, new))
        return claimed, durable

    def finish(self, worker: int, outcomes: Sequence[Outcome]) -> list[int]:
        """Return the jobs whose outcome was stale."""
        stale, mine, over = [], [], []
        for outcome in outcomes:
            row = self._row(outcome.job, ("running",))
            if row is None or (
                self._rules.finish_is_fenced and (row.epoch, row.worker) != (outcome.epoch, worker)
            ):
                stale.append(outcome.job)
                continue
            if row.claim != outcome.claim:
                self.wrong.append("I3: an outcome was applied to an attempt that it is not of")
            mine.append(outcome.job)
            if self._settle(row, outcome):
                over.append(outcome.job)
        if self.slot in mine and self._rules.finish_frees_the_slot:
            self.slot = NOBODY
            self._hand_over()
        self._forget(over)
        return stale

    def heartbeat(self, worker: int) -> list[int]:
        """Return the jobs whose running attempt is to be cancelled."""
        if not self.alive[worker]:
            raise NotAlive
        return [job for job, asked in enumerate(self.wishes) if asked == worker]

    def held(self, worker: int) -> list[tuple[int, Row]]:
        return [
            (job, row)
            for job, rows in enumerate(self.rows)
            for row in rows
            if row.table == "running" and row.worker == worker
        ]

    # What anybody calls -------------------------------------------------------------------------

    def rescue(self, silent: Iterable[int]) -> None:
        """`silent`: those whose beat is still the one that was seen."""
        silent = tuple(silent)
        for worker in silent:
            self.alive[worker] = False
        for worker, is_alive in enumerate(self.alive):
            if is_alive or not (worker in silent or self._rules.rescue_sweeps_the_known_dead):
                continue
            lost = [Outcome(job, r.epoch, "lost", r.claim) for job, r in self.held(worker)]
            if lost:
                self.finish(worker, lost)

    def promote(self, due: Iterable[int]) -> None:
        for job in due:
            row = self._row(job, ("scheduled",))
            if row is not None:
                self._move(job, row, row._replace(table="ready"))
        next_is_ready = any(
            job.serial and self._row(j, ("ready",)) for j, job in enumerate(self._jobs)
        )
        if self.slot == NOBODY and not next_is_ready:
            self._hand_over()

    def cancel(self, job: int) -> bool:
        """Return whether there was anything to cancel."""
        row = self._row(job, PENDING)
        if row is not None:
            self._move(job, row, row._replace(table="cancelled"))
            self._forget([job])
            return True
        row = self._row(job, ("running",))
        if row is not None:
            self.wishes[job] = row.worker
        return row is not None

    def replace(self, job: int) -> int:
        """Enqueue `job` under the key; return the job that it became."""
        owner = self.key
        if owner != NOBODY:
            row = self._row(owner, PENDING)
            if row is not None:
                self._move(owner, row, Row("ready", row.epoch, 0, 0))
                return owner
        self.key = job
        self.rows[job] = (*self.rows[job], Row("ready", 0, 0, 0))
        return job

    # Inside -------------------------------------------------------------------------------------

    def _row(self, job: int, tables: Sequence[str]) -> Row | None:
        for row in self.rows[job]:
            if row.table in tables:
                return row
        return None

    def _move(self, job: int, old: Row, new: Row) -> None:
        rows = list(self.rows[job])
        rows.remove(old)
        self.rows[job] = (*rows, new)

    def _settle(self, row: Row, outcome: Outcome) -> bool:
        """Return whether the job has ended."""
        job, verdict = outcome.job, outcome.verdict
        spec = self._jobs[job]
        died = verdict in ("crashed", "lost")
        crashes = row.crashes + died
        spent = (
            row.attempt >= spec.max_attempts or crashes >= spec.max_crashes or spec.once
            if died
            else verdict == "timeout" and row.attempt >= spec.max_attempts
        )
        has_key = not spec.key or self.key == job or not self._rules.retry_needs_the_key
        attempt = row.attempt
        if verdict in ENDED:
            table = verdict
        elif self.wishes[job] != NOBODY and self._rules.settle_heeds_cancels:
            table = "cancelled"
        elif spent or not has_key:
            table = "failed"
        elif verdict == "released":
            table = "ready"
            attempt -= self._rules.release_is_not_counted
        else:
            table = "scheduled"
            attempt -= verdict == "snoozed"
        self._move(job, row, Row(table, row.epoch, attempt, crashes))
        return table in ENDED

    def _hand_over(self) -> None:
        for job in range(len(self._jobs)):
            row = self._row(job, ("parked",))
            if row is not None:
                self._move(job, row, row._replace(table="ready"))
                return

    def _forget(self, jobs: Iterable[int]) -> None:
        for job in jobs:
            if self.key == job:
                self.key = NOBODY
            self.wishes[job] = NOBODY
