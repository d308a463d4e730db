"""Faults of data: arguments, results and rows that cannot be stored, read or understood."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

from pgtask.errors import PgTaskError
from pgtask.result import AsyncResult
from tests.conditions import eventually
from tests.faults import app
from tests.faults.conservation import Allowed
from tests.faults.scenario import Told, scenario
from tests.faults.stand import Connection, Stand


@scenario("T48", "arguments and results of any kind and size", seconds=20)
def hostile_values(stand: Stand) -> Told:
    stand.worker()
    deep: Any = 1
    for _ in range(10_000):
        deep = [deep]
    values: list[Any] = [
        None, "", [], {}, 2**63, -(2**63) - 1, 2**4000, 1e308, -0.0, Decimal("1.5"),
        datetime.min, datetime.max, b"\0\xff", "x" * 500_000, "x" * 10_000_000, "x" * 2**30,
        {str(n): n for n in range(50_000)}, {str(n): n for n in range(1_000_000)}, deep,
        math.nan, math.inf, -math.inf, "a\0b", "\ud800", {"a\0": 1}, {1: 2}, {(1, 2): 3}, object(),
        {"a": [1, {"b": math.nan}]},
    ]  # fmt: skip
    refused, taken = 0, []
    with stand.load(30):
        for value in values:
            try:
                taken += stand.enqueue(_echo(value))
            except (PgTaskError, TypeError, ValueError):
                refused += 1
        results = stand.enqueue(*[lambda c, n=n: app.large.using(c).delay(n) for n in (1, 10, 40)])
        eventually(lambda: stand.is_over(*taken, *results), 90)
    bad = stand.ask("select id, error from pgtask.done where id = any(%s) and state <> 's'", taken)
    assert not bad, bad
    # Every outcome is recorded, whatever becomes of a result that is too large.
    said = f"{len(taken)} taken and run, {refused} refused when enqueued"
    return Told(None, None, said, Allowed(failures=results))


def _echo(value: Any) -> Callable[[Connection], AsyncResult[Any]]:
    return lambda connection: app.echo.using(connection).delay(value)


@scenario("T49", "exceptions without words, with 100 MB of them, results that nobody can store")
def hostile_exceptions(stand: Stand) -> Told:
    worker = stand.worker()
    identity = stand.identity(worker)
    hows = ["rude", "long", "nul", "group", "object"]
    with stand.load(50):
        jobs = stand.enqueue(*[lambda c, how=how: app.fail.using(c).delay(how) for how in hows])
        eventually(lambda: stand.is_over(*jobs), 60)
    states = "select distinct state::text from pgtask.done where id = any(%s)"
    assert stand.ask(states, jobs) == [("f",)]
    longest = "select max(length(coalesce(message, '')) + length(coalesce(traceback, '')))::int"
    length = stand.number(f"{longest} from pgtask.attempt_error")
    assert length < 100_000, length
    assert stand.identity(worker) == identity
    return Told(None, None, f"all failed; the longest text kept has {length} characters",
                Allowed(failures=jobs))  # fmt: skip


@scenario("T50", "one outcome of many is refused by PostgreSQL")
def refused_outcome(stand: Stand) -> Told:
    stand.ask(
        "create function public.refuse() returns trigger language plpgsql as $$ begin"
        " if new.result::text = '666' then raise sqlstate '22000' using message = 'not this one';"
        " end if; return new; end $$"
    )
    stand.ask(
        "create trigger refuse before insert on pgtask.done"
        " for each row execute function public.refuse()"
    )
    bad = stand.enqueue(lambda c: app.echo.using(c).delay(666))
    good = stand.enqueue(*[lambda c, n=n: app.echo.using(c).delay(n) for n in range(99)])
    stand.worker()
    eventually(lambda: stand.is_over(*bad, *good), 60)
    rows = stand.ask("select id, error from pgtask.done where state <> 's'")
    assert [row[0] for row in rows] == bad, rows
    assert "not this one" in rows[0][1]
    return Told(None, None, "99 are recorded, one has failed and says why", Allowed(failures=bad))


@scenario("T51", "one row of many cannot be rescued, promoted or purged as it is", seconds=40)
def bad_rows(stand: Stand) -> Told:
    # Rows as no function of pgtask would write them: a policy that cannot be read, held by a
    # worker of which there is no row.
    ghost = uuid4()
    stand.ask(
        "insert into pgtask.running (id, task, queue, args, policy, worker, epoch, attempt,"
        " max_attempts) select nextval('pgtask.seq'), 'tests.faults.app.effect', 'default', '[1]',"
        ' (case n when 5 then \'{"backoff": "soon"}\' when 6 then \'{"result_ttl": "soon"}\''
        ' else \'{"backoff": "const:0"}\' end)::json, %s, 1, 1, case n when 6 then 1 else 9 end'
        " from generate_series(1, 20) n",
        ghost,
    )
    stand.ask("insert into public.intent select id, 'ghost' from pgtask.running")
    (spent,) = stand.ask("select id from pgtask.running where max_attempts = 1")[0]
    stand.worker()
    held = "select count(*) from pgtask.running where worker = %s"
    with stand.load(30):
        eventually(lambda: stand.number(held, ghost) == 0, 60)
    return Told(None, None, "all were rescued", Allowed(counted=True, failures=[spent]))


@scenario("T52", "a task that nobody knows, and arguments that do not fit the code")
def strange_calls(stand: Stand) -> Told:
    rows = stand.ask(
        "insert into pgtask.ready (id, task, queue, args) values"
        " (nextval('pgtask.seq'), 'tests.faults.app.gone', 'default', '[]'),"
        " (nextval('pgtask.seq'), 'tests.faults.app.effect', 'default', '[\"x\", 1, 2]')"
        " returning id"
    )
    unknown, wrong = (row[0] for row in rows)
    stand.ask("insert into public.intent select id, 'strange' from pgtask.ready")
    stand.worker()
    with stand.load(50):
        eventually(lambda: stand.is_over(wrong), 30)
        stand.canary()
    assert not stand.begun(wrong)
    (reason,) = stand.ask("select state::text, reason from pgtask.done where id = %s", wrong)
    assert reason == ("f", "error")
    assert stand.ask("select state from pgtask.jobs where id = %s", unknown) == [("ready",)]
    stand.ask("select * from pgtask.cancel(%s)", [unknown])
    says = "the one waits for a worker that knows it, the other has failed"
    return Told(None, None, says, Allowed(failures=[unknown, wrong]))
