"""What a process and its descendants cost, read from /proc; zeros where there is none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def family(pid: int) -> Iterator[int]:
    """The process and all of its descendants that live now."""
    yield pid
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        below = [word for each in threads for word in (each / "children").read_text().split()]
    except OSError:
        return
    for child in below:
        yield from family(int(child))


def cpu(pid: int) -> float:
    """Seconds of CPU used by the family so far, ended and awaited children included."""
    return sum(alone(each) for each in family(pid))


def memory(pid: int) -> float:
    """Proportional set size of the family, MB: shared pages are counted once."""
    return sum(_pss(each) for each in family(pid)) / 1e6


def alone(pid: int) -> float:
    """Seconds of CPU used by this one process so far."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    # utime, stime, and those of the children it has waited for; the name may hold anything.
    fields = stat.rpartition(")")[2].split()[11:15]
    return sum(map(int, fields)) / os.sysconf("SC_CLK_TCK")


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
