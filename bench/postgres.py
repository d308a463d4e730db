"""The one PostgreSQL that everybody shares in a run: the embedded binaries, its promises kept."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from bench import processes
from pgtask import embedded_place as place

# What keeps a checkpoint out of a measurement, room for everybody's connections, and durability as
# in production: a figure taken with fsync off says nothing about a queue.
SETTINGS = {
    "shared_buffers": "1GB",
    "max_connections": "200",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "autovacuum_naptime": "15s",
    "jit": "off",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
}
START = 60.0


class Postgres:
    """A running server; databases on it are made for a measurement and dropped with it."""

    def __init__(self, pid: int, port: int, secret: str, bindir: Path) -> None:
        self.pid = pid
        self.bindir = bindir
        self._port = port
        self._secret = secret

    def dsn(self, database: str = "postgres") -> str:
        """A URL every driver understands; TCP on loopback, as products run in production."""
        return f"postgresql://postgres:{self._secret}@127.0.0.1:{self._port}/{database}"

    def environment(self) -> dict[str, str]:
        """The same for programs that read libpq's variables."""
        return {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self._port),
            "PGUSER": "postgres",
            "PGPASSWORD": self._secret,
        }

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """Yield the DSN of an empty database, dropped afterwards whoever is still connected."""
        drop = sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
        with self.connect() as connection:
            connection.execute(drop)
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
            try:
                yield self.dsn(name)
            finally:
                connection.execute(drop)

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn(database), autocommit=True)

    def cpu(self) -> float:
        """Seconds of CPU of all of its processes so far, ended ones included."""
        return processes.cpu(self.pid)

    def wal(self) -> int:
        """Bytes of WAL written so far."""
        return int(self._scalar("select pg_current_wal_insert_lsn() - '0/0'"))

    def commits(self, database: str) -> int:
        """Transactions ended in that database, of sessions that have ended."""
        return int(
            self._scalar(
                "select xact_commit + xact_rollback from pg_stat_database where datname = %s",
                database,
            )
        )

    def settings(self) -> dict[str, str]:
        """The settings that decide what the numbers mean."""
        with self.connect() as connection:
            rows = connection.execute(
                "select name, current_setting(name) from pg_settings where name = any(%s)",
                [["server_version", *SETTINGS]],
            ).fetchall()
        return dict(rows)

    def _scalar(self, text: str, *values: object) -> Any:
        with self.connect() as connection:
            row = connection.execute(text.encode(), values).fetchone()
        assert row is not None
        return row[0]


@contextmanager
def running(cache: Path) -> Iterator[Postgres]:
    """Start a server of its own below the cache folder; stop and remove it on leaving."""
    account = place.server_account()
    home = place.settle(cache / "server")
    if home.parent == place.SYSTEM_STATE:
        place.make_system_state()
    home.parent.mkdir(parents=True, exist_ok=True)
    binaries = place.find_binaries(os.environ)
    bindir = place.runnable_by(account, binaries) if account else binaries.bindir
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir=home.parent))
    who: dict[str, Any] = {}
    if account is not None:
        os.chown(directory, account.uid, account.gid)
        who = {"user": account.uid, "group": account.gid, "extra_groups": []}
    try:
        secret = secrets.token_hex(16)
        _initialise(bindir, directory, secret, who)
        with _free_port() as port:
            pass
        server = _spawn(bindir, directory, port, who)
        try:
            postgres = Postgres(server.pid, port, secret, bindir)
            _wait(server, postgres, directory / "log")
            yield postgres
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _initialise(bindir: Path, directory: Path, secret: str, who: dict[str, Any]) -> None:
    password = directory / "password"
    password.touch(0o600)
    password.write_text(secret)
    if who:
        os.chown(password, who["user"], who["group"])
    command: list[str | Path] = [
        bindir / "initdb",
        "-D",
        directory / "data",
        "-U",
        "postgres",
        "-E",
        "UTF8",
    ]
    command += ["--locale=C", "--auth=scram-sha-256", f"--pwfile={password}"]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, **who)
    password.unlink()
    if done.returncode != 0:
        raise RuntimeError(f"initdb failed: {done.stderr.strip()[-1000:]}")


def _spawn(
    bindir: Path, directory: Path, port: int, who: dict[str, Any]
) -> subprocess.Popen[bytes]:
    settings = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": ""}
    command = [str(bindir / "postgres"), "-D", str(directory / "data")]
    for name, value in (settings | SETTINGS).items():
        command += ["-c", f"{name}={value}"]
    with (directory / "log").open("wb") as log:
        return subprocess.Popen(
            command, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, **who
        )


def _wait(server: subprocess.Popen[bytes], postgres: Postgres, log: Path) -> None:
    deadline = time.monotonic() + START
    while True:
        with contextlib.suppress(psycopg.OperationalError):
            postgres.connect().close()
            return
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"PostgreSQL does not start: {log.read_text()[-1000:]}")
        time.sleep(0.05)


@contextmanager
def _free_port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        yield port
