"""RetryPolicy: the delay after each attempt, and whether there is another."""

from __future__ import annotations

import math
import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgtask.errors import BadOption
from pgtask.retry import MAX_SECONDS, RetryPolicy


def delays(backoff: Any, attempts: range) -> list[float]:
    policy = RetryPolicy.parse(backoff, jitter=0)
    return [policy.delay(attempt, random.random) for attempt in attempts]


def test_exp_grows_by_e_and_stops_growing_at_ten() -> None:
    assert delays("exp", range(1, 4)) == [math.e, math.exp(2), math.exp(3)]
    assert delays("exp", range(10, 13)) == [math.exp(10)] * 3


def test_const_linear_and_lists() -> None:
    assert delays("const:2.5", range(1, 4)) == [2.5, 2.5, 2.5]
    assert delays("linear:2", range(1, 4)) == [2.0, 4.0, 6.0]
    assert delays([1, timedelta(seconds=5), 9], range(1, 6)) == [1.0, 5.0, 9.0, 9.0, 9.0]


def test_a_function_of_the_attempt() -> None:
    assert delays(lambda attempt: timedelta(seconds=attempt * 3), range(1, 3)) == [3.0, 6.0]
    with pytest.raises(BadOption, match="what the backoff function returned"):
        delays(lambda attempt: None, range(1, 2))


def test_what_sql_will_read_is_a_plain_number() -> None:
    assert RetryPolicy.parse("const: 1_0.50 ").backoff == "const:10.5"
    assert RetryPolicy.parse("linear:1e3").backoff == "linear:1000"
    assert RetryPolicy.parse("const:0").backoff == "const:0"
    assert RetryPolicy.parse([1e-300, 2.00000049]).backoff == (0.0, 2.0)
    assert RetryPolicy.parse(jitter=1e-300).jitter == 0.0


def test_the_default_is_exp_with_a_tenth_of_jitter() -> None:
    assert RetryPolicy.parse() == RetryPolicy("exp", 0.1, (Exception,), ())


def test_jitter_spreads_in_both_directions() -> None:
    policy = RetryPolicy.parse("const:100", jitter=0.5)

    assert policy.delay(1, lambda: 0.0) == 50.0
    assert policy.delay(1, lambda: 0.5) == 100.0
    assert policy.delay(1, lambda: 1.0) == 150.0


@given(
    st.sampled_from(["exp", "const:0", f"linear:{MAX_SECONDS}"])
    | st.lists(st.floats(0, MAX_SECONDS), min_size=1),
    st.floats(0, 1),
    st.integers(1, 32_767),
    st.floats(0, 1, exclude_max=True),
)
def test_a_delay_is_never_negative_nor_endless(
    backoff: Any, jitter: float, attempt: int, number: float
) -> None:
    delay = RetryPolicy.parse(backoff, jitter).delay(attempt, lambda: number)

    assert 0 <= delay <= MAX_SECONDS


def test_attempts_count_every_execution() -> None:
    policy = RetryPolicy.parse()

    assert policy.should_retry(ValueError(), attempt=2, max_attempts=3)
    assert not policy.should_retry(ValueError(), attempt=3, max_attempts=3)
    assert not policy.should_retry(ValueError(), attempt=1, max_attempts=1)


def test_give_up_on_wins_over_retry_for() -> None:
    policy = RetryPolicy.parse(retry_for=(OSError,), give_up_on=(FileNotFoundError,))

    assert policy.should_retry(TimeoutError(), 1, 3)
    assert not policy.should_retry(FileNotFoundError(), 1, 3)
    assert not policy.should_retry(ValueError(), 1, 3)


def test_an_exit_is_not_retried_unless_asked_for() -> None:
    assert not RetryPolicy.parse().should_retry(SystemExit(), 1, 3)
    assert RetryPolicy.parse(retry_for=(SystemExit,)).should_retry(SystemExit(), 1, 3)
