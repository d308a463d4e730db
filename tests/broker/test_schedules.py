"""The statements for schedules, as clients and beat run them, also on an older database."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import psycopg
import pytest

from pgtask.broker import migrate, schedules
from pgtask.broker.schedules import Fire, Fired, Tick
from pgtask.broker.statement import Statement
from pgtask.errors import BadOption
from pgtask.signature import CallOptions, Signature

T = TypeVar("T")
Run = Callable[[Statement[Any]], Any]
SQL = Path(__file__).parents[2] / "sql"
EVERY = '{"every": 60}'


@pytest.fixture
def run(connection: psycopg.Connection[Any]) -> Run:
    connection.execute("set timezone = 'UTC'")

    def run(statement: Statement[T]) -> T:
        return statement.parse(
            connection.execute(statement.text, dict(statement.params)).fetchall()
        )

    return run


def _call(**options: Any) -> Signature:
    said = CallOptions(**options)
    return Signature("t", '[1,{"a":[]}]', None, said, said.key, said.serial)


def test_a_signature_and_a_spec_make_a_schedule(run: Run) -> None:
    call = _call(
        queue="mail", priority=5, max_attempts=2, max_crashes=1, key="k", on_conflict="keep",
        serial="one", keep="none", expires_in=90.5, timeout=5.0, backoff=(1.0, 2.0),
        headers='{"h":"é"}', tags=("a", "b"), soft_timeout=1.0,
    )  # fmt: skip
    said = schedules.definition(
        "s", call, EVERY, catchup="all", overlap="queue", grace=0.0, enabled=False
    )
    schedule_id = run(schedules.put(said))

    found = run(schedules.get("s"))
    assert (found.id, found.name, found.task, found.source) == (schedule_id, "s", "t", "api")
    assert (found.spec, found.args, found.kwargs) == (EVERY, '[1,{"a":[]}]', None)
    assert (found.queue, found.priority, found.max_attempts, found.max_crashes) == ("mail", 5, 2, 1)
    assert (found.key, found.on_conflict, found.serial, found.keep) == ("k", "keep", "one", "none")
    assert (found.expires_in, found.headers, found.tags) == (90.5, '{"h":"é"}', ["a", "b"])
    assert found.policy == '{"backoff":[1.0,2.0],"timeout":5.0,"soft_timeout":1.0}'
    assert (found.catchup, found.overlap, found.grace) == ("all", "queue", 0.0)
    assert (found.state, found.enabled, found.next_at, found.last_state) == (
        "disabled", False, None, None,
    )  # fmt: skip
    assert found.created_at.utcoffset() == timedelta(0)
    assert run(schedules.get("nobody")) is None


@pytest.mark.parametrize("options", [
    {"delay": 5.0}, {"run_at": datetime(2030, 1, 1, tzinfo=UTC)},
    {"expires_at": datetime(2030, 1, 1, tzinfo=UTC)},
])  # fmt: skip
def test_a_call_for_one_instant_is_no_schedule(options: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=r"schedule 's': (countdown|eta|expires) = .* one instant"):
        schedules.definition("s", _call(**options), EVERY)


def test_schedules_are_listed_declared_paused_reset_fired_and_dropped(run: Run) -> None:
    said = [schedules.definition(name, _call(), EVERY) for name in ("b", "a")]
    assert run(schedules.declare("shop", said)) == {"a": "inserted", "b": "inserted"}
    assert run(schedules.declare("shop", said)) == {"a": "unchanged", "b": "unchanged"}
    run(schedules.put(schedules.definition("c", _call(queue="q"), '"@daily"'), "cli"))

    assert run(schedules.names()) == ["a", "b", "c"]
    assert [line.name for line in run(schedules.list_())] == ["a", "b", "c"]
    assert [line.name for line in run(schedules.list_(app="shop"))] == ["a", "b"]
    assert run(schedules.list_(task="other")) == []

    assert (run(schedules.pause("a", "why")), run(schedules.pause("a", None))) == (True, False)
    assert run(schedules.get("a")).paused_reason == "why"
    assert (run(schedules.resume("a")), run(schedules.resume("a"))) == (True, False)
    assert (run(schedules.reset("a")), run(schedules.reset("c"))) == (True, False)
    job_id = run(schedules.fire_now("a"))
    assert run(schedules.fire_now("nobody")) is None
    (line,) = run(schedules.ticks("a", 10))
    assert (line.job, line.reason, line.outcome, line.missed) == (job_id, "manual", "ready", 0)
    assert (run(schedules.drop("a")), run(schedules.drop("a"))) == (True, False)
    assert run(schedules.ticks("a", 10)) == []


def test_beat_reads_what_is_due_and_fires_it(run: Run) -> None:
    beat = uuid4()
    empty = run(schedules.due(beat, "host", 7, "0.1", 500))
    assert (empty.due, empty.wait) == ([], None)
    assert empty.now.utcoffset() == timedelta(0)
    (seen,) = run(schedules.beats())
    assert (seen.id, seen.host, seen.pid, seen.version, seen.live) == (
        str(beat), "host", 7, "0.1", True,
    )  # fmt: skip

    run(schedules.put(schedules.definition("s", _call(), EVERY)))
    (found,) = run(schedules.due(beat, "host", 7, "0.1", 500)).due
    assert (found.planned, found.next_at, found.spec) == (False, None, EVERY)
    at = found.now - timedelta(microseconds=1)
    assert run(schedules.fire([Fire(found.id, found.revision, None, at)])) == []

    (found,) = run(schedules.due(beat, "host", 7, "0.1", 500)).due
    assert (found.planned, found.next_at) == (True, at)
    assert [one.id for one in run(schedules.planned(0, 10)).due] == [found.id]
    assert run(schedules.planned(found.id, 10)).due == []
    earlier, after = at - timedelta(seconds=60), at + timedelta(seconds=60)
    fire = Fire(found.id, found.revision, at, after, (Tick(earlier, "missed", 3), Tick(at)))
    first, second = run(schedules.fire([fire]))
    assert first == Fired(found.id, earlier, None, "missed")
    assert (second.tick_at, second.reason) == (at, None)
    assert run(schedules.fire([fire])) == [Fired(found.id, None, None, "changed")]

    agenda = run(schedules.due(None, "", 0, "", 500))
    assert agenda.due == []
    assert 55 < agenda.wait <= 60
    lines = run(schedules.ticks("s", 10))
    assert [(line.tick_at, line.missed) for line in lines] == [(at, 0), (earlier, 3)]
    assert lines[1].lateness >= 60
    assert run(schedules.replan()) == 1
    assert [one.planned for one in run(schedules.due(None, "", 0, "", 500)).due] == [False]


def test_an_error_that_quotes_what_no_text_can_hold_is_told_all_the_same(run: Run) -> None:
    run(schedules.put(schedules.definition("s", _call(), EVERY)))
    (found,) = run(schedules.due(None, "", 0, "", 1)).due
    broken = Fire(found.id, found.revision, None, None, error="got 'a\0b\ud834c'")
    assert run(schedules.fire([broken])) == []

    found = run(schedules.get("s"))
    assert (found.state, found.error) == ("broken", "got 'a\ufffdb?c'")


def test_a_database_without_schedules_gets_them_and_keeps_its_jobs(
    fresh_database: str, tmp_path: Path
) -> None:
    """What was there before: the first migration, with a job in it."""
    older = tmp_path / "sql"
    shutil.copytree(SQL, older)
    for path in older.rglob("*.sql"):
        if path.name[:4] != "0001":
            path.unlink()
    with migrate.connection(fresh_database) as connection:
        migrate.migrate(connection, root=older)
        connection.execute(
            "insert into pgtask.ready (id, task, queue, args)"
            " values (nextval('pgtask.seq'), 't', 'default', '[]')"
        )
        plan = migrate.migrate(connection)

        assert [step.number for step in plan.migrations][:2] == [2, 3]
        migrate.check(connection)
        connection.execute("select pgtask.put_schedule('s', 't', '\"@daily\"')")
        connection.execute("select pgtask.fire_schedule('s')")
        jobs = connection.execute("select count(*) from pgtask.jobs where state = 'ready'")
        assert jobs.fetchall() == [(2,)]
        # A release that knows more may put its own triggers in their place again.
        connection.execute("delete from pgtask.repeatable")
        migrate.migrate(connection)
        migrate.check(connection)
