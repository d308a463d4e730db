"""queue_stats, running_jobs, overdue_jobs and live_workers: what people look at."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.sql.engine import Engine


def ago(engine: Engine, table: str, column: str, interval: str = "2 minutes") -> None:
    engine.connection.execute(
        f"update pgtask.{table} set {column} = clock_timestamp() - interval '{interval}'".encode()
    )


def overdue(engine: Engine) -> dict[int, str]:
    return dict(engine.all("select id, why from pgtask.overdue_jobs"))


def test_queue_stats_counts_what_is_kept_too(engine: Engine) -> None:
    worker = engine.worker()
    jobs = [engine.running(worker)[1] for _ in range(4)]
    engine.finish(worker, jobs[:3], "succeeded", "failed", "cancelled")
    engine.enqueue()
    engine.enqueue(delay=60.0)
    engine.enqueue(queue="mail", delay=60.0)
    engine.all("select pgtask.pause_queue('empty')")

    rows = {row.queue: row for row in engine.all("select * from pgtask.queue_stats")}

    assert set(rows) == {"default", "mail", "empty"}
    row = rows["default"]
    assert (row.succeeded, row.failed, row.cancelled) == (1, 1, 1)
    assert (row.ready, row.running, row.scheduled, row.blocked) == (1, 1, 1, 0)
    assert (row.workers, row.paused, row.events) == (1, False, False)
    assert row.oldest_ready.total_seconds() >= 0
    assert row.last_finished_at is not None
    assert (rows["empty"].paused, rows["empty"].workers) == (True, 0)
    assert (rows["mail"].oldest_ready, rows["mail"].last_finished_at) == (None, None)


def test_running_jobs_tells_since_when_within_which_limit_and_where(engine: Engine) -> None:
    worker, job = engine.running(policy={"timeout": 1.5})
    _, other = engine.running(worker)
    engine.cancel(job.id)
    engine.cancel(other.id, terminate=True)

    rows = {row.id: row for row in engine.all("select * from pgtask.running_jobs")}

    row = rows[job.id]
    assert (row.worker, row.host, row.pid, row.worker_is_alive) == (worker, "host", 1, True)
    assert (row.timeout.total_seconds(), row.running_for.total_seconds() < 60) == (1.5, True)
    assert rows[other.id].timeout is None
    assert [rows[job.id].asked_to_stop, rows[other.id].asked_to_stop] == [
        "cancelling",
        "terminating",
    ]


@pytest.mark.parametrize("limit", [None, "soon", "1e400", -1, [5], "", "1e3"])
def test_a_limit_that_nobody_can_read_breaks_no_view(engine: Engine, limit: Any) -> None:
    _, job = engine.running()
    engine.all(
        "with x as (update pgtask.running set policy = json_build_object('timeout', %s::json)"
        " returning 1) select * from x",
        json.dumps(limit),
    )

    assert [row.id for row in engine.all("select * from pgtask.running_jobs")] == [job.id]
    assert overdue(engine) == {}


def test_no_view_for_people_shows_arguments(engine: Engine) -> None:
    for view in ("running_jobs", "overdue_jobs", "queue_stats", "live_workers"):
        columns = engine.values(
            "select column_name::text from information_schema.columns"
            " where table_schema = 'pgtask' and table_name = %s", view,
        )  # fmt: skip
        assert columns
        assert not {"args", "kwargs", "headers", "result", "error", "policy"} & set(columns)


def test_a_live_worker_is_one_whose_lease_has_not_passed(engine: Engine) -> None:
    worker, gone, silent = engine.worker(), engine.worker(), engine.worker()
    engine.all("select pgtask.deregister(%s)", gone)
    engine.all(
        "with x as (update pgtask.worker set last_beat_at = clock_timestamp() - interval '31 s'"
        " where id = %s returning 1) select * from x",
        silent,
    )
    engine.running(worker)

    (row,) = engine.all("select * from pgtask.live_workers")

    assert (row.id, row.kind, row.running) == (worker, "worker", 1)
    assert row.lease.total_seconds() == 30


def test_a_consumer_lives_by_its_own_lease(engine: Engine) -> None:
    worker = engine.worker()
    engine.connection.execute("update pgtask.worker set lease = '1 hour'")
    ago(engine, "worker", "last_beat_at", "59 minutes")

    assert engine.values("select kind from pgtask.live_workers") == ["consumer"]
    ago(engine, "worker", "last_beat_at", "61 minutes")
    assert engine.values("select id from pgtask.live_workers") == []
    assert worker


def test_a_job_past_its_timeout_or_in_dead_hands_is_overdue(engine: Engine) -> None:
    _, late = engine.running(policy={"timeout": 60})
    engine.running(policy={"timeout": 600})
    engine.running()
    worker, lost = engine.running()
    ago(engine, "running", "claimed_at")
    engine.all("select pgtask.deregister(%s)", worker)

    assert overdue(engine) == {late.id: "timeout", lost.id: "dead worker"}


def test_a_job_that_nobody_claims_for_a_minute_is_overdue(engine: Engine) -> None:
    job_id = engine.enqueue()
    ago(engine, "ready", "created_at")
    assert overdue(engine) == {}, "nobody alive takes it"
    engine.worker()
    assert overdue(engine) == {job_id: "not claimed"}

    young = engine.enqueue()
    assert young not in overdue(engine)
    engine.all("select pgtask.pause_queue('default')")
    assert overdue(engine) == {}


@pytest.mark.parametrize(
    ("queues", "tasks", "found"),
    [
        ("{*}", "{*}", True),
        ("{other}", "{*}", False),
        ("{default}", "{mail.*}", True),
        ("{default}", "{mailx*}", False),
        ("{default}", "{mail_send*}", False),
        ("{default}", "{other,mail.send}", True),
    ],
)
def test_only_who_takes_its_queue_and_its_task_counts(
    engine: Engine, queues: str, tasks: str, *, found: bool
) -> None:
    engine.worker()
    engine.connection.execute("update pgtask.worker set queues = %s, tasks = %s", [queues, tasks])
    engine.enqueue(task="mail.send")
    ago(engine, "ready", "created_at")

    assert bool(overdue(engine)) is found


@pytest.mark.parametrize("glob", ["*\\", "*%", "*!", "m_il*"])
def test_what_like_knows_is_itself_in_a_glob(engine: Engine, glob: str) -> None:
    engine.worker()
    engine.connection.execute("update pgtask.worker set tasks = %s", [[glob]])
    engine.enqueue(task="mail.send")
    ago(engine, "ready", "created_at")

    assert overdue(engine) == {}


@pytest.mark.parametrize(
    ("tasks", "known"), [("{*}", True), ("{mail.*}", True), ("{mail_*}", False), ("{*\\\\}", False)]
)
def test_who_takes_a_glob_of_tasks_knows_those_that_fit(
    engine: Engine, tasks: str, *, known: bool
) -> None:
    engine.worker()
    engine.connection.execute("update pgtask.worker set tasks = %s", [tasks])
    engine.all("select pgtask.put_schedule('s', 'mail.send', '{\"every\": 300}')")

    assert engine.value("select known from pgtask.schedules") is known


def test_a_job_that_only_just_became_ready_is_not_overdue(engine: Engine) -> None:
    engine.worker()
    job_id = engine.enqueue(delay=60.0)
    ago(engine, "waiting", "created_at")
    engine.promote(ahead=120)
    assert overdue(engine) == {}

    # Another job is a minute old, and its id was drawn after the place of the first.
    engine.enqueue(delay=60.0)
    ago(engine, "waiting", "created_at")
    assert overdue(engine) == {job_id: "not claimed"}


def test_it_stays_quick_with_many_ready_jobs(engine: Engine) -> None:
    engine.worker()
    engine.connection.execute(
        "insert into pgtask.ready (id, task, queue, args) select nextval('pgtask.seq'), 't',"
        " 'default', '[]' from generate_series(1, 20000)"
    )
    with engine.connection.transaction():
        engine.connection.execute("set local statement_timeout = '2s'")
        assert engine.value("select count(*) from pgtask.overdue_jobs") == 0
    engine.connection.execute("truncate pgtask.ready")
