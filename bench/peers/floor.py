"""Not a product: bare psycopg over the four-table shape, the least that a batch can cost.

Claim and finish of batches in forked processes, one commit a batch, LISTEN to wake; or, with
BENCH_FLOOR=delete, one process that deletes what it takes. No retries, leases, limits or logs.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from bench.job import record
from bench.program import Sender, blocking, main

DSN = os.environ["BENCH_DSN"]
KEEP = os.environ.get("BENCH_KEEP") == "all"
DELETE = os.environ.get("BENCH_FLOOR") == "delete"
BATCH = 500
SWEEP = 1.0

_ROW = """id bigint not null, created_at timestamptz not null default clock_timestamp(),
  priority smallint not null default 0, attempt smallint not null default 0,
  task text not null, queue text not null default 'default', args json"""
_SCHEMA = f"""
create sequence place;
create table ready ({_ROW}, primary key (id));
alter table ready alter id set default nextval('place');
create index on ready (queue, priority desc, id);
create table running ({_ROW}, worker integer not null,
  claimed_at timestamptz not null default clock_timestamp(), primary key (id));
create table done ({_ROW}, finished_at timestamptz not null default clock_timestamp(), result json);
create index on done (id);
alter table ready set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);
alter table running set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);
"""
_COLUMNS = "id, created_at, priority, attempt, task, queue, args"
_FRONT = """select ctid from ready where queue = 'default' and id > %(after)s
  order by priority desc, id limit %(n)s for update skip locked"""
_CLAIM = f"""with front as materialized ({_FRONT}),
  gone as (delete from ready r using front f where r.ctid = f.ctid returning r.*)
insert into running ({_COLUMNS}, worker)
select id, created_at, priority, attempt + 1, task, queue, args, %(worker)s from gone
returning id, args"""
_TAKE = f"with front as materialized ({_FRONT}) delete from ready r using front f " + (
    "where r.ctid = f.ctid returning r.id, r.args"
)
_DROP = "delete from running where id = any(%(ids)s) and worker = %(worker)s"
_MOVE = f"""with gone as (
  delete from running r using unnest(%(ids)s::bigint[], %(results)s::json[]) o (id, result)
  where r.id = o.id and r.worker = %(worker)s returning r.*, o.result)
, moved as (insert into done ({_COLUMNS}, result) select {_COLUMNS}, result from gone)
select pg_notify('floor_done', '')"""
_INSERT = "insert into ready (task, args) values ('noop', %s::json) returning id"
_COPY = "copy ready (task, args) from stdin"


def connect() -> psycopg.Connection[Any]:
    return psycopg.connect(DSN, autocommit=True, prepare_threshold=1)


def setup() -> None:
    with connect() as connection:
        connection.execute(_SCHEMA)


@contextmanager
def client() -> Iterator[Sender]:
    with connect() as connection, connect() as ear:
        ear.execute("listen floor_done")

        def one(sent: int) -> Any:
            row = connection.execute(
                f"with new as ({_INSERT}) select id, pg_notify('floor', '') from new", [f"[{sent}]"]
            ).fetchone()
            assert row is not None
            return row[0]

        def many(sent: list[int]) -> None:
            with connection.transaction():
                with connection.cursor().copy(_COPY) as copy:
                    for each in sent:
                        copy.write_row(("noop", f"[{each}]"))
                connection.execute("notify floor")

        def trip(sent: int) -> None:
            job = one(sent)
            while not connection.execute("select from done where id = %s", [job]).fetchall():
                for _ in ear.notifies(timeout=1.0, stop_after=1):
                    pass

        yield blocking(one, many, trip)


def work(concurrency: int) -> None:
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    with connect() as connection, connect() as ear:
        ear.execute("listen floor")
        after, swept, done = 0, 0.0, list[tuple[int, str]]()
        while not stop:
            if time.monotonic() - swept > SWEEP:
                after, swept = 0, time.monotonic()
            rows = _next(connection, after, done)
            done = []
            for job, args in rows:
                record(*args)
                done.append((job, json.dumps(args[0])))
            if rows:
                after = max(job for job, _ in rows)
            elif not stop:
                _wait(ear)


def _next(
    connection: psycopg.Connection[Any], after: int, done: list[tuple[int, str]]
) -> list[tuple[int, list[int]]]:
    """Finish one batch and claim the next, in one transaction and one round trip."""
    asked = {"after": after, "n": BATCH, "worker": os.getpid()}
    if DELETE:
        return connection.execute(_TAKE, asked).fetchall()
    ended: dict[str, Any] = {"ids": [job for job, _ in done], "worker": os.getpid()}
    if KEEP:
        ended["results"] = [result for _, result in done]
    with connection.pipeline():
        if done:
            connection.execute(_MOVE if KEEP else _DROP, ended)
        claimed = connection.execute(_CLAIM, asked)
    return claimed.fetchall()


def _wait(ear: psycopg.Connection[Any]) -> None:
    select.select([ear.fileno()], [], [], SWEEP)
    for _ in ear.notifies(timeout=0):
        pass


if __name__ == "__main__":
    main(setup, client, work)
