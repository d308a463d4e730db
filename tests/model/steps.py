"""Every step that workers, children, people and fate can take from a state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from tests.model.state import NO_LIFE, NOBODY, Hand, Life, Memory, Row, Rules, Scope, State
from tests.model.tables import NotAlive, Outcome, Tables

# What goes wrong, or is nobody's plan: each of these uses up one of the faults of a scope.
FAULTS = frozenset({
    "give a claim up", "crash in a claim", "finish, unanswered", "fall silent", "crash", "child dies", "give back", "raised", "timeout", "snoozed", "leave", "server crash",
})  # fmt: skip


class Step(NamedTuple):
    """What happens, in whose life, to which jobs; `detail` is the place of a hand, or a verdict."""

    kind: str
    life: int = NOBODY
    jobs: tuple[int, ...] = ()
    detail: int = 0


class Next(NamedTuple):
    step: Step
    state: State
    wrong: list[str]


class System:
    """Workers over tables, by the rules, within a scope."""

    def __init__(self, scope: Scope, rules: Rules) -> None:
        self.scope, self.rules = scope, rules

    def steps(self, state: State) -> Iterator[Next]:
        """Yield every step that is possible, with the state that it leads to."""
        ready = [
            job for job, rows in enumerate(state.db.rows) if any(r.table == "ready" for r in rows)
        ]
        up = [life for life in self.scope.lives if state.lives[life].up]
        if len(up) < self.scope.workers:
            unused = [life for life in self.scope.lives if is_unused(state, life)]
            if unused:
                yield self._start(state, unused[0])
        for life in up:
            yield from self._claims(state, life, ready)
            yield from self._hands(state, life)
            yield from self._beats(state, life)
            if state.faults:
                yield from self._faults(state, life, ready)
        for life in self.scope.lives:
            if state.lives[life].late:
                yield from self._late(state, life)
        yield from self._upkeep(state)
        yield from self._people(state)
        if state.faults and self.scope.server_crashes:
            yield from self._server_crash(state)

    # What a step leaves behind ------------------------------------------------------------------

    def _after(
        self,
        state: State,
        step: Step,
        tables: Tables | None = None,
        *,
        durable: bool = True,
        wrong: Sequence[str] = (),
        **lives: Life,
    ) -> Next:
        """Return the state after `step`; `lives` are those that changed, named by number."""
        db, lost = state.db, state.lost
        found = list(wrong)
        if tables is not None:
            db = tables.commit()
            found += tables.wrong
            if db != state.db:
                lost = () if durable else (*lost, state.db)
        faults = state.faults - (step.kind in FAULTS)
        if not faults or not self.scope.server_crashes:
            lost = ()
        after = list(state.lives)
        for name, life in lives.items():
            after[int(name[1:])] = life
        return Next(step, state._replace(db=db, lost=lost, lives=tuple(after), faults=faults), found)

    def _tables(self, state: State) -> Tables:
        return Tables(self.scope, self.rules, state.db)

    def _told(self, state: State, step: Step) -> Next:
        """A worker learns that it was declared dead: children killed, outcomes dropped."""
        life = state.lives[step.life]
        return self._after(state, step, **_life(step.life, NO_LIFE._replace(late=life.late)))

    # Lives --------------------------------------------------------------------------------------

    def _start(self, state: State, number: int) -> Next:
        tables = self._tables(state)
        tables.register(number)
        return self._after(state, Step("start", number), tables, **_life(number, Life(up=True)))

    def _claims(self, state: State, number: int, ready: Sequence[int]) -> Iterator[Next]:
        life = state.lives[number]
        if life.doubt == 1 or (
            life.doubt and {(job, row.epoch) for job, row in self._tables(state).held(number)}
            - {(hand.job, hand.epoch) for hand in life.hands}
        ):
            yield self._reconcile(state, number)
        if life.doubt == 1:
            return
        for jobs in self._some(ready):
            step = Step("claim", number, jobs)
            tables = self._tables(state)
            try:
                claimed, durable = tables.claim(number, jobs, self._claims_of(state))
            except NotAlive:
                yield self._told(state, step)
                continue
            hands = tuple(Hand(j, r.epoch, r.attempt, "queued", r.claim) for j, r in claimed)
            counted, wrong = self._count(state, claimed)
            yield self._after(
                counted,
                step,
                tables,
                durable=durable,
                wrong=wrong,
                **_life(number, life._replace(hands=_sorted(life.hands + hands))),
            )

    def _reconcile(self, state: State, number: int) -> Next:
        life, tables = state.lives[number], self._tables(state)
        held = tables.held(number)
        mine = {(hand.job, hand.epoch) for hand in life.hands}
        if self.rules.reconcile_releases_the_unknown:
            unknown = [
                Outcome(job, row.epoch, "released", row.claim)
                for job, row in held
                if (job, row.epoch) not in mine
            ]
            tables.finish(number, unknown)
        hands = life.hands
        if self.rules.reconcile_drops_what_has_no_row:
            has_row = {(job, row.epoch) for job, row in held}
            hands = tuple(hand for hand in hands if (hand.job, hand.epoch) in has_row)
        after = life._replace(doubt=2 if life.late else 0, hands=hands)
        return self._after(state, Step("reconcile", number), tables, **_life(number, after))

    def _hands(self, state: State, number: int) -> Iterator[Next]:
        life = state.lives[number]
        ended = []
        for place, hand in enumerate(life.hands):
            spec = self.scope.jobs[hand.job]

            def at(kind: str, stage: str, place: int = place, hand: Hand = hand) -> Next:
                step = Step(kind, number, (hand.job,), place)
                return self._after(state, step, **_life(number, _with(life, place, stage)))

            if hand.stage == "queued":
                yield self._begin(state, number, place)
            elif hand.stage == "running":
                if spec.transaction:
                    yield from self._commit(state, number, place)
                else:
                    yield at("succeeded", "succeeded")
                for kind in self.scope.ends if state.faults else ():
                    yield self._end(state, number, place, kind)
            elif hand.stage == "committed":
                step = Step("child tells", number, (hand.job,), place)
                yield self._after(state, step, **_life(number, _without(life, [place])))
            else:
                ended.append(place)
            if state.faults and hand.stage in ("queued", "running"):
                yield at("give back", "crashed" if spec.once and hand.stage != "queued" else "released")
            if state.faults and hand.stage in ("running", "committed"):
                yield at("child dies", "crashed")
        for places in self._some(ended):
            yield from self._finish(state, number, places)

    def _begin(self, state: State, number: int, place: int) -> Next:
        life = state.lives[number]
        hand = life.hands[place]
        memory = state.memory[hand.job]
        if self.scope.jobs[hand.job].once:
            memory = memory._replace(begun=memory.begun + 1)
            state = _remember(state, hand.job, memory)
        step = Step("begin", number, (hand.job,), place)
        return self._after(state, step, **_life(number, _with(life, place, "running")))

    def _end(self, state: State, number: int, place: int, kind: str) -> Next:
        """The attempt ends, other than well; that it may be tried again is decided by itself."""
        life = state.lives[number]
        hand = life.hands[place]
        stage = kind
        if kind == "raised":
            can_retry = hand.attempt < self.scope.jobs[hand.job].max_attempts
            stage = "retried" if can_retry else "failed"
        if stage in ("retried", "snoozed"):
            # Its own wish, not a crash: beginning again breaks no promise.
            state = _remember(state, hand.job, state.memory[hand.job]._replace(begun=0))
        step = Step(kind, number, (hand.job,), place)
        return self._after(state, step, **_life(number, _with(life, place, stage)))

    def _commit(self, state: State, number: int, place: int) -> Iterator[Next]:
        """A transactional task ends: its effect and its completion are one transaction."""
        life = state.lives[number]
        hand = life.hands[place]
        tables = self._tables(state)
        outcome = Outcome(hand.job, hand.epoch, "succeeded", hand.claim)
        step = Step("commit", number, (hand.job,), place)
        if tables.finish(number, [outcome]):
            # TQ004: rolled back.
            yield self._after(state, step, **_life(number, _with(life, place, "failed")))
            return
        memory = state.memory[hand.job]
        done = _remember(state, hand.job, memory._replace(effects=memory.effects + 1))
        yield self._after(done, step, tables, **_life(number, _with(life, place, "committed")))

    def _finish(self, state: State, number: int, places: Sequence[int]) -> Iterator[Next]:
        life = state.lives[number]
        hands = [life.hands[place] for place in places]
        jobs = tuple(hand.job for hand in hands)
        tables = self._tables(state)
        tables.finish(number, [Outcome(h.job, h.epoch, h.stage, h.claim) for h in hands])
        after = _without(life, places)
        yield self._after(state, Step("finish", number, jobs), tables, **_life(number, after))
        if state.faults:
            step = Step("finish, unanswered", number, jobs)
            yield self._after(state, step, tables, **_life(number, life._replace(doubt=1)))

    def _beats(self, state: State, number: int) -> Iterator[Next]:
        life, step = state.lives[number], Step("beat", number)
        try:
            wishes = self._tables(state).heartbeat(number)
        except NotAlive:
            yield self._told(state, step)
            return
        hands = tuple(
            hand._replace(stage="cancelled")
            if hand.job in wishes and hand.stage == "running"
            else hand
            for hand in life.hands
        )
        after = life._replace(seen=2 if life.seen else 0, hands=_sorted(hands))
        if after != life:
            yield self._after(state, step, **_life(number, after))

    # What goes wrong ----------------------------------------------------------------------------

    def _faults(self, state: State, number: int, ready: Sequence[int]) -> Iterator[Next]:
        life = state.lives[number]
        gone = NO_LIFE._replace(late=life.late)
        yield self._after(state, Step("crash", number), **_life(number, gone))
        if state.db.alive[number] and life.seen != 1:
            silent = life._replace(seen=1)
            yield self._after(state, Step("fall silent", number), **_life(number, silent))
        if life.doubt != 1:
            for jobs in self._some(ready):
                late = tuple(sorted({*life.late, *jobs}))
                doubtful = life._replace(late=late, doubt=1)
                step = Step("give a claim up", number, jobs)
                yield self._after(state, step, **_life(number, doubtful))
                step = Step("crash in a claim", number, jobs)
                yield self._after(state, step, **_life(number, gone._replace(late=late)))
        if not life.hands and life.doubt != 1:
            tables = self._tables(state)
            tables.deregister(number)
            yield self._after(state, Step("leave", number), tables, **_life(number, gone))

    def _late(self, state: State, number: int) -> Iterator[Next]:
        """The claim that nobody waits for any more: it commits, or it was rolled back."""
        life = state.lives[number]._replace(late=())
        sure = life._replace(doubt=life.doubt % 2)
        yield self._after(state, Step("late claim vanishes", number), **_life(number, sure))
        jobs = state.lives[number].late
        tables = self._tables(state)
        claimed, durable = tables.claim(number, jobs, self._claims_of(state), asked=True)
        if claimed or tables.commit() != state.db:
            counted, wrong = self._count(state, claimed)
            yield self._after(
                counted,
                Step("late claim commits", number, jobs),
                tables,
                durable=durable,
                wrong=wrong,
                **_life(number, life),
            )

    def _server_crash(self, state: State) -> Iterator[Next]:
        """The last asynchronous commits are lost, every connection breaks, no call survives."""
        lives = tuple(
            life._replace(doubt=1, late=(), seen=0) if life.up else NO_LIFE for life in state.lives
        )
        for place, db in enumerate(state.lost):
            step = Step("server crash", detail=place)
            yield self._after(
                state._replace(db=db, lost=()),
                step,
                **{f"n{number}": life for number, life in enumerate(lives)},
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
            job for job, rows in enumerate(state.db.rows) if any(r.table == "scheduled" for r in rows)
        ]
        for due in ((), *((job,) for job in scheduled)):
            tables = self._tables(state)
            tables.promote(due)
            if tables.commit() != state.db:
                yield self._after(state, Step("promote", jobs=due), tables)

    def _rescue(self, state: State, silent: tuple[int, ...]) -> Iterator[Next]:
        tables = self._tables(state)
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
        if tables.commit() != state.db:
            step = Step("rescue", silent[0] if silent else NOBODY)
            lives = {
                f"n{number}": state.lives[number]._replace(seen=0)
                for number in dead
                if state.lives[number].seen
            }
            yield self._after(state, step, tables, wrong=wrong, **lives)

    def _people(self, state: State) -> Iterator[Next]:
        if state.cancels:
            for job, memory in enumerate(state.memory):
                tables = self._tables(state)
                if memory.exists and tables.cancel(job):
                    asked = _remember(state, job, memory._replace(cancelled=True))
                    asked = asked._replace(cancels=state.cancels - 1)
                    yield self._after(asked, Step("cancel", jobs=(job,)), tables)
        if state.orders:
            for job, spec in enumerate(self.scope.jobs):
                if spec.later and not state.memory[job].exists:
                    tables = self._tables(state)
                    became = tables.replace(job)
                    memory = state.memory[became]._replace(exists=True)
                    ordered = _remember(state, became, memory)
                    ordered = ordered._replace(orders=state.orders - 1)
                    yield self._after(ordered, Step("replace", jobs=(job,)), tables)
                    break

    def _some(self, things: Sequence[int]) -> Iterable[tuple[int, ...]]:
        most = len(things) if self.scope.batches else 1
        for size in range(1, most + 1):
            yield from combinations(things, size)

    def _claims_of(self, state: State) -> list[int]:
        return [memory.claims for memory in state.memory]

    def _count(
        self, state: State, claimed: Iterable[tuple[int, Row]]
    ) -> tuple[State, list[str]]:
        wrong = []
        for job, _ in claimed:
            memory = state.memory[job]
            if memory.cancelled:
                wrong.append("cancel: a job was claimed after it was cancelled")
            state = _remember(state, job, memory._replace(claims=memory.claims + 1))
        return state, wrong


def is_unused(state: State, number: int) -> bool:
    """Whether nothing speaks of this life any more, so that a new one can have its number."""
    return (
        state.lives[number] == NO_LIFE
        and not state.db.alive[number]
        and number not in state.db.wishes
        and not any(row.worker == number for rows in state.db.rows for row in rows)
    )


def _life(number: int, life: Life) -> dict[str, Life]:
    return {f"n{number}": life}


def _sorted(hands: tuple[Hand, ...]) -> tuple[Hand, ...]:
    return tuple(sorted(hands)) if len(hands) > 1 else hands


def _with(life: Life, place: int, stage: str) -> Life:
    hands = list(life.hands)
    hands[place] = hands[place]._replace(stage=stage)
    return life._replace(hands=_sorted(tuple(hands)))


def _without(life: Life, places: Sequence[int]) -> Life:
    hands = tuple(hand for place, hand in enumerate(life.hands) if place not in places)
    return life._replace(hands=hands)


def _remember(state: State, job: int, memory: Memory) -> State:
    known = list(state.memory)
    known[job] = memory
    return state._replace(memory=tuple(known))
