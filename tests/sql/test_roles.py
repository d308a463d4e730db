"""What a role of each group can do, and that it can do nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from pgtask import App, NotGranted
from pgtask.broker import grants, jobs
from pgtask.broker.grants import FUNCTIONS, GROUPS, INSIDE, RELATIONS, Group
from pgtask.broker.pool import Broker
from pgtask.errors import BrokerError
from pgtask.signature import CallOptions, Signature
from tests.engines import async_engine_for
from tests.roles import Roles
from tests.sql.engine import Engine

SECRET = "wholly-secret-7"
_FUNCTIONS: LiteralString = (
    "select proname::text from pg_proc where pronamespace = 'pgtask'::regnamespace"
)
RIGHTS = ("select", "insert", "update", "delete", "truncate", "references", "trigger")


@pytest.fixture
def as_role(roles: Roles) -> Iterator[Callable[[str], Engine]]:
    """An engine of each role that is asked for."""
    connections: list[psycopg.Connection[Any]] = []

    def connect(group: str) -> Engine:
        connections.append(psycopg.connect(roles.dsn(group), autocommit=True))
        return Engine(connections[-1])

    yield connect
    for connection in connections:
        connection.close()


@pytest.fixture
def owner(as_role: Callable[[str], Engine]) -> Engine:
    return as_role("owner")


def refused(engine: Engine, statement: LiteralString, *params: object) -> str:
    """The statement is not permitted; its message."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
        engine.all(statement, *params)
    return str(caught.value)


# --- the table -----------------------------------------------------------------------------------


def test_every_function_belongs_to_somebody_or_to_the_inside(engine: Engine) -> None:
    there = set(engine.values(_FUNCTIONS))
    granted = {name for names in FUNCTIONS.values() for name in names}

    assert there - granted - set(INSIDE) == set(), "say in pgtask/broker/grants.py whose they are"
    assert (granted | set(INSIDE)) - there == set(), "in pgtask/broker/grants.py, but not there"
    assert granted & set(INSIDE) == set()


def test_every_view_belongs_to_somebody_and_every_relation_of_the_table_is_there(
    engine: Engine,
) -> None:
    relations = dict(
        engine.all(
            "select relname::text, relkind::text from pg_class"
            " where relnamespace = 'pgtask'::regnamespace and relkind in ('r', 'p', 'v', 'S')"
        )
    )
    granted = {name for rights in RELATIONS.values() for name, _ in rights}

    assert granted - set(relations) == set()
    assert {name for name, kind in relations.items() if kind == "v"} - granted == set()


@pytest.mark.parametrize("group", GROUPS)
def test_a_role_has_exactly_what_the_table_says(roles: Roles, owner: Engine, group: Group) -> None:
    name = roles.name(group)

    assert set(
        owner.values(
            "select proname::text from pg_proc where pronamespace = 'pgtask'::regnamespace"
            " and has_function_privilege(%s, oid, 'execute')", name,
        )
    ) == set(FUNCTIONS[group]) & set(
        owner.values(_FUNCTIONS)
    )  # fmt: skip
    assert set(
        owner.all(
            "select c.relname::text, r from pg_class c, unnest(%s::text[]) r"
            " where c.relnamespace = 'pgtask'::regnamespace and c.relkind in ('r', 'p', 'v')"
            " and has_table_privilege(%s, c.oid, r)", list(RIGHTS), name,
        )
    ) == {
        (name, right) for name, right in RELATIONS[group]
        if right != "usage" and owner.value("select to_regclass(%s) is not null", f"pgtask.{name}")
    }  # fmt: skip
    assert owner.values(
        "select c.relname::text from pg_class c where c.relnamespace = 'pgtask'::regnamespace"
        " and case when c.relkind = 'S'"
        " then has_sequence_privilege(%s, c.oid, 'usage,select,update') end", name,
    ) == [name for name, right in RELATIONS[group] if right == "usage"]  # fmt: skip
    assert owner.value("select has_schema_privilege(%s, 'pgtask', 'usage')", name)
    assert not owner.value("select has_schema_privilege(%s, 'pgtask', 'create')", name)


