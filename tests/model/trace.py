"""Traces: a path through the model in words."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase

from tests.model.state import NOBODY, Row, State
from tests.model.steps import FAULTS, Step


def lines(walk: Sequence[tuple[Step, State, State, Sequence[int]]]) -> list[str]:
    """Return a line a step: (step, before, after, the order in which lives stand from then on)."""
    names = ["-"] * len(walk[0][1].lives) if walk else []
    fresh = iter(ascii_uppercase)
    told = []
    for place, (step, before, after, order) in enumerate(walk, 1):
        if step.kind == "start":
            names[step.life] = next(fresh)
        changes = "; ".join(_changes(before, after, names))
        told.append(
            f"{place:3}. {'! ' if step.kind in FAULTS else '  '}{_what(step, before, names)}"
            + (f"   [{changes}]" if changes else "")
        )
        names = [names[old] for old in order]
    return told


def _what(step: Step, before: State, names: Sequence[str]) -> str:
    who = names[step.life] + ": " if step.life != NOBODY else ""
    jobs = "".join(f" {job + 1}" for job in step.jobs)
    if step.kind == "rescue":
        return f"rescue, {names[step.life]} was silent" if step.life != NOBODY else "rescue"
    stage = ""
    if step.kind.startswith("finish"):
        hands = before.lives[step.life].hands
        stage = " as " + ", ".join(
            sorted({hand.stage for hand in hands if hand.job in step.jobs} - {"queued", "running"})
        )
    return f"{who}{step.kind}{' job' if jobs else ''}{jobs}{stage}"


def _changes(before: State, after: State, names: Sequence[str]) -> list[str]:
    changes = []
    for job, (old, new) in enumerate(zip(before.db.rows, after.db.rows, strict=True), 1):
        if old != new:
            changes.append(f"job {job} {_rows(new, names)}")
    if before.db.slot != after.db.slot:
        changes.append(
            "the slot is free"
            if after.db.slot == NOBODY
            else f"the slot is job {after.db.slot + 1}'s"
        )
    if before.db.key != after.db.key:
        changes.append(
            "the key is free" if after.db.key == NOBODY else f"the key is job {after.db.key + 1}'s"
        )
    return changes


def _rows(rows: Sequence[Row], names: Sequence[str]) -> str:
    if not rows:
        return "nowhere"
    return " and ".join(
        f"{row.table} (epoch {row.epoch}, attempt {row.attempt}"
        + (f", {names[row.worker]})" if row.worker != NOBODY else ")")
        for row in rows
    )
