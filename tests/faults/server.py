"""Server: a private PostgreSQL of the fault suite, to be crashed, stopped and starved."""

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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from pgtask import embedded_place as place
from pgtask.broker import migrate

# Without fsync: a commit survives the death of every process, which is all that these faults kill.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "shared_buffers": "128MB",
    "max_connections": "150",
    "max_wal_size": "2GB",
    "jit": "off",
    "wal_level": "replica",
    "hot_standby": "on",
    "restart_after_crash": "on",
}
START = 60.0


@dataclass(frozen=True)
class Address:
    """Where a server is, and the secret of every role on it; travels to other processes."""

    port: int
    secret: str

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        return make_conninfo(
            host="127.0.0.1", port=self.port, user=user, password=self.secret, dbname=database
        )

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """A superuser's connection, in autocommit, that survives a server made read-only."""
        return psycopg.connect(
            self.dsn(database),
            autocommit=True,
            connect_timeout=5,
            options="-c default_transaction_read_only=off",
        )

    def create(self, database: str) -> str:
        """A migrated database of an ordinary role of the same name; returns that role's DSN."""
        with self.connect() as connection:
            connection.execute(
                f"create role \"{database}\" login password '{self.secret}'".encode()
            )
            connection.execute(f'create database "{database}" owner "{database}"'.encode())
        dsn = self.dsn(database, database)
        with migrate.connection(dsn) as connection:
            migrate.migrate(connection)
        return dsn

    def throw_out(self, database: str) -> int:
        """End every session of a database; returns how many there were."""
        with self.connect() as connection:
            return connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = %s and pid <> pg_backend_pid()",
                [database],
            ).rowcount

    def accepts(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            self.connect().close()
            return True
        return False


class Server:
    """A running cluster. `directory` holds its data; whoever made it removes it."""

    def __init__(self, directory: Path, address: Address, environ: Mapping[str, str]) -> None:
        self.directory = directory
        self.address = address
        self.environ = {**os.environ, **environ}
        self._settings = dict(SETTINGS)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def start(self) -> None:
        """Start and wait until it takes connections."""
        bindir, who = _binaries()
        command = [str(bindir / "postgres"), "-D", str(self.directory / "data")]
        for name, value in {**self._settings, "port": str(self.address.port)}.items():
            command += ["-c", f"{name}={value}"]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ,
                **who,
            )
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START
        while not self.address.accepts():
            if self.has_ended:
                raise RuntimeError(f"PostgreSQL ended: {self.log[-1000:]}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not start: {self.log[-1000:]}")
            time.sleep(0.02)

    def stop(self, mode: signal.Signals = signal.SIGQUIT) -> None:
        """End it: at once, without a shutdown checkpoint (QUIT, `-m immediate`), or fast (INT)."""
        if self._process is not None and not self.has_ended:
            self._process.send_signal(mode)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    def crash(self) -> None:
        """Restart in immediate mode; returns when it takes connections again."""
        self.stop()
        self.start()

    def kill_a_backend(self, like: str) -> bool:
        """SIGKILL one backend: PostgreSQL ends all others and recovers, as after a crash."""
        with self.address.connect() as connection:
            row = connection.execute(
                "select pid from pg_stat_activity where application_name like %s limit 1", [like]
            ).fetchone()
        if row is None:
            return False
        os.kill(row[0], signal.SIGKILL)
        return True

    def set(self, name: str, value: str | None) -> None:
        """Change a setting that a reload is enough for; None: back to what it was."""
        with self.address.connect() as connection:
            text = (
                f"alter system reset {name}"
                if value is None
                else f"alter system set {name} = {value}"
            )
            connection.execute(text.encode())
            connection.execute("select pg_reload_conf()")

    def sessions(self, database: str) -> list[tuple[int, str]]:
        """(pid, application name) of the sessions of pgtask in a database."""
        with self.address.connect() as connection:
            return connection.execute(
                "select pid, application_name from pg_stat_activity"
                " where datname = %s and application_name like 'pgtask%%'",
                [database],
            ).fetchall()

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    @contextmanager
    def standby(self) -> Iterator[Server]:
        """A streaming replica of this server, running; removed on leaving."""
        with _directory(None) as directory:
            options = ["-R", "--checkpoint=fast", "--no-sync"]
            _run("pg_basebackup", "-d", self.address.dsn(), "-D", directory / "data", *options)
            replica = Server(directory, Address(free_port(), self.address.secret), {})
            try:
                replica.start()
                yield replica
            finally:
                replica.stop()

    def promote(self) -> None:
        """Make this standby the primary."""
        with self.address.connect() as connection:
            connection.execute("select pg_promote(true, 30)")


@contextmanager
def running(
    *, inside: Path | None = None, environ: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Yield a server of one's own; ended and removed on leaving.

    `inside` is a directory to put it in, such as a small file system; `environ` is added to
    PostgreSQL's environment, such as a clock that is wrong.
    """
    with _directory(inside) as directory:
        secret = secrets.token_hex(16)
        _initialise(directory, secret)
        server = Server(directory, Address(free_port(), secret), environ or {})
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def _directory(inside: Path | None) -> Iterator[Path]:
    account = place.server_account()
    directory = Path(tempfile.mkdtemp(prefix="pgtask-faults-", dir=inside))
    try:
        if account is not None:
            os.chown(directory, account.uid, account.gid)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _initialise(directory: Path, secret: str) -> None:
    password = directory / "password"
    password.touch(0o600)
    password.write_text(secret)
    if (account := place.server_account()) is not None:
        os.chown(password, account.uid, account.gid)
    options = ["-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "--auth=scram-sha-256"]
    _run("initdb", "-D", directory / "data", *options, f"--pwfile={password}")
    password.unlink()


def _run(program: str, *arguments: str | Path) -> None:
    bindir, who = _binaries()
    command = [str(bindir / program), *map(str, arguments)]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, **who)
    if done.returncode != 0:
        raise RuntimeError(f"{program} failed: {done.stderr.strip()[-1000:]}")


def _binaries() -> tuple[Path, dict[str, Any]]:
    """Where PostgreSQL's programs are, and as whom to run them."""
    account = place.server_account()
    binaries = place.find_binaries(os.environ)
    if account is None:
        return binaries.bindir, {}
    bindir = place.runnable_by(account, binaries)
    return bindir, {"user": account.uid, "group": account.gid, "extra_groups": []}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
