"""Suite: which scenarios to play, several side by side where they can be, and the table of rows."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.faults import data, keys, network, outages, points, processes, server
from tests.faults.scenario import SCENARIOS, Row, Scenario, play
from tests.faults.server import Address

MODULES = (processes, points, outages, network, keys, data)

# Most of them wait for a lease most of the time.
SIDE_BY_SIDE = 5
HEAD = ("", "fault", "jobs", "lost", "doubled", "beyond", "s", "within", "")


class UnknownScenario(ValueError):
    """There is no scenario of this name."""


def chosen(names: Sequence[str], *, quick: bool) -> list[Scenario]:
    """The scenarios of these names, or all, or all quick ones; in the order of the modules."""
    if unknown := [name for name in names if name not in SCENARIOS]:
        raise UnknownScenario(
            f"there is no scenario {', '.join(unknown)} → one of {', '.join(SCENARIOS)}"
        )
    if names:
        return [SCENARIOS[name] for name in SCENARIOS if name in names]
    return [each for each in SCENARIOS.values() if each.quick or not quick]


def run(scenarios: Sequence[Scenario], *, slack: float, heard: Callable[[Row], None]) -> list[Row]:
    """Play them, each in a process of its own; `heard` is told each row when it is there."""
    beside = sorted((e for e in scenarios if e.own is None), key=lambda e: -e.seconds)
    alone = [each for each in scenarios if each.own is not None]
    rows: dict[str, Row] = {}
    with server.running() as shared:
        for several, width in ((beside, SIDE_BY_SIDE), (alone, 1)):
            for row in _play_all(several, shared.address, slack, width):
                rows[row.name] = row
                heard(row)
    return [rows[each.name] for each in scenarios]


def _play_all(
    scenarios: Sequence[Scenario], address: Address, slack: float, width: int
) -> Iterator[Row]:
    # Spawned: each has its own app, settings and pools, and nothing of its neighbour's.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(width, mp_context=context, max_tasks_per_child=1) as pool:
        futures = [pool.submit(play_one, each.name, address, slack) for each in scenarios]
        for future in as_completed(futures):
            yield future.result()


def play_one(name: str, address: Address, slack: float) -> Row:
    """In the spawned process, which knows all scenarios by having imported this module."""
    return play(name, address, slack)


def line(row: Row) -> str:
    """One row for the terminal."""
    if row.skipped:
        return f"{row.name:<12} not played: {row.skipped}"
    verdict = "ok" if row.is_good else "FAILED"
    recovery = "" if row.recovery is None else f" {row.recovery:5.1f} s"
    return (
        f"{row.name:<12}{verdict:<7}{row.jobs:6} jobs {row.lost:3} lost {row.doubled:3} doubled"
        f" {row.beyond:3} beyond{recovery}  {row.fault}"
        + (f" ({row.says})" if row.says else "")
        + f"  [{row.seconds:.0f} s]"
    )


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as a table of the page."""
    lines = [
        "| | fault | jobs | lost | doubled | beyond the contract | recovery, s | allowed, s | |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        if row.skipped:
            lines.append(f"| {row.name} | {row.fault} | | | | | | | not played: {row.skipped} |")
            continue
        recovery = "" if row.recovery is None else f"{row.recovery:.1f}"
        bound = "" if row.bound is None else f"{row.bound:g}"
        cells = (row.jobs, row.lost, row.doubled, row.beyond, recovery, bound, row.says)
        lines.append(f"| {row.name} | {row.fault} | " + " | ".join(map(str, cells)) + " |")
    return lines
