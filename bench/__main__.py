"""`./dev bench`: measure, print, and with --json write one document."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from bench import rows, server
from bench.app import app
from pgtask import config

# What issue and design ask of the core on a 2-core machine.
GOALS = {
    ("drain", "jobs_per_s"): (">=", 8000),
    ("pickup", "pickup_ms_p50"): ("<=", 5),
    ("idle", "memory_mb"): ("<=", 120),
    ("idle", "cpu_percent"): ("<", 1),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller rounds, under three minutes")
    parser.add_argument("--only", default="", help="rows to measure, separated by commas")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    arguments = parser.parse_args()
    quick = arguments.quick
    times = 1 if quick else 3
    jobs = 40_000 if quick else 200_000
    with (
        server.database() as (dsn, superuser),
        psycopg.connect(superuser, autocommit=True) as connection,
    ):
        app.config = config.load({"dsn": dsn}, {}, {}, Path.cwd())
        measures: dict[str, Callable[[], rows.Figures]] = {
            "drain": lambda: rows.drain(connection, dsn, jobs, keep=False),
            "kept": lambda: rows.drain(connection, dsn, jobs, keep=True),
            "enqueue_many": lambda: rows.enqueue_many(jobs),
            "enqueue_one": lambda: rows.enqueue_one(1000 if quick else 5000),
            "pickup": lambda: rows.pickup(connection, dsn, 200 if quick else 1000),
            "steady": lambda: rows.steady(connection, dsn, 500, 5 if quick else 20),
            "idle": lambda: rows.idle(connection, dsn, 10 if quick else 30),
        }
        wanted = [name for name in arguments.only.split(",") if name] or list(measures)
        if unknown := set(wanted) - set(measures):
            parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(measures)}")
        document: dict[str, object] = {
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            "settings": server.settings(connection),
            "rows": {},
        }
        _say(f"{document['machine']}; {document['settings']}")
        missed = False
        for name in wanted:
            began = time.monotonic()
            medians, rounds = rows.repeated(times, measures[name])
            rows.empty(connection)
            document["rows"][name] = {"median": medians, "rounds": rounds}  # type: ignore[index]  # a dict
            _say(f"{name} ({time.monotonic() - began:.0f} s)")
            for figure, value in medians.items():
                goal = GOALS.get((name, figure))
                verdict = ""
                if goal is not None:
                    reached = value >= goal[1] if goal[0] == ">=" else value <= goal[1]
                    missed = missed or not reached
                    verdict = f"  goal {goal[0]} {goal[1]}: {'reached' if reached else 'MISSED'}"
                _say(f"  {figure:<24} {value:>12,.2f}{verdict}")
        app.close()
    if arguments.json:
        print(json.dumps(document, indent=2))
    return 1 if missed else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


raise SystemExit(main())
