"""The server and the worker processes of a benchmark."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from pgtask import embedded

ROOT = Path(__file__).parents[1]
SHOWN = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")


@contextmanager
def database() -> Iterator[tuple[str, str]]:
    """Yield the DSNs of role pgtask and of the superuser, on a server that keeps its promises."""
    home = Path(tempfile.mkdtemp(prefix="pgtask-bench-"))
    try:
        with embedded.lease(home / ".pgtask", durable=True, linger=1.0, quiet=True) as lease:
            from pgtask.broker import migrate

            with migrate.connection(lease.dsn) as connection:
                migrate.migrate(connection)
            yield lease.dsn, lease.dsn_of("postgres", "pgtask")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def settings(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """Return the server settings that decide what the numbers mean."""
    rows = connection.execute(
        "select name, setting || coalesce(unit, '') from pg_settings where name = any(%s)",
        [list(SHOWN)],
    ).fetchall()
    return dict(rows)


class Worker:
    """One `pgtask worker`, and what it costs."""

    def __init__(self, dsn: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pgtask", "-A", "bench.app:app", "worker", "--log-level", "WARNING", *arguments],
            env={**os.environ, "PGTASK_DSN": dsn},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def family(self) -> list[int]:
        """The supervisor, the zygote and the children."""
        return _family(self._process.pid)

    def cpu(self) -> float:
        """Seconds of CPU used so far by all of its processes."""
        return sum(_cpu(pid) for pid in self.family())

    def memory(self) -> float:
        """Proportional set size of all of its processes, MB."""
        return sum(_pss(pid) for pid in self.family()) / 1e6

    def check(self) -> None:
        """Raise when it has ended before its time."""
        if (code := self._process.poll()) is not None:
            raise RuntimeError(f"the worker ended with status {code}")

    def end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def worker(connection: psycopg.Connection[Any], dsn: str, *arguments: str) -> Iterator[Worker]:
    """Yield a worker that has registered; it is ended on leaving."""
    before = connection.execute("select count(*) from pgtask.worker").fetchone()
    process = Worker(dsn, *arguments)
    try:
        while connection.execute("select count(*) from pgtask.worker").fetchone() == before:
            process.check()
            time.sleep(0.02)
        yield process
    finally:
        process.end()


def server_cpu(connection: psycopg.Connection[Any]) -> float:
    """Seconds of CPU used by the postmaster and all of its processes that live now."""
    parent = Path(f"/proc/{connection.info.backend_pid}/stat").read_text()
    postmaster = int(parent.rpartition(")")[2].split()[1])
    # Ended backends are counted by the postmaster, which waited for them.
    fields = Path(f"/proc/{postmaster}/stat").read_text().rpartition(")")[2].split()
    ended = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return ended + sum(_cpu(pid) for pid in _family(postmaster))


def _family(pid: int) -> list[int]:
    try:
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(each for child in below for each in _family(int(child)))]


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
