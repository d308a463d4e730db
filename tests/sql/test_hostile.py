"""Sessions that were prepared to mislead, and text that was written to be run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from pgtask.broker.grants import ENGINE, FUNCTIONS
from tests.roles import Roles
from tests.sql.engine import Engine

HOSTILE = (
    "'; drop table pgtask.ready; --",
    "$$; drop table pgtask.ready; --$$",
    "x'); delete from pgtask.ready; select ('",
    "a\" b\\c ' d",
    "%s %(p)s {0} {x} %I %L",
    "\\'; select pg_sleep(9); --",
    "(select 1 / 0)",
    "{a,b}",
    "\u202e😀\ufeff",
    "null",
    "*",
    "public.ready",
    "x" * 70_000,
)
MANY = '{"(t.x,[1],,,,,,,,,,,,,,,,)"}'
# What a value can be wrong about; anything else says that text was read as SQL, or not looked at.
_ANSWERS = ("TQ", "22")


@pytest.fixture
def evil(roles: Roles) -> Iterator[psycopg.Connection[Any]]:
    """A producer's session in which whatever can stand in the way does."""
    with roles.connected("superuser") as superuser:
        superuser.execute(f'create schema evil authorization "{roles.name("producer")}"'.encode())
    with roles.connected("producer") as connection:
        for statement in _shadows(connection):
            connection.execute(statement)
        connection.execute("set search_path = evil, pg_temp, public, pg_catalog, pgtask")
        yield connection
    with roles.connected("superuser") as superuser:
        superuser.execute("drop schema evil cascade")


def _shadows(connection: psycopg.Connection[Any]) -> Iterator[sql.SQL | sql.Composed]:
    """Tables, types, functions, operators and casts by the names that pgtask's functions use."""
    yield sql.SQL("create table evil.caught (what text, who name)")
    tables = connection.execute(
        "select relname::text from pg_class where relkind in ('r', 'p', 'v')"
        " and relnamespace = 'pgtask'::regnamespace"
    ).fetchall()
    for (name,) in tables:
        for schema in ("evil", "pg_temp"):
            yield sql.SQL("create table {} (id bigint, name text, job bigint)").format(
                sql.Identifier(schema, name)
            )
    for name in ("text", "json", "timestamptz", "int4", "bool", "job_spec"):
        for schema in ("evil", "pg_temp"):
            yield sql.SQL("create type {} as (nothing bigint)").format(sql.Identifier(schema, name))
    for name, parameters, result in (
        ("clock_timestamp", "", "timestamptz"),
        ("now", "", "timestamptz"),
        ("nextval", "regclass", "bigint"),
        ("nextval", "text", "bigint"),
        ("pg_sequence_last_value", "regclass", "bigint"),
        ("pg_notify", "text, text", "void"),
        ("cardinality", "anyarray", "integer"),
        ("json_typeof", "json", "text"),
        ("json_build_object", '"any"', "json"),
        ("json_strip_nulls", "json", "json"),
        ("isfinite", "timestamptz", "boolean"),
        ("current_setting", "text, boolean", "text"),
        ("left", "text, integer", "text"),
        ("length", "text", "integer"),
        ("octet_length", "text", "integer"),
        ("char_length", "text", "integer"),
        ("quote_literal", "text", "text"),
        ("pg_column_size", '"any"', "integer"),
        ("set_config", "text, text, boolean", "text"),
        ("strpos", "text, text", "integer"),
        ("_check_call", "text, text, integer, text, integer, integer, text", "void"),
        ("_wake", "text", "void"),
    ):
        for schema in ("evil", "pg_temp"):
            if '"any"' in parameters:
                continue  # only functions in C may have these
            yield sql.SQL(
                "create function {name}({parameters}) returns {result} language plpgsql as $$ begin"
                " insert into evil.caught values ({what}, current_user);"
                " raise exception 'shadow %', {what}; end $$"
            ).format(
                name=sql.Identifier(schema, name),
                parameters=sql.SQL(_qualified(parameters)),
                result=sql.SQL(_qualified(result)),
                what=sql.Literal(name),
            )
    yield sql.SQL(
        "create function evil.yes(pg_catalog.text, pg_catalog.text) returns pg_catalog.bool"
        " language plpgsql as $$ begin insert into evil.caught values ('operator', current_user);"
        " return true; end $$"
    )
    for operator in ("=", "<>", "~", "~~", "<", ">"):
        yield sql.SQL(
            "create operator evil.{} (leftarg = pg_catalog.text, rightarg = pg_catalog.text,"
            " function = evil.yes)"
        ).format(sql.SQL(operator))


def _qualified(types: str) -> LiteralString:
    words = [word.strip() for word in types.split(",") if word.strip()]
    plain = {"integer": "int4", "bigint": "int8", "boolean": "bool"}
    return ", ".join(
        word if word == "anyarray" else f"pg_catalog.{plain.get(word, word)}" for word in words
    )


