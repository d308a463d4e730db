"""Image: the model's tables as rows of PostgreSQL, written there and read back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from uuid import UUID, uuid4

from tests.model.state import ENDED, NOBODY, Database, Row, Rules, Scope, State
from tests.sql.engine import Engine

EVERYWHERE = (
    "select id, 'ready' as place, epoch, attempt, coalesce(crashes, 0) as crashes,"
    " null::uuid as worker from pgtask.ready"
    " union all select id, case when run_at is null then 'parked' else 'scheduled' end, epoch,"
    " attempt, coalesce(crashes, 0), null from pgtask.waiting"
    " union all select id, 'running', epoch, attempt, coalesce(crashes, 0), worker"
    " from pgtask.running"
    " union all select id, case state when 's' then 'succeeded' when 'f' then 'failed'"
    " else 'cancelled' end, epoch, attempt, coalesce(crashes, 0), null from pgtask.done"
)


class Image:
    """Which job and which life of the model is which row; `dice` choose among equal calls."""

    def __init__(
        self, engine: Engine, scope: Scope, dice: random.Random, rules: Rules | None = None
    ) -> None:
        self._engine, self._scope, self._dice = engine, scope, dice
        self._rules = rules or Rules()
        self._workers: dict[int, UUID] = {life: uuid4() for life in scope.lives}
        self._ids: dict[int, int] = {}
        self._seen: dict[int, int] = {}

    def install(self, state: State) -> None:
        """Write a state of the model into empty tables, however it came about."""
        db = state.db
        run = self._engine.connection.execute
        for life, worker in self._workers.items():
            run(
                "insert into pgtask.worker (id, beat, alive, host, pid, version, queues, tasks,"
                " children) values (%s, 5, %s, 'host', 1, '0', '{default}', '{t}', 1)",
                (worker, db.alive[life]),
            )
            self._seen[life] = 4 if state.lives[life].seen == 2 else 5
        for job, rows in enumerate(db.rows):
            for row in rows:
                self._ids[job] = 1_000_000_000 + job
                self._insert(job, row)
        if db.slot != NOBODY:
            run("insert into pgtask.slot values ('s', 1, %s)", (self._ids[db.slot],))
        if db.key != NOBODY:
            run("insert into pgtask.job_key values ('k', %s)", (self._ids[db.key],))
        for job, life in enumerate(db.wishes):
            if life != NOBODY:
                run(
                    "insert into pgtask.cancel_request (job, worker) values (%s, %s)",
                    (self._ids[job], self._workers[life]),
                )

    def _insert(self, job: int, row: Row) -> None:
        spec = self._scope.jobs[job]
        own: dict[str, dict[str, object]] = {
            "scheduled": {"run_at": "infinity"},
            "parked": {"park": "s"},
            "running": {"worker": self._workers.get(row.worker)},
            **{state: {"state": state[0]} for state in ENDED},
        }
        columns: dict[str, object] = {
            "id": self._ids[job],
            "epoch": row.epoch,
            "attempt": row.attempt,
            "crashes": row.crashes,
            "max_attempts": spec.max_attempts,
            "max_crashes": spec.max_crashes,
            "priority": -job,
            "task": "t",
            "queue": f"q{job}",
            "args": "[]",
            "key": "k" if spec.key else None,
            "serial": "s" if spec.serial else None,
            "policy": '{"on_crash": "fail"}' if spec.once else None,
            **own.get(row.table, {}),
        }
        table = {"scheduled": "waiting", "parked": "waiting"} | dict.fromkeys(ENDED, "done")
        self._engine.connection.execute(
            f"insert into pgtask.{table.get(row.table, row.table)} ({', '.join(columns)})"
            f" values ({', '.join(['%s'] * len(columns))})".encode(),
            list(columns.values()),
        )

    def database(self) -> Database:
        """Read the tables as the model has them."""
        engine = self._engine
        jobs = {job_id: job for job, job_id in self._ids.items()}
        lives = {worker: life for life, worker in self._workers.items()} | {None: NOBODY}
        rows: list[list[Row]] = [[] for _ in self._scope.jobs]
        for found in engine.all(EVERYWHERE):
            rows[jobs[found.id]].append(
                Row(found.place, found.epoch, found.attempt, found.crashes, lives[found.worker])
            )
        wishes = [NOBODY] * len(self._scope.jobs)
        for found in engine.all("select job, worker from pgtask.cancel_request"):
            wishes[jobs[found.job]] = lives[found.worker]
        alive = engine.values("select id from pgtask.worker where alive")
        return Database(
            tuple(tuple(sorted(found)) for found in rows),
            self._only(jobs, engine.values("select job from pgtask.slot")),
            self._only(jobs, engine.values("select job from pgtask.job_key")),
            tuple(wishes),
            tuple(worker in alive for worker in self._workers.values()),
        )

    @staticmethod
    def _only(jobs: dict[int, int], found: Sequence[int]) -> int:
        assert len(found) <= 1
        return jobs[found[0]] if found else NOBODY


def seen_by_sql(db: Database) -> Database:
    """Leave out what only the checker knows."""
    return db._replace(
        rows=tuple(tuple(sorted(r._replace(claim=0) for r in rows)) for rows in db.rows)
    )
