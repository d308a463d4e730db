"""`./dev faults`: break everything that can break, count what is left, print the table."""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from pgtask.config import release
from tests.faults import nemesis, suite
from tests.faults.scenario import Row, play
from tests.faults.server import Address

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "faults.md"
BEGIN, END = "<!-- written by ./dev faults -->\n", "<!-- end -->\n"
# Of each bound, in CI: it says what is broken, not how busy the machine is.
SLACK = 3.0


def main() -> int:
    """Play what was asked for; 0 if nothing was lost and nothing done beyond the contract."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.nemesis is not None:
        return _nemesis(arguments.nemesis, arguments.seed)
    try:
        names = [name for name in arguments.only.split(",") if name]
        scenarios = suite.chosen(names, quick=arguments.quick)
    except suite.UnknownScenario as error:
        parser.error(str(error))
    began = time.monotonic()
    rows = suite.run(scenarios, slack=SLACK if arguments.quick else 1.0, heard=_tell)
    _say("")
    for row in rows:
        _say(suite.line(row))
    bad = [row.name for row in rows if not row.is_good]
    lost, beyond = sum(row.lost for row in rows), sum(row.beyond for row in rows)
    _say(
        f"\n{len(rows)} scenarios, {sum(row.jobs for row in rows)} jobs: {lost} lost, {beyond} done"
        f" beyond the contract; {time.monotonic() - began:.0f} s"
    )
    if not names and not arguments.quick:
        _write(rows)
    if bad:
        _say(f"FAILED: {', '.join(bad)}")
    return 1 if bad else 0


def _nemesis(seconds: float, seed: int | None) -> int:
    seed = random.randrange(10**6) if seed is None else seed
    _say(f"nemesis, to be seen again by: ./dev faults --nemesis {seconds:g} --seed {seed}")
    each = nemesis.enlist(seconds, seed)
    row = play(each.name, Address(0, ""))
    _tell(row)
    return 0 if row.is_good else 1


def _tell(row: Row) -> None:
    _say(suite.line(row))
    for problem in row.problems:
        _say(f"    {problem}")


def _write(rows: list[Row]) -> None:
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    good = sum(row.is_good and not row.skipped for row in rows)
    told = [
        "",
        f"pgtask {release()}: {good} of {len(rows)} scenarios hold, "
        f"{sum(row.jobs for row in rows)} jobs, {sum(row.lost for row in rows)} lost,"
        f" {sum(row.beyond for row in rows)} done beyond the contract.",
        "",
        *suite.table(rows),
        "",
    ]
    PAGE.write_text(before + BEGIN + "\n".join(told) + "\n" + END + after, "utf-8")
    _say(f"wrote {PAGE.relative_to(PAGE.parents[2])}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev faults", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--quick", action="store_true", help="the part that CI runs, in 3 minutes")
    what.add_argument("--only", default="", metavar="NAME,NAME", help="some, by name")
    what.add_argument("--nemesis", type=float, metavar="SECONDS", help="random faults for so long")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="for --nemesis: the same faults again"
    )
    return parser


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