def test_shadows_in_the_search_path_and_in_pg_temp_have_no_effect(
    evil: psycopg.Connection[Any], roles: Roles
) -> None:
    # No operator and no cast of the client's own: those are the client's to be misled by.
    calls: tuple[LiteralString, ...] = (
        "select pgtask.enqueue('t', '[1]', '{\"a\": 2}', 'mail', 5, null, '1 second', 'k', 'keep',"
        " 's', 4, '\"const:1\"', '1 minute', '1 day', 'all', '{a,b}')",
        "select pgtask.enqueue('t', key => 'k', on_conflict => 'replace')",
        "select pgtask.enqueue('t')",
        "select * from pgtask.enqueue_many(array[row('t', null, null, 'q', null, null, null, null,"
        " null, null, null, null, null, null, null, null, null, null)::pgtask.job_spec])",
        "select * from pgtask._results('{1,2,3}')",
        "select * from pgtask._watch('{1,2,3}')",
        "select pgtask._installation()",
    )
    for call in calls:
        evil.execute(call)
    with pytest.raises(psycopg.Error) as caught:
        evil.execute("select pgtask.enqueue('no such name!')")
    assert caught.value.sqlstate == "TQ002"

    with roles.connected("owner") as owner:
        rows = owner.execute("select task, queue, key from pgtask.jobs order by id").fetchall()
    assert rows == [("t", "default", "k"), ("t", "default", None), ("t", "q", None)]
    with roles.connected("superuser") as superuser:
        assert superuser.execute("select * from evil.caught").fetchall() == []
        assert superuser.execute("select count(*) from evil.ready").fetchall() == [(0,)]


def test_the_traps_of_these_tests_do_catch(evil: psycopg.Connection[Any]) -> None:
    evil.execute(
        "create function evil.naive() returns boolean language plpgsql security definer as"
        " $$ begin return pg_catalog.text 'a' = pg_catalog.text 'b'; end $$"
    )

    assert evil.execute("select evil.naive()").fetchone() == (True,)
    assert evil.execute("table evil.caught").fetchall() != []


def test_nothing_of_pgtask_can_be_hung_onto(evil: psycopg.Connection[Any], roles: Roles) -> None:
    evil.execute("create function evil.spy() returns trigger language plpgsql as 'begin end'")
    for statement in (
        "create trigger spy before insert on pgtask.ready for each row execute function evil.spy()",
        "create rule spy as on insert to pgtask.ready do instead nothing",
        "create table evil.child () inherits (pgtask.ready)",
        "alter table evil.ready inherit pgtask.ready",
        "create table evil.ref (id bigint references pgtask.ready (id))",
        "create policy spy on pgtask.ready using (true)",
        "create statistics evil.spy on id, task from pgtask.ready",
        "alter function pgtask.enqueue rename to enqueued",
        "alter function pgtask._wake(pg_catalog.text) set search_path = evil",
        "create or replace function pgtask._wake(q pg_catalog.text) returns void"
        " language sql as ''",
        "create view pgtask.spy as select 1",
        "drop schema pgtask cascade",
        "copy pgtask.ready to stdout",
        "comment on table pgtask.ready is 'mine'",
    ):
        with pytest.raises(psycopg.Error) as caught:
            evil.execute(statement.encode())
        assert caught.value.sqlstate in ("42501", "42P01", "42809"), statement


@pytest.mark.parametrize(
    "settings",
    [
        ("standard_conforming_strings = off", "escape_string_warning = off"),
        ("transform_null_equals = on", "plpgsql.variable_conflict = 'use_column'"),
        ("plpgsql.variable_conflict = 'error'", "plpgsql.extra_errors = 'all'"),
        ("bytea_output = 'escape'", "lc_numeric = 'C'", "intervalstyle = 'postgres_verbose'"),
        ("datestyle = 'German'", "timezone = 'Pacific/Kiritimati'", "extra_float_digits = -15"),
        ("default_transaction_isolation = 'serializable'", "row_security = off"),
        ("check_function_bodies = off", "array_nulls = off", "xmloption = 'document'"),
        (
            "enable_indexscan = off",
            "enable_hashjoin = off",
            "plan_cache_mode = 'force_custom_plan'",
        ),
    ],
    ids=lambda settings: settings[0],
)
def test_settings_of_the_session_do_not_change_what_a_call_means(
    roles: Roles, settings: tuple[str, ...]
) -> None:
    arguments = json.dumps([{"back\\slash": "a\\u0041", "quote": "it's"}])
    with roles.connected("worker") as connection:
        for setting in settings:
            connection.execute(f"set {setting}".encode())
        engine = Engine(connection)
        first = engine.value(
            "select pgtask.enqueue('t.x', %s, key => %s, serial => 's', tags => %s,"
            " delay => '0 s', timeout => '90 s')",
            arguments, "k'\\", ["a\\b", "c"],
        )  # fmt: skip
        engine.values("select * from pgtask.enqueue_many(%s::pgtask.job_spec[])", MANY)
        refused(engine, "select pgtask.enqueue('t', %s)", '["\\u0000"]')
        worker = uuid4()
        claim: LiteralString = (
            "select id, epoch, args, extract(epoch from timeout)::int as timeout"
            " from pgtask.claim(%s, 10, null, array[%s])"
        )
        assert engine.all(claim, worker, "t.?") == []
        claimed = engine.all(claim, worker, "t.*")

        assert claimed[0].id == first
        assert claimed[0].args == json.loads(arguments)
        assert claimed[0].timeout == 90
        assert len(claimed) == 2
        engine.all(
            "select pgtask.complete(%s, id, epoch, '1')"
            " from unnest(%s::bigint[], %s::int[]) as c (id, epoch)",
            worker, [job.id for job in claimed], [job.epoch for job in claimed],
        )  # fmt: skip
    assert engine_states(roles) == ["succeeded", "succeeded"]


