"""`pgtask migrate` and roles: who is granted what, what stays so, and what is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgtask.broker import migrate, sqlfiles
from pgtask.broker.grants import Wishes
from pgtask.errors import BrokerError
from tests.conftest import TestServer

_ENQUEUE = (
    "has_function_privilege(%s, (select oid from pg_proc where proname = 'enqueue'), 'execute')"
)


@pytest.fixture
def superuser(server: TestServer, fresh_database: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the superuser to the fresh database."""
    name = psycopg.conninfo.conninfo_to_dict(fresh_database)["dbname"]
    dsn = psycopg.conninfo.make_conninfo(server.superuser_dsn, dbname=name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def role(superuser: psycopg.Connection[Any], worker_id: str) -> Iterator[str]:
    """A role whose name must be quoted, and that owns nothing."""
    name = f'Web "{worker_id}"; drop'
    quoted = psycopg.sql.Identifier(name)
    superuser.execute(psycopg.sql.SQL("create role {} login password 'open'").format(quoted))
    yield name
    superuser.execute(psycopg.sql.SQL("drop owned by {}").format(quoted))
    superuser.execute(psycopg.sql.SQL("drop role {}").format(quoted))


def may_enqueue(connection: psycopg.Connection[Any], role: str) -> bool:
    query = f"select has_schema_privilege(%s, 'pgtask', 'usage') and {_ENQUEUE}"
    row = connection.execute(query.encode(), [role, role]).fetchone()
    assert row is not None
    return bool(row[0])


def granted(dsn: str, *wishes: tuple[str, Any], revokes: tuple[str, ...] = ()) -> None:
    with migrate.connection(dsn) as connection:
        migrate.migrate(connection, wishes=Wishes(wishes, revokes))


def test_a_role_that_does_not_exist_is_refused_before_anything_is_applied(
    fresh_database: str, superuser: psycopg.Connection[Any]
) -> None:
    for name in ("nobody-at-all", "public", "PUBLIC", ""):
        with pytest.raises(BrokerError, match=f'no role "{name}" → create it first'):
            granted(fresh_database, (name, "producer"))
        with pytest.raises(BrokerError, match=f'no role "{name}"'):
            granted(fresh_database, revokes=(name,))
    row = superuser.execute("select to_regnamespace('pgtask') is null").fetchone()
    assert row == (True,)


def test_a_grant_is_made_once_and_lasts_over_what_later_releases_replace(
    fresh_database: str, superuser: psycopg.Connection[Any], role: str
) -> None:
    granted(fresh_database, (role, "producer"))
    assert may_enqueue(superuser, role)

    # As a release does that changes a signature.
    superuser.execute(
        "do $$ begin execute 'drop function '"
        " || (select oid::regprocedure from pg_proc where proname = 'enqueue'); end $$"
    )
    superuser.execute("delete from pgtask.repeatable where path = 'functions/enqueue.sql'")
    granted(fresh_database)

    assert may_enqueue(superuser, role)


def test_a_migrate_that_has_nothing_to_do_writes_nothing(
    fresh_database: str, superuser: psycopg.Connection[Any], role: str
) -> None:
    granted(fresh_database, (role, "producer"), (role, "monitor"))
    versions = (
        "select array_agg((c.oid, c.xmin)::text order by c.oid) from pg_class c"
        " where c.relnamespace = 'pgtask'::regnamespace union all"
        " select array_agg((p.oid, p.xmin)::text order by p.oid) from pg_proc p"
        " where p.pronamespace = 'pgtask'::regnamespace union all"
        " select array_agg(g.xmin::text) from pgtask.grantee g"
    )
    before = superuser.execute(versions.encode()).fetchall()

    granted(fresh_database)
    granted(fresh_database, (role, "producer"))

    assert superuser.execute(versions.encode()).fetchall() == before


def test_revoke_takes_everything_and_nothing_comes_back(
    fresh_database: str, superuser: psycopg.Connection[Any], role: str
) -> None:
    granted(fresh_database, (role, "admin"), (role, "worker"))
    granted(fresh_database, revokes=(role,))
    granted(fresh_database)

    assert not may_enqueue(superuser, role)
    rights = superuser.execute(
        "select count(*) from (select relacl as acl from pg_class union all"
        " select proacl from pg_proc union all select nspacl from pg_namespace) o,"
        " aclexplode(o.acl) a where a.grantee = (select oid from pg_roles where rolname = %s)",
        [role],
    ).fetchone()
    assert rights == (0,)


def test_the_owner_is_not_taken_its_own_rights(fresh_database: str) -> None:
    granted(fresh_database)

    with pytest.raises(BrokerError, match="owns the schema → it keeps its rights"):
        granted(fresh_database, revokes=("pgtask",))

    with psycopg.connect(fresh_database) as connection:
        connection.execute("select pgtask.enqueue('t')")


def test_a_revoke_by_hand_is_a_revoke(
    fresh_database: str, superuser: psycopg.Connection[Any], role: str
) -> None:
    granted(fresh_database, (role, "producer"))
    superuser.execute(
        psycopg.sql.SQL("revoke usage on schema pgtask from {}").format(
            psycopg.sql.Identifier(role)
        )
    )

    granted(fresh_database)

    assert not may_enqueue(superuser, role)


def test_what_is_new_is_nobodys_before_it_can_be_seen(
    fresh_database: str, tmp_path: Path, superuser: psycopg.Connection[Any]
) -> None:
    """Also what a migration makes, whose transaction is another than that of the functions."""
    root = tmp_path / "sql"
    shutil.copytree(str(sqlfiles.sql_root()), root)
    (root / "migrations" / "9000_more.sql").write_text(
        "-- what: a function\n-- why: a test\n-- previous release: none\n-- oldest release: 0.0.1\n"
        "create function pgtask.more() returns int language sql as 'select 1';\n"
        "create table pgtask.more (id int); grant select on pgtask.more to public;\n"
        "grant usage on schema pgtask to public;\n"
    )
    seen: list[tuple[Any, ...]] = []

    def look(_: object) -> None:
        seen.extend(
            superuser.execute(
                "select a.privilege_type from (select coalesce(proacl, acldefault('f', proowner))"
                " as acl from pg_proc where pronamespace = 'pgtask'::regnamespace union all"
                " select relacl from pg_class where relnamespace = 'pgtask'::regnamespace union all"
                " select nspacl from pg_namespace where nspname = 'pgtask') o,"
                " aclexplode(o.acl) a where a.grantee = 0"
            ).fetchall()
        )

    with migrate.connection(fresh_database) as connection:
        migrate.migrate(connection, root=root, on_step=look)

    assert seen == []
    assert superuser.execute("select pgtask.more()").fetchone() == (1,)


def test_only_the_owner_grants_and_others_may_still_ask_whether_all_is_up_to_date(
    fresh_database: str, server: TestServer, superuser: psycopg.Connection[Any], role: str
) -> None:
    granted(fresh_database, (role, "admin"))
    name = psycopg.conninfo.conninfo_to_dict(fresh_database)["dbname"]
    dsn = server.lease.dsn_of(role, str(name), "open")

    with migrate.connection(dsn) as connection:
        migrate.check(connection)
        assert not migrate.migrate(connection)
        with pytest.raises(
            BrokerError, match=r"only the owner of the schema.*→ run it as the owner"
        ):
            migrate.migrate(connection, wishes=Wishes(((role, "worker"),)))
    assert superuser.execute("select may from pgtask.grantee").fetchall() == [("admin",)]


def test_what_a_superuser_migrates_belongs_to_the_schemas_owner(
    fresh_database: str, superuser: psycopg.Connection[Any], tmp_path: Path
) -> None:
    root = tmp_path / "sql"
    shutil.copytree(str(sqlfiles.sql_root()), root)
    (root / "functions" / "retry.sql").unlink()
    with migrate.connection(fresh_database) as connection:
        migrate.migrate(connection, root=root)

    migrate.migrate(superuser)

    owners = superuser.execute(
        "select distinct pg_get_userbyid(o.owner)::text from (select proowner as owner from pg_proc"
        " where pronamespace = 'pgtask'::regnamespace union all select relowner from pg_class"
        " where relnamespace = 'pgtask'::regnamespace) o"
    ).fetchall()
    assert owners == [("pgtask",)]
    assert superuser.execute("select current_user = session_user").fetchone() == (True,)


def test_the_script_grants_as_the_command_does(
    fresh_database: str, superuser: psycopg.Connection[Any], role: str
) -> None:
    text = migrate.sql_script(wishes=Wishes(((role, "producer"),)))
    # What psql would do with a database that has nothing yet: every condition is true.
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("\\"))
    with migrate.connection(fresh_database) as connection:
        connection.execute(plain.replace("as pgtask_pending \\gset", ";").encode(), prepare=False)

    assert may_enqueue(superuser, role)


def test_the_command_says_what_it_would_do_and_what_it_did(
    fresh_database: str, superuser: psycopg.Connection[Any], role: str, tmp_path: Path
) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pgtask", "--dsn", fresh_database, "migrate", *arguments],
            cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
        )  # fmt: skip

    said = run("--dry-run", "--grant-producer", role, "--revoke", "pgtask")
    assert said.returncode == 0, said.stderr
    assert f"would grant producer to {role}: execute on _enqueue, " in said.stdout
    assert "would take everything in the schema from pgtask" in said.stdout
    assert superuser.execute("select to_regnamespace('pgtask')").fetchone() == (None,)

    done = run("--grant-producer", role, "--grant-admin", role)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [f"{role} is a producer", f"{role} is an admin"]
    assert may_enqueue(superuser, role)

    assert run("--list", "--grant-producer", role).returncode == 2
    unknown = run("--grant-worker", "nobody-at-all")
    assert unknown.returncode == 1
    assert "→ create it first: create role" in unknown.stderr
