"""The schema's manners: who may call what, and under which search_path."""

from __future__ import annotations

import re

from tests.sql.engine import Engine

OURS = "pgtask"


def test_every_function_is_security_definer_with_a_closed_search_path(engine: Engine) -> None:
    functions = engine.all(
        "select p.oid::regprocedure::text as name, p.prosecdef, p.proconfig from pg_proc p"
        " where p.pronamespace = %s::regnamespace", OURS,
    )  # fmt: skip
    assert len(functions) > 30
    for function in functions:
        assert function.prosecdef, function.name
        assert "search_path=pg_catalog, pgtask, pg_temp" in (function.proconfig or []), (
            function.name
        )


def test_every_function_and_view_says_what_it_is(engine: Engine) -> None:
    silent = engine.values(
        "select p.oid::regprocedure::text from pg_proc p where p.pronamespace = %s::regnamespace"
        " and obj_description(p.oid, 'pg_proc') is null union all"
        " select c.oid::regclass::text from pg_class c where c.relnamespace = %s::regnamespace"
        " and c.relkind = 'v' and obj_description(c.oid, 'pg_class') is null", OURS, OURS,
    )  # fmt: skip
    assert silent == []


def test_no_function_stands_twice_under_one_name(engine: Engine) -> None:
    twice = engine.values(
        "select proname::text from pg_proc where pronamespace = %s::regnamespace"
        " group by 1 having count(*) > 1", OURS,
    )  # fmt: skip
    assert twice == []


def test_only_what_changes_tables_or_reads_rows_of_a_statement_builds_statements_from_text(
    engine: Engine,
) -> None:
    dynamic = engine.values(
        "select proname::text from pg_proc where pronamespace = %s::regnamespace"
        " and prosrc ~* '\\mexecute\\M' order by 1", OURS,
    )  # fmt: skip
    assert dynamic == [
        "enqueue_fields",
        "enqueue_row",
        "enqueue_row_id",
        "maintain",
        "set_queue_events",
    ]


def test_a_backslash_stands_in_escape_strings_only(engine: Engine) -> None:
    """In a plain one it means what the caller's standard_conforming_strings says."""
    misread = [
        function.name
        for function in engine.all(
            "select proname::text as name, prosrc from pg_proc"
            " where pronamespace = %s::regnamespace", OURS,
        )
        for literal in re.findall(
            r"--[^\n]*|[Ee]'(?:[^'\\]|\\.|'')*'|('(?:[^']|'')*')", function.prosrc
        )
        if "\\" in literal
    ]  # fmt: skip
    assert misread == []


def test_public_has_nothing_neither_functions_nor_tables_nor_the_schema(engine: Engine) -> None:
    granted = engine.all(
        "select c.relname::text as name, a.privilege_type from pg_class c, aclexplode(c.relacl) a"
        " where c.relnamespace = %s::regnamespace and a.grantee = 0 union all"
        " select n.nspname::text, a.privilege_type from pg_namespace n, aclexplode(n.nspacl) a"
        " where n.nspname = %s and a.grantee = 0 union all"
        " select p.proname::text, a.privilege_type from pg_proc p,"
        " aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a"
        " where p.pronamespace = %s::regnamespace and a.grantee = 0 order by name",
        OURS, OURS, OURS,
    )  # fmt: skip
    assert granted == []


def test_there_are_no_foreign_keys_and_triggers_only_where_people_write(engine: Engine) -> None:
    assert engine.values(
        "select conname::text from pg_constraint where contype = 'f'"
        " and connamespace = %s::regnamespace",
        OURS,
    ) == []  # fmt: skip
    assert engine.values(
        "select distinct c.relname::text from pg_trigger t join pg_class c on c.oid = t.tgrelid"
        " where c.relnamespace = %s::regnamespace", OURS,
    ) == ["schedule"]  # fmt: skip


def test_the_shape_of_a_job_is_the_same_in_all_four_tables(engine: Engine) -> None:
    columns = (
        "select array_agg(format('%%s %%s', attname, atttypid::regtype) order by attnum)"
        " from pg_attribute"
        " where attrelid = %s::regclass and attnum > 0 and attname in (select attname from"
        " pg_attribute where attrelid = 'pgtask._job'::regclass and attnum > 0)"
    )
    shape = engine.value(columns, "pgtask._job")
    for table in ("waiting", "ready", "running", "done"):
        assert engine.value(columns, f"pgtask.{table}") == shape


def test_a_shadow_in_pg_temp_is_not_seen(engine: Engine) -> None:
    engine.connection.execute("create temp table ready (like pgtask.ready)")
    engine.connection.execute(
        "create function pg_temp.clock_timestamp() returns timestamptz"
        " language sql as 'select null::timestamptz'"
    )
    engine.connection.execute("set search_path = pg_temp, public")
    job_id = engine.enqueue()

    assert engine.value("select count(*) from pg_temp.ready") == 0
    assert [job.id for job in engine.claim(engine.worker())] == [job_id]


def test_nothing_works_less_in_a_session_with_other_habits(engine: Engine) -> None:
    for setting in (
        "timezone = 'Asia/Kathmandu'", "datestyle = 'SQL, DMY'", "intervalstyle = 'sql_standard'",
        "extra_float_digits = -15", "search_path = ''",
    ):  # fmt: skip
        engine.connection.execute(f"set {setting}".encode())
    worker, job = engine.running(policy={"timeout": 1.5})
    engine.finish(worker, [job], "retried")
    engine.all("select pgtask.maintain('0 s'), pgtask.purge('0 s')")
    engine.all("select pgtask.enqueue('t', timeout => interval '90 s', delay => interval '1 s')")

    assert engine.promote(ahead=60) == 2
