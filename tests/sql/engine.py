"""Engine: the SQL functions as the tests call them, and what must hold of the tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import namedtuple_row, tuple_row

ENQUEUE: LiteralString = (
    "select * from pgtask._enqueue(%(task)s::text, %(args)s::json[], %(kwargs)s::json[],"
    " %(queue)s::text, %(priority)s::int, %(delay)s::float8, %(run_at)s::timestamptz,"
    " %(keys)s::text[], %(on_conflict)s::text, %(serials)s::text[], %(max_attempts)s::int,"
    " %(max_crashes)s::int, %(expires_in)s::float8, %(expires_at)s::timestamptz, %(keep)s::text,"
    " %(policy)s::json, %(headers)s::json, %(tags)s::text[])"
)
FINISH: LiteralString = (
    "select * from pgtask._finish(%(worker)s::uuid, %(ids)s::bigint[], %(epochs)s::int[],"
    " %(results)s::text[], %(verdicts)s::text[], %(delays)s::float8[], %(reasons)s::text[],"
    " %(types)s::text[], %(messages)s::text[], %(tracebacks)s::text[])"
)

_OPTIONS = (
    "queue", "priority", "delay", "run_at", "keys", "on_conflict", "serials", "max_attempts",
    "max_crashes", "expires_in", "expires_at", "keep", "headers", "tags",
)  # fmt: skip
_EVERYWHERE: LiteralString = (
    "select tbl, id, epoch, attempt, coalesce(crashes, 0) as crashes, key, serial, worker,"
    " args is null as stored from ("
    "select 'waiting' as tbl, id, epoch, attempt, crashes, key, serial, null::uuid as worker, args"
    " from pgtask.waiting union all select 'ready', id, epoch, attempt, crashes, key, serial, null,"
    " args from pgtask.ready union all select 'running', id, epoch, attempt, crashes, key, serial,"
    " worker, args from pgtask.running union all select 'done', id, epoch, attempt, crashes, key,"
    " serial, worker, args from pgtask.done) j order by id"
)


class Engine:
    """Calls on one connection, in autocommit unless the test opens a transaction."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self._epochs: dict[int, int] = {}

    def all(self, text: LiteralString, *params: object) -> list[Any]:
        with self.connection.cursor(row_factory=namedtuple_row) as cursor:
            return cursor.execute(text, params or None).fetchall()

    def one(self, text: LiteralString, *params: object) -> Any:
        (row,) = self.all(text, *params)
        return row

    def value(self, text: LiteralString, *params: object) -> Any:
        (row,) = self.all(text, *params)
        return row[0]

    def values(self, text: LiteralString, *params: object) -> list[Any]:
        return [row[0] for row in self.all(text, *params)]

    def count(self, table: str) -> int:
        with self.connection.cursor(row_factory=tuple_row) as cursor:
            row = cursor.execute(f"select count(*) from pgtask.{table}".encode()).fetchone()
        assert row is not None
        return int(row[0])

    def enqueue_many(
        self,
        args: Sequence[object] = ((),),
        *,
        task: str | None = "t",
        kwargs: Sequence[object] | None = None,
        policy: Mapping[str, object] | None = None,
        **options: object,
    ) -> list[tuple[int, bool]]:
        assert set(options) <= set(_OPTIONS), options
        params: dict[str, object] = {name: options.get(name) for name in _OPTIONS}
        params |= {
            "task": task,
            "args": [None if a is None else json.dumps(a) for a in args],
            "kwargs": None
            if kwargs is None
            else [None if k is None else json.dumps(k) for k in kwargs],
            "policy": None if policy is None else json.dumps(policy),
        }
        with self.connection.cursor(row_factory=tuple_row) as cursor:
            return cursor.execute(ENQUEUE, params).fetchall()

    def enqueue(
        self, *args: object, key: str | None = None, serial: str | None = None, **options: Any
    ) -> int:
        """Enqueue one job and return its id."""
        if key is not None:
            options["keys"] = [key]
        if serial is not None:
            options["serials"] = [serial]
        ((job_id, _),) = self.enqueue_many([list(args)], **options)
        return job_id

    def worker(self) -> UUID:
        worker = uuid4()
        self.all("select pgtask.register(%s, 'host', 1, '0', '{default}', '{t}', 1)", worker)
        return worker

    def claim(
        self,
        worker: UUID | None,
        n: int | None = 10,
        *,
        queues: Sequence[str] = ("default",),
        tasks: Sequence[str] = ("t",),
    ) -> list[Any]:
        return self.all(
            "select * from pgtask._claim(%s, %s::int, %s::text[], %s::text[])",
            worker, n, list(queues), list(tasks),
        )  # fmt: skip

    def running(self, worker: UUID | None = None, **options: Any) -> tuple[UUID, Any]:
        """Enqueue one job and claim it: (worker, what the claim answered)."""
        worker = worker or self.worker()
        job_id = self.enqueue(**options)
        queue = options.get("queue") or "default"
        (job,) = [job for job in self.claim(worker, queues=[queue]) if job.id == job_id]
        return worker, job

    def finish(
        self,
        worker: UUID | None,
        ended: Iterable[Any],
        *verdicts: str | None,
        results: Sequence[str | None] | None = None,
        **columns: object,
    ) -> dict[int, str]:
        """Finish claimed jobs or (id, epoch) pairs; one verdict for all, or one each, or none."""
        pairs = [(e[0], e[1]) for e in ended]
        params: dict[str, object] = dict.fromkeys(
            ("delays", "reasons", "types", "messages", "tracebacks"), None
        )
        assert set(columns) <= set(params), columns
        params |= {
            "worker": worker,
            "ids": [pair[0] for pair in pairs],
            "epochs": [pair[1] for pair in pairs],
            "results": list(results) if results else [None] * len(pairs),
            "verdicts": None
            if not verdicts
            else list(verdicts)
            if len(verdicts) > 1
            else list(verdicts) * len(pairs),
        }
        params |= columns
        with self.connection.cursor(row_factory=tuple_row) as cursor:
            rows = cursor.execute(FINISH, params).fetchall()
        assert len(dict(rows)) == len(rows)
        return dict(rows)

    def promote(self, ahead: float = 0.0) -> int:
        """Promote as if it were `ahead` seconds later."""
        return int(
            self.value(
                "select promoted"
                " from pgtask.promote(1000, clock_timestamp() + %s * interval '1 s')",
                ahead,
            )
        )

    def cancel(self, *ids: int | None, terminate: bool | None = False) -> dict[int, str]:
        rows = self.all("select * from pgtask.cancel(%s::bigint[], %s)", list(ids), terminate)
        assert len(dict(rows)) == len(rows)
        return dict(rows)

    def retry(self, *ids: int | None) -> dict[int, str]:
        rows = self.all("select * from pgtask.retry(%s::bigint[])", list(ids))
        assert len(dict(rows)) == len(rows)
        return dict(rows)

    def result(self, job_id: int) -> Any:
        return self.one("select * from pgtask._results(%s::bigint[])", [job_id])

    def job(self, job_id: int) -> Any:
        """The job as the view shows it; exactly one row."""
        return self.one("select * from pgtask.jobs where id = %s", job_id)

    def where(self, job_id: int) -> list[str]:
        return [row.tbl for row in self.all(_EVERYWHERE) if row.id == job_id]

    def tally(self) -> dict[str, int]:
        rows = self.all("select outcome, sum(n)::int from pgtask.tally group by outcome")
        return dict(rows)

    def check(self) -> None:
        """Assert what holds of the tables whenever no call is in progress."""
        jobs = self.all(_EVERYWHERE)
        by_id = {job.id: job for job in jobs}
        assert len(by_id) == len(jobs), "a job is in two tables"
        for job in jobs:
            assert job.epoch >= self._epochs.get(job.id, 0), "an epoch fell"
            assert 0 <= job.crashes <= job.epoch
            assert 0 <= job.attempt <= job.epoch
            assert job.tbl != "running" or job.attempt >= 1
        self._epochs |= {job.id: job.epoch for job in jobs}
        unfinished = {job.id: job for job in jobs if job.tbl != "done"}
        running = {job.id: job for job in jobs if job.tbl == "running"}

        stored = dict(self.all("select job, args is not null from pgtask.payload"))
        assert {job.id for job in jobs if job.stored} == {
            i for i, has_args in stored.items() if has_args
        }
        for job_id, has_args in stored.items():
            assert by_id[job_id].tbl == "done" or has_args, "a payload that nothing needs"

        keys = dict(self.all("select job, key from pgtask.job_key"))
        for job_id, key in keys.items():
            assert unfinished[job_id].key == key, "a key outlived its job"
        for job in unfinished.values():
            assert job.key is None or job.id in keys or job.tbl == "running", "an unowned key"

        slots = dict(self.all("select job, key from pgtask.slot"))
        assert slots == {job.id: job.serial for job in running.values() if job.serial is not None}
        for row in self.all("select job, worker from pgtask.cancel_request"):
            assert running[row.job].worker == row.worker, "a request outlived its attempt"
        assert set(self.values("select job from pgtask.attempt_error")) <= set(by_id)
