"""`./dev bench`: pgtask and its peers side by side, on one server in one run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import beat, growth, measures, page, report, rounds, share, soak, sqlapi
from bench.catalog import FLOORS, PEERS, PGTASK, Product
from bench.subject import Stand
from bench.words import say

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "explanation" / "performance.md"


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    try:
        rows = rounds.chosen(_split(arguments.only))
        products = rounds.peers_of(_split(arguments.peers), quick=arguments.quick)
    except ValueError as error:
        parser.error(str(error))
    documents = [] if arguments.only_write else [_measure(arguments, rows, products)]
    for document in documents:
        if arguments.json:
            print(json.dumps(document, indent=1))
        for line in report.lines(document):
            print(line, file=sys.stderr if arguments.json else sys.stdout)
        say(f"{document['seconds']} s in all")
    if arguments.write or arguments.only_write:
        for path in page.write(arguments.cache, PAGE):
            say(f"wrote {path.relative_to(ROOT)}")
    bad = any(
        each["failures"] or any(goal["reached"] is False for goal in each["goals"])
        for each in documents
    )
    return 1 if arguments.strict and bad else 0


def _measure(
    arguments: argparse.Namespace, rows: list[str], products: list[Product]
) -> dict[str, Any]:
    """Take the measurements that were asked for, and store their document."""
    scale = measures.FULL
    if arguments.quick or arguments.tiny:
        scale = measures.QUICK if arguments.quick else measures.TINY
    if arguments.growth:
        mode, document = "growth", _mode(arguments, lambda stand: growth.measure(stand, scale))
    elif arguments.cpu:
        mode, document = "cpu", _mode(arguments, lambda stand: share.measure(stand, scale))
    elif arguments.beat:
        mode, document = "beat", _mode(arguments, beat.measure)
    elif arguments.sql:
        mode, document = "sql", _mode(arguments, lambda stand: sqlapi.measure(stand, scale))
    elif arguments.soak:
        seconds = arguments.soak * 60
        mode, document = "soak", _mode(arguments, lambda stand: soak.measure(stand, seconds))
    else:
        mode, document = "rows", _rows(arguments, rows, products, scale)
    # The page is made of runs of all rows, which others do not overwrite; it says who is missing.
    part = "-part" if arguments.only or arguments.peers == "none" else ""
    size = "-quick" if arguments.quick else "-tiny" if arguments.tiny else ""
    folder = arguments.cache / "results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{mode}{part}{size}.json").write_text(json.dumps(document), "utf-8")
    return document


def _rows(
    arguments: argparse.Namespace, rows: list[str], products: list[Product], scale: measures.Scale
) -> dict[str, Any]:
    skipped = []
    if not scale.pinned_s and "pinned" in rows:
        rows.remove("pinned")
        skipped.append("pinned was skipped: it takes over a minute, which --quick has not")
    once = arguments.quick or arguments.tiny
    run = rounds.Run(
        products,
        scale,
        arguments.rounds or (1 if once else 3),
        alone=("idle",) if arguments.quick else (),
    )
    if arguments.peers:
        named = {product.name for product in products}
        run.missing |= {
            each.name: "left out of this run by --peers"
            for each in (*PEERS, *FLOORS)
            if each.name not in named
        }
    with run.stand(arguments.cache) as stand:
        run.measure(stand, rows)
    return run.document() | {"skipped": skipped}


def _mode(
    arguments: argparse.Namespace, measure: Callable[[Stand], dict[str, Any]]
) -> dict[str, Any]:
    run = rounds.Run([PGTASK], measures.FULL, 1)
    with run.stand(arguments.cache) as stand:
        found = measure(stand)
    return run.conditions() | {"goals": []} | found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small round, under 3 minutes")
    parser.add_argument("--tiny", action="store_true", help="try the driver; figures mean nothing")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often (3; --quick: 1)")
    parser.add_argument("--only", default="", metavar="ROW,ROW", help="rows, or groups of rows")
    parser.add_argument("--peers", default="", metavar="A,B", help="peers beside pgtask, or none")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--growth", action="store_true", help="children, workers, payload, backlog")
    mode.add_argument("--cpu", action="store_true", help="tasks that compute, on two children")
    mode.add_argument("--beat", action="store_true", help="10,000 schedules, 1,000 at once")
    mode.add_argument("--sql", action="store_true", help="enqueue from SQL, triggers, keys, lanes")
    mode.add_argument("--soak", type=float, metavar="MINUTES", help="1,000 jobs/s, horizon pinned")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--write", action="store_true", help="then write the performance page")
    parser.add_argument("--only-write", action="store_true", help="write it from stored results")
    parser.add_argument("--strict", action="store_true", help="exit 1 if a goal was missed")
    parser.add_argument(
        "--cache", type=Path, default=ROOT / ".bench", metavar="DIR", help="environments, results"
    )
    return parser


def _split(words: str) -> list[str]:
    return [word for word in words.split(",") if word]


if __name__ == "__main__":
    raise SystemExit(main())
