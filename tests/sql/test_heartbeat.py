"""register, heartbeat, deregister: the life of a worker's row."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest

from tests.sql.engine import Engine


def test_a_worker_registers_beats_and_leaves(engine: Engine) -> None:
    worker = uuid4()
    engine.all("select pgtask.register(%s, 'h', 42, '1.2', '{a,b}', '{t}', 4)", worker)
    row = engine.one("select * from pgtask.workers")
    assert (row.id, row.host, row.pid, row.version, row.children) == (worker, "h", 42, "1.2", 4)
    assert (row.queues, row.tasks, row.alive, row.died_at) == (["a", "b"], ["t"], True, None)

    for beat in (1, 2):
        assert engine.all("select * from pgtask._heartbeat(%s)", worker) == []
        assert engine.all("select * from pgtask.beats()") == [(worker, beat)]
    assert engine.value("select last_beat_at > started_at from pgtask.workers")

    engine.all("select pgtask.deregister(%s)", worker)
    assert engine.value("select not alive and died_at is not null from pgtask.workers")
    assert engine.all("select * from pgtask.beats()") == []


def test_who_registers_again_because_no_answer_came_changes_nothing(engine: Engine) -> None:
    worker = engine.worker()
    before = engine.all("select * from pgtask.worker")
    engine.all("select pgtask.register(%s, 'h', 1, '0', '{}', '{}', 1)", worker)
    assert engine.all("select * from pgtask.worker") == before


def test_a_worker_without_an_id_or_a_host_is_refused(engine: Engine) -> None:
    for arguments in ("null, 'h', 1", "gen_random_uuid(), null, 1", "gen_random_uuid(), 'h', null"):
        with pytest.raises(psycopg.errors.NotNullViolation):
            engine.connection.execute(
                f"select pgtask.register({arguments}, '0', '{{}}', '{{}}', 1)".encode()
            )


def test_a_worker_that_left_or_never_came_cannot_beat(engine: Engine) -> None:
    left = engine.worker()
    engine.all("select pgtask.deregister(%s)", left)
    died_at = engine.value("select died_at from pgtask.workers")

    for worker in (left, uuid4(), None):
        with pytest.raises(psycopg.Error, match="not alive") as refused:
            engine.all("select * from pgtask._heartbeat(%s)", worker)
        assert refused.value.sqlstate == "TQ001"
    engine.all("select pgtask.deregister(%s)", left)
    assert engine.value("select died_at from pgtask.workers") == died_at


def test_a_worker_learns_other_tasks_while_it_lives(engine: Engine) -> None:
    worker, other = engine.worker(), engine.worker()
    before = engine.value("select tasks from pgtask.workers where id = %s", other)

    engine.all("select pgtask.learn(%s, '{new,newer}')", worker)

    assert engine.value("select tasks from pgtask.workers where id = %s", worker) == [
        "new",
        "newer",
    ]
    assert engine.value("select tasks from pgtask.workers where id = %s", other) == before
    engine.all("select pgtask.deregister(%s)", worker)
    for gone in (worker, uuid4(), None):
        with pytest.raises(psycopg.Error, match="not alive") as refused:
            engine.all("select pgtask.learn(%s, '{}')", gone)
        assert refused.value.sqlstate == "TQ001"


def test_the_tally_adds_up_what_beats_bring(engine: Engine) -> None:
    worker = engine.worker()
    for _ in range(2):
        engine.all(
            "select * from pgtask._heartbeat(%s, '{a,b,a,a}',"
            " '{succeeded,succeeded,failed,failed}', '{5,1,2,1}')",
            worker,
        )
    rows = engine.all(
        "select task, outcome, sum(n)::int from pgtask.tally group by 1, 2 order by 1, 2"
    )
    assert rows == [("a", "failed", 6), ("a", "succeeded", 10), ("b", "succeeded", 2)]


def test_a_beat_of_the_dead_counts_nothing(engine: Engine) -> None:
    with pytest.raises(psycopg.Error):
        engine.all("select * from pgtask._heartbeat(%s, '{a}', '{failed}', '{1}')", uuid4())
    assert engine.count("tally") == 0


def test_the_tally_is_folded_without_losing_a_count(engine: Engine) -> None:
    engine.all(
        "select pgtask._count(array['a', 'b'], array['failed', 'lost'], array[n, 1])"
        " from generate_series(1, 600) n"
    )
    before = engine.tally()
    assert engine.count("tally") == 1200
    engine.all("select pgtask.purge()")

    assert engine.count("tally") == 2
    assert engine.tally() == before == {"failed": 180300, "lost": 600}


def test_a_worker_knows_what_it_holds(engine: Engine) -> None:
    worker, job = engine.running()
    engine.running()

    assert engine.all("select * from pgtask.held(%s)", worker) == [(job.id, 1)]
    assert engine.all("select * from pgtask.held(%s)", uuid4()) == []
    engine.finish(worker, [job])
    assert engine.all("select * from pgtask.held(%s)", worker) == []
