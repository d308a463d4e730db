"""The schema as PostgREST exposes it: its statements, in its transactions, without its process.

What it sends: settings and the role for the transaction; a function by name, its parameters from a
JSON object; a view as a table, its rows as one JSON array.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from tests.roles import PASSWORD, Roles

Composed = sql.Composed


@dataclass(frozen=True)
class Gateway:
    """Logs in as one role that has nothing, and becomes another for each request."""

    roles: Roles
    connection: psycopg.Connection[Any]

    def rpc(self, group: str, name: str, body: Mapping[str, Any], **claims: str) -> Any:
        """POST /rpc/name."""
        with self.request(group, claims):
            kinds = self._parameters(name)
            assert set(body) <= set(kinds)
            query = sql.SQL(
                "with source as (select call.* from (select {body}::json as data) payload,"
                " lateral (select {names} from json_to_record(payload.data) as _({columns})"
                " limit 1) body, lateral {function}({arguments}) call)"
                " select coalesce(json_agg(t), '[]')::text from (select * from source) t"
            ).format(
                body=sql.Literal(json.dumps(body)),
                names=sql.SQL(", ").join(map(sql.Identifier, body)),
                columns=sql.SQL(", ").join(
                    sql.SQL("{} {}").format(sql.Identifier(n), sql.SQL(kinds[n])) for n in body
                ),
                function=sql.Identifier("pgtask", name),
                arguments=sql.SQL(", ").join(
                    sql.SQL("{0} := body.{0}").format(sql.Identifier(n)) for n in body
                ),
            )
            rows = self._document(query)
        scalars = [row["call"] if set(row) == {"call"} else row for row in rows]
        return scalars[0] if len(scalars) == 1 else scalars

    def get(
        self, group: str, relation: tuple[str, str], select: str = "*", **claims: str
    ) -> list[dict[str, Any]]:
        """GET /relation?select=... in a read-only transaction."""
        columns = (
            sql.SQL("*")
            if select == "*"
            else sql.SQL(", ").join(sql.Identifier(*relation, c) for c in select.split(","))
        )
        with self.request(group, claims, read_only=True):
            query = sql.SQL(
                "with source as (select {columns} from {relation} limit 1000)"
                " select coalesce(json_agg(t), '[]')::text from (select * from source) t"
            ).format(columns=columns, relation=sql.Identifier(*relation))
            return list(self._document(query))

    def post(self, group: str, relation: tuple[str, str], rows: list[dict[str, Any]]) -> Any:
        """POST /relation, all columns of the first row."""
        with self.request(group, {}):
            kinds = dict(
                self.connection.execute(
                    "select attname::text, format_type(atttypid, atttypmod) from pg_attribute"
                    " where attrelid = %s::regclass and attnum > 0",
                    [".".join(relation)],
                ).fetchall()
            )
            names = list(rows[0])
            query = sql.SQL(
                "with source as (insert into {relation} ({names}) select {names}"
                " from (select {body}::json as data) payload, lateral (select * from"
                " json_to_recordset(payload.data) as _({columns})) body returning {relation}.*)"
                " select coalesce(json_agg(t), '[]')::text from (select * from source) t"
            ).format(
                relation=sql.Identifier(*relation),
                names=sql.SQL(", ").join(map(sql.Identifier, names)),
                body=sql.Literal(json.dumps(rows)),
                columns=sql.SQL(", ").join(
                    sql.SQL("{} {}").format(sql.Identifier(n), sql.SQL(kinds[n])) for n in names
                ),
            )
            return self._document(query)

    @contextmanager
    def request(
        self, group: str, claims: Mapping[str, str], *, read_only: bool = False
    ) -> Iterator[None]:
        with self.connection.transaction():
            if read_only:
                self.connection.execute("set transaction read only")
            self.connection.execute(
                "select set_config('search_path', 'pgtask, public', true),"
                " set_config('role', %s, true), set_config('request.jwt.claims', %s, true)",
                [self.roles.name(group), json.dumps(claims)],
            )
            yield

    def _parameters(self, name: str) -> dict[str, str]:
        """From the catalogue, as its schema cache has them; one function of a name at most."""
        rows = self.connection.execute(
            "select n, format_type(t, null) from pg_proc p, unnest(p.proargnames[1:p.pronargs],"
            " p.proargtypes::oid[]) as a (n, t) where p.proname = %s"
            " and p.pronamespace = (select oid from pg_namespace where nspname = 'pgtask')",
            [name],
        ).fetchall()
        return dict(rows)

    def _document(self, query: Composed) -> list[dict[str, Any]]:
        row = self.connection.execute(query).fetchone()
        assert row is not None
        document: list[dict[str, Any]] = json.loads(row[0])
        return document


@pytest.fixture
def gateway(roles: Roles) -> Iterator[Gateway]:
    """Its authenticator may become any of the roles, and inherits nothing from them."""
    name = roles.name("authenticator")
    groups = [roles.name(group) for group in ("producer", "worker", "admin", "monitor", "stranger")]
    with roles.connected("superuser") as superuser:
        superuser.execute(
            f'create role "{name}" login noinherit password {PASSWORD!r};'.encode()
            + "".join(f'grant "{group}" to "{name}";' for group in groups).encode()
        )
        with psycopg.connect(roles.dsn("authenticator"), autocommit=True) as connection:
            yield Gateway(roles, connection)
        superuser.execute(f'drop role "{name}"'.encode())


JOBS = ("pgtask", "jobs")


def test_a_job_is_enqueued_claimed_and_completed_over_the_gateway(gateway: Gateway) -> None:
    job_id = gateway.rpc(
        "producer", "enqueue",
        {
            "task": "mail.send", "kwargs": {"to": "ada@example.com", "tags": [1, None]},
            "queue": "mail", "priority": 3, "delay": "0 s", "key": "m:1", "tags": ["a", "b,c"],
            "run_at": None, "timeout": "90 seconds",
        },
    )  # fmt: skip
    worker = str(uuid4())
    job = gateway.rpc("worker", "claim", {"worker": worker, "n": 1, "tasks": ["mail.*"]})

    assert job["id"] == job_id
    assert job["kwargs"] == {"to": "ada@example.com", "tags": [1, None]}
    assert (job["priority"], job["tags"], job["timeout"]) == (3, ["a", "b,c"], "00:01:30")
    gateway.rpc(
        "worker", "complete",
        {"worker": worker, "job": job_id, "epoch": job["epoch"], "result": {"sent": True}},
    )  # fmt: skip
    (row,) = gateway.get("admin", JOBS)
    assert (row["state"], row["result"]) == ("succeeded", {"sent": True})


def test_many_jobs_are_one_array_of_objects(gateway: Gateway) -> None:
    jobs = [{"task": "t", "args": [n], "queue": "many"} for n in range(3)]

    ids = gateway.rpc("producer", "enqueue_many", {"jobs": jobs})

    assert ids == sorted(ids)
    assert [row["args"] for row in gateway.get("admin", JOBS)] == [[0], [1], [2]]


def test_outcomes_are_an_array_of_objects_too(gateway: Gateway) -> None:
    job_id = gateway.rpc("producer", "enqueue", {"task": "t"})
    worker = str(uuid4())
    job = gateway.rpc("worker", "claim", {"worker": worker})

    gateway.rpc(
        "worker", "finish",
        {
            "worker": worker,
            "outcomes": [
                {"job": job_id, "epoch": job["epoch"], "verdict": "failed", "error": "no"}
            ],
        },
    )  # fmt: skip

    assert gateway.get("admin", JOBS, "state,error") == [{"state": "failed", "error": "no"}]


def test_views_are_tables_and_a_monitor_finds_no_arguments_in_them(gateway: Gateway) -> None:
    gateway.rpc("producer", "enqueue", {"task": "t", "kwargs": {"password": "secret"}})

    assert gateway.get("monitor", JOBS, "task,state") == [{"task": "t", "state": "ready"}]
    assert gateway.get("monitor", JOBS)[0]["kwargs"] is None
    assert gateway.get("admin", JOBS)[0]["kwargs"] == {"password": "secret"}
    assert gateway.get("monitor", ("pgtask", "queue_stats"))


def test_an_admin_inserts_a_schedule_as_a_row(gateway: Gateway) -> None:
    rows = gateway.post(
        "admin", ("pgtask", "schedule"),
        [{"name": "n", "task": "t", "spec": {"every": 60}, "kwargs": {"a": 1}}],
    )  # fmt: skip

    assert [(row["name"], row["source"], row["revision"]) for row in rows] == [("n", "sql", 1)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        gateway.post("producer", ("pgtask", "schedule"), [{"name": "m"}])


def test_the_anonymous_and_the_gateway_itself_have_nothing(gateway: Gateway) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        gateway.rpc("stranger", "enqueue", {"task": "t"})
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        gateway.get("stranger", JOBS)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        gateway.connection.execute("select pgtask.enqueue('t')")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        gateway.rpc("producer", "cancel", {"ids": [1]})


def test_a_refused_call_is_a_class_of_its_own_and_leaves_nothing(gateway: Gateway) -> None:
    for body in (
        {"task": "no such name!"},
        {"task": "t", "args": {}},
        {"task": "t", "priority": 999},
    ):
        with pytest.raises(psycopg.Error) as caught:
            gateway.rpc("producer", "enqueue", body)
        assert caught.value.sqlstate == "TQ002"
    assert gateway.get("admin", JOBS) == []


def test_a_get_cannot_change_anything(gateway: Gateway) -> None:
    with (
        pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
        gateway.request("producer", {}, read_only=True),
    ):
        gateway.connection.execute("select pgtask.enqueue('t')")


def test_each_tenant_sees_its_own_jobs_by_a_view_of_ones_own(
    gateway: Gateway, roles: Roles
) -> None:
    """As the decision has it: pgtask.tenant is no wall, what the gateway vouches for is."""
    with roles.connected("superuser") as superuser:
        superuser.execute(
            "create schema api;"
            "create function api.before() returns void language sql as $$"
            " select set_config('pgtask.tenant',"
            "  current_setting('request.jwt.claims')::json ->> 'tenant', true) $$;"
            "create view api.jobs with (security_barrier) as"
            " select * from pgtask.jobs where tenant ="
            "  current_setting('request.jwt.claims')::json ->> 'tenant';"
            f'grant usage on schema api to "{roles.name("producer")}", "{roles.name("stranger")}";'
            f'grant select on api.jobs to "{roles.name("stranger")}";'.encode()
        )
        try:
            for tenant in ("north", "south"):
                with gateway.request("producer", {"tenant": tenant}):
                    gateway.connection.execute("select api.before()")
                    gateway.connection.execute(
                        "select pgtask.enqueue('t', kwargs => '{\"secret\": 1}')"
                    )
            mine = gateway.get("stranger", ("api", "jobs"), tenant="north")
        finally:
            superuser.execute("drop schema api cascade")

    assert [(row["tenant"], row["kwargs"]) for row in mine] == [("north", None)]
