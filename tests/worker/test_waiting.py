"""Waiting: short jobs go out in batches, what crashed before alone, to no child too many."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from pgtask.broker.attempts import Claimed, Ended
from pgtask.worker.hands import Child
from pgtask.worker.nursery import Nursery
from pgtask.worker.pace import Pace
from pgtask.worker.pipe import Pipe
from pgtask.worker.slot import Slot
from pgtask.worker.waiting import Parts, Waiting


@pytest.fixture
def children() -> Iterator[list[Child]]:
    """Three sync children, ready and idle."""
    made, theirs = [], []
    nursery = Nursery(
        spec="",
        worker=uuid4(),
        installation="",
        dsn="",
        log=("INFO", "text"),
        heard=lambda nursery, word: None,
    )
    for number in (1, 2, 3):
        pipe, other = Pipe.pair()
        theirs.append(other)
        made.append(Child(number, False, pipe, Slot.create(), nursery, ready=True))
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


def jobs(*lives: int | None) -> list[Claimed]:
    return [
        Claimed(number, 1, 1, 3, "t", "default", "[]", None, None, None, None, False, 0, number, n)
        for number, n in enumerate(lives, 1)
    ]


def sync(pace: Pace, *lives: int | None, most_jobs: int | None = None) -> Waiting:
    waiting = Waiting(pace, 100, most_jobs)
    waiting.add(jobs(*lives), is_async=False)
    return waiting


def coroutines(*lives: int | None, at_once: int = 100, most_jobs: int | None = None) -> Waiting:
    waiting = Waiting(Pace(), at_once, most_jobs)
    waiting.add(jobs(*lives), is_async=True)
    return waiting


def ids(parts: Parts) -> dict[int, list[int]]:
    return {child.number: [job.id for job in part] for child, part in parts}


def test_jobs_are_spread_over_idle_children(children: list[Child], pace: Pace) -> None:
    assert ids(sync(pace, *[None] * 7).spread(children)) == {1: [1, 4, 7], 2: [2, 5], 3: [3, 6]}


def test_one_that_crashed_before_is_alone_in_its_child(children: list[Child], pace: Pace) -> None:
    assert ids(sync(pace, 2, *[None] * 4).spread(children)) == {1: [1], 2: [2, 4], 3: [3, 5]}
    assert children[0].holds_suspect

    # and as long as it is there, nothing goes behind it
    children[0].take(jobs(2))
    assert ids(sync(pace, *[None] * 4).spread(children)) == {2: [1, 3], 3: [2, 4]}
    assert Waiting(pace, 1, None).room(children[0]) == 0
    children[0].lose([1])
    assert 1 in ids(sync(pace, *[None] * 4).spread(children))


def test_one_that_crashed_before_waits_for_an_idle_child(children: list[Child], pace: Pace) -> None:
    for child in children:
        child.take(jobs(None))
    waiting = sync(pace, 2, None)

    assert waiting.spread(children) == []
    assert len(waiting) == 2
    children[1].lose([1])
    assert ids(waiting.spread(children))[2] == [1]


def test_no_child_is_given_more_than_its_count(children: list[Child], pace: Pace) -> None:
    children[0].take(jobs(None))
    children[0].lose([1])
    waiting = sync(pace, *[None] * 7, most_jobs=2)

    assert [waiting.room(child) for child in children] == [1, 2, 2]
    assert ids(waiting.spread(children)) == {1: [1], 2: [2, 4], 3: [3, 5]}
    assert len(waiting) == 2


def test_of_last_chances_one_is_given_at_a_time(children: list[Child], pace: Pace) -> None:
    waiting = sync(pace, None, 1, 1, 2, 1)
    chances = waiting.chances

    assert ids(waiting.spread(children)) == {1: [1], 2: [2], 3: [4]}
    assert [job.id for job in chances.take_refused()] == [3, 5]
    assert not chances.are_pending

    # until its attempt has ended, in whatever way
    waiting.add(jobs(None, None, 1)[2:], is_async=False)
    children[0].lose([1])
    assert waiting.spread(children) == []
    assert [job.id for job in chances.take_refused()] == [3]
    chances.ended([Ended(1, 1, "succeeded"), Ended(2, 1, "released")])
    waiting.add(jobs(None, None, 1)[2:], is_async=False)
    assert ids(waiting.spread(children)) == {1: [3]}


def test_a_coroutine_on_its_last_chance_goes_to_no_shared_process(children: list[Child]) -> None:
    for child in children:
        child.is_async = True
    waiting = coroutines(1, 2, 1, None)

    assert ids(waiting.hand_out(children)) == {1: [2, 4]}
    assert waiting.chances.lone is not None
    assert waiting.chances.lone.id == 1
    assert [job.id for job in waiting] == [1]
    assert [job.id for job in waiting.chances.take_refused()] == [3]
    assert [job.id for job in waiting.take_all()] == [1]
    assert len(waiting) == 0


def test_async_children_together_hold_no_more_than_one_may(children: list[Child]) -> None:
    for child in children:
        child.is_async = True
    old, new, newborn = children
    old.take(jobs(None, None, None))
    old.heir, new.predecessor, newborn.ready = new, old, False

    assert ids(coroutines(*[None] * 9, at_once=5).hand_out(children)) == {2: [1, 2]}
    assert ids(coroutines(*[None] * 9, most_jobs=4).hand_out(children)) == {2: [1, 2, 3, 4]}


def test_what_is_taken_back_goes_in_front_and_what_is_cancelled_goes(pace: Pace) -> None:
    waiting = sync(pace, None, None, None)
    waiting.put_back(jobs(*[None] * 5)[3:], is_async=False)

    assert [job.id for job in waiting.take_if(lambda job: job.id % 2 == 0)] == [4, 2]
    assert [job.id for job in waiting] == [5, 1, 3]
    assert waiting.count(is_async=False) == 3
    assert [job.id for job in waiting.take_sync()] == [5, 1, 3]
