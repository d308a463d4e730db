"""docs/explanation/states.md: every move in its table is made, by the functions that it names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

ROOT = Path(__file__).parents[2]
NOWHERE = "–"

Move = tuple[str, str, str]


class Database:
    """The schema, called as a worker and as psql would call it."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self.worker = self.register()

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        cursor = self._connection.execute(query.encode(), values)
        return cursor.fetchall() if cursor.description else []

    def register(self) -> UUID:
        worker = uuid4()
        self.ask("select pgtask.register(%s, 'here', 1, '0', '{*}', '{t}', 1)", worker)
        return worker

    def state(self, job: int | None) -> str:
        rows = self.ask("select state from pgtask.jobs where id = %s", job)
        return str(rows[0][0]) if rows else NOWHERE

    def enqueue(self, **options: object) -> int:
        words = "".join(f", {name} => %s" for name in options)
        return int(self.ask(f"select pgtask.enqueue('t'{words})", *options.values())[0][0])

    def claim(self) -> int | None:
        rows = self.ask("select id from pgtask._claim(%s, 1, '{default}', '{t}')", self.worker)
        return int(rows[0][0]) if rows else None

    def finish(self, job: int, verdict: str) -> None:
        answers = self.ask(
            "select * from pgtask._finish(%s, array[%s::bigint],"
            " array(select epoch from pgtask.jobs where id = %s), array[null::text], array[%s])",
            self.worker,
            job,
            job,
            verdict,
        )
        assert answers == []

    # The states, as a job comes into them ------------------------------------------------------

    def nowhere(self) -> int:
        return 0

    def ready(self) -> int:
        return self.enqueue(key="k")

    def scheduled(self) -> int:
        return self.enqueue(key="k", delay="1 hour")

    def running(self) -> int:
        job = self.enqueue()
        assert self.claim() == job
        return job

    def blocked(self) -> int:
        self.holder = self.enqueue(serial="lane")
        assert self.claim() == self.holder
        job = self.enqueue(serial="lane")
        assert self.claim() is None
        return job

    def succeeded(self) -> int:
        return self._ended("succeeded")

    def failed(self) -> int:
        return self._ended("failed")

    def cancelled(self) -> int:
        return self._ended("cancelled")

    def _ended(self, verdict: str) -> int:
        job = self.running()
        self.finish(job, verdict)
        return job


def _enqueue(job: int, db: Database) -> int:
    return db.enqueue()


def _enqueue_for_later(job: int, db: Database) -> int:
    return db.enqueue(delay="1 hour")


def _replace_now(job: int, db: Database) -> int:
    return db.enqueue(key="k")


def _replace_for_later(job: int, db: Database) -> int:
    return db.enqueue(key="k", delay="1 hour")


def _promote(job: int, db: Database) -> None:
    db.ask("select pgtask.promote(1000, now() + interval '2 hours')")


def _promote_the_missed(job: int, db: Database) -> None:
    # As if the hand-over had met a locked row and skipped it.
    db.ask("delete from pgtask.slot")
    db.ask("select pgtask.promote()")


def _claim(job: int, db: Database) -> None:
    assert db.claim() == job


def _claim_the_busy(job: int, db: Database) -> int:
    first = db.enqueue(serial="lane", priority=1)
    second = db.enqueue(serial="lane")
    db.ask("select pgtask.cancel(array[%s::bigint])", job)
    assert [db.claim(), db.claim()] == [first, None]
    return second


def _claim_the_expired(job: int, db: Database) -> int:
    late = db.enqueue(expires="1 hour")
    db.ask("update pgtask.ready set expires_at = now() where id = %s", late)
    db.ask("select pgtask.cancel(array[%s::bigint])", job)
    assert db.claim() is None
    return late


def _finish(*verdicts: str) -> Callable[[int, Database], None]:
    def act(job: int, db: Database) -> None:
        for verdict in verdicts[1:]:
            other = db.running()
            db.finish(other, verdict)
            assert db.state(other) == "scheduled", verdict
        db.finish(job, verdicts[0])

    return act


def _finish_the_holder(job: int, db: Database) -> None:
    db.finish(db.holder, "succeeded")


def _rescue(job: int, db: Database) -> None:
    beat = db.ask("select beat from pgtask.worker where id = %s", db.worker)[0][0]
    db.ask("select pgtask.rescue(array[%s], array[%s::bigint])", db.worker, beat)


