"""Outcomes travel as msgpack, and a Failure can be made of any exception."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgtask.outcome import (
    MAX_MESSAGE,
    MAX_TRACEBACK,
    Cancelled,
    Committed,
    Crashed,
    Failed,
    Failure,
    Outcome,
    Retried,
    Snoozed,
    Succeeded,
    TimedOut,
)

FAILURE = Failure("ValueError", "no", "Traceback")


@pytest.mark.parametrize(
    "outcome",
    [
        Succeeded("[1]"),
        Succeeded(),
        Failed(FAILURE, "timeout"),
        Retried(FAILURE, 2.5),
        Retried(None, 0.0),
        Snoozed(60.0),
        Cancelled(),
        Committed(),
        Crashed(FAILURE, 2.5),
        TimedOut(FAILURE, 0.1),
    ],
)
def test_outcomes_survive_the_pipe_in_few_bytes(outcome: Outcome) -> None:
    frame = msgspec.msgpack.encode(outcome)

    assert msgspec.msgpack.decode(frame, type=Outcome) == outcome
    assert len(frame) < 45


def test_a_failure_names_type_message_and_where() -> None:
    class Odd(Exception): ...

    try:
        raise Odd("went wrong")
    except Odd as error:
        failure = Failure.of(error)

    assert failure.type == f"{__name__}.test_a_failure_names_type_message_and_where.<locals>.Odd"
    assert failure.message == "went wrong"
    assert failure.traceback.startswith("Traceback (most recent call last):")
    assert 'raise Odd("went wrong")' in failure.traceback
    assert Failure.of(KeyError("x")).type == "KeyError"


def test_the_cause_is_told_too() -> None:
    error = ValueError("no order")
    error.__cause__ = OSError("disk")

    assert "OSError: disk" in Failure.of(error).traceback


def test_an_exception_that_cannot_be_printed_is_still_a_failure() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not even this")

        __repr__ = __str__

    failure = Failure.of(Broken())

    assert failure.type.endswith("Broken")
    assert failure.message == "<no message: its __str__ raised RuntimeError>"
    assert failure.traceback


def test_a_long_traceback_keeps_its_start_and_its_end() -> None:
    def dive(depth: int) -> None:
        if depth == 0:
            raise ValueError("ü" * 50_000)
        dive_again(depth - 1)

    def dive_again(depth: int) -> None:
        dive(depth)

    try:
        dive(200)
    except ValueError as error:
        failure = Failure.of(error)

    assert len(failure.traceback.encode()) <= MAX_TRACEBACK
    assert len(failure.message.encode()) <= MAX_MESSAGE
    assert failure.traceback.startswith("Traceback")
    assert failure.traceback.endswith("üüü\n")


@given(st.text(st.characters(), max_size=200))
def test_any_message_becomes_text_that_postgresql_stores(message: str) -> None:
    failure = Failure.of(ValueError(message))

    for text in (failure.message, failure.traceback):
        assert "\0" not in text
        assert text.encode().decode() == text
