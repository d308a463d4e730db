"""Interrupts: exceptions raised by a signal inside a sync task, and never inside pgtask's code."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pgtask.errors import JobCancelled, SoftTimeLimitExceeded

AGAIN = 0.001  # s until the next try, where the task could not be interrupted

# By name: the supervisor imports this file too, and is spared those.
_CALLS_THE_TASK = ("pgtask.task", "Task.run")
_WAITS = ("pgtask.result", "AsyncResult.get")  # code of ours that does nothing but wait


class Interrupts:
    """Of one child. The main thread runs the tasks, and is where signals are handled."""

    def __init__(self) -> None:
        self._limited = False
        self._cancelled = 0  # the place that was told so

    def cancel(self, place: int, frame: FrameType | None) -> None:
        """Raise JobCancelled in the task that runs at `place`, once; from a signal handler.

        Does nothing where the task is in pgtask's code: the supervisor asks again.
        """
        if place != self._cancelled and _is_in_task(frame):
            self._cancelled = place
            raise JobCancelled("this job was cancelled, with terminate")

    @contextmanager
    def limit(self, seconds: float, left: float | None = None) -> Iterator[None]:
        """Raise SoftTimeLimitExceeded in the task that the block runs, after these seconds.

        Or when what is `left` of them has passed, where some went into an earlier run.
        """

        def ring(number: int, frame: FrameType | None) -> None:
            # The alarm may ring between the task's return and the disarming below.
            if not self._limited:
                return
            if not _is_in_task(frame):
                signal.setitimer(signal.ITIMER_REAL, AGAIN)
                return
            raise SoftTimeLimitExceeded(f"soft_timeout of {seconds:g} s passed")

        previous = signal.signal(signal.SIGALRM, ring)
        self._limited = True
        signal.setitimer(signal.ITIMER_REAL, seconds if left is None else left)
        try:
            yield
        finally:
            self._limited = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)


def _is_in_task(frame: FrameType | None) -> bool:
    """Whether the code that a signal interrupted is the task's, or somebody's whom it called.

    Not pgtask's, called by the task or calling it: an exception there could leave a frame of
    outcomes half written, or a connection in the middle of a statement.
    """
    innermost = frame
    only_waits = True
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("pgtask."):
            if frame is innermost:
                return False
            function = (module, frame.f_code.co_qualname)
            return function == _CALLS_THE_TASK or (only_waits and function == _WAITS)
        only_waits = only_waits and module == "threading"
        frame = frame.f_back
    return False
