"""Windows: where in each lane a claim begins, so that it does not walk over what is gone.

While an old snapshot is held somewhere, the index entries of claimed jobs cannot be removed. A
claim that began at the front of its lane would walk over all of them; one that begins at a
remembered place does not. Wrong windows only delay a job: every sweep looks from the front.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from pgtask.broker.attempts import Range

LOWEST, HIGHEST = -100, 100  # priorities
HIGHEST_SEQ = 2**63 - 1

SETTLE = 2.0  # s within which an ordinary writer commits; what takes longer is watched by its xid
FRESH = 0.05  # s for which claims in a backlog may begin where the last one ended
SWEEP = 1.0  # s between two looks from the front
LONGEST_SWEEP_PAUSE = 60.0  # s
SWEEP_SHARE = 0.02  # of the time, at most, goes into sweeps


class Lane(NamedTuple):
    """The jobs of one queue at one priority, in order of seq."""

    queue: str
    priority: int


class Windows:
    """The marks of one worker. Times are seconds of any monotonic clock."""

    def __init__(self) -> None:
        # Each lane's marks, oldest first: (time, seq before which nothing was left to find).
        self._marks: dict[Lane, deque[tuple[float, int]]] = {}
        # Transactions in progress: when first seen, and the marks of the poll before that.
        self._writers: dict[int, tuple[float, dict[Lane, int]]] = {}
        self._polled: dict[Lane, int] = {}
        # A slow writer has ended: look from here until nothing more is found.
        self._behind: dict[Lane, int] = {}
        self._last_value = 0
        self._next_sweep = self._next_look = float("-inf")

    def forget(self) -> None:
        """After a reconnect nothing is known: sweep, and suspect every transaction in progress."""
        self.__init__()  # type: ignore[misc]  # the same as a new one

    def ranges(self, queues: Sequence[str], now: float) -> tuple[list[Range], bool]:
        """Return where to look, in the order of the queues, and whether that is a sweep."""
        self._next_look = now + FRESH
        if now >= self._next_sweep:
            return [Range(queue, LOWEST, HIGHEST, 0) for queue in queues], True
        return self._ranges(queues, lambda lane: self._start(lane, now)), False

    def fresh_ranges(self, queues: Sequence[str], now: float) -> list[Range] | None:
        """Return where the last claims ended, for who has just found more than it could take.

        What was committed behind them in the last SETTLE seconds is not seen: fewer jobs than were
        asked for mean nothing. None when it is time to look further back.
        """
        if now >= self._next_look or now >= self._next_sweep:
            return None
        return self._ranges(
            queues,
            lambda lane: min(self._marks[lane][-1][1], self._behind.get(lane, HIGHEST_SEQ)),
        )

    def _ranges(self, queues: Sequence[str], start_of: Callable[[Lane], int]) -> list[Range]:
        ranges: list[Range] = []
        for queue in queues:
            above = HIGHEST + 1
            known = sorted((lane for lane in self._marks if lane.queue == queue), reverse=True)
            for lane in known:
                # Between known lanes nothing was ever claimed: a look there costs one probe.
                if lane.priority + 1 < above:
                    ranges.append(Range(queue, lane.priority + 1, above - 1, 0))
                ranges.append(Range(queue, lane.priority, lane.priority, start_of(lane)))
                above = lane.priority
            if above > LOWEST:
                ranges.append(Range(queue, LOWEST, above - 1, 0))
        return ranges

    def sweep_next(self) -> None:
        """Look from the front at the next claim."""
        self._next_sweep = float("-inf")

    def swept(self, now: float, seconds: float) -> None:
        """Note a claim from the front that took so long."""
        pause = min(max(SWEEP, seconds / SWEEP_SHARE), LONGEST_SWEEP_PAUSE)
        self._next_sweep = now + pause

    def claimed(
        self,
        now: float,
        queues: Iterable[str],
        rows: Sequence[tuple[str, int, int]],
        *,
        short: bool,
    ) -> None:
        """Move the marks after a claim of every known task from `queues`.

        `rows` are (queue, priority, seq); `short` says that fewer came than were asked for, so
        that nothing is left before the seq drawn last when the transactions were polled.
        """
        highest: dict[Lane, int] = {}
        for queue, priority, seq in rows:
            lane = Lane(queue, priority)
            highest[lane] = max(highest.get(lane, 0), seq)
        if short:
            asked = set(queues)
            for lane in self._marks.keys() | highest.keys():
                if lane.queue in asked:
                    highest[lane] = max(highest.get(lane, 0), self._last_value)
                    self._behind.pop(lane, None)
        for lane, seq in highest.items():
            marks = self._marks.setdefault(lane, deque([(now, 0)]))
            seq = max(seq, marks[-1][1])
            # One mark a tenth of a second is as good as one a claim.
            if len(marks) > 1 and now - marks[-2][0] < 0.1:
                marks[-1] = (marks[-1][0], seq)
            else:
                marks.append((now, seq))
            while len(marks) > 1 and marks[1][0] <= now - SETTLE:
                marks.popleft()

    def polled(self, now: float, in_progress: Iterable[int], last_value: int) -> None:
        """Note the transactions in progress and the last seq drawn, both read at one time.

        A row can appear behind a mark only if its transaction was in progress when the mark
        passed; what it wrote can be older than its first sight, hence the marks one poll before.
        """
        running = set(in_progress)
        for xid in running - self._writers.keys():
            self._writers[xid] = (now, self._polled)
        for xid in self._writers.keys() - running:
            seen, marks = self._writers.pop(xid)
            if now - seen > SETTLE / 2:
                for lane in self._marks:
                    start = marks.get(lane, 0)
                    self._behind[lane] = min(start, self._behind.get(lane, start))
        self._polled = {lane: marks[-1][1] for lane, marks in self._marks.items()}
        self._last_value = last_value

    def _start(self, lane: Lane, now: float) -> int:
        marks = self._marks[lane]
        # The mark in force SETTLE ago; what has no such is looked at from the front.
        start = marks[0][1] if marks[0][0] <= now - SETTLE else 0
        return min(start, self._behind.get(lane, start))
