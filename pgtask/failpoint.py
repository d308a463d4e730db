"""Failpoints: named places where the fault suite kills, stops or cuts off a process of pgtask."""

from __future__ import annotations

import os
import re
import signal
from typing import NamedTuple

from pgtask.errors import ConfigError

# What a worker's supervisor calls by name in the database; `before-` and `after-` go in front.
_FUNCTIONS = ("claim", "finish", "heartbeat", "held", "promote", "rescue", "register", "deregister")
# The same of a beat.
_OF_A_BEAT = ("_due", "_fire", "_declare_schedules")
POINTS = frozenset(
    [f"{side}-{name}" for name in _FUNCTIONS + _OF_A_BEAT for side in ("before", "after")]
    # Outcomes are known in a child, and its supervisor has not heard of them.
    + ["report"]
)
_FORM = re.compile(r"(?P<point>[\w-]+):(?P<n>[1-9]\d*)(:(?P<action>kill|stop|cut))?")


class Failpoint(NamedTuple):
    """What happens at the n-th passage of a point, in each process that passes it."""

    point: str
    n: int
    action: str


def parse(text: str) -> list[Failpoint]:
    """Read `POINT:N[:kill|stop|cut]`, several with commas between them; kill is the default."""
    points = []
    for word in text.split(","):
        match = _FORM.fullmatch(word.strip())
        if match is None:
            raise ConfigError(f"PGTASK_FAILPOINT: {word!r} is not POINT:N or POINT:N:kill|stop|cut")
        if match["point"] not in POINTS:
            raise ConfigError(
                f"PGTASK_FAILPOINT: there is no point {match['point']!r} → one of"
                f" {', '.join(sorted(POINTS))}"
            )
        points.append(Failpoint(match["point"], int(match["n"]), match["action"] or "kill"))
    return points


def cuts(side: str, text: str) -> bool:
    """Before or after a statement of a Link: tell whether its answer is to be lost."""
    match = _CALL.search(text)
    if match is None:
        return False
    point = f"{side}-{match[1]}"
    # The worker's own claim is _claim; its point is called after what it does.
    return pass_point(point if point in POINTS else f"{side}-{match[1].lstrip('_')}")


def pass_point(point: str) -> bool:
    """Count a passage, and do what was asked for at this one; True for a cut."""
    _passed[point] = n = _passed.get(point, 0) + 1
    for failpoint in _armed:
        if failpoint[:2] != (point, n):
            continue
        if failpoint.action == "cut":
            return True
        os.kill(os.getpid(), signal.SIGKILL if failpoint.action == "kill" else signal.SIGSTOP)
    return False


_CALL = re.compile(r"\bpgtask\.(\w+)\(")
_passed: dict[str, int] = {}
_armed = parse(os.environ["PGTASK_FAILPOINT"]) if os.environ.get("PGTASK_FAILPOINT") else []
# Asked by everybody who stands at a point, so that one which is not armed costs a look at a name.
ARMED = bool(_armed)
