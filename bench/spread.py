"""Numbers that say how others are spread: quantiles, medians, ranges."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

Figures = dict[str, float]
# Where a distribution is kept: dense in the tail, which is what people ask about.
SHARES = (
    *(0.001, 0.01, 0.025, 0.05, *(share / 20 for share in range(2, 19))),
    *(0.925, 0.95, 0.97, 0.98, 0.985, 0.99, 0.995, 0.999, 1.0),
)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which this share of an ordered sequence lies."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def percentiles(name: str, values: Sequence[float]) -> Figures:
    """p50, p95 and p99 under names that begin with `name`; nothing of nothing."""
    ordered = sorted(values)
    if not ordered:
        return {}
    return {f"{name}_p{share}": quantile(ordered, share / 100) for share in (50, 95, 99)}


def distribution(values: Sequence[float]) -> list[tuple[float, float]]:
    """(share, value) at SHARES."""
    ordered = sorted(values)
    return [(share, quantile(ordered, share)) for share in SHARES] if ordered else []


def summary(rounds: Sequence[Figures]) -> dict[str, dict[str, object]]:
    """Of every figure its median, its range and each round."""
    names = dict.fromkeys(name for each in rounds for name in each)
    answer: dict[str, dict[str, object]] = {}
    for name in names:
        values = [each[name] for each in rounds if name in each]
        answer[name] = {
            "median": statistics.median(values),
            "least": min(values),
            "most": max(values),
            "rounds": values,
        }
    return answer
