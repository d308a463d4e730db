"""The plots of the performance page, each from a stored document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bench.svg import Axis, Bar, bars, curves


class Plot(NamedTuple):
    """A file name without its ending, what it shows in words, and the SVG."""

    name: str
    words: str
    text: str


_BARS = {
    "drain": ("Drain of no-op jobs, nothing kept", "jobs_per_s", "jobs/s"),
    "kept": ("Drain of no-op jobs, results kept", "jobs_per_s", "jobs/s"),
    "bulk": ("Bulk enqueue, one client", "jobs_per_s", "jobs/s"),
    "single": ("One job and one commit at a time, one client", "jobs_per_s", "jobs/s"),
}
_LATENCIES = {
    "pickup": "Idle worker: from the call to the start of the body",
    "steady": "500 jobs/s: from the call to the start of the body",
    "trip": "From the call to the result",
}


def of_rows(document: Mapping[str, Any]) -> Iterator[Plot]:
    """Bars of the rates, and the whole distribution of each latency."""
    for row, (title, figure, unit) in _BARS.items():
        found = {
            product: each[figure]
            for product, each in document["figures"].get(row, {}).items()
            if figure in each
        }
        if found:
            ordered = sorted(found, key=lambda name: (name != "pgtask", -found[name]["median"]))
            drawn = [Bar(name, found[name]["median"], found[name]["rounds"]) for name in ordered]
            yield Plot(row, title, bars(title, unit, drawn))
    for row, title in _LATENCIES.items():
        lines = {
            product: [(value, share) for share, value in samples["ms"]]
            for product, samples in document["distributions"].get(row, {}).items()
            if samples.get("ms")
        }
        if lines:
            across, up = Axis("ms", log=True), Axis("share of jobs that took no longer")
            yield Plot(row, title, curves(title, across, up, lines, dots=False))
    yield from _pinned(document)
    yield from _evenness(document)


def of_growth(document: Mapping[str, Any]) -> Iterator[Plot]:
    """A curve for each thing that grows."""
    shown = (
        ("children", "children", Axis("child processes of one worker")),
        ("workers", "workers", Axis("workers of one child")),
        ("payload", "kilobytes", Axis("kB of arguments a job", log=True)),
        ("backlog", "backlog", Axis("jobs in the queue at the start", log=True)),
    )
    for name, figure, axis in shown:
        points = document["curves"].get(name)
        if points:
            title = f"Drain by {axis.label}"
            line = [(point[figure], point["jobs_per_s"]) for point in points]
            yield Plot(
                f"growth-{name}",
                title,
                curves(title, axis, Axis("jobs/s", log=name == "payload"), {"pgtask": line}),
            )


def of_soak(document: Mapping[str, Any]) -> Iterator[Plot]:
    """Latency and claim time over time, under each pin."""
    for figure, name, title in (
        ("ms_p50", "soak-latency", "From the call to the start of the body, p50 of 10 s"),
        ("claim_ms", "soak-claim", "Time of a claim inside the server, 10 s"),
    ):
        lines = {
            pin: [
                (window["at_s"], window[figure])
                for window in found["windows"]
                if window.get(figure) is not None
            ]
            for pin, found in document["pins"].items()
        }
        if any(lines.values()):
            drawn = {pin: line for pin, line in lines.items() if line}
            yield Plot(name, title, curves(title, Axis("s"), Axis("ms"), drawn))


def _pinned(document: Mapping[str, Any]) -> Iterator[Plot]:
    lines = {}
    for product, samples in document["distributions"].get("pinned", {}).items():
        for figure, when in (("first_ms", "first"), ("last_ms", "last")):
            if samples.get(figure) and product in ("pgtask", "graphile-worker", "floor"):
                lines[f"{product}, {when}"] = [(value, share) for share, value in samples[figure]]
    if lines:
        title = "800 jobs/s under an open snapshot: first and last 10 s of 60 s"
        across, up = Axis("ms", log=True), Axis("share of jobs that took no longer")
        yield Plot("pinned", title, curves(title, across, up, lines, dots=False))


def _evenness(document: Mapping[str, Any]) -> Iterator[Plot]:
    lines = {
        product: [(value, share) for share, value in samples["jobs_per_s"]]
        for product, samples in document["distributions"].get("drain", {}).items()
        if samples.get("jobs_per_s")
    }
    if lines:
        title = "Drain: the rate of every hundredth of it"
        across, up = Axis("jobs/s", log=True), Axis("share of hundredths that were no faster")
        yield Plot("drain-evenness", title, curves(title, across, up, lines, dots=False))
