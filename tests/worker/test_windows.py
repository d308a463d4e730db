"""Windows find every job, however late its transaction commits, and rarely look from the front."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from pgtask.worker.windows import FRESH, SETTLE, Windows


@dataclass
class Table:
    """A lane as SQL sees it: rows of open transactions are there, but nobody can see them."""

    drawn: int = 0
    visible: set[int] = field(default_factory=set)
    writing: dict[int, tuple[float, list[int]]] = field(default_factory=dict)
    backlog: bool = False
    fresh: int = 0  # claims that began where the last one ended

    def begin(self, xid: int, commit_at: float, rows: int) -> None:
        seqs = [self.drawn + n + 1 for n in range(rows)]
        self.drawn += rows
        self.writing[xid] = (commit_at, seqs)

    def commit_due(self, now: float) -> dict[int, float]:
        committed = {}
        for xid, (commit_at, seqs) in list(self.writing.items()):
            if commit_at <= now:
                self.visible.update(seqs)
                committed.update(dict.fromkeys(seqs, commit_at))
                del self.writing[xid]
        return committed

    def claim(self, windows: Windows, now: float, limit: int) -> list[int]:
        fresh = windows.fresh_ranges(["q"], now) if self.backlog else None
        ranges, sweep = (fresh, False) if fresh else windows.ranges(["q"], now)
        self.fresh += fresh is not None
        found: list[int] = []
        for each in ranges:
            if each.low <= 0 <= each.high:
                rows = sorted(seq for seq in self.visible if seq >= each.seq)
                found += rows[: limit - len(found)]
        self.visible -= set(found)
        if sweep:
            windows.swept(now, 10.0)  # so dear that the next is a minute away
        self.backlog = len(found) == limit
        short = not self.backlog and not fresh
        windows.claimed(now, ["q"], [("q", 0, seq) for seq in found], short=short)
        return found


@pytest.mark.parametrize("seed", range(20))
def test_a_row_that_commits_late_is_claimed_soon_after_its_commit_without_a_sweep(
    seed: int,
) -> None:
    chance = random.Random(seed)
    table, windows = Table(), Windows()
    committed: dict[int, float] = {}
    waits: list[float] = []
    now, next_poll, xid = 0.0, 0.0, 0
    windows.polled(now, [], 0)
    table.claim(windows, now, 10)

    while now < 55.0:
        now += 0.05
        committed |= table.commit_due(now)
        if now < 40.0:
            for _ in range(chance.randrange(3)):
                xid += 1
                slow = chance.random() < 0.05
                lasts = chance.uniform(0, 12) if slow else chance.uniform(0, SETTLE / 2)
                table.begin(xid, now + lasts, chance.randrange(1, 4))
        if now >= next_poll:
            windows.polled(now, list(table.writing), table.drawn)
            next_poll = now + 1.0
        for later in (0.0, 0.015, 0.03):
            for seq in table.claim(windows, now + later, 2):
                waits.append(now + later - committed[seq])

    assert len(waits) == len(committed) == table.drawn
    assert table.fresh > 100
    assert max(waits) <= 2.5  # two polls, and the claims in between


def test_a_busy_lane_is_not_walked_from_its_front() -> None:
    windows = Windows()
    windows.polled(0.0, [], 0)
    windows.swept(0.0, 10.0)
    seq = 0

    for tick in range(100):
        now = tick / 10
        rows = [("q", 0, seq + n) for n in range(1, 101)]
        seq += 100
        windows.claimed(now, ["q"], rows, short=False)

    (start,) = [each.seq for each in windows.ranges(["q"], 10.0)[0] if each.low == each.high]
    assert seq - 3_500 <= start < seq  # 2 s of claims, and the grain of the marks


def test_a_backlog_is_claimed_from_where_the_last_claim_ended_and_soon_from_further_back() -> None:
    windows = Windows()
    windows.polled(0.0, [], 0)
    windows.swept(0.0, 10.0)
    windows.claimed(0.0, ["q"], [("q", 0, 500)], short=False)
    windows.ranges(["q"], 3.0)
    windows.claimed(3.0, ["q"], [("q", 0, 900)], short=False)

    fresh = windows.fresh_ranges(["q"], 3.0 + FRESH / 2)
    assert fresh is not None
    assert [each.seq for each in fresh if each.low == each.high] == [900]
    assert windows.fresh_ranges(["q"], 3.0 + FRESH) is None


def test_every_priority_is_looked_at_once_from_above() -> None:
    windows = Windows()
    windows.swept(0.0, 10.0)
    windows.claimed(0.0, ["q"], [("q", 5, 1), ("q", 0, 2), ("other", 9, 3)], short=False)

    ranges, sweep = windows.ranges(["q"], 1.0)

    assert not sweep
    covered = [p for each in ranges for p in range(each.high, each.low - 1, -1)]
    assert covered == list(range(100, -101, -1))


def test_after_a_reconnect_the_next_claim_is_a_sweep() -> None:
    windows = Windows()
    windows.swept(0.0, 10.0)
    windows.claimed(0.0, ["q"], [("q", 0, 7)], short=True)

    windows.forget()

    assert windows.ranges(["q"], 1.0) == ([("q", -100, 100, 0)], True)
