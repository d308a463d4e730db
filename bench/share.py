"""`--cpu`: the share of the cores that two children use, and spend in tasks of pure Python."""

from __future__ import annotations

from typing import Any

from bench.app import enqueuing
from bench.catalog import PGTASK
from bench.goals import judge_one
from bench.measures import Scale, drained
from bench.spread import Figures
from bench.subject import Stand
from bench.words import say

MILLISECONDS = (1.0, 10.0, 100.0)
CHILDREN = 2
SECONDS = 20.0
GOAL = 0.95


def measure(stand: Stand, scale: Scale) -> dict[str, Any]:
    """For each length of a task, how much of two cores the children used, and tasks alone.

    The tasks' part is jobs times what each was told to burn: the body's own record, reading the
    clock once too often, and all that the child does for a job are not in it.
    """
    points: list[Figures] = []
    for milliseconds in MILLISECONDS:
        seconds = max(4.0, SECONDS * scale.jobs)
        jobs = int(CHILDREN * seconds * 1000 / milliseconds)
        with stand.fresh(PGTASK) as subject, enqueuing(subject.dsn) as tasks:
            for start in range(0, jobs, 1000):
                tasks.burn.delay_many([(milliseconds,)] * min(1000, jobs - start))
            figures = drained(subject, jobs, seconds * 3, 1, CHILDREN).figures
        share = figures["jobs_per_s"] * milliseconds / 1000 / CHILDREN
        children = figures["body_cores"] / CHILDREN
        points.append(
            {"milliseconds": milliseconds, "children": children, "share": share, **figures}
        )
        say(f"  {milliseconds:g} ms: {children:.1%} of two cores, {share:.1%} in tasks alone")
    return {
        "points": points,
        "goals": [
            judge_one(
                *("cpu", f"tasks of {point['milliseconds']:g} ms, share of 2 cores: {whose}"),
                *(GOAL, point[figure]),
                at_least=True,
            )
            for whose, figure in (("two children", "children"), ("in tasks alone", "share"))
            for point in points
        ],
    }
