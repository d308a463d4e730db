"""Queues: add, pause, resume, list."""

from __future__ import annotations

import psycopg
import pytest

from tests.sql.engine import Engine


def test_a_queue_is_added_once(engine: Engine) -> None:
    assert engine.value("select pgtask.add_queue('mail')") is True
    assert engine.value("select pgtask.add_queue('mail')") is False

    row = engine.one("select * from pgtask.queues")
    assert (row.queue, row.paused, row.ready, row.running, row.oldest_ready) == (
        "mail",
        False,
        0,
        0,
        None,
    )


@pytest.mark.parametrize("name", ["''", "'a b'", "null", "repeat('q', 129)", "E'q\\n'"])
@pytest.mark.parametrize("function", ["add_queue", "pause_queue"])
def test_a_queue_with_a_bad_name_is_refused(engine: Engine, function: str, name: str) -> None:
    with pytest.raises(psycopg.Error, match="a queue name is") as refused:
        engine.connection.execute(f"select pgtask.{function}({name})".encode())
    assert refused.value.sqlstate == "TQ002"
    assert engine.count("queue") == 0


def test_pausing_says_who_when_and_why_and_happens_once(engine: Engine) -> None:
    assert engine.value("select pgtask.pause_queue('mail', 'smtp is down')") is True
    assert engine.value("select pgtask.pause_queue('mail', 'again')") is False

    row = engine.one("select * from pgtask.queues")
    assert (row.paused, row.paused_reason, row.paused_by) == (True, "smtp is down", "pgtask")
    assert row.paused_at is not None


def test_resuming_happens_once_and_forgets_the_reason(engine: Engine) -> None:
    engine.all("select pgtask.pause_queue('mail', 'why')")
    assert engine.value("select pgtask.resume_queue('mail')") is True
    assert engine.value("select pgtask.resume_queue('mail')") is False

    row = engine.one("select * from pgtask.queues")
    assert (row.paused, row.paused_reason, row.paused_by, row.paused_at) == (
        False,
        None,
        None,
        None,
    )


def test_resuming_what_was_never_there_changes_nothing(engine: Engine) -> None:
    assert (
        engine.values("select pgtask.resume_queue(n) from unnest('{x,NULL,a b}'::text[]) n")
        == [False] * 3
    )
    assert engine.count("queue") == 0


def test_resuming_wakes_idle_workers(engine: Engine) -> None:
    engine.all("select pgtask.pause_queue('mail')")
    assert engine.claim(engine.worker()) == []
    engine.connection.execute("listen pgtask")
    engine.all("select pgtask.resume_queue('mail')")

    assert [n.payload for n in engine.connection.notifies(timeout=0)] == ["mail"]


def test_the_view_counts_by_state(engine: Engine) -> None:
    engine.enqueue_many([[]] * 3, queue="a")
    engine.enqueue(queue="a", delay=60.0)
    engine.enqueue(queue="b", delay=60.0)
    engine.claim(engine.worker(), 1, queues=["a"])

    rows = {row.queue: row for row in engine.all("select * from pgtask.queues")}
    assert (rows["a"].ready, rows["a"].scheduled, rows["a"].running, rows["a"].blocked) == (
        2,
        1,
        1,
        0,
    )
    assert (rows["b"].ready, rows["b"].scheduled, rows["b"].oldest_ready) == (0, 1, None)
    assert rows["a"].oldest_ready.total_seconds() >= 0


def test_the_queues_with_work_are_those_with_ready_jobs(engine: Engine) -> None:
    engine.enqueue_many([[]] * 3, queue="b")
    engine.enqueue(queue="a")
    engine.enqueue(queue="later", delay=60.0)
    engine.all("select pgtask.add_queue('empty')")

    assert engine.values("select pgtask.queues_with_work()") == ["a", "b"]
