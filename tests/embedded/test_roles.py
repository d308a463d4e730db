"""Who may connect to the embedded server, how, and with which settings it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pgtask import embedded


@pytest.fixture
def held(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[embedded.Lease]:
    # Whatever points at another server must not matter, neither to it nor to its clients.
    for name, value in {"PGDATA": "/nowhere", "PGPORT": "1", "LC_ALL": "xx_YY"}.items():
        monkeypatch.setenv(name, value)
    with embedded.lease(home, durable=False, linger=0.1, quiet=True) as held:
        yield held


def test_the_role_is_unprivileged_and_owns_its_database(held: embedded.Lease) -> None:
    with psycopg.connect(held.dsn) as connection:
        row = connection.execute(
            "SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        assert row == (False, False, False)
        connection.execute("CREATE SCHEMA mine")
    with psycopg.connect(held.superuser_dsn) as connection:
        row = connection.execute(
            "SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding)"
            " FROM pg_database WHERE datname = 'pgtask'"
        ).fetchone()
    assert row == ("pgtask", "UTF8")


def test_only_postgres_is_trusted(held: embedded.Lease) -> None:
    with psycopg.connect(held.superuser_dsn, autocommit=True) as connection:
        connection.execute("CREATE ROLE other LOGIN PASSWORD 'open'")
    for user in ("pgtask", "other"):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(held.dsn_of(user, "pgtask", "wrong"))
    psycopg.connect(held.dsn_of("other", "pgtask", "open")).close()
    assert held.sockets.stat().st_mode & 0o777 == 0o700
    assert (held.home / "pgpass").stat().st_mode & 0o777 == 0o600
    assert "password" not in repr(held)


def test_dblink_works_from_the_unprivileged_role(held: embedded.Lease) -> None:
    with psycopg.connect(
        held.superuser_dsn.replace("dbname='postgres'", "dbname='pgtask'")
    ) as connection:
        connection.execute("CREATE EXTENSION dblink")
    with psycopg.connect(held.dsn) as connection:
        row = connection.execute(
            "SELECT who FROM dblink(%s, 'SELECT current_user::text') AS t(who text)", [held.dsn]
        ).fetchone()
    assert row == ("pgtask",)


def test_a_lost_password_file_heals_at_the_next_lease(held: embedded.Lease) -> None:
    (held.home / "pgpass").unlink()
    with embedded.lease(held.home, durable=False, quiet=True) as again:
        assert again.dsn != held.dsn
        psycopg.connect(again.dsn).close()


def test_only_a_server_for_tests_runs_without_durability(home: Path, held: embedded.Lease) -> None:
    settings = (
        "SELECT current_setting('fsync'), current_setting('full_page_writes'),"
        " current_setting('synchronous_commit'), current_setting('listen_addresses'),"
        " current_setting('max_connections'), current_setting('shared_buffers')"
    )
    with psycopg.connect(held.dsn) as connection:
        row = connection.execute(settings).fetchone()
    assert row == ("off", "off", "off", "", "100", "128MB")
    with (
        embedded.lease(home, linger=0.1, quiet=True) as safe,
        psycopg.connect(safe.dsn) as connection,
    ):
        row = connection.execute(settings).fetchone()
    assert row == ("on", "on", "on", "", "100", "128MB")
