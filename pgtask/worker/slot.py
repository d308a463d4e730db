"""Slot: shared memory in which a child says what it runs and since when.

One writer a field, nothing to wait for: a killed child leaves it readable, so a crash blames the
right job, a time limit needs no message, and jobs not yet begun can be taken back.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

_SIZE = 64
# Fields, as indexes of 64-bit numbers. Written by the child:
_PLACE, _STARTED, _BEGUN = 0, 1, 2
# written by the supervisor:
_CANCELLED, _TAKEN_FROM, _TAKEN_TO, _INTERRUPTED = 3, 4, 5, 6


class Running(NamedTuple):
    """What a child runs: its place on the pipe, and seconds since it began."""

    place: int
    seconds: float


class Slot:
    """One child's shared memory; both sides open it over the same descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, _SIZE)
        # One aligned 64-bit store a write. Not struct.pack_into: it zeroes the bytes first, and the
        # other process sees that zero.
        self._fields = memoryview(self._memory).cast("q")

    @classmethod
    def create(cls) -> Slot:
        """Make a new one, zeroed; the descriptor is not inherited over exec."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("pgtask-slot", os.MFD_CLOEXEC)
        else:  # macOS
            descriptor, path = tempfile.mkstemp(prefix="pgtask-slot-")
            os.unlink(path)  # noqa: PTH108
        os.ftruncate(descriptor, _SIZE)
        return cls(descriptor)

    def close(self) -> None:
        """Unmap it and close the descriptor."""
        self._fields.release()
        self._memory.close()
        os.close(self.descriptor)

    # The child's side ------------------------------------------------------------------------

    def begin(self, place: int, now: int) -> bool:
        """Publish that the job at `place` begins; False when it was taken back meanwhile.

        `now` is time.monotonic_ns(): the caller has just read it anyway.

        First publish, then look: the supervisor writes its mark first and looks later, so at least
        one of the two sees the other. Where both do, the child refuses the job and says so.
        """
        fields = self._fields
        fields[_STARTED] = now
        fields[_BEGUN] = place
        fields[_PLACE] = place
        taken_from = fields[_TAKEN_FROM]
        if taken_from and taken_from <= place < fields[_TAKEN_TO]:
            fields[_PLACE] = 0
            return False
        return True

    def end(self) -> None:
        """Publish that nothing runs."""
        self._fields[_PLACE] = 0

    def is_cancelled(self, place: int) -> bool:
        """Tell whether somebody asked to cancel the job at `place`."""
        return self._fields[_CANCELLED] == place

    def asker(self, place: int) -> Callable[[], bool]:
        """Return is_cancelled for one place."""
        return lambda: self._fields[_CANCELLED] == place

    def to_interrupt(self) -> int | None:
        """Return the place that runs, where it is to be interrupted."""
        place = self._fields[_INTERRUPTED]
        return place if place and place == self._fields[_PLACE] else None

    # The supervisor's side -------------------------------------------------------------------

    def running(self) -> Running | None:
        """Return what the child runs now."""
        fields = self._fields
        while place := fields[_PLACE]:
            started = fields[_STARTED]
            if fields[_PLACE] == place:
                return Running(place, (time.monotonic_ns() - started) / 1e9)
        return None

    def begun(self) -> int:
        """Return the highest place that has begun so far."""
        return self._fields[_BEGUN]

    def cancel(self, place: int) -> None:
        """Raise the flag that the job at `place` can read."""
        self._fields[_CANCELLED] = place

    def interrupt(self, place: int) -> None:
        """Have the child interrupt the job at `place` when it next looks."""
        self._fields[_INTERRUPTED] = place

    def take_back(self, first: int, end: int) -> None:
        """Forbid the child to begin the jobs at places first .. end - 1.

        Look at begun() a moment later: a job that was beginning at this very instant has
        published itself by then, and stays with the child.
        """
        # What was taken earlier may run elsewhere by now: forbidden until the child is past it.
        passed = first > self._fields[_TAKEN_TO]
        self._fields[_TAKEN_TO] = end
        if passed:
            self._fields[_TAKEN_FROM] = first
