"""Errand: what one run of a worker is for, beyond its settings, and what came of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pgtask.config import near
from pgtask.errors import ConfigError


@dataclass(slots=True)
class Errand:
    """Without anything told: run jobs of every task that is registered, until told to end.

    `tasks` are globs of task names; () are all. `once` is the one job to run. The worker ends when
    nothing is left (`drain`), when so many jobs have ended (`max_jobs`), or claims no more after so
    many seconds (`max_seconds`).
    """

    drain: bool = False
    tasks: tuple[str, ...] = ()
    once: int | None = None
    max_jobs: int | None = None
    max_seconds: float | None = None

    taken: int = 0  # jobs claimed, over all lives
    verdict: str | None = None  # how the one job's attempt ended; None: it was not begun

    @property
    def is_patient(self) -> bool:
        """Whether the worker waits for a database that is away, instead of ending."""
        return not self.drain and self.once is None

    def takes(self, task: str) -> bool:
        """Tell whether jobs of this task are wanted."""
        return not self.tasks or any(matches(task, glob) for glob in self.tasks)

    def check(self, registered: Sequence[str]) -> None:
        """Raise ConfigError for a glob that none of the registered tasks fits: it is misspelt."""
        for glob in self.tasks:
            if not any(matches(task, glob) for task in registered):
                raise ConfigError(
                    f"--tasks {glob!r}: no registered task fits{near(glob, list(registered))}"
                    " → see: pgtask tasks"
                )


def matches(task: str, glob: str) -> bool:
    """Tell whether a name fits a glob, in which only * is special, as in pgtask.claim.

    >>> matches("mail.send", "mail.*"), matches("mail.send", "mail?send")
    (True, False)
    """
    return re.fullmatch(".*".join(map(re.escape, glob.split("*"))), task, re.DOTALL) is not None