def _rescue_the_last_try(job: int, db: Database) -> int:
    last = db.enqueue(max_attempts=1)
    assert db.claim() == last
    _rescue(last, db)
    return last


def _cancel(job: int, db: Database) -> None:
    db.ask("select pgtask.cancel(array[%s::bigint])", job)


def _reschedule(at: str) -> Callable[[int, Database], None]:
    def act(job: int, db: Database) -> None:
        db.ask("select pgtask.reschedule(array[%s::bigint], now() + %s::interval)", job, at)

    return act


def _discard(job: int, db: Database) -> None:
    db.ask("select pgtask.discard(array[%s::bigint])", job)


def _retry(job: int, db: Database) -> None:
    db.ask("select pgtask.retry(array[%s::bigint])", job)


def _purge(job: int, db: Database) -> None:
    db.ask("select pgtask.purge('0 s')")


# A move as the page has it → what is done; the answer is the job to look at, None for the same.
MOVES: dict[Move, Callable[[int, Database], int | None]] = {
    ("enqueue", NOWHERE, "ready"): _enqueue,
    ("enqueue", NOWHERE, "scheduled"): _enqueue_for_later,
    ("enqueue", "scheduled", "ready"): _replace_now,
    ("enqueue", "ready", "scheduled"): _replace_for_later,
    ("promote", "scheduled", "ready"): _promote,
    ("promote", "blocked", "ready"): _promote_the_missed,
    ("claim", "ready", "running"): _claim,
    ("claim", "ready", "blocked"): _claim_the_busy,
    ("claim", "ready", "cancelled"): _claim_the_expired,
    ("finish", "running", "succeeded"): _finish("succeeded"),
    ("finish", "running", "failed"): _finish("failed"),
    ("finish", "running", "cancelled"): _finish("cancelled"),
    ("finish", "running", "scheduled"): _finish("retried", "snoozed", "crashed", "timeout"),
    ("finish", "running", "ready"): _finish("released"),
    ("finish", "blocked", "ready"): _finish_the_holder,
    ("rescue", "running", "scheduled"): _rescue,
    ("rescue", "running", "failed"): _rescue_the_last_try,
    ("cancel", "scheduled", "cancelled"): _cancel,
    ("cancel", "blocked", "cancelled"): _cancel,
    ("cancel", "ready", "cancelled"): _cancel,
    ("cancel", "running", "running"): _cancel,
    ("reschedule", "ready", "scheduled"): _reschedule("1 hour"),
    ("reschedule", "scheduled", "ready"): _reschedule("0"),
    ("reschedule", "blocked", "scheduled"): _reschedule("1 hour"),
    ("discard", "scheduled", "failed"): _discard,
    ("discard", "blocked", "failed"): _discard,
    ("discard", "ready", "failed"): _discard,
    ("retry", "failed", "ready"): _retry,
    ("retry", "succeeded", "ready"): _retry,
    ("retry", "cancelled", "ready"): _retry,
    ("purge", "succeeded", NOWHERE): _purge,
    ("purge", "failed", NOWHERE): _purge,
    ("purge", "cancelled", NOWHERE): _purge,
}


def _rows() -> list[list[str]]:
    page = (ROOT / "docs/explanation/states.md").read_text("utf-8")
    table = page.partition("## Moves")[2].partition("## ")[0]
    lines = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines[2:]]


def test_the_page_has_every_move_that_is_tested_and_no_other() -> None:
    moves = [(verb, before, after) for verb, before, after, _, _ in _rows()]

    assert sorted(moves) == sorted(MOVES)


@pytest.mark.parametrize("move", MOVES, ids=" ".join)
def test_the_move_is_made(move: Move, connection: psycopg.Connection[Any]) -> None:
    _, before, after = move
    db = Database(connection)
    job = db.nowhere() if before == NOWHERE else getattr(db, before)()
    assert db.state(job) == before

    moved = MOVES[move](job, db)

    assert db.state(job if moved is None else moved) == after


def test_the_page_names_every_function_that_moves_a_job() -> None:
    moving = {
        path.stem
        for path in (ROOT / "sql/functions").glob("*.sql")
        if re.search(
            r"(insert into|delete from) pgtask\.(waiting|ready|running|done)\b",
            path.read_text("utf-8"),
        )
    }

    named = {name for *_, by in _rows() for name in re.findall(r"`(\w+)`", by)}

    assert named == moving
