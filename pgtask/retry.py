"""RetryPolicy: whether an attempt that failed is tried again, and after how many seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias

from pgtask.errors import BadOption

DEFAULT_MAX_ATTEMPTS = 3
DEFAULT_JITTER = 0.1
MAX_SECONDS = 3_155_760_000.0  # 100 years: further ahead, adding it to now() could overflow

Backoff: TypeAlias = "str | Sequence[float | timedelta] | Callable[[int], float | timedelta]"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`backoff` is "exp", "const:S", "linear:S", seconds by attempt, or a function of the attempt.

    Attempts count from 1 and include the first execution. `jitter` is the fraction by which a
    delay is spread in both directions, 0 for exact delays.
    """

    backoff: str | tuple[float, ...] | Callable[[int], float | timedelta] = "exp"
    jitter: float = DEFAULT_JITTER
    retry_for: tuple[type[BaseException], ...] = (Exception,)
    give_up_on: tuple[type[BaseException], ...] = ()

    @classmethod
    def parse(
        cls,
        backoff: Backoff | None = None,
        jitter: float | None = None,
        retry_for: tuple[type[BaseException], ...] = (Exception,),
        give_up_on: tuple[type[BaseException], ...] = (),
    ) -> RetryPolicy:
        """The policy that options or a job's stored policy describe; raises BadOption."""
        return cls(
            "exp" if backoff is None else parse_backoff(backoff),
            DEFAULT_JITTER if jitter is None else parse_jitter(jitter),
            retry_for,
            give_up_on,
        )

    def should_retry(self, exception: BaseException, attempt: int, max_attempts: int) -> bool:
        """Whether attempt number `attempt`, which ended with this exception, has a successor."""
        return (
            attempt < max_attempts
            and isinstance(exception, self.retry_for)
            and not isinstance(exception, self.give_up_on)
        )

    def delay(self, attempt: int, random: Callable[[], float]) -> float:
        """Seconds to wait after attempt number `attempt`; `random` gives numbers in [0, 1)."""
        exact = self._exact(attempt)
        spread = exact * self.jitter * (2.0 * random() - 1.0) if self.jitter else 0.0
        return min(max(0.0, exact + spread), MAX_SECONDS)

    def _exact(self, attempt: int) -> float:
        backoff = self.backoff
        if isinstance(backoff, tuple):
            return backoff[min(attempt, len(backoff)) - 1]
        if not isinstance(backoff, str):
            return parse_seconds("what the backoff function returned", backoff(attempt))
        if backoff == "exp":
            return math.exp(min(attempt, 10))
        kind, _, seconds = backoff.partition(":")
        return float(seconds) * (attempt if kind == "linear" else 1)


def parse_backoff(value: Any) -> str | tuple[float, ...] | Callable[[int], float | timedelta]:
    if isinstance(value, str):
        kind, colon, seconds = value.partition(":")
        if value == "exp":
            return value
        if kind in ("const", "linear") and colon:
            try:
                number = parse_seconds("backoff", float(seconds))
            except ValueError as error:
                raise BadOption(
                    f"backoff {value!r}: {seconds!r} is not a number of seconds"
                ) from error
            # Written anew: SQL reads plain numbers only, Python's float() also " 5" and "1_000".
            return f"{kind}:{number:.6f}".rstrip("0").rstrip(".")
    elif isinstance(value, (list, tuple)):
        if not value:
            raise BadOption("backoff: an empty list says no delay; give at least one")
        return tuple(parse_seconds(f"backoff[{n}]", item) for n, item in enumerate(value))
    elif callable(value) and not isinstance(value, type):
        function: Callable[[int], float | timedelta] = value
        return function
    raise BadOption(
        f'backoff must be "exp", "const:S", "linear:S", a list of seconds or a function of the '
        f"attempt, got {value!r}"
    )


def parse_jitter(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise BadOption(f"jitter is a fraction from 0 to 1, got {value!r}")
    return round(float(value), 6)


def parse_seconds(name: str, value: Any) -> float:
    """A duration as seconds; raises BadOption for what is none, negative or over 100 years."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadOption(f"{name} must be seconds or a timedelta, got {value!r}")
    if not 0 <= value <= MAX_SECONDS:
        raise BadOption(f"{name} must be between 0 and {MAX_SECONDS:.0f} seconds, got {value!r}")
    # To the microsecond, as PostgreSQL counts.
    return round(float(value), 6)
