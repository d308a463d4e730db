"""`--sql`: what enqueueing from SQL costs: alone, by triggers, and beside keys and lanes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, LiteralString
from uuid import uuid4

import psycopg

from bench.catalog import PGTASK
from bench.goals import judge_one
from bench.measures import Scale
from bench.spread import Figures
from bench.subject import Stand
from bench.words import say

Connection = psycopg.Connection[Any]

ROWS = 100_000
CALLS = 2_000
TURNS = 5
PARKED = 100_000
DRAINED = 20_000
SINGLE, BULK, CLEAN = 0.8, 1.0, 0.8

_TABLES: LiteralString = """
create table bench_row (id bigint primary key, sku text, paid boolean, weight numeric, ref text);
create table bench_bare (id bigint generated always as identity primary key, task text not null,
                         kwargs json not null, created_at timestamptz not null default now())"""
_FILL: LiteralString = (
    "insert into bench_row select n, 'sku-' || n, n %% 2 = 0, n * 0.5, null"
    " from generate_series(1, %s) n"
)
# The fields of a job_spec: task, args, kwargs, queue, priority, run_at, delay, key, on_conflict,
# serial, max_attempts, backoff, timeout, expires, keep, tags, headers, tenant.
_SPECS: LiteralString = """
create temp table bench_spec as
select array_agg(row('bench', null, row_to_json(r), null, null, null, null, null, null,
                     null, null, null, null, null, null, null, null, null)::pgtask.job_spec) as jobs
