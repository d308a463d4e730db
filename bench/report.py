"""A run as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# The figures a person looks at first; the document has the others.
SHOWN = {
    "drain": ("jobs_per_s", "cpu_s_per_1000", "wal_life", "commits_per_1000"),
    "kept": ("jobs_per_s", "cpu_s_per_1000", "wal_life", "commits_per_1000"),
    "bulk": ("jobs_per_s", "wal_per_job"),
    "single": ("jobs_per_s", "wal_per_job"),
    "concurrent": (
        *("nobody_idle_per_s", "without_nobody_idle_per_s", "plain_nobody_idle_per_s"),
        *("worker_per_s", "without_worker_per_s", "nobody_idle_ratio", "worker_ratio"),
    ),
    "pickup": ("ms_p50", "ms_p95", "ms_p99"),
    "steady": ("ms_p50", "ms_p95", "ms_p99", "sent_per_s"),
    "trip": ("ms_p50", "ms_p95", "ms_p99"),
    "pinned": ("ratio", "first_ms_p50", "last_ms_p50", "last_ms_p99", "sent_per_s"),
    "lane": ("one_queue_per_s", "many_queues_per_s", "ratio"),
    "idle": ("memory_mb", "cpu_percent", "server_cpu_percent"),
}


def lines(document: dict[str, Any]) -> Iterator[str]:
    """The report, line by line."""
    yield ", ".join(f"{name} {value}" for name, value in document["machine"].items())
    yield ", ".join(f"{name}={value}" for name, value in document["settings"].items())
    for product, versions in document["versions"].items():
        yield f"{product}: " + ", ".join(f"{name} {each}" for name, each in versions.items())
    for row, products in document.get("figures", {}).items():
        yield ""
        yield f"{row:<18}" + "".join(f"{figure:>27}" for figure in figures(row, products))
        for product, found in products.items():
            cells = (cell(found.get(figure)) for figure in figures(row, products))
            yield f"  {product:<16}" + "".join(f"{cell:>27}" for cell in cells)
    yield ""
    for goal in document["goals"]:
        yield _goal(goal)
    yield ""
    for name, ratio in document.get("ratios", {}).items():
        yield f"{name:<24}{'not measured' if ratio is None else f'{ratio:.2f}'}"
    for name, reason in document["missing"].items():
        yield f"{name} was not measured: {reason}"
    yield from document.get("skipped", ())
    yield from document["failures"]


def figures(row: str, products: dict[str, Any]) -> list[str]:
    """The figures of a row to show, of those that somebody has."""
    return [each for each in SHOWN[row] if any(each in found for found in products.values())]


def cell(found: dict[str, Any] | None) -> str:
    """A median, and after several rounds its range."""
    if found is None:
        return "-"
    if len(found["rounds"]) == 1:
        return number(found["median"])
    least, most = number(found["least"]), number(found["most"])
    return f"{number(found['median'])} ({least}-{most})"


def _goal(goal: dict[str, Any]) -> str:
    found = "" if goal["found"] is None else number(goal["found"])
    return f"{goal['what']:<46}{found:>12} {goal['goal']:>10}  {verdict(goal)}"


def verdict(goal: dict[str, Any]) -> str:
    """Reached or MISSED, with the ratio to the goal; above 1 is better, whatever is measured."""
    if goal["reached"] is None:
        return "not measured"
    word = "reached" if goal["reached"] else "MISSED"
    return f"{word}, {goal['ratio']:.2f} of the goal"


def number(value: float) -> str:
    """Three or so digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"
