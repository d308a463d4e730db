"""The transaction of a task: what a conflict, an error or a lost COMMIT makes of its attempt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from psycopg.conninfo import make_conninfo

from pgtask import config
from pgtask.broker import attempts, identity
from pgtask.broker.faults import is_conflict
from pgtask.outcome import Committed, Failed, InDoubt, Outcome, Retried, Snoozed
from pgtask.worker.runner import Runner
from pgtask.worker.wire import Job
from tests import ledger
from tests.commits import LosingCommits, Moment
from tests.pooler import PgBouncer, needs_pgbouncer
from tests.standing import Connection, end_of, standing
from tests.workers import Start

KINDS = ["book", "abook", "book_in_session", "abook_in_session", "abook_with_asyncpg"]


class Hand:
    """A worker without processes: claims one job and runs it here, with the child's Runner."""

    def __init__(self, connection: Connection, dsn: str) -> None:
        self.worker = uuid4()
        self._connection = connection
        statement = identity.identity()
        row = connection.execute(statement.text).fetchall()
        self.installation = statement.parse(row).installation
        self.runner = Runner(ledger.app, self.worker, dsn, self.installation)
        self.register(self.worker)

    def register(self, worker: UUID) -> None:
        tasks = list(ledger.app.tasks)
        row = attempts.WorkerRow(worker, "hand", 1, "0", ["default"], tasks, 1)
        statement = attempts.register(row)
        self._connection.execute(statement.text, statement.params)

    def claim(self, worker: UUID | None = None) -> Job:
        statement = attempts.claim(
            worker or self.worker,
            1,
            [attempts.Range("default", -100, 100, 0)],
            list(ledger.app.tasks),
            None,
        )
        cursor = self._connection.execute(statement.text, statement.params)
        (job,) = statement.parse(cursor.fetchall())
        names = Job.__struct_fields__
        return Job(**{name: getattr(job, name) for name in names})

    def run(self) -> Outcome:
        job = self.claim()
        if not ledger.app.tasks[job.task].is_async:
            return self.runner.run(job, lambda: False)

        async def run() -> Outcome:
            try:
                return await self.runner.run_async(job, lambda: False)
            finally:
                await ledger.async_engine.dispose()
                await ledger.asyncpg_engine.dispose()
                for made in self.runner._async_transactions._made.values():
                    for resting in getattr(made, "_resting", ()):
                        await resting.close()

        return asyncio.run(run())

    def close(self) -> None:
        for made in self.runner._transactions._made.values():
            connection = getattr(made, "_connection", None)
            if connection is not None:
                connection.close()
        ledger.engine.dispose()


@pytest.fixture
def tables(connection: Connection) -> Iterator[None]:
    """The table of bookings, whose COMMITs fail as often as public.plan says."""
    drop = (
        "drop table if exists public.ledger, public.plan;"
        " drop sequence if exists public.runs, public.commits;"
        " drop function if exists public.obey()"
    )
    connection.execute(drop)
    connection.execute(
        """
        create table public.ledger (value integer not null);
        create sequence public.runs minvalue 0 start 0;
        select nextval('public.runs');
        create sequence public.commits;
        create table public.plan (times integer, code text);
        create function public.obey() returns trigger language plpgsql as $$
        declare v_code text;
        begin
          select code into v_code from public.plan where nextval('public.commits') <= times;
          if found then raise exception 'as planned' using errcode = v_code; end if;
          return null;
        end $$;
        create constraint trigger obey after insert on public.ledger
          deferrable initially deferred for each row execute function public.obey();
        """
    )
    yield
    connection.execute(drop)


@pytest.fixture
def hand(
    connection: Connection, dsn: str, tables: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hand]:
    monkeypatch.setenv("PGTASK_DSN", dsn)
    ledger.app.config = config.load({"dsn": dsn}, {}, {}, Path.cwd())
    hand = Hand(connection, dsn)
    yield hand
    ledger.meanwhile.clear()
    hand.close()
    ledger.app.close()


def booked(connection: Connection) -> list[int]:
    rows = connection.execute("select value from public.ledger order by value").fetchall()
    return [value for (value,) in rows]


def runs(connection: Connection) -> int:
    row = connection.execute("select last_value from public.runs").fetchone()
    assert row is not None
    return int(row[0])


