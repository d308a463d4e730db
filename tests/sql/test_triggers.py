"""Triggers that enqueue: which rows, what of them, how, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from tests.sql.engine import Engine

HOSTILE = 'D\'Arcy "7"; drop table orders; -- {sku} %s \\ \n\t\u2028 😀'


class Table:
    """The table `orders`, a trigger on it, and the jobs that came of it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.run(
            "create table orders (no bigint primary key, sku text, paid boolean, weight numeric,"
            " ref text)"
        )

    def run(self, text: str, *values: object) -> None:
        self.engine.connection.execute(text.encode(), values or None)

    def trigger(
        self, call: str, event: str = "insert", *, level: str = "row", when: str = "after"
    ) -> None:
        """Have `orders` call a function of pgtask, in place of the one before."""
        rows = "old table as old_rows" if event == "delete" else "new table as new_rows"
        each = f"referencing {rows} for each statement" if level == "statement" else "for each row"
        self.run("drop trigger if exists x on orders")
        self.run(f"create trigger x {when} {event} on orders {each} execute function pgtask.{call}")

    def jobs(self) -> list[Any]:
        """What was enqueued since the last look, in order."""
        jobs = self.engine.all("select * from pgtask.jobs order by id")
        self.engine.cancel(*(job.id for job in jobs))
        self.run("truncate pgtask.done")
        return jobs

    def kwargs(self) -> list[Any]:
        return [job.kwargs for job in self.jobs()]

    def refuses(self, text: str) -> str:
        with pytest.raises(psycopg.Error) as refused:
            self.run(text)
        assert refused.value.sqlstate == "TQ002"
        assert self.engine.count("jobs") == 0
        return str(refused.value.diag.message_primary)

    def problems(self) -> list[str]:
        return self.engine.values("select problem from pgtask.check_triggers('orders')")


@pytest.fixture
def orders(engine: Engine) -> Any:
    table = Table(engine)
    yield table
    table.run("drop table orders")


BOTH = pytest.mark.parametrize("level", ["row", "statement"])


@BOTH
def test_the_row_its_key_or_some_columns_typed(orders: Table, level: str) -> None:
    row = {"no": 88, "sku": 'D\'Arcy "7"', "paid": True, "weight": 2.5, "ref": None}
    for call, expected in (
        ("enqueue_row_id('t', 'no')", {"no": 88}),
        ("enqueue_row('t')", row),
        ("enqueue_fields('t', 'paid', 'ref')", {"paid": True, "ref": None}),
        ("enqueue_fields('t', 'sku')", {"sku": row["sku"]}),
    ):
        orders.trigger(call, level=level)
        orders.run("insert into orders values (88, %s, true, 2.50, null)", row["sku"])
        assert orders.kwargs() == [expected]
        orders.run("truncate orders")


@BOTH
def test_numbers_keep_their_digits(orders: Table, level: str) -> None:
    orders.run("set extra_float_digits = -15")
    orders.run("alter table orders add column f double precision default 0.1::float8 + 0.2")
    orders.trigger("enqueue_fields('t', 'no', 'weight', 'f')", level=level)
    orders.run("insert into orders values (9223372036854775807, '', true, 2.50)")

    (text,) = orders.engine.values("select kwargs::text from pgtask.jobs")
    assert [word in text for word in ("9223372036854775807", "2.50", "0.30000000000000004")] == [
        True
    ] * 3


@BOTH
def test_an_update_gives_the_new_rows_and_a_delete_the_old(orders: Table, level: str) -> None:
    orders.run("insert into orders select n, 'a' from generate_series(1, 3) n")
    orders.trigger("enqueue_fields('t', 'no', 'sku')", "update", level=level)
    orders.run("update orders set sku = 'b' where no < 3")
    assert orders.kwargs() == [{"no": 1, "sku": "b"}, {"no": 2, "sku": "b"}]

    for call in ("enqueue_fields('t', 'no')", "enqueue_row_id('t', 'no')"):
        orders.trigger(call, "delete", level=level)
        orders.run("delete from orders where no = (select min(no) from orders)")
    assert orders.kwargs() == [{"no": 1}, {"no": 2}]
    orders.trigger("enqueue_row('t')", "delete", level=level)
    orders.run("delete from orders")
    assert [row["no"] for row in orders.kwargs()] == [3]


