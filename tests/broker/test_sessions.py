"""How pgtask's own connections begin: what a role's defaults, or a pooler, cannot change."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgtask.broker import identity
from pgtask.broker.pool import AsyncBroker, Broker
from pgtask.broker.session import Session
from pgtask.broker.statement import Statement, scalar
from pgtask.errors import AccessRefused, Unavailable
from tests.conftest import TestServer

# What a role may have been given by somebody who did not think of us.
HOSTILE = {
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "search_path": "pg_temp, nowhere",
    "statement_timeout": "20s",
    "lock_timeout": "20s",
    "idle_in_transaction_session_timeout": "20s",
    "idle_session_timeout": "20s",
    "synchronous_commit": "off",
    "datestyle": "German, DMY",
    "intervalstyle": "iso_8601",
    "timezone": "Asia/Kathmandu",
    "standard_conforming_strings": "off",
    "row_security": "off",
    "client_encoding": "LATIN1",
    "extra_float_digits": "0",
    "enable_indexscan": "off",
}
TOLD = Statement(
    "select current_setting('transaction_isolation'), current_setting('transaction_read_only'),"
    " current_schemas(false)::text, current_setting('lock_timeout'),"
    " current_setting('synchronous_commit'), current_setting('timezone'),"
    " current_setting('statement_timeout'), 'ä→😀', now()",
    {},
    lambda rows: rows[0][:8],
)
CLIENT = ("read committed", "off", "{}", "0", "on", "UTC", "30s", "ä→😀")
WORKER = ("read committed", "off", "{}", "2s", "on", "UTC", "1min", "ä→😀")


@pytest.fixture
def hostile(server: TestServer, fresh_database: str) -> str:
    """A database where our role has the defaults of HOSTILE."""
    name = conninfo_to_dict(fresh_database)["dbname"]
    with psycopg.connect(server.superuser_dsn, autocommit=True) as superuser:
        newer = superuser.info.server_version >= 170_000
        more = {"transaction_timeout": "20s"} if newer else {}
        for setting, value in {**HOSTILE, **more}.items():
            superuser.execute(
                f"alter role pgtask in database \"{name}\" set {setting} = '{value}'"
                if setting != "search_path"
                else f'alter role pgtask in database "{name}" set search_path = {value}'
            )
    return fresh_database


@pytest.mark.parametrize("pooler", ["auto", "transaction"])
def test_a_clients_statements_mean_the_same_whatever_the_role_has_been_given(
    hostile: str, pooler: str
) -> None:
    session = Session(hostile, pooler=pooler)
    with session.connect("pgtask:test") as connection:
        cursor = connection.execute(session.text(TOLD.text), TOLD.params)
        if session.pooled:
            cursor.set_result(-1)
        assert TOLD.parse(cursor.fetchall()) == CLIENT


@pytest.mark.asyncio
@pytest.mark.parametrize("pooler", ["auto", "transaction"])
async def test_a_workers_statements_too(hostile: str, pooler: str) -> None:
    session = Session(hostile, pooler=pooler, worker=True)
    async with await session.aconnect("pgtask:test") as connection:
        cursor = await connection.execute(session.text(TOLD.text), TOLD.params)
        if session.pooled:
            await cursor.set_result(-1)
        assert TOLD.parse(await cursor.fetchall()) == WORKER


def test_what_the_dsn_says_of_a_clients_time_and_durability_stands(dsn: str) -> None:
    options = "-c statement_timeout=7s -c synchronous_commit=off -c search_path=public"
    with Session(make_conninfo(dsn, options=options)).connect("pgtask:test") as connection:
        row = connection.execute(TOLD.text).fetchone()

    assert row is not None
    assert row[:7] == ("read committed", "off", "{}", "0", "off", "UTC", "7s")


def test_of_several_hosts_the_one_that_takes_writes_is_asked_for() -> None:
    several = Session("host=a,b dbname=x").arguments("x")
    one = Session("host=a dbname=x").arguments("x")
    chosen = Session("host=a,b dbname=x target_session_attrs=any").arguments("x")

    assert several["target_session_attrs"] in ("primary", "read-write")
    assert "target_session_attrs" not in one
    assert "target_session_attrs" not in chosen


def test_a_server_that_was_fenced_off_is_not_written_to(dsn: str) -> None:
    # given a server where not a role's default, but whoever runs it, forbids to write
    fenced = make_conninfo(dsn, options="-c default_transaction_read_only=on")
    broker = Broker(fenced)
    try:
        with pytest.raises(Unavailable, match="on the primary"):
            broker.run(Statement("create table public.never ()", {}, lambda rows: None))
    finally:
        broker.close()


@pytest.mark.parametrize(
    "wrong", [{"password": "wrong"}, {"dbname": "nowhere"}, {"user": "nobody", "password": "x"}]
)
def test_a_wrong_role_password_or_database_is_told_from_an_outage(
    dsn: str, wrong: dict[str, Any]
) -> None:
    broker = Broker(make_conninfo(dsn, **wrong))
    with pytest.raises(AccessRefused):
        broker.run(Statement("select 1", {}, scalar))

    away = Broker("host=127.0.0.1 port=1 dbname=x")
    with pytest.raises(Unavailable) as caught:
        away.run(Statement("select 1", {}, scalar))
    assert not isinstance(caught.value, AccessRefused)


# What is sent past a pooler, on a connection that has none: this needs no PgBouncer.


def test_behind_a_pooler_a_failed_statement_leaves_no_transaction_open(dsn: str) -> None:
    broker = Broker(dsn, pool_max=1, pooler="transaction")
    try:
        with pytest.raises(psycopg.errors.DivisionByZero):
            broker.run(Statement("select 1 / %(x)s::int", {"x": 0}, scalar))
        assert broker.run(Statement("select %(x)s::int", {"x": 3}, scalar)) == 3
        assert broker.run(identity.is_readable()) is True
    finally:
        broker.close()


def test_behind_a_pooler_text_arrives_as_it_was_sent(dsn: str) -> None:
    broker = Broker(dsn, pooler="transaction")
    odd = 'it\'s; \\ "x" %s %(x)s \n$$ ; select 1; -- ä→😀'
    statement = Statement(
        "select %(x)s::text, %(many)s::text[], %(none)s::text, %(flag)s::boolean",
        {"x": odd, "many": [odd, "b"], "none": None, "flag": True},
        lambda rows: rows[0],
    )
    try:
        assert broker.run(statement) == (odd, [odd, "b"], None, True)
        assert broker.run_all([statement, statement]) == [(odd, [odd, "b"], None, True)] * 2
    finally:
        broker.close()


@pytest.mark.asyncio
async def test_behind_a_pooler_coroutines_are_answered_alike(dsn: str) -> None:
    broker = AsyncBroker(dsn, pooler="transaction")
    try:
        statement = Statement("select %(x)s::int", {"x": 3}, scalar)
        assert await broker.run(statement) == 3
        assert await broker.run_all([statement, statement]) == [3, 3]
    finally:
        await broker.close()
