"""Scenario: one fault under load, with what must hold; and the row that it leaves in the table."""

from __future__ import annotations

import logging
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.conservation import Allowed
from tests.faults.server import Address, Server
from tests.faults.stand import Stand

Own = Callable[[], AbstractContextManager[Server]]


class NotHere(Exception):
    """The scenario needs something that this machine has not."""


@dataclass
class Told:
    """What a scenario measured: how long until all was well again, at most, and in words."""

    recovery: float | None = None
    bound: float | None = None
    says: str = ""
    allowed: Allowed = field(default_factory=Allowed)


@dataclass(frozen=True)
class Scenario:
    """`own` makes a server for it alone, beside which nothing else runs. `seconds`: about."""

    name: str
    fault: str
    play: Callable[[Stand], Told]
    quick: bool
    own: Own | None
    seconds: float


@dataclass
class Row:
    """The outcome of one scenario; travels back from the process that played it."""

    name: str
    fault: str
    jobs: int = 0
    lost: int = 0
    doubled: int = 0
    beyond: int = 0
    recovery: float | None = None
    bound: float | None = None
    says: str = ""
    seconds: float = 0.0
    skipped: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not (self.problems or self.lost or self.beyond)


_USUAL = "the first attempt fails"  # what the load's `stumbling` says each time

SCENARIOS: dict[str, Scenario] = {}
_Play = Callable[[Stand], Told]


def scenario(
    name: str, fault: str, *, quick: bool = False, own: Own | None = None, seconds: float = 15.0
) -> Callable[[_Play], _Play]:
    """Register a function as the scenario of this name."""

    def register(play: _Play) -> _Play:
        assert name not in SCENARIOS, f"{name} is there already"
        SCENARIOS[name] = Scenario(name, fault, play, quick, own, seconds)
        return play

    return register


def play(name: str, address: Address, slack: float = 1.0) -> Row:
    """Play one scenario, on the server at `address` unless it has one of its own; never raises.

    `slack` stretches the bounds, for a machine that has other things to do.
    """
    each = SCENARIOS[name]
    row = Row(each.name, each.fault)
    # The producers' connections break, and psycopg says so.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)
    began = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix=f"pgtask-{each.name}-"))
    try:
        with ExitStack() as stack:
            own = stack.enter_context(each.own()) if each.own is not None else None
            stand = Stand(own.address if own else address, each.name, directory, own)
            try:
                with _at_most(4 * each.seconds + 240):
                    told = each.play(stand)
                    found = stand.settle(told.allowed)
            except BaseException:
                row.problems += _tails(stand)
                raise
            finally:
                stand.clear()
            row.jobs, row.lost, row.doubled = found.jobs, found.lost, found.doubled
            row.beyond, row.problems = found.beyond, found.problems
            row.recovery, row.bound, row.says = told.recovery, told.bound, told.says
            if told.bound is not None and (told.recovery or 0.0) > told.bound * slack:
                row.problems.append(f"{told.recovery:.1f} s, not within {told.bound:g} s")
            if row.problems:
                row.problems += _tails(stand)
    except NotHere as reason:
        row.skipped = str(reason)
        row.problems.clear()
    except Exception:  # noqa: BLE001 - it becomes the row's problem
        row.problems.append(traceback.format_exc())
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    row.seconds = time.monotonic() - began
    return row


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def give_up(number: int, frame: object) -> None:
        raise TimeoutError(f"not over after {seconds:g} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _tails(stand: Stand) -> list[str]:
    return [
        f"  {worker.log_path.name}: {line}"
        for worker in stand.workers
        for line in [each for each in worker.log.splitlines() if _USUAL not in each][-25:]
    ]
