"""Progress of a long operation, on stderr: one moving line on a terminal, else now and then one."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

QUICK = 1.0  # s: what is over sooner needs no progress
PIPE_EVERY = 10.0  # s between lines that do not overwrite each other


class Progress:
    """Counts what is done. Leaving by an error or Ctrl-C says how far it came."""

    def __init__(self, verb: str, total: int | None = None, *, quiet: bool = False) -> None:
        self.done = 0
        self._verb = verb
        self._total = total
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._next = time.monotonic() + (QUICK if self._terminal else PIPE_EVERY)
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def add(self, count: int) -> None:
        """Note that `count` more are done."""
        self.done += count
        if not self._quiet and time.monotonic() >= self._next:
            self._next = time.monotonic() + (0.1 if self._terminal else PIPE_EVERY)
            self._show(end="" if self._terminal else "\n")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if (self._shown and self._terminal) or (kind is not None and self.done):
            self._show(end="\n")

    def _show(self, *, end: str) -> None:
        self._shown = True
        start = "\r" if self._terminal else ""
        of = "" if self._total is None else f" of {self._total}"
        sys.stderr.write(f"{start}{self._verb} {self.done}{of}{end}")
        sys.stderr.flush()
