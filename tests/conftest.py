"""One private PostgreSQL a run, one migrated database a test process, emptied before each test."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgtask import config, embedded
from pgtask.broker import migrate
from tests.beats import Beat
from tests.roles import Roles
from tests.workers import ROOT, Worker

_TABLES = (
    "waiting, ready, running, done, payload, job_key, slot, cancel_request, attempt_error, worker,"
    " queue, watcher, tally, schedule, tick, beat"
)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores it, and so would all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class TestServer:
    """The private server: databases are made on it as its superuser, used as role pgtask."""

    __test__ = False
    lease: embedded.Lease

    @property
    def superuser_dsn(self) -> str:
        return self.lease.superuser_dsn

    @property
    def version(self) -> str:
        return self.lease.version

    def dsn(self, database: str) -> str:
        return make_conninfo(self.lease.dsn, dbname=database)

    def create(self, database: str) -> str:
        with psycopg.connect(self.superuser_dsn, autocommit=True) as connection:
            connection.execute(f'drop database if exists "{database}" with (force)'.encode())
            connection.execute(f'create database "{database}" owner pgtask'.encode())
        return self.dsn(database)

    def drop(self, database: str) -> None:
        with psycopg.connect(self.superuser_dsn, autocommit=True) as connection:
            connection.execute(f'drop database if exists "{database}" with (force)'.encode())


@pytest.fixture(scope="session")
def server(testrun_uid: str) -> Iterator[TestServer]:
    """Shared by the processes of a run: the first starts it, it ends after the last."""
    home = Path(tempfile.gettempdir()) / f"pgtask-{os.getuid()}-{testrun_uid[:8]}"
    home.mkdir(exist_ok=True)
    with embedded.lease(home / ".pgtask", durable=False, linger=2.0, quiet=True) as lease:
        yield TestServer(lease)
    # The other processes of the run may still use it: the last one out clears up.
    if not embedded.status(home / ".pgtask", durable=False).holders:
        embedded.stop(home / ".pgtask", durable=False)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def _migrated(server: TestServer, worker_id: str) -> str:
    return _create(server, f"pgtask_{worker_id}")


@pytest.fixture(scope="session")
def _other(server: TestServer, worker_id: str) -> str:
    return _create(server, f"other_{worker_id}")


@pytest.fixture
def dsn(_migrated: str) -> str:
    """The migrated database, empty."""
    _empty(_migrated)
    return _migrated


@pytest.fixture
def other_dsn(_other: str) -> str:
    """A second migrated database, empty."""
    _empty(_other)
    return _other


@pytest.fixture(scope="session")
def _roles(server: TestServer, worker_id: str) -> Iterator[Roles]:
    with Roles.made(server, worker_id) as roles:
        yield roles


@pytest.fixture
def roles(_roles: Roles) -> Roles:
    """A role of each group, with a database of their own, empty."""
    _empty(_roles.dsn("owner"))
    return _roles


@pytest.fixture
def fresh_database(server: TestServer, worker_id: str) -> Iterator[str]:
    """An empty database without the schema, owned by an unprivileged role."""
    name = f"fresh_{worker_id}"
    yield server.create(name)
    server.drop(name)


@pytest.fixture
def connection(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the migrated database, in autocommit."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        known = name in ("PGTASK_PG_BINDIR", "PGTASK_UPDATE_SNAPSHOT")
        if name.startswith("PGTASK_") and not known:
            monkeypatch.delenv(name)
    for name in ("DATABASE_URL", "PGSERVICE", "PGHOST", "PGDATABASE", "PGUSER", "PGPORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def shop(dsn: str) -> Iterator[ModuleType]:
    """The app under test, on the migrated database."""
    from tests import shop

    shop.app.config = config.load({"dsn": dsn}, {}, {}, Path.cwd())
    yield shop
    shop.app.close()


@pytest.fixture
def start_worker(shop: ModuleType, dsn: str, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start `pgtask worker` processes; at the end they are ended, with all they have."""
    workers: list[Worker] = []

    def start(
        *arguments: str,
        app: str = "tests.shop:app",
        wait: bool = True,
        terminal: int | None = None,
        **env: str,
    ) -> Worker:
        log = tmp_path / f"worker{len(workers)}.log"
        worker = Worker(dsn, app, arguments, log, env, terminal=terminal)
        workers.append(worker)
        if wait:
            worker.wait_until_registered()
        return worker

    yield start
    for worker in workers:
        worker.end()


@pytest.fixture
def start_beat(dsn: str, tmp_path: Path) -> Iterator[Callable[..., Beat]]:
    """Start `pgtask beat` processes; at the end they are ended."""
    beats: list[Beat] = []

    def start(
        *arguments: str,
        app: str | None = None,
        wait: bool = True,
        directory: Path = ROOT,
        **env: str,
    ) -> Beat:
        log = tmp_path / f"beat{len(beats)}.log"
        beat = Beat(dsn, app, arguments, log, env, directory)
        beats.append(beat)
        if wait:
            beat.wait_until_seen()
        return beat

    yield start
    for beat in beats:
        beat.end()


def _create(server: TestServer, database: str) -> str:
    dsn = server.create(database)
    with migrate.connection(dsn) as connection:
        migrate.migrate(connection)
    return dsn


def _empty(dsn: str) -> None:
    tables = ", ".join(f"pgtask.{name.strip()}" for name in _TABLES.split(","))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"truncate {tables}".encode())
        connection.execute(
            "select setval('pgtask.seq', 1, false), setval('pgtask.idle_until', 0),"
            " setval('pgtask.watched_until', 0), setval('pgtask.upkeep_at', 0),"
            " setval('pgtask.purge_at', 0)"
        )