@BOTH
def test_the_column_id_needs_no_naming(orders: Table, level: str) -> None:
    orders.run("alter table orders add column id integer generated always as identity")
    for event, statement in (
        ("insert", "insert into orders (no) values (5), (6)"),
        ("update", "update orders set sku = 'x'"),
        ("delete", "delete from orders"),
    ):
        orders.trigger("enqueue_row_id('t')", event, level=level)
        orders.run(statement)
        assert orders.kwargs() == [{"id": 1}, {"id": 2}]
    orders.trigger("enqueue_row_id('t', 'id', 'serial=s{no}')", level=level)
    orders.run("insert into orders (no) values (7)")
    (job,) = orders.jobs()
    assert (job.kwargs, job.serial) == ({"id": 3}, "s7")


@BOTH
def test_a_statement_without_rows_enqueues_nothing(orders: Table, level: str) -> None:
    orders.trigger("enqueue_row('t')", "update", level=level)
    orders.run("update orders set sku = 'x'")

    assert orders.jobs() == []


@BOTH
def test_a_rollback_takes_the_jobs_back(orders: Table, level: str) -> None:
    orders.trigger("enqueue_row('t', 'key={no}')", level=level)
    with orders.engine.connection.transaction(force_rollback=True):
        orders.run("insert into orders select n from generate_series(1, 5) n")

    assert orders.engine.count("jobs") == orders.engine.count("job_key") == 0


@BOTH
def test_every_option_reaches_the_job(orders: Table, level: str) -> None:
    orders.trigger(
        "enqueue_fields('shop.mail:send', 'no', 'queue=mail', 'priority=-5', 'delay=5 minutes',"
        " 'key=order:{no}', 'on_conflict=keep', 'serial={sku}:{{x}}', 'max_attempts=9',"
        " 'backoff=const:5', 'timeout=1 minute', 'expires=1 day', 'keep=failures', 'tags=a, b=c',"
        " 'headers={\"h\": 1}', 'tenant={ref}')", level=level,
    )  # fmt: skip
    orders.run(
        "insert into orders values (1, %s, null, null, 'acme'), (2, 'b', null, null, null)", HOSTILE
    )

    first, second = orders.jobs()
    assert (first.task, first.queue, first.priority) == ("shop.mail:send", "mail", -5)
    assert (first.key, first.serial, first.tenant) == ("order:1", f"{HOSTILE}:{{x}}", "acme")
    assert (second.key, second.serial, second.tenant) == ("order:2", "b:{x}", None)
    assert (first.max_attempts, first.keep) == (9, "failures")
    assert first.policy == {"backoff": "const:5", "timeout": 60}
    assert (first.tags, first.headers) == (["a", "b=c"], {"h": 1})
    assert abs((first.run_at - first.created_at).total_seconds() - 300) < 1
    assert abs((first.expires_at - first.created_at).total_seconds() - 86400) < 1


@BOTH
def test_a_column_may_say_when_and_null_says_nothing(orders: Table, level: str) -> None:
    orders.run("alter table orders add column due timestamptz")
    orders.trigger(
        "enqueue_fields('t', 'no', 'run_at={due}', 'key={ref}', 'serial=a{ref}', 'backoff=[1, 2]')",
        level=level,
    )
    orders.run("insert into orders (no, due) values (1, '2100-01-01 00:00+05'), (2, null)")

    later, now = sorted(orders.jobs(), key=lambda job: job.kwargs["no"])
    assert (later.state, later.run_at.isoformat()[:16]) == ("scheduled", "2099-12-31T19:00")
    assert (now.state, now.key, now.serial, now.policy) == (
        "ready",
        None,
        None,
        {"backoff": [1, 2]},
    )


@BOTH
def test_a_start_that_cannot_be_read_is_a_bad_call(orders: Table, level: str) -> None:
    orders.trigger("enqueue_row('t', 'run_at={sku}')", level=level)

    assert '"soon"' in orders.refuses("insert into orders (no, sku) values (1, 'soon')")
    orders.refuses("insert into orders (no, sku) values (1, '2030-01-01'), (2, 'soon')")


