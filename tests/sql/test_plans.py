"""Plans: with many jobs in the tables, no call walks over all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.conftest import TestServer
from tests.sql.engine import Engine

HOT = {"waiting", "ready", "running", "job_key", "done_default", "payload"}
ROWS = 50_000


@dataclass(frozen=True)
class Plan:
    """A statement that ran inside a function, and how."""

    text: str
    root: dict[str, Any]

    def nodes(self) -> Iterator[dict[str, Any]]:
        stack = [self.root]
        while stack:
            node = stack.pop()
            yield node
            stack += node.get("Plans", [])

    @property
    def walked(self) -> set[str]:
        """Tables that were read from end to end."""
        return {
            node["Relation Name"]
            for node in self.nodes()
            if node["Actual Loops"] > 0
            and (
                node["Node Type"] == "Seq Scan"
                or (
                    node["Node Type"] in ("Index Scan", "Index Only Scan")
                    and "Index Cond" not in node
                    and node["Actual Rows"] > 1000  # not the first few in its order
                )
            )
        } & HOT

    @property
    def buffers(self) -> int:
        return int(self.root["Shared Hit Blocks"]) + int(self.root["Shared Read Blocks"])


class Explained(Engine):
    """An engine whose server tells the plan of every statement, also those inside functions."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        super().__init__(connection)
        self.plans: list[Plan] = []
        for setting in ("log_min_duration = 0", "log_nested_statements = on", "log_analyze = on",
                        "log_buffers = on", "log_timing = off", "log_format = json"):  # fmt: skip
            connection.execute(f"set auto_explain.{setting}".encode())
        connection.execute("set client_min_messages = log")
        connection.add_notice_handler(self._take)

    def _take(self, notice: psycopg.errors.Diagnostic) -> None:
        text = notice.message_primary or ""
        if "plan:" in text:
            plan = json.loads(text.split("plan:", 1)[1])
            self.plans.append(Plan(plan["Query Text"], plan["Plan"]))

    def walked(self) -> set[tuple[str, str]]:
        """(table, statement) of what was read from end to end since the last call."""
        found = {(table, plan.text) for plan in self.plans for table in plan.walked}
        assert self.plans, "the server told no plans"
        self.plans.clear()
        return found


@pytest.fixture(params=["fresh", "stale", "analyzed"])
def explained(
    engine: Engine, server: TestServer, dsn: str, request: pytest.FixtureRequest
) -> Iterator[Explained]:
    """Fifty thousand ready and as many waiting, in several queues; keyed, parked, running, done.

    `stale`: PostgreSQL last looked when there were a few rows of each.
    """
    if request.param == "stale":
        worker = engine.worker()
        for n in range(3):
            engine.enqueue_many([[]] * 2, keys=[f"s{n}", f"t{n}"])
            engine.enqueue_many([[]] * 3, serials=["lane"] * 3)
            engine.finish(worker, engine.claim(worker, 2))
            engine.enqueue_many([[]], delay=60.0)
        engine.claim(worker, 2)
        for table in sorted(HOT):
            engine.connection.execute(f"analyze pgtask.{table}".encode())
        engine.connection.execute("delete from pgtask.running")
    engine.connection.execute(
        f"""
        insert into pgtask.ready (id, task, queue, priority, args, serial)
        select nextval('pgtask.seq'), 't', 'q' || n %% 5, n %% 7 - 3, '[]',
               case when n %% 10 = 0 then 'lane' || n end from generate_series(1, {ROWS}) n;
        insert into pgtask.waiting (id, task, queue, args, key, run_at, park, serial)
        select nextval('pgtask.seq'), 't', 'q' || n %% 5, '[]', 'k' || n,
               case when n %% 100 > 0 then now() + (n + 3600) * interval '1 s' end,
               case when n %% 100 = 0 then 'lane' || n %% 1000 end,
               case when n %% 100 = 0 then 'lane' || n %% 1000 end
        from generate_series(1, {ROWS}) n;
        insert into pgtask.job_key select key, id from pgtask.waiting where key like 'k%%';
        insert into pgtask.running (id, task, queue, args, worker, epoch, attempt)
        select nextval('pgtask.seq'), 't', 'q1', '[]', '{UUID(int=1)}', 1, 1
        from generate_series(1, 5000) n;
        insert into pgtask.done (id, task, queue, args, state)
        select nextval('pgtask.seq'), 't', 'q1', '[]', 'succeeded' from generate_series(1, 10000) n;
        insert into pgtask.payload (job, args) select id, '[]' from pgtask.done;
        """.replace("%%", "%").encode()
    )
    if request.param == "analyzed":
        for table in sorted(HOT):
            engine.connection.execute(f"analyze pgtask.{table}".encode())
    url = make_conninfo(server.superuser_dsn, dbname=conninfo_to_dict(dsn)["dbname"])
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("load 'auto_explain'")
        yield Explained(connection)
    for table in (*sorted(HOT), "done", "slot", "attempt_error", "cancel_request"):
        engine.connection.execute(f"truncate pgtask.{table}".encode())


