"""Plans: with ten thousand schedules and many ticks, no call of a beat walks over all of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.conftest import TestServer
from tests.sql.engine import Engine
from tests.sql.schedules import due, fire, fire_of, instant, put
from tests.sql.test_plans import Explained

OURS = {"schedule", "tick", "ready"}


@pytest.fixture(params=["fresh", "analyzed"])
def explained(
    engine: Engine, server: TestServer, dsn: str, request: pytest.FixtureRequest
) -> Iterator[Explained]:
    """Ten thousand schedules of which a hundred are due, and one in twenty unplanned or paused."""
    engine.connection.execute(
        b"""
        insert into pgtask.schedule (name, task, spec, paused)
        select 's' || n, 't', '{"every": 60}', n % 20 = 0 from generate_series(1, 10000) n;
        update pgtask.schedule set planned_revision = revision,
          next_at = now() + (case when id % 100 = 7 then -60 else 3600 end) * interval '1 s'
        where id % 20 <> 1;
        insert into pgtask.ready (id, task, queue, args)
        select nextval('pgtask.seq'), 't', 'q', '[]' from generate_series(1, 10000) n;
        insert into pgtask.tick (schedule, tick_at, reason)
        select s.id, now() - n * interval '1 min', 'missed'
        from pgtask.schedule s, generate_series(2, 6) n;
        """
    )
    if request.param == "analyzed":
        for table in sorted(OURS):
            engine.connection.execute(f"analyze pgtask.{table}".encode())
    url = make_conninfo(server.superuser_dsn, dbname=conninfo_to_dict(dsn)["dbname"])
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("load 'auto_explain'")
        yield Explained(connection)


def _walked(explained: Explained) -> set[tuple[str, str]]:
    found = {
        (node["Relation Name"], plan.text)
        for plan in explained.plans
        for node in plan.nodes()
        if node.get("Relation Name") in OURS
        and node["Actual Loops"] > 0
        and node["Node Type"] != "ModifyTable"
        and ("Seq" in node["Node Type"] or ("Index Cond" not in node and node["Actual Rows"] > 600))
    }
    assert explained.plans, "the server told no plans"
    explained.plans.clear()
    return found


def test_neither_a_look_nor_a_fire_walks_a_table(explained: Explained) -> None:
    for _ in range(7):  # more often than it takes PostgreSQL to settle on a generic plan
        found = due(explained, limit=15)
        assert len(found) == 15
        assert _walked(explained) == set()
        at = instant(explained).replace(microsecond=0)
        answers = fire(
            explained,
            *(fire_of(s, s.next_at or at, next=at + timedelta(hours=1)) for s in found),
        )
        assert sum(a.job is not None for a in answers) == 15
        assert _walked(explained) == set()
        put(explained, "s33", args=[1])
        explained.all("select pgtask.fire_schedule('s34'), pgtask.pause_schedule('s35')")
        explained.all("select pgtask.resume_schedule('s35')")
        assert _walked(explained) == set()


def test_a_look_with_nothing_due_touches_few_pages(explained: Explained) -> None:
    explained.connection.execute(
        "update pgtask.schedule set next_at = now() + interval '1 h', planned_revision = revision"
    )
    explained.connection.execute("vacuum pgtask.schedule")
    for _ in range(7):
        explained.plans.clear()
        assert due(explained) == []
    (whole,) = [plan for plan in explained.plans if "from pgtask._due(" in plan.text]
    assert whole.buffers <= 30


def test_the_last_ticks_of_one_schedule_are_found_without_the_others(explained: Explained) -> None:
    explained.plans.clear()
    rows = explained.all(
        "select * from pgtask.ticks where schedule = 's9' order by tick_at desc limit 20"
    )
    assert len(rows) == 5
    assert _walked(explained) == set()
