"""Last chances: jobs whose next crash would be their last. A worker holds one of them at a time.

A job that takes its worker down costs a crash whatever that worker held, and comes back when they
do. If they could meet until none has a crash left, one bad job would fail all that were beside it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from pgtask.broker.attempts import Claimed, Ended

LATER = 1.0, 4.0  # s until the others may try again, here or elsewhere


class LastChances:
    """Whose turn it is; the others are to be sent back at once."""

    def __init__(self) -> None:
        self._turn: Claimed | None = None
        self._refused: list[Claimed] = []  # sent back in the same step
        self.lone: Claimed | None = None  # has its turn, and waits for a process of its own

    def admits(self, job: Claimed) -> bool:
        """Whether a job that crashed before may begin; else it is among the refused."""
        if job.lives != 1 or job is self._turn:
            return True
        if self._turn is not None:
            self._refused.append(job)
            return False
        self._turn = job
        return True

    def take_refused(self) -> list[Claimed]:
        """Return those that were refused, to be sent back."""
        jobs, self._refused = self._refused, []
        return jobs

    @property
    def are_pending(self) -> bool:
        """Whether there is something to do for any of them."""
        return bool(self._refused) or self.lone is not None

    def ended(self, attempts: Iterable[Ended | Claimed]) -> None:
        """Let the next have its turn, if one of these had it."""
        turn = self._turn
        if turn is not None and any((e.id, e.epoch) == (turn.id, turn.epoch) for e in attempts):
            self._turn = self.lone = None


def later() -> float:
    """Return the seconds after which a refused one comes back; it is not counted."""
    return random.uniform(*LATER)
