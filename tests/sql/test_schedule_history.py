"""Ticks and beats that are old go; the last of every schedule stay."""

from __future__ import annotations

from uuid import uuid4

from tests.sql.engine import Engine
from tests.sql.schedules import due, fire, fire_of, instant, plan, put

DAY = 86400


def _history(engine: Engine, name: str, n: int, *, age: float) -> None:
    put(engine, name)
    schedule = plan(engine, name)
    at = [(instant(engine, -age - 60 * i), "missed", 0) for i in range(n)]
    fire(engine, fire_of(schedule, *at, next=None))


def _left(engine: Engine) -> dict[str, int]:
    return dict(engine.all("select schedule, count(*)::int from pgtask.ticks group by schedule"))


def test_old_ticks_go_but_the_last_twenty_of_each_schedule_stay(engine: Engine) -> None:
    _history(engine, "old", 50, age=8 * DAY)
    _history(engine, "few", 20, age=800 * DAY)
    _history(engine, "young", 50, age=0)
    put(engine, "none")

    assert engine.value("select pgtask.purge()") == 30
    assert engine.value("select pgtask.purge()") == 0
    assert _left(engine) == {"old": 20, "few": 20, "young": 50}
    assert engine.value(
        "select max(tick_at) > now() - interval '9 days' from pgtask.ticks where schedule = 'old'"
    )


def test_young_ticks_count_among_the_twenty(engine: Engine) -> None:
    _history(engine, "s", 30, age=0)
    engine.connection.execute(
        "insert into pgtask.tick (schedule, tick_at, reason)"
        " select id, now() - n * interval '10 days', 'missed' from pgtask.schedule,"
        " generate_series(1, 5) n"
    )
    assert engine.value("select pgtask.purge()") == 5
    assert _left(engine) == {"s": 30}


def test_ticks_go_page_by_page(engine: Engine) -> None:
    _history(engine, "a", 45, age=8 * DAY)
    _history(engine, "b", 25, age=8 * DAY)
    found = [engine.value("select pgtask.purge('604800 s', 10)") for _ in range(4)]
    assert found == [10, 10, 10, 0]
    assert _left(engine) == {"a": 20, "b": 20}


def test_a_tick_of_a_job_goes_without_the_job_and_the_job_without_the_tick(engine: Engine) -> None:
    put(engine)
    schedule = plan(engine)
    at = [instant(engine, -8 * DAY - n) for n in range(25)]
    fire(engine, fire_of(schedule, *at, next=None))
    assert engine.value("select pgtask.purge()") == 5
    assert engine.count("ready") == 25
    worker = engine.worker()
    engine.finish(worker, engine.claim(worker, 25))
    assert engine.value("select pgtask.purge('0 s')") == 25
    assert engine.values("select distinct outcome from pgtask.ticks") == [None]


def test_beats_are_forgotten_a_day_after_they_were_seen(engine: Engine) -> None:
    due(engine, beat=uuid4())
    engine.all("select pgtask.purge()")
    assert engine.count("beat") == 1
    engine.all("select pgtask.purge('0 s', 1, clock_timestamp() + interval '25 hours')")
    assert engine.count("beat") == 0
