"""Walks: ways through the model at random, with every kind of job and of fault."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from tests.model.promises import is_over
from tests.model.state import Job, Rules, Scope, State, initial
from tests.model.steps import Next, Step
from tests.model.system import System

WALKS = Scope(
    (
        Job(max_attempts=4),
        Job(serial=True, max_attempts=3),
        Job(serial=True, once=True),
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


def walk(seed: int, steps: int = 120) -> Iterator[Taken]:
    """Take one step after the other until all jobs have ended."""
    dice = random.Random(seed)
    system = System(WALKS, Rules())
    state = initial(WALKS)
    for _ in range(steps):
        if is_over(state):
            return
        kinds: dict[str, list[Next]] = defaultdict(list)
        for found in system.steps(state):
            kinds[found.step.kind].append(found)
        names = sorted(kinds)
        (kind,) = dice.choices(names, [RARE.get(name, OFTEN) for name in names])
        step, after, wrong = dice.choice(kinds[kind])
        assert not wrong, wrong
        yield Taken(state, step, after)
        state = after
