"""Handing out: short jobs in batches, what crashed before alone, no child beyond its count."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import pytest

from pgtask.broker.attempts import Claimed
from pgtask.worker.handout import Parts, hand_out, spread
from pgtask.worker.hands import Child
from pgtask.worker.pace import Pace
from pgtask.worker.pipe import Pipe
from pgtask.worker.slot import Slot


@pytest.fixture
def children() -> Iterator[list[Child]]:
    """Three sync children, ready and idle."""
    made, theirs = [], []
    for number in (1, 2, 3):
        pipe, other = Pipe.pair()
        theirs.append(other)
        made.append(Child(number, False, pipe, Slot.create(), ready=True))
    yield made
    for child, other in zip(made, theirs, strict=True):
        child.slot.close()
        child.pipe._connection.close()
        other.close()


@pytest.fixture
def pace() -> Pace:
    pace = Pace()
    pace.note("t", 0.001)
    return pace


def jobs(*lives: int | None) -> deque[Claimed]:
    return deque(
        Claimed(number, 1, 1, 3, "t", "default", "[]", None, None, None, None, False, 0, number, n)
        for number, n in enumerate(lives, 1)
    )


def ids(parts: Parts) -> dict[int, list[int]]:
    return {child.number: [job.id for job in part] for child, part in parts}


def test_jobs_are_spread_over_idle_children(children: list[Child], pace: Pace) -> None:
    assert ids(spread(jobs(*[None] * 7), children, pace, None)) == {
        1: [1, 4, 7],
        2: [2, 5],
        3: [3, 6],
    }


def test_one_that_crashed_before_is_alone_in_its_child(children: list[Child], pace: Pace) -> None:
    queued = jobs(2, None, None, None, None)

    assert ids(spread(queued, children, pace, None)) == {1: [1], 2: [2, 4], 3: [3, 5]}
    assert children[0].holds_suspect

    # and as long as it is there, nothing goes behind it
    children[0].take([*jobs(2)])
    assert ids(spread(jobs(*[None] * 4), children, pace, None)) == {2: [1, 3], 3: [2, 4]}
    children[0].lose([1])
    assert 1 in ids(spread(jobs(*[None] * 4), children, pace, None))


def test_one_that_crashed_before_waits_for_an_idle_child(children: list[Child], pace: Pace) -> None:
    for child in children:
        child.take([*jobs(None)])
    queued = jobs(2, None)

    assert spread(queued, children, pace, None) == []
    assert len(queued) == 2
    children[1].lose([1])
    assert ids(spread(queued, children, pace, None))[2] == [1]


def test_no_child_is_given_more_than_its_count(children: list[Child], pace: Pace) -> None:
    children[0].take([*jobs(None)])
    children[0].lose([1])
    queued = jobs(*[None] * 7)

    assert ids(spread(queued, children, pace, 2)) == {1: [1], 2: [2, 4], 3: [3, 5]}
    assert len(queued) == 2


def test_async_children_together_hold_no_more_than_one_may(children: list[Child]) -> None:
    for child in children:
        child.is_async = True
    old, new, newborn = children
    old.take([*jobs(None, None, None)])
    old.heir, new.predecessor, newborn.ready = new, old, False

    assert ids(hand_out(jobs(*[None] * 9), children, 5, None)) == {2: [1, 2]}
    assert ids(hand_out(jobs(*[None] * 9), children, 100, 4)) == {2: [1, 2, 3, 4]}
