"""The example beside each SQL function does something, for a role that may call the function."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgtask.broker.grants import ENGINE, FUNCTIONS, groups_of
from tests.roles import Roles

ROOT = Path(__file__).parents[2]
INTERFACE = sorted(
    name
    for name in {name for names in FUNCTIONS.values() for name in names} - set(ENGINE)
    if not name.startswith("_")
)


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """docs/sql_reference.py, which is in no package."""
    path = ROOT / "docs" / "sql_reference.py"
    spec = importlib.util.spec_from_file_location("sql_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up by name.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "sql_reference", module)
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def mailed(roles: Roles) -> Iterator[Roles]:
    """Jobs to find, a schedule to act on, and a schema in which anybody may create."""
    with roles.connected("superuser") as superuser:
        superuser.execute("create schema work; grant all on schema work to public")
        with roles.connected("owner") as owner:
            owner.execute("select pgtask.put_schedule('nightly-report', 't', '{\"every\": 60}')")
            for n in range(4):
                owner.execute("select pgtask.enqueue('mail.send', queue => 'mail')")
                owner.execute("select pgtask.enqueue('mail.later', delay => '1 hour')")
                if n % 2:
                    owner.execute(
                        "select * from pgtask.cancel(array[(select min(id) from pgtask.ready)])"
                    )
        yield roles
        superuser.execute("drop schema work cascade")


@pytest.mark.parametrize("name", INTERFACE)
def test_the_example_works_for_who_may_call_the_function(
    name: str, mailed: Roles, reference: ModuleType
) -> None:
    example = reference.example_of(name)
    assert f"pgtask.{name}(" in example, f"sql/functions/{name}.sql has no example of it"
    groups = groups_of(name)
    # What a plain role may is shown by it; what belongs to several others is shown by the widest.
    group = next(g for g in ("producer", "admin", *groups) if g in groups)

    with psycopg.connect(mailed.dsn(group)) as connection:
        connection.execute("set search_path = work")
        connection.execute(example.encode())
        connection.rollback()


@pytest.mark.parametrize("name", ["claim", "complete", "fail", "finish", "heartbeat", "snooze"])
def test_the_example_of_a_consumer_has_a_job_in_its_hands(
    name: str, mailed: Roles, reference: ModuleType
) -> None:
    consumer = UUID("6f1c6b0e-6a53-4f0e-9a3c-2f6f3a0f7d11")
    with psycopg.connect(mailed.dsn("worker")) as connection:
        cursor = connection.execute(reference.example_of(name).encode())
        rows: list[tuple[Any, ...]] = []
        while True:
            rows += cursor.fetchall() if cursor.description else []
            if not cursor.nextset():
                break
        connection.commit()
    with mailed.connected("owner") as owner:
        touched = owner.execute(
            "select count(*) from pgtask.jobs where worker = %(w)s"
            " or id in (select job from pgtask.attempts where worker = %(w)s)"
            " or (attempt = 0 and epoch = 1)",
            {"w": consumer},
        ).fetchone()

    assert touched is not None
    assert touched[0] > 0