QUEUES = ("q0", "q1", "q2", "q3", "q4")


def test_no_call_of_a_worker_or_a_producer_walks_a_table(explained: Explained) -> None:
    worker = explained.worker()
    for _ in range(7):  # more often than it takes PostgreSQL to settle on a generic plan
        # Two with a key and large arguments, four of two serial lanes, and what is there.
        explained.enqueue_many([["x" * 3000]] * 2, keys=["a", "b"], queue="q0", priority=100)
        explained.enqueue_many([[]] * 4, serials=["a", "a", "b", "b"], queue="q0", priority=99)
        assert explained.walked() == set()
        jobs = explained.claim(worker, 20, queues=QUEUES)
        assert len(jobs) >= 10
        assert explained.walked() == set()
        explained.finish(worker, jobs[:1])
        assert explained.walked() == set()
        explained.finish(worker, jobs[1:4:2], "failed")
        assert explained.walked() == set()
        explained.finish(worker, jobs[2:5:2])
        assert explained.walked() == set()
        explained.finish(worker, jobs[5:], "retried", delays=[60.0] * len(jobs[5:]))
        assert explained.walked() == set()
        explained.promote()
        assert explained.walked() == set()
        explained.enqueue_many([[], []], keys=["k7", "new"], delay=7200.0)
        assert explained.walked() == set()
        explained.all("select * from pgtask._results(%s::bigint[])", [jobs[0].id])
        assert explained.walked() == set()


@pytest.mark.parametrize("explained", ["analyzed"], indirect=True)
def test_no_call_of_a_person_walks_a_table(explained: Explained) -> None:
    worker = explained.worker()
    for _ in range(7):
        jobs = explained.claim(worker, 10, queues=QUEUES)
        explained.finish(worker, jobs, "failed")
        explained.plans.clear()
        assert set(explained.retry(*(job.id for job in jobs)).values()) == {"retried"}
        assert explained.walked() == set()
        assert set(explained.cancel(*(job.id for job in jobs)).values()) == {"cancelled"}
        assert explained.walked() == set()
        assert explained.values("select pgtask.queues_with_work()") == list(QUEUES)
        assert explained.walked() == set()


def test_no_change_of_some_jobs_walks_a_table(explained: Explained) -> None:
    ids = explained.values("select id from pgtask.ready order by id limit 20")
    ids += explained.values("select id from pgtask.waiting order by id desc limit 20")
    explained.plans.clear()

    explained.all("select * from pgtask.reschedule(%s::bigint[], priority => 3)", ids)
    assert explained.walked() == set()
    explained.all("select * from pgtask.reschedule(%s::bigint[], run_at => now())", ids)
    assert explained.walked() == set()
    explained.all("select * from pgtask.discard(%s::bigint[])", ids)
    assert explained.walked() == set()
    explained.all("select pgtask.purge(ids => %s::bigint[])", ids)
    assert explained.walked() == set()


def test_taking_the_jobs_of_a_dead_worker_back_reads_each_once(explained: Explained) -> None:
    explained.all("select * from pgtask.rescue()")
    assert explained.count("running") == 0

    assert {table for table, _ in explained.walked()} <= {"running"}


def test_a_claim_of_one_job_touches_few_pages(explained: Explained) -> None:
    worker = explained.worker()
    for _ in range(3):
        explained.claim(worker, 1, queues=["q0"])
    explained.plans.clear()
    assert len(explained.claim(worker, 1, queues=["q0"])) == 1

    (look,) = [plan for plan in explained.plans if "for update skip locked" in plan.text]
    assert {n["Index Name"] for n in look.nodes() if "Index Name" in n} == {"ready_lane"}
    assert look.buffers <= 20
    (whole,) = [plan for plan in explained.plans if "pgtask._claim(" in plan.text]
    assert whole.buffers <= 150


def test_a_promote_with_nothing_due_touches_few_pages(explained: Explained) -> None:
    explained.promote()
    explained.plans.clear()
    assert explained.promote() == 0

    (whole,) = [plan for plan in explained.plans if "from pgtask.promote(" in plan.text]
    assert whole.buffers <= 600  # a probe or three for each lane that somebody is parked for
