"""What is to be reached, and whether a run reached it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from bench.catalog import FLOOR, GRAPHILE, PGTASK

Figure = Callable[[str, str, str], float | None]


@dataclass(frozen=True, slots=True)
class Goal:
    """One measure with its bound. `value` is asked of a run; None there means: not measured."""

    row: str
    what: str
    bound: float
    value: Callable[[Figure], float | None]
    at_least: bool = True

    def text(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:,g}"


class Verdict(NamedTuple):
    """A goal beside what was found. `ratio` is found ÷ bound, above 1 where more is better."""

    goal: Goal
    found: float | None
    ratio: float | None
    reached: bool | None

    def document(self) -> dict[str, Any]:
        return {
            "row": self.goal.row,
            "what": self.goal.what,
            "goal": self.goal.text(),
            "found": self.found,
            "ratio": self.ratio,
            "reached": self.reached,
        }


def _own(measure: str, figure: str) -> Callable[[Figure], float | None]:
    return lambda of: of(measure, PGTASK.name, figure)


def _against(measure: str, other_measure: str, other: str) -> Callable[[Figure], float | None]:
    def value(of: Figure) -> float | None:
        ours = of(measure, PGTASK.name, "jobs_per_s")
        theirs = of(other_measure, other, "jobs_per_s")
        return ours / theirs if ours and theirs else None

    return value


RATIOS: Mapping[str, Callable[[Figure], float | None]] = {
    "drain_vs_graphile": _against("drain", "drain", GRAPHILE.name),
    "drain_vs_floor": _against("drain", "drain", FLOOR.name),
    "kept_vs_graphile": _against("kept", "drain", GRAPHILE.name),
    "kept_vs_floor": _against("kept", "kept", FLOOR.name),
    "bulk_vs_floor": _against("bulk", "bulk", FLOOR.name),
    "single_vs_floor": _against("single", "single", FLOOR.name),
}

GOALS = (
    Goal("drain", "drain ÷ graphile-worker", 2.5, RATIOS["drain_vs_graphile"]),
    Goal("kept", "drain, results kept ÷ graphile-worker", 2.0, RATIOS["kept_vs_graphile"]),
    Goal("bulk", "bulk enqueue, jobs/s", 90_000, _own("bulk", "jobs_per_s")),
    Goal("single", "single enqueue, 1 client, jobs/s", 1600, _own("single", "jobs_per_s")),
    Goal(
        "concurrent",
        "single enqueue, 64 clients ÷ without NOTIFY",
        0.85,
        _own("concurrent", "nobody_idle_ratio"),
    ),
    Goal("pickup", "idle pickup p50, ms", 3, _own("pickup", "ms_p50"), at_least=False),
    Goal("pickup", "idle pickup p99, ms", 10, _own("pickup", "ms_p99"), at_least=False),
    Goal("steady", "steady 500/s p50, ms", 3, _own("steady", "ms_p50"), at_least=False),
    Goal("steady", "steady 500/s p99, ms", 12, _own("steady", "ms_p99"), at_least=False),
    Goal("trip", "result round trip p50, ms", 4, _own("trip", "ms_p50"), at_least=False),
    Goal("pinned", "pinned, last 10 s p50 ÷ first", 1.2, _own("pinned", "ratio"), at_least=False),
    Goal("pinned", "pinned, last 10 s p50, ms", 5, _own("pinned", "last_ms_p50"), at_least=False),
    Goal(
        "wal",
        "WAL a job, nothing kept, B",
        650,
        _own("drain", "wal_life"),
        at_least=False,
    ),
    Goal("wal", "WAL a job, kept, B", 850, _own("kept", "wal_life"), at_least=False),
    Goal(
        "cpu",
        "CPU per 1,000 jobs, s",
        0.045,
        _own("drain", "cpu_s_per_1000"),
        at_least=False,
    ),
    Goal("lane", "open transactions: 1 queue ÷ 16 queues", 0.9, _own("lane", "ratio")),
    Goal("idle", "idle worker, memory, MB", 120, _own("idle", "memory_mb"), at_least=False),
    Goal("idle", "idle worker, CPU, %", 1, _own("idle", "cpu_percent"), at_least=False),
)


def judge(of: Figure, goals: tuple[Goal, ...] = GOALS) -> list[Verdict]:
    """A verdict for each goal."""
    return [_verdict(goal, goal.value(of)) for goal in goals]


def judge_one(
    row: str, what: str, bound: float, found: float | None, *, at_least: bool
) -> dict[str, Any]:
    """The verdict on a single figure, for a document."""
    return _verdict(Goal(row, what, bound, lambda of: None, at_least), found).document()


def _verdict(goal: Goal, found: float | None) -> Verdict:
    if found is None:
        return Verdict(goal, None, None, None)
    if goal.at_least:
        return Verdict(goal, found, found / goal.bound, found >= goal.bound)
    return Verdict(goal, found, goal.bound / max(found, 1e-9), found <= goal.bound)
