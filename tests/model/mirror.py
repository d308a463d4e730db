"""Mirror: the steps of the model taken by the SQL functions, and the tables as it sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import LiteralString
from uuid import UUID, uuid4

import psycopg

from tests.model.image import Image
from tests.model.state import NOBODY, Hand, State, claims_of
from tests.model.steps import Step
from tests.model.tables import NotAlive, Outcome, Tables


class Mirror(Image):
    """One database that takes the steps of the model; `dice` choose among equal ways to call."""

    def enqueue(self) -> None:
        """Enqueue the jobs that exist from the beginning."""
        for job, spec in enumerate(self._scope.jobs):
            if not spec.later:
                ((self._ids[job], _),) = self._enqueue(job, job)

    def take(self, step: Step, before: State) -> None:
        """Do on PostgreSQL what the model did; what the functions answer must be the same too."""
        if step.kind in CALLS:
            CALLS[step.kind](self, step, before)

    # The steps ----------------------------------------------------------------------------------

    def _enqueue(self, job: int, place: int) -> list[tuple[int, bool]]:
        """`place`: the job whose queue and priority it gets; each has its own."""
        spec = self._scope.jobs[job]
        return self._engine.enqueue_many(
            queue=f"q{place}",
            priority=-place,
            max_attempts=spec.max_attempts,
            max_crashes=spec.max_crashes,
            keys=["k"] if spec.key else None,
            serials=["s"] if spec.serial else None,
            policy={"on_crash": "fail"} if spec.once else None,
        )

    def _start(self, step: Step, before: State) -> None:
        self._workers[step.life] = worker = uuid4()
        self._engine.all(
            "select pgtask.register(%s, 'host', 1, '0', '{default}', '{t}', 1)", worker
        )

    def _claim(self, step: Step, before: State) -> None:
        tables = self._tables(before)
        try:
            claimed, durable = tables.claim(step.life, step.jobs, claims_of(before))
        except NotAlive:
            with self._refused("TQ001"):
                self._really_claim(step)
            return
        found, is_durable = self._really_claim(step)
        assert found == {(self._ids[job], row.epoch, row.attempt) for job, row in claimed}
        assert is_durable == durable, "the commit is as durable as the model says"

    def _really_claim(self, step: Step) -> tuple[set[tuple[int, int, int]], bool]:
        queues = [f"q{job}" for job in step.jobs]
        idle_for = self._dice.choice([1.0, 0.0, None])
        ranges: tuple[list[int] | None, ...] = (None, None, None)
        if self._dice.random() < 0.5:
            # As a worker that knows its place: alone, such a claim locks nothing.
            lanes = [-job for job in step.jobs]
            ranges = (lanes, lanes, [0 for _ in lanes])
        with self._engine.connection.transaction():
            self._engine.all("select set_config('synchronous_commit', 'on', true)")
            rows = self._engine.all(
                "select id, epoch, attempt from pgtask._claim(%s, 10, %s::text[], '{t}',"
                " %s::float8, %s::int[], %s::int[], %s::bigint[])",
                self._workers[step.life], queues, idle_for, *ranges,
            )  # fmt: skip
            is_durable = self._engine.value("select current_setting('synchronous_commit')") != "off"
        return {(row.id, row.epoch, row.attempt) for row in rows}, is_durable

    def _late_claim(self, step: Step, before: State) -> None:
        # It looked for the lease before that was lost: as if it still stood, for this transaction.
        worker = self._workers[step.life]
        set_alive = "update pgtask.worker set alive = %s where id = %s returning id"
        is_alive = before.db.alive[step.life]
        jobs = before.lives[step.life].late
        with self._engine.connection.transaction():
            self._engine.all(set_alive, True, worker)
            self._really_claim(step._replace(jobs=jobs))
            self._engine.all(set_alive, is_alive, worker)

    def _reconcile(self, step: Step, before: State) -> None:
        mine = {(hand.job, hand.epoch) for hand in before.lives[step.life].hands}
        held = self._tables(before).held(step.life)
        worker = self._workers[step.life]
        found = self._engine.all("select * from pgtask.held(%s)", worker)
        assert {tuple(row) for row in found} == {(self._ids[j], r.epoch) for j, r in held}
        unknown = [(self._ids[j], r.epoch) for j, r in held if (j, r.epoch) not in mine]
        if unknown:
            assert self._engine.finish(worker, unknown, "released") == {}

    def _commit(self, step: Step, before: State) -> None:
        hand = before.lives[step.life].hands[step.detail]
        stale = self._tables(before).finish(step.life, [_outcome(hand, "succeeded")])
        with self._refused("TQ004" if stale else None):
            self._engine.all(
                "select pgtask.commit_job(%s, %s, %s, null)",
                self._workers[step.life], self._ids[hand.job], hand.epoch,
            )  # fmt: skip

    def _finish(self, step: Step, before: State) -> None:
        hands = [
            hand
            for hand in before.lives[step.life].hands
            if hand.job in step.jobs and hand.stage not in ("queued", "running", "committed")
        ]
        stale = self._tables(before).finish(step.life, [_outcome(h, h.stage) for h in hands])
        self._dice.shuffle(hands)
        verdicts = [hand.stage for hand in hands]
        if set(verdicts) == {"succeeded"} and self._dice.random() < 0.5:
            verdicts = []
        answers = self._engine.finish(
            self._workers[step.life],
            [(self._ids[hand.job], hand.epoch) for hand in hands],
            *verdicts,
            delays=[60.0 if h.stage in ("retried", "snoozed") else None for h in hands],
        )
        assert answers == {self._ids[job]: "stale" for job in stale}

    def _beat(self, step: Step, before: State) -> None:
        beat: LiteralString = "select job from pgtask._heartbeat(%s)"
        worker = self._workers[step.life]
        try:
            wishes = self._tables(before).heartbeat(step.life)
        except NotAlive:
            with self._refused("TQ001"):
                self._engine.all(beat, worker)
            return
        assert set(self._engine.values(beat, worker)) == {self._ids[job] for job in wishes}

    def _see(self, step: Step, before: State) -> None:
        self._seen[step.life] = self._beat_of(step.life)

    def _beat_of(self, life: int) -> int:
        beats = self._engine.all("select * from pgtask.beats()")
        return int(dict(beats)[self._workers[life]])

    def _leave(self, step: Step, before: State) -> None:
        self._engine.all("select pgtask.deregister(%s)", self._workers[step.life])

    def _rescue(self, step: Step, before: State) -> None:
        silent: list[UUID] = []
        beats: list[int] = []
        if step.life != NOBODY:
            silent.append(self._workers[step.life])
            is_up = before.lives[step.life].up
            beats.append(self._seen[step.life] if is_up else self._beat_of(step.life))
        self._engine.all("select * from pgtask.rescue(%s::uuid[], %s::bigint[])", silent, beats)

    def _promote(self, step: Step, before: State) -> None:
        # Time passes for these jobs and for no other.
        self._engine.all(
            "update pgtask.waiting set run_at = clock_timestamp()"
            " + case when id = any(%s) then interval '-1 s' else interval '1 h' end"
            " where run_at is not null returning id",
            [self._ids[job] for job in step.jobs],
        )
        self._engine.promote()

    def _cancel(self, step: Step, before: State) -> None:
        (job,) = step.jobs
        (answer,) = self._engine.cancel(self._ids[job]).values()
        is_running = any(row.table == "running" for row in before.db.rows[job])
        assert answer == ("cancelling" if is_running else "cancelled")

    def _replace(self, step: Step, before: State) -> None:
        (job,) = step.jobs
        became = self._tables(before).replace(job)
        ((job_id, created),) = self._enqueue(job, became)
        assert created == (became == job)
        assert self._ids.setdefault(became, job_id) == job_id

    # Inside -------------------------------------------------------------------------------------

    def _tables(self, before: State) -> Tables:
        return Tables(self._scope, self._rules, before.db)

    @contextmanager
    def _refused(self, sqlstate: str | None) -> Iterator[None]:
        """What is done within has to be refused with this, or not at all."""
        found = None
        try:
            with self._engine.connection.transaction():
                yield
        except psycopg.DatabaseError as error:
            found = error.sqlstate
            if sqlstate is None:
                raise
        assert found == sqlstate


# The steps that call PostgreSQL; the others are between a worker and its children.
CALLS: dict[str, Callable[[Mirror, Step, State], None]] = {
    "start": Mirror._start,
    "claim": Mirror._claim,
    "late claim commits": Mirror._late_claim,
    "reconcile": Mirror._reconcile,
    "commit": Mirror._commit,
    "finish": Mirror._finish,
    "finish, unanswered": Mirror._finish,
    "beat": Mirror._beat,
    "fall silent": Mirror._see,
    "leave": Mirror._leave,
    "rescue": Mirror._rescue,
    "promote": Mirror._promote,
    "cancel": Mirror._cancel,
    "replace": Mirror._replace,
}


def _outcome(hand: Hand, verdict: str) -> Outcome:
    return Outcome(hand.job, hand.epoch, verdict, hand.claim)