from bench_row r"""
_PARKED: LiteralString = """
select count(*) from (select pgtask.enqueue_many(array_agg(
    row('bench', null, null, 'lanes', null, null, null, 'key:' || n, null,
        'lane:' || n %% 100, null, null, null, null, null, null, null, null)::pgtask.job_spec))
  from generate_series(1, %s) n) made"""
_OTHERS: LiteralString = """
select count(*) from (select pgtask.enqueue_many(array_agg(
    row('bench', null, '{}', 'others', null, null, null, null, null,
        null, null, null, null, null, 'none', null, null, null)::pgtask.job_spec))
  from generate_series(1, %s) n) made"""
_CLAIM: LiteralString = """
with mine as materialized (select id, epoch from pgtask.claim(%s, 100, '{others}'))
select array_agg(row(id, epoch, 'succeeded', null, null, null)::pgtask.outcome) from mine"""
_FINISH: LiteralString = "select * from pgtask.finish(%s, %s::text::pgtask.outcome[])"
_TRIGGERS: dict[str, LiteralString] = {
    "enqueue_row_id": "pgtask.enqueue_row_id('bench')",
    "enqueue_row": "pgtask.enqueue_row('bench')",
    "enqueue_fields": "pgtask.enqueue_fields('bench', 'id', 'sku')",
}


def measure(stand: Stand, scale: Scale) -> dict[str, Any]:
    """Every measure, and whether it is what it is to be."""
    with stand.fresh(PGTASK) as subject, stand.postgres.connect(subject.database) as connection:
        connection.execute(_TABLES)
        single = _single(connection, max(20, int(CALLS * scale.jobs)))
        say(_line("one by one", single))
        bulk = _bulk(connection, int(ROWS * scale.jobs))
        say(_line("in bulk", bulk))
        beside = _beside(connection, scale)
        say(_line("beside keys and lanes", beside))
    goals = [
        judge_one(
            "sql", "enqueue ÷ bare INSERT, one client", SINGLE, single["ratio"], at_least=True
        ),
        *(
            judge_one(
                *("sql", f"{name} ÷ (2 × bare INSERT + enqueue_many)"),
                *(BULK, bulk[f"{name}_ratio"]),
                at_least=False,
            )
            for name in _TRIGGERS
        ),
        judge_one(
            *("sql", "enqueue beside keys and lanes ÷ without", CLEAN, beside["enqueue_ratio"]),
            at_least=True,
        ),
        judge_one(
            *("sql", "claim and finish beside parked jobs ÷ without", CLEAN, beside["drain_ratio"]),
            at_least=True,
        ),
    ]
    return {"single": single, "bulk": bulk, "beside": beside, "goals": goals}


def _single(connection: Connection, calls: int) -> Figures:
    """A call and a commit each, by turns with an INSERT of the same into a table of its own."""
    texts: tuple[LiteralString, ...] = (
        "insert into bench_bare (task, kwargs) values (%s, %s)",
        "select pgtask.enqueue(%s, kwargs => %s)",
    )
    took: tuple[list[float], list[float]] = ([], [])
    for number in range(calls):
        values = ["bench", f'{{"no": {number}}}']
        for text, seconds in zip(texts, took, strict=True):
            begun = time.perf_counter()
            connection.execute(text, values, prepare=True)
            seconds.append(time.perf_counter() - begun)
    # Medians of calls that take turns: a disk is not equally fast from one moment to the next.
    bare, ours = (statistics.median(seconds) for seconds in took)
    return {"bare_ms": bare * 1000, "enqueue_ms": ours * 1000, "ratio": bare / ours}


def _bulk(connection: Connection, rows: int) -> Figures:
    """An INSERT of many rows: bare, with each trigger for the statement, and for each row."""
    turns = [dict(_turn(connection, rows)) for _ in range(TURNS)]
    figures = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
    # Each turn against itself: disks and processors are not equally fast from one to the next.
    for name in _TRIGGERS:
        figures[f"{name}_ratio"] = statistics.median(
            turn[name] / (2 * turn["bare"] + turn["enqueue_many"]) for turn in turns
        )
    return {**figures, "rows": float(rows)}


def _turn(connection: Connection, rows: int) -> Iterator[tuple[str, float]]:
    def fill(rows: int) -> None:
        connection.execute(_FILL, [rows])

    _clear(connection)
    yield "bare", _took(lambda: fill(rows))
    connection.execute(_SPECS)
    yield (
        "enqueue_many",
        _took(
            lambda: connection.execute(
                "select count(*) from (select pgtask.enqueue_many(jobs) from bench_spec) made"
            )
        ),
    )
    connection.execute("drop table bench_spec")
    for name, call in _TRIGGERS.items():
        _clear(connection)
        with _Trigger(connection, call, "referencing new table as new_rows for each statement"):
            yield name, _took(lambda: fill(rows))
    _clear(connection)
    with _Trigger(connection, _TRIGGERS["enqueue_row"], "for each row"):
        yield "each_row_of_a_tenth", _took(lambda: fill(rows // 10))


class _Trigger:
    """A trigger that is there inside `with`."""

    def __init__(self, connection: Connection, call: str, level: str) -> None:
        self._connection = connection
        self._text = (
            f"create trigger bench after insert on bench_row {level} execute function {call}"
        )

    def __enter__(self) -> None:
        self._connection.execute(self._text.encode())

    def __exit__(self, *_: object) -> None:
        self._connection.execute("drop trigger bench on bench_row")


def _beside(connection: Connection, scale: Scale) -> Figures:
    """Jobs without key and lane, alone and beside many that have both and are parked."""
    calls, jobs = max(20, int(CALLS * scale.jobs)), int(DRAINED * scale.jobs)
    figures: Figures = {}
    for name, parked in (("clean", 0), ("beside", int(PARKED * scale.jobs))):
        _clear(connection)
        if parked:
            _park(connection, parked)
        # Against a bare INSERT of the same moment, because the disk is not what is measured.
        figures[f"enqueue_{name}"] = _single(connection, calls)["ratio"]
        connection.execute("delete from pgtask.ready")
        figures[f"drain_{name}_per_s"] = statistics.median(
            _drain(connection, jobs) for _ in range(3)
        )
    return {
        **figures,
        "enqueue_ratio": figures["enqueue_beside"] / figures["enqueue_clean"],
        "drain_ratio": figures["drain_beside_per_s"] / figures["drain_clean_per_s"],
    }


def _park(connection: Connection, jobs: int) -> None:
    connection.execute(_PARKED, [jobs])
    worker = uuid4()
    claim: LiteralString = "select id from pgtask.claim(%s, 1000, '{lanes}', lease => '1 day')"
    while connection.execute("select from pgtask.ready where queue = 'lanes' limit 1").fetchone():
        connection.execute(claim, [worker])


def _drain(connection: Connection, jobs: int) -> float:
    """Jobs a second of one consumer that claims and finishes a hundred at a time."""
    connection.execute(_OTHERS, [jobs])
    worker = uuid4()
    begun = time.perf_counter()
    while (row := connection.execute(_CLAIM, [worker], prepare=True).fetchone()) and row[0]:
        connection.execute(_FINISH, [worker, row[0]], prepare=True)
    return jobs / (time.perf_counter() - begun)


def _clear(connection: Connection) -> None:
    connection.execute(
        "truncate bench_row, pgtask.ready, pgtask.waiting, pgtask.running, pgtask.done,"
        " pgtask.job_key, pgtask.slot, pgtask.payload, pgtask.worker"
    )


def _took(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _line(name: str, figures: Figures) -> str:
    return f"  {name}: " + ", ".join(f"{key} {value:,.4g}" for key, value in figures.items())