@BOTH
def test_a_key_makes_one_job_of_many_changes(orders: Table, level: str) -> None:
    orders.trigger("enqueue_fields('t', 'sku', 'key=order:{ref}')", level=level)
    orders.run("insert into orders select n, 's' || n, true, 1, 'r' from generate_series(1, 9) n")

    assert orders.kwargs() == [{"sku": "s9"}]


@BOTH
def test_hostile_text_arrives_verbatim(orders: Table, level: str) -> None:
    orders.run(
        f'alter table orders add column "{HOSTILE[:20].replace(chr(34), "")}" text default 1'
    )
    orders.trigger("enqueue_row('t', 'key={sku}')", level=level)
    orders.run("insert into orders values (1, %s, null, null, '{no}')", HOSTILE)

    (job,) = orders.jobs()
    assert (job.kwargs["sku"], job.kwargs["ref"], job.key) == (HOSTILE, "{no}", HOSTILE)
    assert HOSTILE[:20].replace(chr(34), "") in job.kwargs


@pytest.mark.parametrize("event", ["insert", "delete"])
@pytest.mark.parametrize(
    "options", ["", ", 'serial={{a}}'", ", 'serial={a}', 'key={no}', 'run_at={due}', 'tenant={a}'"]
)
@pytest.mark.parametrize("columns", [0, 3, 60])
def test_a_row_makes_the_same_job_alone_and_among_others(
    orders: Table, columns: int, options: str, event: str
) -> None:
    # given more columns than a function takes arguments, some of hostile names
    hostile = ['a"', "b' || pg_sleep(9) || '", "%s $1 {x}", "C\\", "select", "é; drop table orders"]
    names = ["no", *hostile, *(f"c{n}" for n in range(60))]
    orders.run("drop table orders")
    quoted = ", ".join('"' + name.replace('"', '""') + '" text' for name in names[1:])
    orders.run(f"create table orders (no int primary key, {quoted}, a text, due timestamptz)")
    chosen = ", ".join("'" + name.replace("'", "''") + "'" for name in names[:columns])
    call = f"enqueue_fields('t', {chosen}{options})" if columns else f"enqueue_row('t'{options})"
    values = "n, " + ", ".join(f"'{{{n}}}' || n" for n in range(66)) + ", 'x' || n, '2100-01-01'"
    fill = f"insert into orders select {values} from generate_series(%s::int, %s::int) n"

    made = []
    for pairs in ([(1, 1), (2, 2), (3, 3)], [(1, 3)]):
        if event == "insert":
            orders.trigger(call, "insert", level="statement")
        for first, last in pairs:
            orders.run(fill, first, last)
        if event == "delete":
            orders.trigger(call, "delete", level="statement")
            for first, last in pairs:
                orders.run("delete from orders where no between %s and %s", first, last)
        made.append(
            [(j.task, j.kwargs, j.serial, j.key, j.run_at, j.tenant) for j in orders.jobs()]
        )
        orders.run("drop trigger if exists x on orders")
        orders.run("truncate orders")

    # then no way to make it makes another
    assert made[0] == made[1]
    assert len(made[0]) == 3
    assert [*made[0][1][1]] == (names[:columns] or [*names, "a", "due"])


@BOTH
def test_columns_that_come_and_go_are_noticed_in_the_same_session(
    orders: Table, level: str
) -> None:
    orders.trigger("enqueue_row('t', 'serial={no}')", level=level)
    orders.run("insert into orders (no) values (1)")
    orders.run("alter table orders drop column sku, drop column paid, drop column ref")
    orders.run("insert into orders (no) values (2)")
    orders.run("alter table orders add column size text[] default '{a,b}'")
    orders.run("alter table orders alter column no type text")
    orders.run("insert into orders (no) values ('3')")

    assert orders.kwargs()[1:] == [
        {"no": 2, "weight": None},
        {"no": "3", "weight": None, "size": ["a", "b"]},
    ]