def test_nobody_has_a_right_to_change_a_table_but_the_admin_to_schedules() -> None:
    changed = {
        (group, name)
        for group, rights in RELATIONS.items()
        for name, right in rights
        if right not in ("select", "usage")
    }

    assert changed == {("admin", "schedule")}


def test_who_was_given_nothing_can_do_nothing(as_role: Callable[[str], Engine]) -> None:
    stranger = as_role("stranger")

    assert "schema pgtask" in refused(stranger, "select pgtask.enqueue('t')")
    assert "schema pgtask" in refused(stranger, "select * from pgtask.migration")


# --- a producer ----------------------------------------------------------------------------------


def test_a_producer_enqueues_from_python_and_gets_its_results(roles: Roles, owner: Engine) -> None:
    app = App("roles", dsn=roles.dsn("producer"))

    @app.task(name="double")
    def double(x: int) -> int:
        return 2 * x

    try:
        first = double.delay(4)
        with roles.connected("producer") as connection:
            second = double.using(connection).delay(5)
        worker = owner.worker()
        for job in owner.claim(worker, tasks=[double.name]):
            owner.finish(worker, [job], "succeeded", results=["8"])

        assert first.get(timeout=10) == 8
        assert second.state == "succeeded"
    finally:
        app.close()


def test_a_producer_cannot_read_claim_finish_or_delete(
    as_role: Callable[[str], Engine], owner: Engine
) -> None:
    worker, job = owner.running(task="t", kwargs=[{"password": SECRET}])
    producer = as_role("producer")

    for relation, kind in owner.all(
        "select relname::text, relkind::text from pg_class"
        " where relnamespace = 'pgtask'::regnamespace and relkind in ('r', 'p', 'v')"
        " and relname not in ('migration', 'repeatable')"
    ):
        for statement in ("select from {}", "lock table {}", "delete from {}", "truncate {}"):
            if kind == "v" and statement not in ("select from {}", "lock table {}"):
                continue
            with (
                pytest.raises(psycopg.errors.InsufficientPrivilege),
                producer.connection.transaction(),
            ):
                producer.connection.execute(
                    sql.SQL(statement).format(sql.Identifier("pgtask", relation))
                )
    refused(producer, "select pgtask.cancel(array[%s]::bigint[])", job.id)
    refused(producer, "select pgtask.purge('0 s')")
    refused(producer, "select * from pgtask._claim(%s, 1, '{default}', '{t}')", worker)
    refused(producer, "select pgtask.commit_job(%s, %s, %s, null)", worker, job.id, job.epoch)
    refused(producer, "select nextval('pgtask.seq')")
    refused(producer, "select setval('pgtask.idle_until', 0)")
    refused(producer, "create table pgtask.mine ()")
    refused(producer, "create function pgtask.mine() returns int language sql as 'select 1'")
    refused(producer, "comment on function pgtask.cancel(bigint[], boolean) is 'mine'")
    refused(producer, "grant execute on function pgtask.cancel(bigint[], boolean) to public")


def test_what_a_producer_may_ask_of_a_job_shows_no_arguments(
    as_role: Callable[[str], Engine], owner: Engine
) -> None:
    _, job = owner.running(kwargs=[{"password": SECRET}], headers=json.dumps({"token": SECRET}))
    producer = as_role("producer")

    for answer in (
        producer.result(job.id),
        producer.all("select * from pgtask._watch(%s)", [job.id]),
    ):
        assert SECRET not in str(answer)


# --- a worker ------------------------------------------------------------------------------------


