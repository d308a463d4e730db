"""PgBouncer in transaction mode before a test's PostgreSQL, where PgBouncer is installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.conditions import eventually

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
needs_pgbouncer = pytest.mark.skipif(
    PROGRAM is None, reason="pgbouncer is neither in PATH nor in /usr/sbin"
)


class PgBouncer:
    """One process; databases are found by their names, and used as the role of `dsn`."""

    def __init__(self, dsn: str, *, size: int = 20, ignore: str = "", port: int = 0) -> None:
        there = conninfo_to_dict(dsn)
        with socket.create_server(("127.0.0.1", port)) as probe:
            self.port = int(probe.getsockname()[1])
        self._directory = Path(tempfile.mkdtemp(prefix="pgtask-pgbouncer-"))
        self._log = self._directory / "pgbouncer.log"
        settings = self._directory / "pgbouncer.ini"
        settings.write_text(
            "[databases]\n"
            f"* = host={there['host']} port={there['port']} user={there['user']}"
            f" password={there['password']}\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            "auth_type = any\npool_mode = transaction\nserver_reset_query_always = 0\n"
            f"default_pool_size = {size}\nmax_client_conn = 200\n"
            f"ignore_startup_parameters = {ignore}\n"
        )
        user: dict[str, object] = {}
        if os.getuid() == 0:
            # It refuses to be root; the server's socket is for the server's user.
            owner = Path(str(there["host"])).stat()
            for path in (self._directory, settings):
                os.chown(path, owner.st_uid, owner.st_gid)
            user = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": ()}
        assert PROGRAM is not None
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [PROGRAM, str(settings)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **user,  # type: ignore[call-overload]
            )

    def dsn(self, dsn: str) -> str:
        """This DSN, by way of the pooler."""
        return make_conninfo(
            dsn, host="127.0.0.1", hostaddr=None, port=self.port, sslmode="disable"
        )

    def __enter__(self) -> PgBouncer:
        eventually(self._answers, timeout=30)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)
        shutil.rmtree(self._directory)

    def _answers(self) -> bool:
        assert self._process.poll() is None, f"pgbouncer ended:\n{self._log.read_text()}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
