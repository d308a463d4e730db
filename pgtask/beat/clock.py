"""Clock: the database's time held against this process's own, which never goes back."""

from __future__ import annotations

from datetime import datetime, timedelta

TOLERANCE = timedelta(seconds=1)  # adjusted in small steps, a clock was not set


class Clock:
    """Remembers when the database said what time it was."""

    def __init__(self) -> None:
        self._said: datetime | None = None
        self._heard = 0.0

    def went_back(self, now: datetime, asked: float, heard: float) -> bool:
        """Tell whether the database's clock was set back since the last answer.

        It said `now` at some time between `asked` and `heard`, in seconds of a monotonic clock.
        """
        said, self._said = self._said, now
        passed = timedelta(seconds=asked - self._heard)  # at least
        self._heard = heard
        return said is not None and now < said + passed - TOLERANCE
