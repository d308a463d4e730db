"""The migrator: what it applies, what it refuses, and that many at once are harmless."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from pgtask import embedded
from pgtask.broker import migrate, sqlfiles
from pgtask.broker.migrate import acheck, check, plan, sql_script, status
from pgtask.broker.script import LOCK
from pgtask.broker.snapshot import describe
from pgtask.config import release
from pgtask.errors import (
    BrokerError,
    MigrationChanged,
    SchemaMissing,
    SchemaTooNew,
    SchemaTooOld,
    Unavailable,
)
from tests.conditions import eventually

HEADER = """\
-- what: {what}
-- why: a test
-- previous release: nothing
-- oldest release: {oldest}
"""


def write_tree(root: Path, *, migrations: int = 2, oldest: str = "0.0.1") -> Path:
    """A small sql/: table pgtask.word, a function and a view over it."""
    for folder in ("migrations", "functions", "views"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    texts = [
        "create table pgtask.word (id integer primary key, word text default '100%');\n",
        "alter table pgtask.word add length integer;\n"
        "insert into pgtask.word values (1, 'a', 1);\n",
        "drop view if exists pgtask.words;\nalter table pgtask.word drop length;\n",
    ]
    for number, text in enumerate(texts[:migrations], start=1):
        header = HEADER.format(what=f"step {number}", oldest=oldest)
        (root / "migrations" / f"{number:04}_step_{number}.sql").write_text(header + text)
    # Written before the view it reads: bodies are not checked when they are created.
    (root / "functions" / "count_words.sql").write_text(
        "create or replace function pgtask.count_words() returns bigint language sql\n"
        "as $$ select count(*) from pgtask.words $$;\n"
    )
    (root / "views" / "words.sql").write_text(
        "create or replace view pgtask.words as select id, word from pgtask.word;\n"
    )
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "sql")


def scalar(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
        return None if row is None else row[0]


def described(dsn: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return describe(connection)


def test_a_fresh_database_gets_everything_and_a_second_run_nothing(
    fresh_database: str, tree: Path
) -> None:
    with migrate.connection(fresh_database) as connection:
        first = migrate.migrate(connection, root=tree)
        second = migrate.migrate(connection, root=tree)

        assert [step.path for step in first.migrations] == [
            "migrations/0001_step_1.sql",
            "migrations/0002_step_2.sql",
        ]
        assert [step.path for step in first.repeatables] == [
            "functions/count_words.sql",
            "views/words.sql",
        ]
        assert not second
        assert connection.execute("select pgtask.count_words()").fetchone() == (1,)
        check(connection, root=tree)


def test_steps_are_told_after_they_are_committed(fresh_database: str, tree: Path) -> None:
    seen = []

    def look(step: sqlfiles.Migration | sqlfiles.Repeatable) -> None:
        applied = scalar(fresh_database, "select count(*) from pgtask.migration")
        seen.append((step.path, applied))

    with migrate.connection(fresh_database) as connection:
        migrate.migrate(connection, root=tree, on_step=look)

    assert seen == [
        ("migrations/0001_step_1.sql", 1),
        ("migrations/0002_step_2.sql", 2),
        ("functions/count_words.sql", 2),
        ("views/words.sql", 2),
    ]


def test_a_plan_changes_nothing(fresh_database: str, tree: Path) -> None:
    with migrate.connection(fresh_database) as connection:
        found = plan(connection, root=tree)

        assert [step.number for step in found.migrations] == [1, 2]
        assert len(found.repeatables) == 2
        assert describe(connection) == ""


def test_ten_migrators_at_once_apply_everything_once(fresh_database: str, tree: Path) -> None:
    start = threading.Barrier(10)

    def run(number: int) -> migrate.Plan:
        with migrate.connection(fresh_database) as connection:
            start.wait(timeout=30)
            return migrate.migrate(connection, root=tree)

    with ThreadPoolExecutor(10) as threads:
        plans = list(threads.map(run, range(10)))

    applied = [step.path for plan in plans for step in plan.steps]
    assert sorted(applied) == [
        "functions/count_words.sql",
        "migrations/0001_step_1.sql",
        "migrations/0002_step_2.sql",
        "views/words.sql",
    ]
    assert scalar(fresh_database, "select count(*) from pgtask.word") == 1


def test_a_migrator_waits_for_the_one_that_holds_the_lock(fresh_database: str, tree: Path) -> None:
    with (
        psycopg.connect(fresh_database) as holder,
        ThreadPoolExecutor(1) as threads,
        migrate.connection(fresh_database) as connection,
    ):
        holder.execute("select pg_advisory_xact_lock(%s)", [LOCK])
        running = threads.submit(migrate.migrate, connection, root=tree)
        backend = connection.info.backend_pid
        with psycopg.connect(fresh_database, autocommit=True) as watcher:
            waits_for = "select pg_blocking_pids(%s)"
            eventually(
                lambda: (
                    watcher.execute(waits_for, [backend]).fetchone() == ([holder.info.backend_pid],)
                )
            )
        assert describe(holder) == ""

        holder.rollback()

        assert running.result(timeout=30)


def test_a_changed_migration_is_refused_by_name(fresh_database: str, tree: Path) -> None:
    with migrate.connection(fresh_database) as connection:
        migrate.migrate(connection, root=tree)
        with (tree / "migrations" / "0001_step_1.sql").open("a") as file:
            file.write("-- a word more\n")

        for ask in (plan, migrate.migrate, check):
            with pytest.raises(MigrationChanged, match=r"sql/migrations/0001_step_1\.sql was"):
                ask(connection, root=tree)


def test_line_ends_of_another_system_are_no_change(fresh_database: str, tree: Path) -> None:
    with migrate.connection(fresh_database) as connection:
        migrate.migrate(connection, root=tree)
        for file in tree.glob("*/*.sql"):
            file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))

        assert not plan(connection, root=tree)


def test_a_changed_function_is_applied_again_and_alone(fresh_database: str, tree: Path) -> None:
    with migrate.connection(fresh_database) as connection:
        migrate.migrate(connection, root=tree)
        function = tree / "functions" / "count_words.sql"
        function.write_text(function.read_text().replace("count(*)", "count(*) * 10"))
        with pytest.raises(SchemaTooOld, match=r"count_words\.sql.*→ run: pgtask migrate"):
            check(connection, root=tree)

        done = migrate.migrate(connection, root=tree)

        assert [step.path for step in done.repeatables] == ["functions/count_words.sql"]
        assert connection.execute("select pgtask.count_words()").fetchone() == (10,)


def test_a_view_whose_record_a_migration_deletes_comes_back(
    fresh_database: str, tree: Path
) -> None:
    with migrate.connection(fresh_database) as connection:
        migrate.migrate(connection, root=tree)
        write_tree(tree, migrations=3)
        third = tree / "migrations" / "0003_step_3.sql"
        third.write_text(
            third.read_text() + "delete from pgtask.repeatable where path = 'views/words.sql';\n"
        )

        done = migrate.migrate(connection, root=tree)

        assert [step.path for step in done.repeatables] == ["views/words.sql"]
        assert connection.execute("select pgtask.count_words()").fetchone() == (1,)


def test_a_failing_migration_leaves_nothing_and_is_named(fresh_database: str, tree: Path) -> None:
    bad = tree / "migrations" / "0002_step_2.sql"
    bad.write_text(bad.read_text() + "select 1 / 0;\n")
    with migrate.connection(fresh_database) as connection:
        with pytest.raises(BrokerError, match=r"sql/migrations/0002_step_2\.sql: division by zero"):
            migrate.migrate(connection, root=tree)

        assert scalar(fresh_database, "select array_agg(number) from pgtask.migration") == [1]
        assert scalar(fresh_database, "select count(*) from pgtask.word") == 0


def test_a_database_without_a_schema_is_told_from_one_that_is_behind(
    fresh_database: str, tree: Path
) -> None:
    with migrate.connection(fresh_database) as connection:
        with pytest.raises(SchemaMissing, match=r"no schema .*→ run: pgtask migrate"):
            check(connection, root=tree)
        migrate.migrate(connection, root=tree)
        write_tree(tree, migrations=3)

        with pytest.raises(SchemaTooOld, match="at version 2, this code needs 3 → run"):
            check(connection, root=tree)


def test_a_check_never_aborts_the_callers_transaction(fresh_database: str, tree: Path) -> None:
    # A row factory and a DateStyle of the caller's own must not matter either.
    with psycopg.connect(fresh_database, row_factory=dict_row) as connection:
        connection.execute("set datestyle = 'German, DMY'")
        with pytest.raises(SchemaMissing):
            check(connection, root=tree)
        assert connection.execute("select 1 as one").fetchone() == {"one": 1}
        connection.commit()
        with migrate.connection(fresh_database) as other:
            migrate.migrate(other, root=tree)

        check(connection, root=tree)

        assert connection.execute("select 1 as one").fetchone() == {"one": 1}


@pytest.mark.asyncio
async def test_the_async_check_says_the_same(fresh_database: str, tree: Path) -> None:
    async with await psycopg.AsyncConnection.connect(fresh_database) as connection:
        with pytest.raises(SchemaMissing):
            await acheck(connection, root=tree)
        with migrate.connection(fresh_database) as other:
            migrate.migrate(other, root=tree)
        await acheck(connection, root=tree)
        write_tree(tree, migrations=3)
        with pytest.raises(SchemaTooOld):
            await acheck(connection, root=tree)


def test_a_schema_that_needs_a_later_release_refuses_this_one(
    fresh_database: str, tree: Path
) -> None:
    with migrate.connection(fresh_database) as connection:
        migrate.migrate(connection, root=tree)
        connection.execute(
            "insert into pgtask.migration (number, name, checksum, oldest_release)"
            " values (3, 'later', '', '99.10')"
        )

        for ask in (plan, migrate.migrate, check):
            with pytest.raises(SchemaTooNew, match=r"needs pgtask 99\.10 or later.*→ upgrade"):
                ask(connection, root=tree)


def test_older_code_works_on_and_takes_no_later_function_back(
    fresh_database: str, tree: Path
) -> None:
    with migrate.connection(fresh_database) as connection:
        migrate.migrate(connection, root=tree)
        connection.execute(
            "insert into pgtask.migration (number, name, checksum, oldest_release)"
            " values (3, 'later', '', '0.0.1')"
        )
        connection.execute("update pgtask.repeatable set checksum = 'of a later release'")

        check(connection, root=tree)

        assert not migrate.migrate(connection, root=tree)
        assert [(e.path, e.state) for e in status(connection, root=tree)] == [
            ("migrations/0001_step_1.sql", "applied"),
            ("migrations/0002_step_2.sql", "applied"),
            ("migrations/0003_later.sql", "newer code"),
            ("functions/count_words.sql", "changed"),
            ("views/words.sql", "changed"),
        ]


def test_a_function_of_a_later_patch_release_is_not_taken_back(
    fresh_database: str, tree: Path
) -> None:
    with migrate.connection(fresh_database) as connection:
        migrate.migrate(connection, root=tree)
        connection.execute("update pgtask.repeatable set checksum = 'other', release = '99.0.1'")

        check(connection, root=tree)

        assert not plan(connection, root=tree)


def test_releases_compare_by_number() -> None:
    ordered = ["0.1", "0.1.1rc1", "0.2.0", "0.10", "1", "1.0.1"]

    assert sorted(ordered, key=sqlfiles.version) == ordered
    assert sqlfiles.version("1.0.0") == sqlfiles.version("1")
    assert sqlfiles.version("0+unknown") == ()


def test_the_list_says_what_is_pending(fresh_database: str, tree: Path) -> None:
    with migrate.connection(fresh_database) as connection:
        before = status(connection, root=tree)
        migrate.migrate(connection, root=tree)
        after = status(connection, root=tree)

    assert [entry.state for entry in before] == ["pending"] * 4
    assert [entry.state for entry in after] == ["applied"] * 4
    assert all(entry.applied_at is not None for entry in after)


def test_a_connection_inside_a_transaction_is_refused(fresh_database: str, tree: Path) -> None:
    with psycopg.connect(fresh_database) as connection:
        connection.execute("select 1")

        with pytest.raises(BrokerError, match="outside a transaction"):
            migrate.migrate(connection, root=tree)


def test_a_role_that_may_not_create_a_schema_is_told_what_to_grant(
    fresh_database: str, tree: Path, server: Any
) -> None:
    stranger = make_conninfo(
        server.superuser_dsn, dbname=conninfo_to_dict(fresh_database)["dbname"]
    )
    with migrate.connection(stranger) as connection:
        connection.execute("create role pgtask_stranger")
        try:
            connection.execute("set role pgtask_stranger")
            with pytest.raises(BrokerError, match=r"may not create the schema.*grant create on"):
                migrate.migrate(connection, root=tree)
            connection.execute("reset role")
            migrate.migrate(connection, root=tree)
            connection.execute("set role pgtask_stranger")
            with pytest.raises(BrokerError, match=r"may not use the schema.*--grant-producer"):
                check(connection, root=tree)
        finally:
            connection.execute("reset role")
            connection.execute("drop role pgtask_stranger")


def test_hostile_role_defaults_do_not_matter(fresh_database: str, tree: Path, server: Any) -> None:
    second = tree / "migrations" / "0002_step_2.sql"
    second.write_text(
        second.read_text() + "alter table pgtask.word alter word set default lower('X');\n"
    )
    reference = migrated(fresh_database, tree)
    role = conninfo_to_dict(fresh_database)["user"]
    name = conninfo_to_dict(fresh_database)["dbname"]
    hostile = {
        "search_path": "hostile, pg_catalog",
        "default_transaction_isolation": "serializable",
        "default_transaction_read_only": "on",
        "statement_timeout": "1s",
        "lock_timeout": "1ms",
        "standard_conforming_strings": "off",
        "transform_null_equals": "on",
        "check_function_bodies": "on",
        "client_min_messages": "error",
        "client_encoding": "latin1",
        "DateStyle": "German, DMY",
        "TimeZone": "Pacific/Apia",
    }
    with psycopg.connect(fresh_database, autocommit=True) as connection:
        connection.execute("drop schema pgtask cascade")
        connection.execute("create schema hostile")
        connection.execute("create table hostile.pg_class (relname text)")
        connection.execute(
            "create function hostile.lower(text) returns text language sql as $$ select $1 $$"
        )
    with psycopg.connect(server.superuser_dsn, autocommit=True) as connection:
        for setting, value in hostile.items():
            connection.execute(
                sql.SQL("alter role {} in database {} set {} = {}").format(
                    sql.Identifier(str(role)),
                    sql.Identifier(str(name)),
                    sql.Identifier(*setting.split(".")),
                    sql.SQL(value) if setting == "search_path" else sql.Literal(value),
                )
            )
    text = tree / "functions" / "count_words.sql"
    text.write_text(text.read_text() + "comment on function pgtask.count_words() is 'Wörter\\';\n")

    result = migrated(fresh_database, tree)

    assert result == reference
    words = "select obj_description('pgtask.count_words'::regproc)"
    assert scalar(fresh_database + " options='-c search_path=pg_catalog'", words) == "Wörter\\"


def migrated(dsn: str, tree: Path) -> str:
    with migrate.connection(dsn) as connection:
        migrate.migrate(connection, root=tree)
        check(connection, root=tree)
    # Comments are listed as present or absent.
    return described(dsn).replace("  function pgtask.count_words\n", "")


def psql(dsn: str, script: str) -> subprocess.CompletedProcess[str]:
    ours = embedded.Server(Path.cwd()).binaries.bindir / "psql"
    program = ours if ours.exists() else shutil.which("psql")
    if program is None:
        pytest.skip("there is no psql beside the embedded server nor on PATH")
    return subprocess.run(
        [program, "-X", "-d", dsn],
        input=script,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PGCLIENTENCODING": "UTF8"},
    )


def test_the_script_through_psql_makes_what_migrate_makes(fresh_database: str, tree: Path) -> None:
    done = psql(fresh_database, sql_script(root=tree))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    by_script = described(fresh_database)
    with migrate.connection(fresh_database) as connection:
        assert not migrate.migrate(connection, root=tree)
        connection.execute("drop schema pgtask cascade")
        migrate.migrate(connection, root=tree)
    assert described(fresh_database) == by_script


def test_the_script_may_be_run_again_and_goes_on_from_where_the_schema_is(
    fresh_database: str, tree: Path
) -> None:
    with migrate.connection(fresh_database) as connection:
        migrate.migrate(connection, root=tree)
        write_tree(tree, migrations=3)
        words = tree / "views" / "words.sql"
        words.write_text(words.read_text() + "\n")

        for _ in range(2):
            done = psql(fresh_database, sql_script(root=tree))
            assert (done.returncode, done.stderr) == (0, "")

        assert not plan(connection, root=tree)
        assert connection.execute("select pgtask.count_words()").fetchone() == (1,)


def test_the_script_refuses_what_migrate_refuses(fresh_database: str, tree: Path) -> None:
    with migrate.connection(fresh_database) as connection:
        migrate.migrate(connection, root=tree)
        before = describe(connection)
        script = sql_script(root=tree)
        connection.execute("update pgtask.migration set oldest_release = '99.0' where number = 2")
        too_new = psql(fresh_database, script)
        connection.execute(
            "update pgtask.migration set oldest_release = '0.0.1', checksum = '' where number = 2"
        )
        changed = psql(fresh_database, script)

        assert (too_new.returncode, changed.returncode) == (3, 3)
        assert f"needs a later pgtask than {release()}" in too_new.stderr
        assert "0002_step_2.sql was applied and has changed since" in changed.stderr
        assert describe(connection) == before


def test_the_script_is_the_same_every_time() -> None:
    assert sql_script() == sql_script()
    assert "\\if :pgtask_pending" in sql_script()


def test_the_schema_of_this_release_comes_up_by_script_as_by_migrate(fresh_database: str) -> None:
    done = psql(fresh_database, sql_script())
    assert (done.returncode, done.stderr) == (0, "")
    by_script = described(fresh_database)
    with migrate.connection(fresh_database) as connection:
        check(connection)
        connection.execute("drop schema pgtask cascade")
        migrate.migrate(connection)

        assert describe(connection) == by_script


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("one.sql", "", "name it NNNN_words.sql"),
        ("0003_x.sql", "select 1;\n", "does not say `-- what: …`"),
        ("0003_x.sql", HEADER.format(what="x", oldest="soon"), "must be like 0.1.0"),
        ("0002_x.sql", HEADER.format(what="x", oldest="0.1"), "have one number"),
    ],
)
def test_a_migration_file_that_breaks_the_rules_is_named(
    tree: Path, name: str, text: str, complaint: str
) -> None:
    (tree / "migrations" / name).write_text(text)

    with pytest.raises(BrokerError) as refusal:
        sqlfiles.read_tree(tree)

    assert f"migrations/{name}" in str(refusal.value)
    assert complaint in str(refusal.value)


def test_a_tree_without_migrations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="no migrations in"):
        sqlfiles.read_tree(tmp_path)


def test_an_unreachable_database_is_unavailable_and_shows_no_password() -> None:
    with (
        pytest.raises(Unavailable) as refusal,
        migrate.connection("postgresql://ada:geheim@127.0.0.1:1/shop"),
    ):
        pass

    assert "cannot be reached" in str(refusal.value)
    assert "geheim" not in str(refusal.value)