def fail_commits(connection: Connection, times: int, code: str) -> None:
    connection.execute("insert into public.plan values (%s, %s)", [times, code])


def notes(connection: Connection) -> int:
    row = connection.execute(
        "select count(*) from pgtask.jobs where task = 'tests.ledger.note'"
    ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_a_conflict_at_the_commit_runs_the_body_again_within_the_attempt(
    kind: str, code: str, hand: Hand, connection: Connection
) -> None:
    fail_commits(connection, 2, code)
    job = ledger.app.tasks[f"tests.ledger.{kind}"].delay([1, 7])

    assert hand.run() == Committed()

    assert booked(connection) == [7]
    assert (runs(connection), notes(connection)) == (3, 1)
    now = standing(connection, job.id)
    assert now is not None
    assert (now.state, now.attempt, now.epoch) == ("succeeded", 1, 1)
    assert job.get(timeout=5) == 7


def test_a_conflict_in_the_body_runs_it_again(
    hand: Hand, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pgtask.worker")
    connection.execute("insert into public.ledger values (1)")
    times = iter([None])
    ledger.meanwhile.append(lambda: collide_once(connection, times))
    job = ledger.collide.delay(10, "raise")

    assert hand.run() == Committed()

    assert booked(connection) == [111]
    assert runs(connection) == 2
    assert f"job {job.id} (tests.ledger.collide): its transaction lost to another" in caplog.text


def collide_once(connection: Connection, times: Iterator[None]) -> None:
    for _ in times:
        connection.execute("update public.ledger set value = value + 100")


def test_a_conflict_that_the_task_wraps_is_one(hand: Hand, connection: Connection) -> None:
    connection.execute("insert into public.ledger values (1)")
    times = iter([None])
    ledger.meanwhile.append(lambda: collide_once(connection, times))
    ledger.collide.delay(10, "wrap")

    assert hand.run() == Committed()

    assert (booked(connection), runs(connection)) == ([111], 2)


def test_what_the_task_decides_after_a_conflict_is_done(hand: Hand, connection: Connection) -> None:
    connection.execute("insert into public.ledger values (1)")
    times = iter([None])
    ledger.meanwhile.append(lambda: collide_once(connection, times))
    ledger.collide.delay(10, "snooze")

    assert hand.run() == Snoozed(3.0)

    assert (booked(connection), runs(connection)) == ([101], 1)


def test_a_task_that_goes_on_after_an_error_is_told_of_savepoints(
    hand: Hand, connection: Connection
) -> None:
    connection.execute("insert into public.ledger values (1)")
    times = iter([None])
    ledger.meanwhile.append(lambda: collide_once(connection, times))
    ledger.collide.delay(10, "swallow")

    outcome = hand.run()

    assert isinstance(outcome, Retried)
    assert outcome.failure is not None
    assert "put what may fail in a savepoint" in outcome.failure.message


@pytest.mark.parametrize("kind", ["book", "abook_in_session"])
def test_conflicts_without_end_are_an_error_that_counts(
    kind: str, hand: Hand, connection: Connection
) -> None:
    fail_commits(connection, 1000, "40001")
    ledger.app.tasks[f"tests.ledger.{kind}"].delay([7])

    outcome = hand.run()

    assert isinstance(outcome, Retried)
    assert runs(connection) == 6
    assert (booked(connection), notes(connection)) == ([], 0)


def test_other_errors_at_the_commit_are_errors_of_the_attempt(
    hand: Hand, connection: Connection
) -> None:
    fail_commits(connection, 1, "23514")
    ledger.book.delay([7])

    assert isinstance(hand.run(), Retried)

    assert (booked(connection), runs(connection)) == ([], 1)


@pytest.mark.parametrize("kind", ["book", "book_in_session"])
def test_an_attempt_whose_job_another_worker_has_taken_and_done_is_rolled_back(
    kind: str, hand: Hand, connection: Connection
) -> None:
    # given a worker that is declared dead while its task runs, and another one that does the job
    other = Hand(connection, "")

    def take_over() -> None:
        ledger.meanwhile.clear()
        connection.execute(
            "select pgtask.rescue(array[id], array[beat]) from pgtask.worker where id = %s",
            [hand.worker],
        )
        connection.execute("update pgtask.waiting set run_at = now()")
        connection.execute("select pgtask.promote(10)")
        job = hand.claim(other.worker)
        connection.execute("insert into public.ledger values (1000)")
        connection.execute(
            "select pgtask.commit_job(%s, %s, %s, '1000')", [other.worker, job.id, job.epoch]
        )

    ledger.meanwhile.append(take_over)
    job = ledger.app.tasks[f"tests.ledger.{kind}"].delay([7])

    # when the first one comes to its end
    outcome = hand.run()

    # then all that it did is gone
    assert isinstance(outcome, Retried)
    assert outcome.failure is not None
    assert outcome.failure.type == "pgtask.errors.LeaseLost"
    assert booked(connection) == [1000]
    assert notes(connection) == 0
    now = standing(connection, job.id)
    assert now is not None
    assert (now.state, now.attempt) == ("succeeded", 2)
    assert job.get(timeout=5) == 1000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_commit_without_an_answer_is_in_doubt(
    kind: str,
    moment: Moment,
    hand: Hand,
    connection: Connection,
    dsn: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = ledger.app.tasks[f"tests.ledger.{kind}"].delay([7])
    with LosingCommits(dsn, moment) as proxy:
        monkeypatch.setenv("PGTASK_DSN", proxy.dsn)
        remote = Hand(connection, proxy.dsn)
        outcome = remote.run()
        remote.close()

    assert isinstance(outcome, InDoubt)
    assert outcome.failure.type == "pgtask.errors.CommitUnknown"
    assert booked(connection) == ([7] if moment == "after" else [])
    now = standing(connection, job.id)
    assert now is not None
    assert now.state == ("succeeded" if moment == "after" else "running")


@pytest.mark.parametrize("how", ["Rollback", "close", "commit", "rollback"])
def test_a_task_that_ends_its_transaction_has_failed(
    how: str, hand: Hand, connection: Connection
) -> None:
    ledger.end_by.delay(how)

    outcome = hand.run()

    assert isinstance(outcome, Failed)
    assert outcome.failure.type == "pgtask.errors.TransactionEnded"
    assert booked(connection) == ([1] if how == "commit" else [])


@pytest.mark.parametrize("how", ["commit", "rollback", "close"])
def test_a_task_that_ends_its_sessions_transaction_has_failed(
    how: str, hand: Hand, connection: Connection
) -> None:
    ledger.end_session_by.delay(how)

    outcome = hand.run()

    assert isinstance(outcome, Failed)
    assert outcome.failure.type == "pgtask.errors.TransactionEnded"
    assert booked(connection) == ([1] if how == "commit" else [])


def test_a_session_that_leads_to_another_database_is_refused_before_the_body(
    hand: Hand, connection: Connection, other_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGTASK_DSN", other_dsn)
    ledger.book_in_session.delay([7])

    outcome = hand.run()

    assert isinstance(outcome, Retried)
    assert outcome.failure is not None
    assert outcome.failure.type == "pgtask.errors.WrongDatabase"
    assert runs(connection) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_connection_the_body_does_not_begin_and_no_attempt_is_used(
    kind: str, hand: Hand, connection: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = make_conninfo(dsn, host="127.0.0.1", port=1)
    monkeypatch.setenv("PGTASK_DSN", nowhere)
    remote = Hand(connection, nowhere)
    ledger.app.tasks[f"tests.ledger.{kind}"].delay([7])

    assert remote.run() == Snoozed(1.0)

    assert runs(connection) == 0


def test_a_session_of_a_dead_connection_costs_no_attempt(
    hand: Hand, connection: Connection
) -> None:
    # given a connection in the engine's pool that the server has closed
    ledger.book_in_session.delay([1])
    assert hand.run() == Committed()
    connection.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity where pid <> pg_backend_pid()"
        " and datname = current_database()"
    )

    # when the next task needs it
    ledger.book_in_session.options(priority=9).delay([2])

    # then its body has not begun, and the second time it has a new one
    assert hand.run() == Snoozed(1.0)
    assert runs(connection) == 1
    ledger.book_in_session.options(priority=9).delay([2])
    assert hand.run() == Committed()
    assert booked(connection) == [1, 2]


@pytest.mark.parametrize(
    "setting",
    ["default_transaction_read_only = on", "default_transaction_isolation = serializable"],
)
def test_defaults_of_the_database_do_not_break_the_promise(
    setting: str, hand: Hand, connection: Connection
) -> None:
    row = connection.execute("select current_database()").fetchone()
    assert row is not None
    connection.execute(f"alter database {row[0]} set {setting}".encode())
    try:
        ledger.book.using(connection).delay([7])
        assert hand.run() == Committed()
    finally:
        connection.execute(f"alter database {row[0]} reset all".encode())
    assert booked(connection) == [7]


@needs_pgbouncer
@pytest.mark.parametrize("ignore", ["", "options"], ids=["refuses options", "drops options"])
@pytest.mark.parametrize("kind", KINDS[:4])
def test_past_a_transaction_pooler_nothing_is_different(
    kind: str,
    ignore: str,
    hand: Hand,
    connection: Connection,
    dsn: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail_commits(connection, 1, "40001")
    with PgBouncer(dsn, size=2, ignore=ignore) as pooler:
        monkeypatch.setenv("PGTASK_DSN", pooler.dsn(dsn))
        remote = Hand(connection, pooler.dsn(dsn))
        for number in range(1, 8):  # more than psycopg needs to prepare a statement
            task = ledger.app.tasks[f"tests.ledger.{kind}"]
            task.options(priority=9).using(connection).delay([number])
            assert remote.run() == Committed()
        remote.close()

    assert booked(connection) == [1, 2, 3, 4, 5, 6, 7]
    assert runs(connection) == 8


def test_the_idempotency_key_names_the_installation_and_the_job(hand: Hand) -> None:
    context = hand.runner._context(Job(17, 3, 2, 3, "t", "q", "[]", None, None, None, None), bool)
    elsewhere = Runner(ledger.app, uuid4(), "", str(uuid4()))._context(
        Job(17, 3, 2, 3, "t", "q", "[]", None, None, None, None), bool
    )

    assert context.idempotency_key == f"{hand.installation[-12:]}-17"
    assert elsewhere.idempotency_key != context.idempotency_key


def test_a_task_with_a_session_is_told_where_its_connection_is(hand: Hand) -> None:
    ledger.ask_for_connection.delay()

    outcome = hand.run()

    assert isinstance(outcome, Retried)
    assert outcome.failure is not None
    assert "use current_job().session" in outcome.failure.message


class Coded(Exception):
    def __init__(self, sqlstate: str) -> None:
        self.sqlstate = sqlstate


def after(error: BaseException, cause: BaseException, *, hidden: bool = False) -> BaseException:
    error.__context__ = cause
    error.__suppress_context__ = hidden
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Coded("40001"), True),
        (Coded("40P01"), True),
        (Coded("40003"), False),
        (ValueError(), False),
        (after(ValueError(), Coded("40P01")), True),
        (after(ValueError(), Coded("40P01"), hidden=True), False),
        (after(ValueError(), after(KeyError(), Coded("40001"))), True),
        (ExceptionGroup("both", [ValueError(), Coded("40001")]), True),
    ],
)
def test_a_conflict_is_found_wherever_it_stands(error: BaseException, *, expected: bool) -> None:
    assert is_conflict(error) is expected


def test_a_ring_of_causes_is_left() -> None:
    one, other = ValueError(), KeyError()
    one.__context__, other.__context__ = other, one

    assert not is_conflict(one)


@pytest.mark.parametrize("kind", ["sleep_in_server", "sleep_in_session"])
def test_a_soft_limit_in_the_middle_of_a_statement_rolls_back_and_harms_nobody(
    kind: str, hand: Hand, start_worker: Start, connection: Connection
) -> None:
    start_worker("-c", "1", app="tests.ledger:app")
    job = ledger.app.tasks[f"tests.ledger.{kind}"].delay()

    end = end_of(connection, job.id, timeout=30)
    after = ledger.app.tasks["tests.ledger.book"].delay([2])

    assert (end.state, end.reason) == ("failed", "error")
    assert "SoftTimeLimitExceeded" in str(end.error)
    assert after.get(timeout=30) == 2
    now = standing(connection, after.id)
    assert now is not None
    assert (now.attempt, now.epoch) == (1, 1)  # it did not have to wait for a connection
    assert booked(connection) == [2]
