"""purge and maintain: history is kept as long as it should be, and then nothing of it is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.sql.engine import Engine

DAY = 86400.0
PARTITIONS = (
    "select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid"
    " where i.inhparent = 'pgtask.done'::regclass and c.relname <> 'done_default' order by 1"
)
TABLES = (
    "select relname::text from pg_class where relnamespace = 'pgtask'::regnamespace"
    " and relname ~ '^done_[0-9]+$' order by 1"
)


@pytest.fixture(autouse=True)
def _no_partitions_left(engine: Engine) -> Iterator[None]:
    """The other tests of this process begin without daily partitions, as these do."""
    _drop(engine)
    yield
    engine.check()
    engine.connection.execute("truncate pgtask.done, pgtask.payload, pgtask.attempt_error")
    _drop(engine)


def _drop(engine: Engine) -> None:
    for name in engine.values(TABLES):
        engine.connection.execute(f"drop table pgtask.{name}".encode())


def _finished(engine: Engine, verdict: str = "failed", **options: Any) -> int:
    """A finished job with large arguments, an error, and all else that can stand beside it."""
    worker = engine.worker()
    job_id = engine.enqueue("x" * 3000, **options)
    jobs = [job for job in engine.claim(worker) if job.id == job_id]
    engine.finish(
        worker, jobs, verdict, types=["E"], messages=["m"], results=['"' + "r" * 3000 + '"']
    )
    return job_id


def _age(engine: Engine, job_id: int, interval: str) -> None:
    engine.all(
        "update pgtask.done set finished_at = finished_at - %s::interval where id = %s"
        " returning id",
        interval,
        job_id,
    )


def _maintain(engine: Engine, retention: float = 7 * DAY, at: str = "2030-03-10 12:00+00") -> int:
    return int(
        engine.value("select pgtask.maintain(%s * interval '1 s', %s::timestamptz)", retention, at)
    )


def test_purge_removes_what_is_older_with_all_that_belongs_to_it(engine: Engine) -> None:
    old, young = _finished(engine), _finished(engine)
    _age(engine, old, "2 days")
    assert engine.value("select pgtask.purge('86400 s')") == 1

    assert engine.values("select id from pgtask.jobs") == [young]
    assert engine.values("select job from pgtask.payload") == [young]
    assert engine.values("select job from pgtask.attempt_error") == [young]
    assert engine.value("select pgtask.purge('86400 s')") == 0


def test_purge_goes_page_by_page_until_nothing_is_left(engine: Engine) -> None:
    worker = engine.worker()
    engine.enqueue_many([[]] * 25)
    engine.finish(worker, engine.claim(worker, 25))

    assert [engine.value("select pgtask.purge('0 s', 10)") for _ in range(4)] == [10, 10, 5, 0]


def test_a_jobs_own_result_ttl_overrides_the_age(engine: Engine) -> None:
    short = _finished(engine, policy={"result_ttl": 60})
    long = _finished(engine, policy={"result_ttl": 10 * DAY})
    _age(engine, long, "9 days")

    assert engine.value("select pgtask.purge('86400 s')") == 0
    assert (
        engine.value("select pgtask.purge('86400 s', 100, clock_timestamp() + interval '61 s')")
        == 1
    )
    assert engine.where(short) == []
    assert (
        engine.value("select pgtask.purge('86400 s', 100, clock_timestamp() + interval '11 days')")
        == 1
    )
    assert engine.where(long) == []


def test_purge_leaves_unfinished_jobs_alone(engine: Engine) -> None:
    engine.running()
    engine.enqueue()
    engine.enqueue(delay=60.0)

    assert (
        engine.value("select pgtask.purge('0 s', 100, clock_timestamp() + interval '1 year')") == 0
    )
    assert engine.count("jobs") == 3


def test_purge_removes_keys_left_with_jobs_that_ended(engine: Engine) -> None:
    job_id = _finished(engine)
    engine.all("insert into pgtask.job_key values ('k', %s) returning key", job_id)
    engine.all("select pgtask.purge('0 s')")

    assert engine.count("job_key") == 0


def test_purge_forgets_workers_a_day_after_their_death_and_old_watchers(engine: Engine) -> None:
    dead, alive = engine.worker(), engine.worker()
    engine.all("select pgtask.deregister(%s)", dead)
    engine.all("select * from pgtask._watch('{1}')")
    engine.all("select pgtask.purge()")
    assert engine.count("worker") == 2
    assert engine.count("watcher") == 1

    engine.all("select pgtask.purge('0 s', 1, clock_timestamp() + interval '25 hours')")
    assert engine.values("select id from pgtask.worker") == [alive]
    assert engine.count("watcher") == 0


@pytest.mark.parametrize(
    "arguments", ["'-1 s'", "'-1 day'", "'0', 0", "'0', -1", "'-1 s', ids => '{1}'"]
)
def test_purge_refuses_nonsense(engine: Engine, arguments: str) -> None:
    _finished(engine)
    with pytest.raises(psycopg.Error, match="purge takes") as refused:
        engine.connection.execute(f"select pgtask.purge({arguments})".encode())
    assert refused.value.sqlstate == "TQ002"
    assert engine.count("done") == 1


def test_a_month_of_retention_is_thirty_days_and_nothing_that_is_to_come_goes(
    engine: Engine,
) -> None:
    at = "2030-03-15 12:00+00"
    engine.all("select pgtask.maintain('7 days', %s)", at)

    for _ in range(2):
        engine.all("select pgtask.maintain('1 month -30 days', %s)", at)

    today = "select relispartition from pg_class where relname = 'done_20300315'"
    assert engine.values(today) == [True]
    engine.all("select pgtask.maintain('10000 years', %s), pgtask.purge('10000 years')", at)


def test_maintain_makes_today_and_two_days_more_once(engine: Engine) -> None:
    assert _maintain(engine) == 3
    assert engine.values(PARTITIONS) == ["done_20300310", "done_20300311", "done_20300312"]
    assert _maintain(engine) == 0


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles"])
@pytest.mark.parametrize(("at", "first"), [
    ("2030-03-10 23:59:59.999999+00", "done_20300310"), ("2030-03-11 00:00+00", "done_20300311"),
])  # fmt: skip
def test_days_are_those_of_utc_whatever_the_session_says(
    engine: Engine, zone: str, at: str, first: str
) -> None:
    engine.all("select set_config('timezone', %s, false)", zone)
    _maintain(engine, at=at)

    assert engine.values(PARTITIONS)[0] == first
    assert engine.value("show timezone") == zone
    bounds = engine.values(
        "select (regexp_match(pg_get_expr(relpartbound, oid),"
        " 'FROM \\(''([^'']*)'))[1]::timestamptz at time zone 'UTC'"
        " from pg_class where relname = %s", first,
    )  # fmt: skip
    assert bounds[0].strftime("done_%Y%m%d %H:%M:%S") == f"{first} 00:00:00"


def test_what_finishes_goes_to_the_partition_of_its_day(engine: Engine) -> None:
    engine.all("select pgtask.maintain()")
    job_id = _finished(engine)
    found = engine.value(
        "select c.relname = 'done_' || to_char(d.finished_at at time zone 'UTC', 'YYYYMMDD')"
        " from pgtask.done d join pg_class c on c.oid = d.tableoid where d.id = %s", job_id,
    )  # fmt: skip
    assert found


def test_a_day_whose_rows_stand_in_the_default_partition_stays_there(engine: Engine) -> None:
    job_id = _finished(engine)
    assert engine.value("select pgtask.maintain()") == 2

    assert engine.where(job_id) == ["done"]
    assert engine.value("select pgtask.maintain()") == 0


def test_a_day_is_dropped_when_it_is_wholly_past_the_retention(engine: Engine) -> None:
    _maintain(engine, at="2030-03-01 12:00+00")
    assert _maintain(engine, at="2030-03-08 23:59:59+00") == 3
    assert engine.values(PARTITIONS)[0] == "done_20300301"

    _maintain(engine, at="2030-03-09 00:00+00")
    assert engine.values(PARTITIONS)[0] == "done_20300302"


def _stand_in(engine: Engine, job_id: int, at: str) -> None:
    engine.all(
        "update pgtask.done set finished_at = %s::timestamptz where id = %s returning id",
        at,
        job_id,
    )


def test_nothing_is_left_of_a_day_that_was_dropped(engine: Engine) -> None:
    _maintain(engine, at="2030-03-01 12:00+00")
    gone, stays = _finished(engine), _finished(engine)
    _stand_in(engine, gone, "2030-03-01 23:59:59+00")
    _stand_in(engine, stays, "2030-03-02 00:00+00")
    engine.all("insert into pgtask.job_key values ('k', %s) returning key", gone)
    _maintain(engine, at="2030-03-09 06:00+00")
    assert engine.values("select id from pgtask.jobs") == [stays]

    _maintain(engine, at="2030-03-09 07:00+00")
    assert "done_20300301" not in engine.values(TABLES)
    assert engine.values("select job from pgtask.payload") == [stays]
    assert engine.values("select job from pgtask.attempt_error") == [stays]
    assert engine.count("job_key") == 0


def test_a_job_that_is_to_outlive_its_day_does(engine: Engine) -> None:
    _maintain(engine, at="2030-03-01 12:00+00")
    short, long = (_finished(engine, "succeeded") for _ in range(2))
    for job_id, purge_at in ((short, "2030-03-05 00:00+00"), (long, "2030-04-01 00:00+00")):
        _stand_in(engine, job_id, "2030-03-01 12:00+00")
        engine.all(
            "update pgtask.done set purge_at = %s::timestamptz where id = %s returning id",
            purge_at,
            job_id,
        )
    for at in ("2030-03-09 06:00+00", "2030-03-09 07:00+00"):
        _maintain(engine, at=at)

    assert engine.values("select id from pgtask.jobs") == [long]
    assert engine.result(long).result == '"' + "r" * 3000 + '"'
    assert engine.value("select pgtask.purge('0 s', 10, '2030-04-01 00:00+00')") == 1


def test_maintain_lets_whoever_uses_history_go_first(
    engine: Engine, another: Callable[[], Engine]
) -> None:
    _maintain(engine, at="2030-03-01 12:00+00")
    reader = another()
    with reader.connection.transaction():
        reader.count("done")
        assert _maintain(engine, at="2030-03-09 06:00+00") == 0
    assert _maintain(engine, at="2030-03-09 06:00+00") == 4


def test_two_do_not_maintain_at_once(engine: Engine, another: Callable[[], Engine]) -> None:
    first = another()
    with first.connection.transaction(force_rollback=True):
        first.all("select pg_advisory_xact_lock(618033988, 2)")
        assert _maintain(engine) == 0
    assert _maintain(engine) == 3


@pytest.mark.parametrize("retention", ["null", "-1", "'-Infinity'", "'NaN'"])
def test_maintain_refuses_a_retention_that_is_none(engine: Engine, retention: str) -> None:
    _maintain(engine, at="2030-03-01 12:00+00")
    with pytest.raises(psycopg.Error):
        engine.connection.execute(f"select pgtask.maintain({retention})".encode())
    assert len(engine.values(PARTITIONS)) == 3


def test_a_retention_of_nothing_keeps_today(engine: Engine) -> None:
    _maintain(engine, retention=0.0)
    assert _maintain(engine, retention=0.0, at="2030-03-10 23:59:59+00") == 0
    assert engine.values(PARTITIONS)[0] == "done_20300310"