@BOTH
def test_a_virtual_column_is_refused_or_left_out_never_null(orders: Table, level: str) -> None:
    if orders.engine.connection.info.server_version < 180000:
        pytest.skip("this server has no virtual columns")
    orders.run("alter table orders add column twice bigint generated always as (no * 2) virtual")
    orders.run("alter table orders add column thrice bigint generated always as (no * 3) stored")
    orders.run("alter table orders drop column paid, drop column ref")
    orders.trigger("enqueue_row('t')", level=level)
    orders.run("insert into orders values (1, 'a', 2)")
    assert orders.kwargs() == [{"no": 1, "sku": "a", "weight": 2, "thrice": 3}]

    for call in ("fields('t', 'twice')", "row_id('t', 'twice')", "row('t', 'key={twice}')"):
        orders.trigger(f"enqueue_{call}", level=level)
        assert "'twice' of orders is virtual" in orders.refuses("insert into orders values (2)")


@BOTH
def test_an_id_that_becomes_another_type_is_no_error_in_sessions_of_before(
    orders: Table, level: str
) -> None:
    orders.run("alter table orders add column id integer default 1")
    orders.trigger("enqueue_row_id('t')", level=level)
    orders.run("insert into orders (no) values (1)")
    for kind in ("bigint", "text"):
        orders.run(f"alter table orders alter column id type {kind}")
        orders.run("insert into orders (no, id) values (2, '3000000000'), (3, default)")
        orders.run("delete from orders where no > 1")

    assert orders.kwargs() == [
        {"id": 1},
        *({"id": value} for value in (3000000000, 1, "3000000000", "1")),
    ]


def test_when_decides_which_rows(orders: Table) -> None:
    orders.run(
        "create trigger x after update on orders for each row"
        " when (old.paid is distinct from new.paid)"
        " execute function pgtask.enqueue_fields('t', 'no')"
    )
    orders.run("insert into orders select n, 's', n = 1 from generate_series(1, 3) n")
    orders.run("update orders set paid = true")

    assert orders.kwargs() == [{"no": 2}, {"no": 3}]


def test_an_upsert_fires_for_what_it_inserted_and_what_it_updated(orders: Table) -> None:
    orders.run("insert into orders values (1, 'a')")
    orders.trigger("enqueue_fields('inserted', 'no')", level="statement")
    orders.run(
        "create trigger y after update on orders referencing new table as new_rows"
        " for each statement execute function pgtask.enqueue_fields('updated', 'no')"
    )
    orders.run("insert into orders values (1), (2) on conflict (no) do update set sku = 'b'")

    assert {(job.task, job.kwargs["no"]) for job in orders.jobs()} == {
        ("inserted", 2),
        ("updated", 1),
    }


def test_the_parts_of_a_partitioned_table_fire_the_trigger_of_the_whole(engine: Engine) -> None:
    engine.connection.execute("create table whole (id bigint, at date) partition by range (at)")
    engine.connection.execute(
        "create table part partition of whole for values from ('2026-01-01') to ('2027-01-01')"
    )
    try:
        for name, level in (
            ("x", "for each row"),
            ("y", "referencing new table as new_rows for each statement"),
        ):
            engine.connection.execute(
                f"create trigger {name} after insert on whole {level}"
                " execute function pgtask.enqueue_row('t')".encode()
            )
        engine.connection.execute("insert into whole values (1, '2026-05-05')")
        assert (
            engine.values("select kwargs from pgtask.jobs") == [{"id": 1, "at": "2026-05-05"}] * 2
        )
        assert engine.values(
            "select trigger from pgtask.check_triggers() where problem is null"
        ) == [
            "x",
            "y",
        ]
    finally:
        engine.connection.execute("drop table whole")


def test_ten_thousand_rows_and_more_come_in_pages_and_in_order(orders: Table) -> None:
    orders.trigger("enqueue_row_id('t', 'no')", level="statement")
    orders.run("insert into orders select n from generate_series(1, 20001) n")

    rows = orders.engine.values("select (kwargs ->> 'no')::int from pgtask.jobs order by id")
    assert rows == list(range(1, 20002))


