"""Slot: what one process writes, the other reads, without waiting and without tearing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from pgtask.worker.slot import Slot
from tests.conditions import eventually


@pytest.fixture
def slot() -> Iterator[Slot]:
    slot = Slot.create()
    yield slot
    slot.close()


def test_it_says_what_runs_and_since_when(slot: Slot) -> None:
    assert slot.running() is None
    assert slot.begun() == 0

    assert slot.begin(3, time.monotonic_ns())

    running = slot.running()
    assert running is not None
    assert running.place == 3
    assert 0 <= running.seconds < 5
    slot.end()
    assert slot.running() is None
    assert slot.begun() == 3


def test_what_was_taken_back_cannot_begin(slot: Slot) -> None:
    assert slot.begin(1, time.monotonic_ns())
    slot.end()

    slot.take_back(2, 5)

    assert [slot.begin(place, time.monotonic_ns()) for place in range(2, 7)] == [
        False,
        False,
        False,
        True,
        True,
    ]


def test_what_was_taken_back_stays_so_while_more_is_taken(slot: Slot) -> None:
    # given jobs 2 to 4, taken back; 2 was refused, 3 and 4 not yet looked at
    slot.take_back(2, 5)
    assert not slot.begin(2, time.monotonic_ns())

    # when more are taken, while the child has published that it begins 3 and has not looked yet
    slot.take_back(4, 9)

    # then 3 and 4, which may run elsewhere by now, are still refused
    assert [slot.begin(place, time.monotonic_ns()) for place in range(3, 11)] == [False] * 6 + [
        True
    ] * 2


def test_a_second_range_begins_where_the_first_is_passed(slot: Slot) -> None:
    slot.take_back(2, 4)
    assert [slot.begin(place, time.monotonic_ns()) for place in (2, 3, 4, 5)] == [
        False,
        False,
        True,
        True,
    ]

    slot.take_back(7, 8)

    assert [slot.begin(place, time.monotonic_ns()) for place in (6, 7, 8)] == [True, False, True]


def test_a_cancellation_reaches_the_job_it_means(slot: Slot) -> None:
    slot.cancel(4)

    assert slot.is_cancelled(4)
    assert not slot.is_cancelled(5)


def test_a_reader_never_sees_half_a_write(slot: Slot) -> None:
    # given a process that begins job after job
    pid = os.fork()
    if pid == 0:
        place = 0
        while True:
            place += 1
            slot.begin(place, time.monotonic_ns())
            slot.end()
    try:
        eventually(lambda: slot.begun() > 1000)

        # then what is read never goes back, and what runs is never older than what has begun
        last = 0
        for _ in range(600_000):
            begun = slot.begun()
            assert begun >= last
            running = slot.running()
            if running is not None:
                assert running.place >= begun
                assert -0.001 < running.seconds < 10
            last = begun
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
