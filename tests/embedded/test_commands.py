"""Keeping, stopping, examining and deleting the server, from Python and from the shell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from pgtask import embedded
from pgtask.cli.db import db
from pgtask.errors import EmbeddedError
from tests.conditions import eventually
from tests.embedded.processes import holder, is_alive


@pytest.fixture
def project(place: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (place / "pgtask.toml").touch()
    monkeypatch.chdir(place)
    return place


def test_stop_refuses_while_a_process_holds_a_lease_and_names_it(home: Path) -> None:
    with holder(home, linger=0.3) as holding:
        with pytest.raises(EmbeddedError, match="in use by process") as raised:
            embedded.stop(home, durable=False)
        if sys.platform == "linux":
            assert str(holding.process.pid) in str(raised.value)
        with pytest.raises(EmbeddedError, match="in use by process"):
            embedded.reset(home, durable=False)
        assert is_alive(holding.server_pid)
        assert embedded.stop(home, durable=False, force=True)
        assert not is_alive(holding.server_pid)


def test_a_detached_server_needs_no_lease_and_ends_at_stop(home: Path) -> None:
    server = embedded.Server(home, durable=False, linger=0.1, quiet=True)
    status = server.start_detached()
    assert status.detached
    assert status.holders == ()
    assert status.server_pid is not None
    with embedded.lease(home, durable=False) as held:
        pass
    with psycopg.connect(held.dsn) as connection:
        # Far longer than the linger: without the detached keeper this connection would break.
        connection.execute("SELECT pg_sleep(0.7)")
    assert server.status().server_pid == status.server_pid
    assert server.stop()
    assert not is_alive(status.server_pid)


def test_reset_deletes_the_data_and_the_next_start_begins_anew(home: Path) -> None:
    server = embedded.Server(home, durable=False, linger=0.1, quiet=True)
    with server as held, psycopg.connect(held.dsn) as connection:
        connection.execute("CREATE TABLE kept (id int)")
    assert eventually(server.reset)
    assert not server.instance.data.exists()
    assert not server.reset()
    with server as held, psycopg.connect(held.dsn) as connection:
        assert connection.execute("SELECT to_regclass('kept')").fetchone() == (None,)


def test_nothing_is_created_by_asking(home: Path) -> None:
    status = embedded.status(home)
    assert not status.running
    assert status.holders == ()
    assert not embedded.stop(home)
    assert not embedded.reset(home)
    assert not home.exists()


def test_db_start_status_psql_stop_and_reset(project: Path) -> None:
    run = CliRunner()
    assert "not running" in run.invoke(db, ["status"]).output
    assert run.invoke(db, ["path"]).output == f"{project}/.pgtask\n"

    started = run.invoke(db, ["start"], catch_exceptions=False)
    assert "until: pgtask db stop" in started.output
    status = json.loads(run.invoke(db, ["status", "--json"]).output)
    assert (status["running"], status["detached"], status["holders"]) == (True, True, [])
    assert "until: pgtask db stop" in run.invoke(db, ["status"]).output

    psql = [sys.executable, "-c", "from pgtask.cli.db import db; db()", "psql"]
    asked = "SELECT current_user, count(*) FROM pg_locks WHERE false"
    shown = subprocess.run([*psql, "-XAtc", asked], capture_output=True, text=True, check=True)
    assert shown.stdout == "pgtask|0\n"

    assert run.invoke(db, ["stop"]).output == "stopped\n"
    assert run.invoke(db, ["stop"]).output == "it was not running\n"
    refused = run.invoke(db, ["reset"], input="y\n")
    assert refused.exit_code == 2
    assert "There is no terminal to ask on → add --yes" in refused.output
    assert run.invoke(db, ["reset", "--yes"]).output == "deleted\n"
    assert run.invoke(db, ["reset", "--yes"]).output == "there was nothing to delete\n"


def test_psql_holds_a_lease_while_it_runs(project: Path, home: Path) -> None:
    psql = [sys.executable, "-c", "from pgtask.cli.db import db; db()", "psql", "-XAt"]
    with subprocess.Popen(
        psql, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("SELECT 'ready';\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(EmbeddedError, match="in use by process"):
            embedded.stop(home)
        process.stdin.write("\\q\n")
    assert process.returncode == 0


def test_db_url_leads_to_the_running_server_and_starts_none(project: Path, home: Path) -> None:
    def url() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pgtask", "db", "url"]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    refused = url()
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        "pgtask: the private PostgreSQL is not running → run: pgtask db start\n"
    )
    assert not home.exists()

    with embedded.lease(home, quiet=True):
        told = url()
        assert (told.returncode, told.stderr) == (0, "")
        with psycopg.connect(told.stdout.strip()) as connection:
            asked = "SELECT current_user, current_database()"
            assert connection.execute(asked).fetchone() == ("pgtask", "pgtask")
        # A lost password file gets a new password, which the server must learn.
        (home / "pgpass").unlink()
        with psycopg.connect(url().stdout.strip()) as connection:
            assert connection.info.user == "pgtask"