def test_a_worker_of_the_worker_role_runs_jobs_and_a_beat_of_it_fires(
    roles: Roles, tmp_path: Any
) -> None:
    from tests.conditions import eventually
    from tests.workers import Worker

    with roles.connected("admin") as admin, roles.connected("owner") as looker:
        worker = Worker(
            roles.dsn("worker"), "tests.shop:app", ("-c", "1", "--beat"), tmp_path / "log", {}
        )
        try:
            admin.execute(
                "select pgtask.put_schedule('often', 'tests.shop.noop', '{\"every\": 1}')"
            )
            row = admin.execute("select pgtask.enqueue('tests.shop.add', '[1, 2]')").fetchone()
            assert row is not None
            eventually(
                lambda: (
                    looker.execute(
                        "select result::text from pgtask.jobs where id = %s and result is not null",
                        row,
                    ).fetchall()
                    == [("3",)]
                ),
                timeout=30,
            )
            eventually(
                lambda: looker.execute("select from pgtask.tick where job is not null").fetchall(),
                timeout=30,
            )
            assert "permission" not in worker.log
        finally:
            worker.end()


# --- an admin ------------------------------------------------------------------------------------


def test_an_admin_manages_jobs_queues_and_schedules(
    as_role: Callable[[str], Engine],
) -> None:
    admin = as_role("admin")
    job_id = admin.value("select pgtask.enqueue('t', kwargs => '{\"a\": 1}')")

    assert admin.cancel(job_id) == {job_id: "cancelled"}
    assert admin.retry(job_id) == {job_id: "retried"}
    assert admin.value("select pgtask.pause_queue('default')")
    assert admin.value("select kwargs ->> 'a' from pgtask.jobs") == "1"
    schedule = admin.value(
        "insert into pgtask.schedule (name, task, spec) values ('n', 't', '{\"every\": 60}')"
        " returning id"
    )
    admin.all("update pgtask.schedule set queue = 'mail' where id = %s returning id", schedule)
    assert admin.value("select queue from pgtask.schedules") == "mail"
    admin.all("delete from pgtask.schedule where name = 'n' returning id")


def test_an_admin_can_neither_claim_nor_write_jobs_by_hand(
    as_role: Callable[[str], Engine], owner: Engine
) -> None:
    worker, job = owner.running()
    admin = as_role("admin")

    refused(admin, "select * from pgtask._claim(%s, 1, '{default}', '{t}')", worker)
    refused(admin, "delete from pgtask.running where id = %s returning id", job.id)
    refused(
        admin, "insert into pgtask.tick (schedule, tick_at, job) values (1, now(), 1) returning job"
    )


# --- a monitor -----------------------------------------------------------------------------------


def test_a_monitor_reads_every_view_and_finds_no_argument_result_or_error(
    as_role: Callable[[str], Engine], owner: Engine
) -> None:
    hidden = {"password": SECRET}
    worker, failing = owner.running(kwargs=[hidden], max_attempts=2)
    owner.finish(worker, [failing], "retried", messages=[SECRET], tracebacks=[SECRET], delays=[0.0])
    owner.promote(ahead=1.0)
    (failing,) = owner.claim(worker)
    owner.finish(worker, [failing], "failed", messages=[SECRET], tracebacks=[SECRET])
    _, done = owner.running(worker)
    owner.finish(worker, [done], "succeeded", results=[json.dumps(SECRET)])
    owner.running(worker, kwargs=[hidden], headers=json.dumps(hidden))
    owner.enqueue(SECRET, delay=60)
    owner.enqueue(SECRET)
    owner.enqueue(*(f"{SECRET} {n}" for n in range(1000)))
    owner.all(
        "select pgtask.put_schedule('s', 't', '{\"every\": 60}', args => %s, kwargs => %s,"
        " headers => %s)",
        json.dumps([SECRET]), json.dumps(hidden), json.dumps(hidden),
    )  # fmt: skip
    admin, monitor = as_role("admin"), as_role("monitor")

    seen = {}
    for view, right in RELATIONS["monitor"]:
        assert right == "select"
        if not owner.value("select to_regclass(%s) is not null", f"pgtask.{view}"):
            continue
        query = sql.SQL("select v::text from {} v").format(sql.Identifier("pgtask", view))
        seen[view] = str(monitor.connection.execute(query).fetchall())
    assert [view for view, text in seen.items() if SECRET in text] == []
    for view in ("jobs", "attempts", "payloads", "schedules"):
        query = sql.SQL("select v::text from {} v").format(sql.Identifier("pgtask", view))
        assert seen[view] != "[]"
        assert SECRET in str(admin.connection.execute(query).fetchall())


