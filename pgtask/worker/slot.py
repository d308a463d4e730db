"""Slot: shared memory in which a child says what it runs and since when.

One writer a field, nothing to wait for: a killed child leaves it readable, so a crash blames the
right job, a time limit needs no message, and jobs not yet begun can be taken back.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time
from typing import NamedTuple

_SIZE = 64
_NUMBER = struct.Struct("<q")
# written by the child
_PLACE, _STARTED, _BEGUN = 0, 8, 16
# written by the supervisor
_CANCELLED, _TAKEN_FROM, _TAKEN_TO = 24, 32, 40


class Running(NamedTuple):
    """What a child runs: its place on the pipe, and seconds since it began."""

    place: int
    seconds: float


class Slot:
    """One child's shared memory; both sides open it over the same descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, _SIZE)

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
        self._memory.close()
        os.close(self.descriptor)

    # The child's side ------------------------------------------------------------------------

    def begin(self, place: int) -> bool:
        """Publish that the job at `place` begins; False when it was taken back meanwhile.

        First publish, then look: the supervisor writes its mark first and looks later, so at least
        one of the two sees the other. Where both do, the child refuses the job and says so.
        """
        pack = _NUMBER.pack_into
        pack(self._memory, _STARTED, time.monotonic_ns())
        pack(self._memory, _BEGUN, place)
        pack(self._memory, _PLACE, place)
        taken_from = self._read(_TAKEN_FROM)
        if taken_from and taken_from <= place < self._read(_TAKEN_TO):
            pack(self._memory, _PLACE, 0)
            return False
        return True

    def end(self) -> None:
        """Publish that nothing runs."""
        _NUMBER.pack_into(self._memory, _PLACE, 0)

    def is_cancelled(self, place: int) -> bool:
        """Tell whether somebody asked to cancel the job at `place`."""
        return self._read(_CANCELLED) == place

    # The supervisor's side -------------------------------------------------------------------

    def running(self) -> Running | None:
        """Return what the child runs now."""
        while place := self._read(_PLACE):
            started = self._read(_STARTED)
            if self._read(_PLACE) == place:
                return Running(place, (time.monotonic_ns() - started) / 1e9)
        return None

    def begun(self) -> int:
        """Return the highest place that has begun so far."""
        return self._read(_BEGUN)

    def cancel(self, place: int) -> None:
        """Raise the flag that the job at `place` can read."""
        _NUMBER.pack_into(self._memory, _CANCELLED, place)

    def take_back(self, first: int, end: int) -> None:
        """Forbid the child to begin the jobs at places first .. end - 1.

        Look at begun() a moment later: a job that was beginning at this very instant has
        published itself by then, and stays with the child.
        """
        _NUMBER.pack_into(self._memory, _TAKEN_FROM, 0)
        _NUMBER.pack_into(self._memory, _TAKEN_TO, end)
        _NUMBER.pack_into(self._memory, _TAKEN_FROM, first)

    def _read(self, offset: int) -> int:
        value: int = _NUMBER.unpack_from(self._memory, offset)[0]
        return value
