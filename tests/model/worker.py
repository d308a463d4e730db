"""What a worker does, step by step: claim, begin, end, finish, beat, reconcile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.model.state import NO_LIFE, Hand, Life, State, claims_of
from tests.model.steps import Ground, Next, Step, remember
from tests.model.tables import NotAlive, Outcome


class Worker(Ground):
    """The steps of one life, which is up."""

    def steps(self, state: State, number: int, ready: Sequence[int]) -> Iterator[Next]:
        """Yield what this worker may do next; `ready`: the jobs that can be claimed."""
        yield from self._claims(state, number, ready)
        yield from self._hands(state, number)
        yield from self._beats(state, number)

    def start(self, state: State, number: int) -> Next:
        tables = self.tables(state)
        tables.register(number)
        return self.after(state, Step("start", number), tables, lives={number: Life(up=True)})

    def _claims(self, state: State, number: int, ready: Sequence[int]) -> Iterator[Next]:
        life = state.lives[number]
        if life.doubt == 1 or (
            life.doubt
            and {(job, row.epoch) for job, row in self.tables(state).held(number)}
            - {(hand.job, hand.epoch) for hand in life.hands}
        ):
            yield self._reconcile(state, number)
        if life.doubt == 1:
            return
        for jobs in self.some(ready):
            step = Step("claim", number, jobs)
            tables = self.tables(state)
            try:
                claimed, durable = tables.claim(number, jobs, claims_of(state))
            except NotAlive:
                yield self._told(state, step)
                continue
            hands = tuple(
                Hand(job, row.epoch, row.attempt, self._first_stage(job), row.claim)
                for job, row in claimed
            )
            counted, wrong = self.count(state, claimed)
            yield self.after(
                counted,
                step,
                tables,
                durable=durable,
                wrong=wrong,
                lives={number: life._replace(hands=_sorted(life.hands + hands))},
            )

    def _first_stage(self, job: int) -> str:
        # Where no promise depends on whether it has begun, a claimed job begins at once.
        spec = self.scope.jobs[job]
        return "queued" if spec.serial or spec.once or self.scope.everything else "running"

    def _reconcile(self, state: State, number: int) -> Next:
        life, tables = state.lives[number], self.tables(state)
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
        return self.after(state, Step("reconcile", number), tables, lives={number: after})

    def _told(self, state: State, step: Step) -> Next:
        """A worker learns that it was declared dead: children killed, outcomes dropped."""
        life = state.lives[step.life]
        return self.after(state, step, lives={step.life: NO_LIFE._replace(late=life.late)})

    def _hands(self, state: State, number: int) -> Iterator[Next]:
        life = state.lives[number]
        ended = []
        for place, hand in enumerate(life.hands):
            spec = self.scope.jobs[hand.job]

            def at(kind: str, stage: str, place: int = place, hand: Hand = hand) -> Next:
                step = Step(kind, number, (hand.job,), place)
                return self.after(state, step, lives={number: _with(life, place, stage)})

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
                yield self.after(state, step, lives={number: _without(life, [place])})
            else:
                ended.append(place)
            if state.faults and hand.stage in ("queued", "running"):
                yield at(
                    "give back", "crashed" if spec.once and hand.stage != "queued" else "released"
                )
            if state.faults and hand.stage in ("running", "committed"):
                yield at("child dies", "crashed")
        for places in self.some(ended):
            yield from self._finish(state, number, places)

    def _begin(self, state: State, number: int, place: int) -> Next:
        life = state.lives[number]
        hand = life.hands[place]
        memory = state.memory[hand.job]
        if self.scope.jobs[hand.job].once:
            memory = memory._replace(begun=memory.begun + 1)
            state = remember(state, hand.job, memory)
        step = Step("begin", number, (hand.job,), place)
        return self.after(state, step, lives={number: _with(life, place, "running")})

    def _end(self, state: State, number: int, place: int, kind: str) -> Next:
        """The attempt ends, other than well; that it may be tried again is decided by itself."""
        life = state.lives[number]
        hand = life.hands[place]
        stage = kind
        if kind == "raised":
            can_retry = hand.attempt < self.scope.jobs[hand.job].max_attempts
            stage = "retried" if can_retry else "failed"
        if stage in ("retried", "snoozed", "timeout"):
            # Its own wish, or its policy on limits; not a crash: beginning again breaks no promise.
            state = remember(state, hand.job, state.memory[hand.job]._replace(begun=0))
        step = Step(kind, number, (hand.job,), place)
        return self.after(state, step, lives={number: _with(life, place, stage)})

    def _commit(self, state: State, number: int, place: int) -> Iterator[Next]:
        """A transactional task ends: its effect and its completion are one transaction."""
        life = state.lives[number]
        hand = life.hands[place]
        tables = self.tables(state)
        outcome = Outcome(hand.job, hand.epoch, "succeeded", hand.claim)
        step = Step("commit", number, (hand.job,), place)
        if tables.finish(number, [outcome]):
            # TQ004: rolled back.
            yield self.after(state, step, lives={number: _with(life, place, "failed")})
            return
        memory = state.memory[hand.job]
        done = remember(state, hand.job, memory._replace(effects=memory.effects + 1))
        yield self.after(done, step, tables, lives={number: _with(life, place, "committed")})

    def _finish(self, state: State, number: int, places: Sequence[int]) -> Iterator[Next]:
        life = state.lives[number]
        hands = [life.hands[place] for place in places]
        jobs = tuple(hand.job for hand in hands)
        tables = self.tables(state)
        tables.finish(number, [Outcome(h.job, h.epoch, h.stage, h.claim) for h in hands])
        after = _without(life, places)
        yield self.after(state, Step("finish", number, jobs), tables, lives={number: after})
        if state.faults:
            step = Step("finish, unanswered", number, jobs)
            yield self.after(state, step, tables, lives={number: life._replace(doubt=1)})

    def _beats(self, state: State, number: int) -> Iterator[Next]:
        life, step = state.lives[number], Step("beat", number)
        try:
            wishes = self.tables(state).heartbeat(number)
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
            yield self.after(state, step, lives={number: after})


def _sorted(hands: tuple[Hand, ...]) -> tuple[Hand, ...]:
    return tuple(sorted(hands)) if len(hands) > 1 else hands


def _with(life: Life, place: int, stage: str) -> Life:
    hands = list(life.hands)
    hands[place] = hands[place]._replace(stage=stage)
    return life._replace(hands=_sorted(tuple(hands)))


def _without(life: Life, places: Sequence[int]) -> Life:
    hands = tuple(hand for place, hand in enumerate(life.hands) if place not in places)
    return life._replace(hands=hands)
