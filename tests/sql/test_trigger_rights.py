"""With whose rights a trigger enqueues: the table's users need none, and gain none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.conftest import TestServer
from tests.sql.engine import Engine


@pytest.fixture
def stranger(
    engine: Engine, server: TestServer, dsn: str, worker_id: str
) -> Iterator[psycopg.Connection[Any]]:
    """A session as a role that owns a schema, and may have triggers call enqueue_row."""
    role = f"trigger_author_{worker_id}"
    url = make_conninfo(server.superuser_dsn, dbname=conninfo_to_dict(dsn)["dbname"])
    with psycopg.connect(url, autocommit=True) as connection:
        for text in (
            f"create role {role}", f"create schema {role} authorization {role}",
            f"grant usage on schema pgtask to {role}",
            f"grant execute on function pgtask.enqueue_row() to {role}",
            f"set session authorization {role}", f"set search_path = {role}",
        ):  # fmt: skip
            connection.execute(text.encode())
        yield connection
        for text in ("reset session authorization", f"drop owned by {role} cascade",
                     f"drop role {role}"):  # fmt: skip
            connection.execute(text.encode())


def test_whoever_may_insert_enqueues_without_any_right_to(
    engine: Engine, stranger: psycopg.Connection[Any]
) -> None:
    stranger.execute("create table orders (no int)")
    stranger.execute(
        "create trigger x after insert on orders for each row execute function"
        " pgtask.enqueue_row('t')"
    )
    stranger.execute("insert into orders values (1)")

    assert engine.values("select kwargs from pgtask.jobs") == [{"no": 1}]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        stranger.execute("select * from pgtask.ready")


@pytest.mark.parametrize("column", ["mood", "mood[]", "face", "wrapped"])
@pytest.mark.parametrize(
    "level", ["for each row", "referencing new table as new_rows for each statement"]
)
def test_a_strangers_way_to_json_does_not_run_with_our_rights(
    engine: Engine, stranger: psycopg.Connection[Any], column: str, level: str
) -> None:
    stranger.execute("create type mood as enum ('glad')")
    stranger.execute("create type face as (shown mood)")
    stranger.execute("create domain wrapped as mood")
    stranger.execute(f"create table faces (no int, felt {column})".encode())
    stranger.execute(
        f"create trigger x after insert on faces {level} execute function"
        " pgtask.enqueue_row('t')".encode()
    )
    value = {"mood[]": "{glad}", "face": "(glad)"}.get(column, "glad")
    stranger.execute(f"insert into faces values (1, '{value}')".encode())
    stranger.execute(
        "create function leak(mood) returns json language sql as"
        " $$ select to_json(current_user::text) $$"
    )
    stranger.execute("create cast (mood as json) with function leak(mood)")

    with pytest.raises(psycopg.Error, match=r"mood.*leak.*rights of pgtask") as refused:
        stranger.execute(f"insert into faces values (2, '{value}')".encode())
    assert refused.value.sqlstate == "TQ002"
    (felt,) = engine.values("select kwargs -> 'felt' from pgtask.jobs")
    assert felt == {"mood[]": ["glad"], "face": {"shown": "glad"}}.get(column, "glad")


def test_what_a_session_puts_in_the_way_is_not_seen(
    engine: Engine, stranger: psycopg.Connection[Any]
) -> None:
    for text in (
        "create table orders (no int, sku text)",
        "create trigger x after insert on orders for each row execute function"
        " pgtask.enqueue_row('t', 'key={sku}')",
        "create function pg_temp.row_to_json(record) returns json language plpgsql as"
        " $$ begin return '{\"stolen\": 1}'; end $$",
        "create function pg_temp.row_to_json(orders) returns json language sql as"
        " $$ select '{\"stolen\": 2}'::json $$",
        "create temp table pg_attribute (attname text)",
        "create temp table pg_cast (castsource int)",
        "set search_path = pg_temp, public",
    ):
        stranger.execute(text.encode())
    stranger.execute("insert into pg_temp.pg_cast values (1)")
    schema = stranger.execute("select relnamespace::regnamespace::text from pg_class"
                              " where relname = 'orders' and relkind = 'r'").fetchone()  # fmt: skip
    assert schema is not None
    stranger.execute(f"insert into {schema[0]}.orders values (7, 'a')".encode())

    assert engine.values("select kwargs from pgtask.jobs") == [{"no": 7, "sku": "a"}]
