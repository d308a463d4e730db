"""Ways through the model: walks at random, and every call that any state has for PostgreSQL."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from tests.model.image import seen_by_sql
from tests.model.mirror import CALLS
from tests.model.promises import is_over
from tests.model.search import Search
from tests.model.state import NO_LIFE, NOBODY, Job, Rules, Scope, State, initial
from tests.model.steps import Next, Step
from tests.model.system import System

WALKS = Scope(
    (
        Job(max_attempts=4),
        Job(serial=True, max_attempts=3),
        Job(once=True),
        Job(key=True, max_crashes=2),
        Job(transaction=True, serial=True),
        Job(key=True, max_crashes=2, later=True),
    ),
    faults=40,
    cancels=1,
    orders=1,
    everything=True,
    ends=("raised", "timeout", "snoozed"),
)

# Otherwise workers come and go, and nothing gets done.
RARE = {
    "crash": 1, "crash in a claim": 1, "leave": 1, "fall silent": 3, "rescue": 2, "start": 4,
    "give a claim up": 3, "cancel": 2, "replace": 2, "give back": 5,
}  # fmt: skip
OFTEN = 10


class Taken(NamedTuple):
    before: State
    step: Step
    after: State


def walk(seed: int, rules: Rules | None = None, steps: int = 120) -> Iterator[Taken]:
    """Take one step after the other until all jobs have ended."""
    dice = random.Random(seed)
    system = System(WALKS, rules or Rules())
    state = initial(WALKS)
    for _ in range(steps):
        if is_over(state):
            return
        kinds: dict[str, list[Next]] = defaultdict(list)
        for found in system.steps(state):
            kinds[found.step.kind].append(found)
        names = sorted(kinds)
        (kind,) = dice.choices(names, [RARE.get(name, OFTEN) for name in names])
        step, after, _ = dice.choice(kinds[kind])
        yield Taken(state, step, after)
        state = after


def calls(scope: Scope) -> Iterator[Taken]:
    """Yield a step for each function that a reachable state calls, once for the same tables."""
    search = Search(scope, Rules())
    search.run()
    system = System(scope, Rules())
    known = set()
    for state in search.states:
        tables = seen_by_sql(state.db)
        for step, after, _ in system.steps(state):
            if step.kind in CALLS:
                life = state.lives[step.life] if step.life != NOBODY else NO_LIFE
                hands = tuple(hand._replace(attempt=0, claim=0) for hand in life.hands)
                call = (tables, step, life.late, life.up and life.seen, hands)
                if call not in known:
                    known.add(call)
                    yield Taken(state, step, after)
