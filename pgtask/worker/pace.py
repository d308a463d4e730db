"""Pace: how long tasks take, as measured, and so how many jobs a child may hold at once."""

from __future__ import annotations

# Work a child may hold: enough that it does not run dry while the supervisor talks to the database,
# little enough that a new job of high priority does not wait long behind it, and that what there is
# gets spread over the workers.
AHEAD = 0.04  # s
# While more is waiting than was claimed: each claim and each finish takes time from the tasks.
AHEAD_IN_BACKLOG = 0.15  # s
MOST = 256  # jobs
WEIGHT = 0.2  # of the newest measurement in the moving average


class Pace:
    """Moving averages of the seconds a job takes, per task and over all."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._overall: float | None = None
        self._ahead = AHEAD

    def expect(self, *, backlog: bool) -> None:
        """Widen or narrow the window: is there more in the queues than was claimed?"""
        self._ahead = AHEAD_IN_BACKLOG if backlog else AHEAD

    def note(self, task: str, seconds: float, jobs: int = 1) -> None:
        """Count measured jobs of one task, `seconds` each on average."""
        known = self._seconds.get(task)
        weight = WEIGHT if jobs == 1 else 1 - (1 - WEIGHT) ** jobs
        # A first measurement includes first-time costs (imports, caches): let the next ones decide.
        self._seconds[task] = seconds if known is None else known + weight * (seconds - known)
        overall = self._overall
        self._overall = seconds if overall is None else overall + weight * (seconds - overall)

    def of(self, task: str) -> float:
        """Seconds a job of this task is expected to take; a whole window while nothing is known."""
        return self._seconds.get(task, self._ahead)

    def fits(self, expected: float, cost: float) -> bool:
        """Tell whether a child that holds `expected` seconds of work may take `cost` more."""
        return expected + cost <= self._ahead

    def batch(self, expected: float) -> int:
        """How many more average jobs a child with `expected` seconds of work may take."""
        if self._overall is None or self._overall <= 0:
            return 1 if expected == 0 else 0
        most = int((self._ahead - expected) / self._overall)
        return min(MOST, max(1 if expected == 0 else 0, most))
