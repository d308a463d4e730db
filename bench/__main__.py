"""`./dev bench`: pgtask and its peers side by side, on one server in one run."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench import measures, report, rounds
from bench.words import say

ROOT = Path(__file__).parents[1]


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    try:
        rows = rounds.chosen(_split(arguments.only))
        products = rounds.peers_of(_split(arguments.peers), quick=arguments.quick)
    except ValueError as error:
        parser.error(str(error))
    scale, times, skipped = measures.FULL, arguments.rounds or 3, []
    if arguments.quick:
        scale, times = measures.QUICK, arguments.rounds or 1
    if arguments.tiny:
        scale, times = measures.TINY, arguments.rounds or 1
    if not scale.pinned_s and "pinned" in rows:
        rows.remove("pinned")
        skipped.append("pinned was skipped: it takes over a minute, which --quick has not")
    run = rounds.Run(products, scale, times)
    with run.stand(arguments.cache) as stand:
        run.measure(stand, rows)
    document = run.document() | {"skipped": skipped}
    _store(arguments.cache, "rows", document)
    if arguments.json:
        print(json.dumps(document, indent=1))
    for line in report.lines(document):
        print(line, file=sys.stderr if arguments.json else sys.stdout)
    say(f"{document['seconds']} s in all")
    missed = any(goal["reached"] is False for goal in document["goals"])
    return 1 if arguments.strict and missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small round, under 3 minutes")
    parser.add_argument("--tiny", action="store_true", help="try the driver; figures mean nothing")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often (3; --quick: 1)")
    parser.add_argument("--only", default="", metavar="ROW,ROW", help="rows, or groups of rows")
    parser.add_argument("--peers", default="", metavar="A,B", help="peers beside pgtask, or none")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--strict", action="store_true", help="exit 1 if a goal is missed")
    parser.add_argument(
        "--cache", type=Path, default=ROOT / ".bench", metavar="DIR", help="environments, results"
    )
    return parser


def _split(words: str) -> list[str]:
    return [word for word in words.split(",") if word]


def _store(cache: Path, mode: str, document: dict[str, Any]) -> None:
    folder = cache / "results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{mode}.json").write_text(json.dumps(document))


if __name__ == "__main__":
    raise SystemExit(main())