def test_a_monitor_learns_nothing_by_what_it_asks_for(
    as_role: Callable[[str], Engine], owner: Engine, roles: Roles
) -> None:
    """Conditions are pushed into the view: a function that tells what it saw sees only NULL."""
    owner.enqueue(SECRET)
    with roles.connected("superuser") as superuser:
        superuser.execute(f'grant create on schema public to "{roles.name("monitor")}"'.encode())
    monitor = as_role("monitor")
    monitor.connection.execute(
        "create or replace function public.told(anyelement) returns boolean language plpgsql"
        " cost 0.0001 as $$ begin raise notice '%', $1::text; return true; end $$"
    )
    told: list[str] = []
    monitor.connection.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))

    monitor.all("select id from pgtask.jobs where public.told(args) and public.told(error)")

    assert told
    assert SECRET not in str(told)
    monitor.connection.execute("begin")
    refused(monitor, "lock table pgtask.jobs in access exclusive mode")
    monitor.connection.execute("rollback")
    monitor.connection.execute("drop function public.told(anyelement)")
    with roles.connected("superuser") as superuser:
        superuser.execute(f'revoke create on schema public from "{roles.name("monitor")}"'.encode())


def test_a_monitor_changes_nothing(as_role: Callable[[str], Engine], owner: Engine) -> None:
    job_id = owner.enqueue()
    monitor = as_role("monitor")

    refused(monitor, "select pgtask.cancel(array[%s]::bigint[])", job_id)
    refused(monitor, "select pgtask.enqueue('t')")
    refused(monitor, "select * from pgtask._results(array[%s]::bigint[])", job_id)
    refused(monitor, "update pgtask.attempts set epoch = 0 returning job")
    refused(monitor, "select * from pgtask.ready")


# --- what is missing is said ---------------------------------------------------------------------


def test_what_a_role_lacks_is_named_with_the_grant_that_gives_it(roles: Roles) -> None:
    broker = Broker(roles.dsn("producer"))
    try:
        ((job_id, _),) = broker.run(jobs.enqueue([Signature("t", "[]", None, CallOptions())]))
        with pytest.raises(
            NotGranted, match=r"function cancel → let the owner.*--grant-admin ROLE"
        ):
            broker.run(jobs.cancel([job_id]))
        assert isinstance(NotGranted("x"), PermissionError)
    finally:
        broker.close()
    broker = Broker(roles.dsn("stranger"))
    with pytest.raises(BrokerError, match=r"may not use the schema.*--grant-producer"):
        broker.run(jobs.results([1]))
    broker.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_it_is_named_on_a_connection_of_somebody_else_too(roles: Roles, driver: str) -> None:
    app = App("roles", dsn=roles.dsn("monitor"))

    @app.task(name="anything")
    def anything() -> None:
        return None

    async with (
        async_engine_for(driver, roles.dsn("monitor")) as engine,
        engine.connect() as connection,
    ):
        with pytest.raises(NotGranted, match=r"function _enqueue → .*--grant-producer"):
            await anything.using(connection).adelay()
    await app.aclose()


def test_the_remedy_is_found_by_the_last_word_in_whatever_language() -> None:
    assert "--grant-admin ROLE" in grants.remedy("keine Berechtigung für Funktion cancel")
    assert "--grant-monitor or --grant-worker or --grant-admin ROLE" in grants.remedy(
        "permission denied for view jobs"
    )
    assert "no role may" in grants.remedy("permission denied for table ready")
    assert grants.remedy("permission denied for schema pgtask").count("--grant") == 4
