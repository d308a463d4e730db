"""Breadth first through every reachable state; a broken promise comes with its shortest trace."""

from __future__ import annotations

import gc
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise

from tests.model.promises import broken, is_over
from tests.model.state import ENDED, NOBODY, Database, Row, Rules, Scope, State, initial
from tests.model.steps import FAULTS, WISHES, Step
from tests.model.system import System
from tests.model.trace import lines

UNPLANNED = FAULTS | WISHES


@dataclass
class Found:
    """What an exploration found; `trace` leads to where `promise` breaks, if one does."""

    states: int = 0
    transitions: int = 0
    promise: str = ""
    trace: list[str] = field(default_factory=list)


class Search:
    """The graph of all states that can be reached within a scope, by some rules."""

    def __init__(self, scope: Scope, rules: Rules) -> None:
        self._scope, self._system = scope, System(scope, rules)
        first, _ = canonical(initial(scope))
        self.states = [first]
        self._number = {first: 0}
        self._came: list[tuple[int, Step]] = [(0, Step(""))]  # where each was first reached from
        self._healthy: list[list[int]] = [[]]  # the states that lead to each without a fault
        self._over: list[int] = []

    def run(self) -> Found:
        """Visit every state, or stop at the first promise that breaks."""
        transitions = 0
        here = 0
        while here < len(self.states):
            state = self.states[here]
            if is_over(state):
                self._over.append(here)
            for step, after, wrong in self._system.steps(state):
                transitions += 1
                there, is_new = self._visit(canonical(after)[0], here, step)
                if step.kind not in UNPLANNED:
                    self._healthy[there].append(here)
                said = wrong or (list(broken(self._scope, after)) if is_new else [])
                if said:
                    return Found(
                        len(self.states), transitions, said[0], self._trace(here, (step, after))
                    )
            here += 1
        stuck = self._stuck()
        if stuck is None:
            return Found(len(self.states), transitions)
        said_of_it = "I2: without a further fault the jobs can never all end"
        return Found(len(self.states), transitions, said_of_it, self._trace(stuck, None))

    def _visit(self, state: State, here: int, step: Step) -> tuple[int, bool]:
        there = self._number.get(state)
        if there is not None:
            return there, False
        there = self._number[state] = len(self.states)
        self.states.append(state)
        self._came.append((here, step))
        self._healthy.append([])
        return there, True

    def _stuck(self) -> int | None:
        """Return the first state from which no healthy steps lead to the end of all jobs."""
        ends = bytearray(len(self.states))
        todo = deque(self._over)
        for number in self._over:
            ends[number] = 1
        while todo:
            for before in self._healthy[todo.popleft()]:
                if not ends[before]:
                    ends[before] = 1
                    todo.append(before)
        first = ends.find(0)
        return None if first < 0 else first

    def _trace(self, number: int, last: tuple[Step, State] | None) -> list[str]:
        """Walk the shortest path again, with names that stay when lives are renumbered."""
        path = [number]
        while path[-1]:
            path.append(self._came[path[-1]][0])
        path.reverse()
        walk = []
        for before, there in pairwise(path):
            step = self._came[there][1]
            after, order = next(
                (raw, order)
                for found, raw, _ in self._system.steps(self.states[before])
                if found == step
                for reached, order in [canonical(raw)]
                if reached == self.states[there]
            )
            walk.append((step, self.states[before], after, order))
        if last is not None:
            walk.append((last[0], self.states[number], last[1], list(self._scope.lives)))
        return lines(walk)


def explore(scope: Scope, rules: Rules | None = None) -> Found:
    """Visit every state of a scope, by the true rules unless others are given."""
    # Millions of tuples without a cycle: looking for garbage among them takes a third of the time.
    gc.disable()
    try:
        return Search(scope, rules or Rules()).run()
    finally:
        gc.enable()


def canonical(state: State) -> tuple[State, list[int]]:
    """Return the state that stands for all that differ in nothing of account, and its order.

    Lives are interchangeable; of a job that has ended only how it ended counts.
    """
    db = state.db
    if any(rows and rows[0].table in ENDED for rows in db.rows):
        memory = list(state.memory)
        tables = list(db.rows)
        for job, rows in enumerate(tables):
            if len(rows) == 1 and rows[0].table in ENDED:
                tables[job] = (Row(rows[0].table, 0, 0, 0),)
                memory[job] = memory[job]._replace(claims=0)
        db = db._replace(rows=tuple(tables))
        state = state._replace(db=db, memory=tuple(memory))
    lives, alive = state.lives, db.alive
    order = sorted(range(len(lives)), key=lambda n: (lives[n], alive[n]), reverse=True)
    if order == list(range(len(lives))):
        return state, order
    new = {old: place for place, old in enumerate(order)} | {NOBODY: NOBODY}
    return (
        state._replace(
            db=_renumbered(db, order, new),
            lost=tuple(_renumbered(lost, order, new) for lost in state.lost),
            lives=tuple(lives[old] for old in order),
        ),
        order,
    )


def _renumbered(db: Database, order: list[int], new: dict[int, int]) -> Database:
    return db._replace(
        rows=tuple(
            tuple(r if r.worker == NOBODY else r._replace(worker=new[r.worker]) for r in rows)
            for rows in db.rows
        ),
        wishes=tuple(new[worker] for worker in db.wishes),
        alive=tuple(db.alive[old] for old in order),
    )