REFUSED = [
    ("enqueue_row()", "NULL"), ("enqueue_row('')", "''"), ("enqueue_row('a b')", "'a b'"),
    ("enqueue_row('t', 'sku')", "'sku'"), ("enqueue_row_id('t')", "no column 'id'"),
    ("enqueue_row_id('t', 'nope')", "no column 'nope'"), ("enqueue_fields('t')", "at least one"),
    ("enqueue_fields('t', 'no', 'no')", "named twice"), ("enqueue_fields('t', 'ctid')", "'ctid'"),
    ("enqueue_fields('t', 'no', 'nope')", "no column 'nope'"),
    ("enqueue_row('t', 'queu=mail')", "'queu'"), ("enqueue_row('t', '=x')", "no option ''"),
    ("enqueue_row('t', 'queue=')", "''"), ("enqueue_row('t', 'queue={sku}')", "'{sku}'"),
    ("enqueue_row('t', 'priority=high')", "high"), ("enqueue_row('t', 'priority=101')", "101"),
    ("enqueue_row('t', 'delay=soon')", "soon"), ("enqueue_row('t', 'headers={')", "json"),
    ("enqueue_row('t', 'key={nope}')", "no column 'nope'"),
    ("enqueue_row('t', 'key={no')", "'{no'"),
    ("enqueue_row('t', 'key={}')", "'{}'"), ("enqueue_row('t', 'on_conflict=x')", "'x'"),
    ("enqueue_row('t', 'queue=a', 'queue=b')", "twice"), ("enqueue_row('t', 'keep=x')", "'x'"),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize(("call", "said"), REFUSED)
def test_what_a_trigger_cannot_do_is_said_before_and_when_it_fires(
    orders: Table, call: str, said: str, level: str
) -> None:
    orders.trigger(call, level=level)

    (problem,) = orders.problems()
    assert said in problem
    assert orders.refuses("insert into orders values (1, 'a')") == problem
    assert orders.engine.value("select count(*) from orders") == 0


@BOTH
@pytest.mark.parametrize("option", [
    "delay=-1 s", "timeout=0", "backoff=soon", "tenant=" + 129 * "t", "key=" + 513 * "k",
    "headers=[]", "expires=1 s', 'delay=1 min",
])  # fmt: skip
def test_what_enqueue_refuses_is_refused(orders: Table, option: str, level: str) -> None:
    orders.trigger(f"enqueue_row('t', '{option}')", level=level)
    orders.refuses("insert into orders values (1, 'a'), (2, 'b')")


def test_a_trigger_of_the_wrong_kind_is_told_how_to_be(orders: Table) -> None:
    for clauses, said in (
        ("before insert on orders for each row", "BEFORE"),
        ("after truncate on orders", "TRUNCATE"),
        ("after insert on orders", "REFERENCING NEW TABLE AS new_rows"),
        ("after insert on orders referencing new table as rows", "TABLE AS new_rows"),
        ("after delete on orders referencing old table as new_rows", "OLD TABLE AS old_rows"),
    ):
        orders.run("drop trigger if exists x on orders")
        orders.run(f"create trigger x {clauses} execute function pgtask.enqueue_row('t')")
        (problem,) = orders.problems()
        assert said in problem
        statement = {"truncate": "truncate orders", "delete": "delete from orders"}.get(
            clauses.split()[1], "insert into orders values (1)"
        )
        assert orders.refuses(statement) == problem


def test_a_table_of_the_name_of_the_rows_is_never_taken_for_them(orders: Table) -> None:
    orders.run("create temp table new_rows (no int, stolen text)")
    orders.run("insert into new_rows values (666, 'x')")
    orders.run("create trigger x after insert on orders execute function pgtask.enqueue_row('t')")
    orders.refuses("insert into orders values (1)")
    orders.trigger("enqueue_row_id('t', 'no')", level="statement")
    orders.run("insert into orders values (1)")

    assert orders.kwargs() == [{"no": 1}]


def test_each_row_is_as_strict_as_enqueue(orders: Table) -> None:
    orders.run("alter table orders add column body json")
    orders.trigger("enqueue_row('t')")
    for body in ('["\\u0000"]', "[" * 70 + "]" * 70, json.dumps(["x" * 1048576])):
        orders.engine.connection.execute("begin")
        with pytest.raises(psycopg.Error) as refused:
            orders.run("insert into orders (no, body) values (1, %s)", body)
        assert refused.value.sqlstate == "TQ002"
        orders.engine.connection.execute("rollback")


def test_the_tenant_of_the_connection_goes_with_the_jobs(orders: Table) -> None:
    orders.trigger("enqueue_row_id('t', 'no')", level="statement")
    orders.run("select set_config('pgtask.tenant', 'acme', false)")
    orders.run("insert into orders values (1), (2)")

    assert [job.tenant for job in orders.jobs()] == ["acme", "acme"]