def engine_states(roles: Roles) -> list[str]:
    with roles.connected("owner") as owner:
        return [row[0] for row in owner.execute("select state from pgtask.jobs").fetchall()]


def refused(engine: Engine, statement: LiteralString, *params: object) -> None:
    with pytest.raises(psycopg.Error) as caught:
        engine.all(statement, *params)
    assert (caught.value.sqlstate or "").startswith("TQ"), caught.value


# --- text is data --------------------------------------------------------------------------------


def _public(engine: Engine) -> list[Any]:
    """Every function of the interface, with the names and types of its parameters."""
    granted = {name for names in FUNCTIONS.values() for name in names}
    names = sorted(n for n in granted - set(ENGINE) if not n.startswith("_"))
    return engine.all(
        "select p.proname::text as name, array(select format_type(t, null) from"
        " unnest(p.proargtypes) with ordinality as a (t, n) order by n) as types,"
        " coalesce(p.proargnames[1:p.pronargs], '{}') as parameters from pg_proc p"
        " where p.pronamespace = 'pgtask'::regnamespace and p.proname = any(%s)"
        " and p.prorettype <> 'trigger'::regtype order by 1",
        names,
    )


def _call(function: Any, values: dict[str, object]) -> tuple[sql.Composed, dict[str, object]]:
    arguments = [
        sql.SQL("{} => {}::{}").format(sql.Identifier(name), sql.Placeholder(name), sql.SQL(kind))
        for name, kind in zip(function.parameters, function.types, strict=True)
    ]
    call = sql.SQL("select * from {}({})").format(
        sql.Identifier("pgtask", function.name), sql.SQL(", ").join(arguments)
    )
    return call, {name: values.get(name) for name in function.parameters}


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:12])
def test_text_in_any_parameter_is_stored_or_refused_and_never_run(
    engine: Engine, text: str
) -> None:
    engine.enqueue()
    wrong = []
    for function in _public(engine):
        for name, kind in zip(function.parameters, function.types, strict=True):
            value: object = text
            if kind == "text[]":
                value = [text]
            elif kind == "json":
                value = json.dumps({text: text})
            elif kind != "text":
                continue
            given: dict[str, object] = {name: value}
            if name != "task" and "task" in function.parameters and function.types[0] == "text":
                given["task"] = "t"
            call, params = _call(function, given)
            with engine.connection.transaction(force_rollback=True):
                try:
                    engine.connection.execute(call, params)
                except psycopg.Error as error:
                    if not (error.sqlstate or "").startswith(_ANSWERS):
                        wrong.append((function.name, name, error.sqlstate, str(error)[:200]))

    assert wrong == []
    assert engine.count("ready") == 1


def test_null_in_every_parameter_is_the_default_or_refused_in_our_words(engine: Engine) -> None:
    wrong = []
    for function in _public(engine):
        call, params = _call(function, {})
        with engine.connection.transaction(force_rollback=True):
            try:
                engine.connection.execute(call, params)
            except psycopg.Error as error:
                if not (error.sqlstate or "").startswith("TQ"):
                    wrong.append((function.name, error.sqlstate, str(error)[:200]))

    assert wrong == []


@pytest.mark.parametrize("text", [t for t in HOSTILE if len(t) <= 500], ids=lambda text: text[:12])
def test_hostile_text_comes_back_as_it_was(engine: Engine, text: str) -> None:
    arguments, result = json.dumps([text, {text: text}]), json.dumps({"r": text})
    job_id = engine.value(
        "select pgtask.enqueue('t', %s, %s, key => %s, serial => %s, tags => %s)",
        arguments, json.dumps({text: text}), text, text, [text[:100]],
    )  # fmt: skip
    worker = uuid4()
    (job,) = engine.all("select * from pgtask.claim(%s, 5)", worker)
    engine.all("select pgtask.fail(%s, %s, %s, %s)", worker, job.id, job.epoch, text)
    engine.promote(ahead=1e6)
    (job,) = engine.all("select * from pgtask.claim(%s, 5)", worker)
    engine.all("select pgtask.complete(%s, %s, %s, %s)", worker, job.id, job.epoch, result)
    engine.all("select pgtask.pause_queue('default', %s)", text)

    row = engine.job(job_id)
    assert (row.args, row.kwargs, row.key, row.serial, row.tags, row.result) == (
        json.loads(arguments), {text: text}, text, text, [text[:100]], json.loads(result),
    )  # fmt: skip
    assert engine.values("select error_message from pgtask.attempts") == [text]
    assert engine.values("select paused_reason from pgtask.queues where paused") == [text]
