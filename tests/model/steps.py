"""Steps: what can happen, and what a step leaves behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from tests.model.state import NO_LIFE, NOBODY, Life, Memory, Row, Rules, Scope, State
from tests.model.tables import Tables

# What goes wrong, or is nobody's plan: each of these uses up one of the faults of a scope.
FAULTS = frozenset({
    "give a claim up", "crash in a claim", "finish, unanswered", "fall silent", "crash",
    "child dies", "give back", "raised", "timeout", "snoozed", "leave", "server crash",
})  # fmt: skip


# What people do. A promise that all jobs end does not count on it.
WISHES = frozenset({"cancel", "replace"})


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


NO_CHANGE: Mapping[int, Life] = {}


class Ground:
    """What all steps stand on: the scope, the rules, and how a state comes of another."""

    def __init__(self, scope: Scope, rules: Rules) -> None:
        self.scope, self.rules = scope, rules

    def tables(self, state: State) -> Tables:
        return Tables(self.scope, self.rules, state.db)

    def after(
        self,
        state: State,
        step: Step,
        tables: Tables | None = None,
        *,
        lives: Mapping[int, Life] = NO_CHANGE,
        durable: bool = True,
        wrong: Sequence[str] = (),
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
        for number, life in lives.items():
            after[number] = life
        return Next(
            step, state._replace(db=db, lost=lost, lives=tuple(after), faults=faults), found
        )

    def count(self, state: State, claimed: Iterable[tuple[int, Row]]) -> tuple[State, list[str]]:
        wrong = []
        for job, _ in claimed:
            memory = state.memory[job]
            if memory.cancelled:
                wrong.append("cancel: a job was claimed after it was cancelled")
            state = remember(state, job, memory._replace(claims=memory.claims + 1))
        return state, wrong

    def some(self, things: Sequence[int]) -> Iterable[tuple[int, ...]]:
        most = len(things) if self.scope.everything else 1
        for size in range(1, most + 1):
            yield from combinations(things, size)


def is_unused(state: State, number: int) -> bool:
    """Whether nothing speaks of this life any more, so that a new one can have its number."""
    return (
        state.lives[number] == NO_LIFE
        and not state.db.alive[number]
        and number not in state.db.wishes
        and not any(row.worker == number for rows in state.db.rows for row in rows)
    )


def remember(state: State, job: int, memory: Memory) -> State:
    known = list(state.memory)
    known[job] = memory
    return state._replace(memory=tuple(known))
