"""Every step from a state: what workers do, what fate does to them, what others do beside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.model.state import NO_LIFE, NOBODY, Rules, Scope, State, claims_of
from tests.model.steps import Ground, Next, Step, is_unused, remember
from tests.model.worker import Worker


class System(Ground):
    """Workers over tables, by the rules, within a scope."""

    def __init__(self, scope: Scope, rules: Rules) -> None:
        super().__init__(scope, rules)
        self._worker = Worker(scope, rules)

    def steps(self, state: State) -> Iterator[Next]:
        """Yield every step that is possible, with the state that it leads to."""
        ready = [
            job for job, rows in enumerate(state.db.rows) if any(r.table == "ready" for r in rows)
        ]
        up = [life for life in self.scope.lives if state.lives[life].up]
        if len(up) < self.scope.workers:
            unused = [life for life in self.scope.lives if is_unused(state, life)]
            if unused:
                yield self._worker.start(state, unused[0])
        for life in up:
            yield from self._worker.steps(state, life, ready)
            if state.faults:
                yield from self._faults(state, life, ready)
        for life in self.scope.lives:
            if state.lives[life].late:
                yield from self._late(state, life)
        yield from self._upkeep(state)
        yield from self._people(state)
        if state.faults and self.scope.server_crashes:
            yield from self._server_crash(state)

    # What goes wrong ----------------------------------------------------------------------------

    def _faults(self, state: State, number: int, ready: Sequence[int]) -> Iterator[Next]:
        life = state.lives[number]
        gone = NO_LIFE._replace(late=life.late)
        yield self.after(state, Step("crash", number), lives={number: gone})
        if state.db.alive[number] and life.seen != 1:
            silent = life._replace(seen=1)
            yield self.after(state, Step("fall silent", number), lives={number: silent})
        if life.doubt != 1:
            for jobs in self.some(ready):
                late = tuple(sorted({*life.late, *jobs}))
                doubtful = life._replace(late=late, doubt=1)
                step = Step("give a claim up", number, jobs)
                yield self.after(state, step, lives={number: doubtful})
                step = Step("crash in a claim", number, jobs)
                yield self.after(state, step, lives={number: gone._replace(late=late)})
        if not life.hands and life.doubt != 1:
            tables = self.tables(state)
            tables.deregister(number)
            yield self.after(state, Step("leave", number), tables, lives={number: gone})

    def _late(self, state: State, number: int) -> Iterator[Next]:
        """The claim that nobody waits for any more: it commits, or it was rolled back."""
        life = state.lives[number]._replace(late=())
        sure = life._replace(doubt=life.doubt % 2)
        yield self.after(state, Step("late claim vanishes", number), lives={number: sure})
        jobs = state.lives[number].late
        tables = self.tables(state)
        claimed, durable = tables.claim(number, jobs, claims_of(state), asked=True)
        if claimed or tables.commit() != state.db:
            counted, wrong = self.count(state, claimed)
            yield self.after(
                counted,
                Step("late claim commits", number, jobs),
                tables,
                durable=durable,
                wrong=wrong,
                lives={number: life},
            )

    def _server_crash(self, state: State) -> Iterator[Next]:
        """The last asynchronous commits are lost, every connection breaks, no call survives."""
        doubt = int(self.rules.a_reconnect_means_doubt)
        lives = tuple(
            life._replace(doubt=max(life.doubt % 2, doubt), late=(), seen=0) if life.up else NO_LIFE
            for life in state.lives
        )
        for place, db in enumerate(state.lost):
            step = Step("server crash", detail=place)
            yield self.after(
                state._replace(db=db, lost=()),
                step,
                lives=dict(enumerate(lives)),
            )

    # What others do -----------------------------------------------------------------------------

    def _upkeep(self, state: State) -> Iterator[Next]:
        """Any worker does these; which one is of no account."""
        sweeps: list[tuple[int, ...]] = [()]
        for number, life in enumerate(state.lives):
            if state.db.alive[number] and (life.seen or not life.up):
                sweeps.append((number,))
        for silent in sweeps:
            yield from self._rescue(state, silent)
        scheduled = [
            job
            for job, rows in enumerate(state.db.rows)
            if any(r.table == "scheduled" for r in rows)
        ]
        for due in ((), *((job,) for job in scheduled)):
            tables = self.tables(state)
            tables.promote(due)
            if tables.commit() != state.db:
                yield self.after(state, Step("promote", jobs=due), tables)

    def _rescue(self, state: State, silent: tuple[int, ...]) -> Iterator[Next]:
        tables = self.tables(state)
        wrong = []
        dead = list(silent)
        for number in silent:
            # Its beat moved after it was seen: the compare-and-swap fails.
            if state.lives[number].seen == 2 and state.lives[number].up:
                if self.rules.rescue_compares_the_beat:
                    dead.remove(number)
                else:
                    wrong.append("lease: a worker was declared dead although it had beaten")
        tables.rescue(dead)
        if self.scope.everything or tables.commit() != state.db:
            step = Step("rescue", silent[0] if silent else NOBODY)
            lives = {
                number: state.lives[number]._replace(seen=0)
                for number in dead
                if state.lives[number].seen
            }
            yield self.after(state, step, tables, wrong=wrong, lives=lives)

    def _people(self, state: State) -> Iterator[Next]:
        if state.cancels:
            for job, memory in enumerate(state.memory):
                tables = self.tables(state)
                if memory.exists and tables.cancel(job):
                    asked = remember(state, job, memory._replace(cancelled=True))
                    asked = asked._replace(cancels=state.cancels - 1)
                    yield self.after(asked, Step("cancel", jobs=(job,)), tables)
        if state.orders:
            for job, spec in enumerate(self.scope.jobs):
                if spec.later and not state.memory[job].exists:
                    tables = self.tables(state)
                    became = tables.replace(job)
                    memory = state.memory[became]._replace(exists=True)
                    ordered = remember(state, became, memory)
                    ordered = ordered._replace(orders=state.orders - 1)
                    yield self.after(ordered, Step("replace", jobs=(job,)), tables)
                    break
