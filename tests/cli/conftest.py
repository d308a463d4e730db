"""What the tests of the command line share: calling it, in this process or in one of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgtask.cli import main


@dataclass(frozen=True)
class Answer:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.out.splitlines()]


Call = Callable[..., Answer]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty directory to be in."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(bare: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the command line in this process."""

    def run(*words: str | int) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Answer(end.value.code, out, err)

    return run


@pytest.fixture
def spawn(bare: Path) -> Call:
    """Call the command line in a process of its own: it may import what it likes."""

    def run(*words: str | int, stdin: str | None = None) -> Answer:
        done = subprocess.run(
            [sys.executable, "-m", "pgtask", *(str(word) for word in words)],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def database(
    dsn: str, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the database that the command line will use."""
    monkeypatch.setenv("PGTASK_DSN", dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


class World:
    """Puts jobs and workers where a test wants them, with the functions everybody calls."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    def one(self, query: str, *values: Any) -> Any:
        row = self.connection.execute(query.encode(), values).fetchone()
        return None if row is None else row[0]

    def job(self, task: str = "mail.send", **options: Any) -> int:
        """Enqueue a job; options as pgtask.enqueue has them."""
        said = {"args": '["ada"]', **options}
        named = ", ".join(f"{name} => %({name})s" for name in said)
        row = self.connection.execute(
            f"select pgtask.enqueue(%(task)s, {named})".encode(), {"task": task, **said}
        ).fetchone()
        assert row is not None
        return int(row[0])

    def worker(
        self,
        queues: tuple[str, ...] = ("default",),
        tasks: tuple[str, ...] = ("mail.send",),
        children: int = 2,
    ) -> str:
        """Register a live worker."""
        worker = self.one("select gen_random_uuid()::text")
        self.one(
            "select pgtask.register(%s, 'host', 7, '0.1.0', %s, %s, %s)",
            worker,
            list(queues),
            list(tasks),
            children,
        )
        return str(worker)

    def claim(self, worker: str, count: int = 1, queue: str = "default") -> list[tuple[int, int]]:
        """Claim jobs of task mail.send: (id, epoch) of each."""
        return self.connection.execute(
            "select id, epoch from pgtask._claim(%s, %s, %s, array['mail.send'])",
            [worker, count, [queue]],
        ).fetchall()

    def finish(self, worker: str, job: tuple[int, int], result: str = "42") -> None:
        """End an attempt well."""
        self.connection.execute(
            "select pgtask._finish(%s, %s, %s, %s)", [worker, [job[0]], [job[1]], [result]]
        )

    def fail(self, worker: str, job: tuple[int, int], *, verdict: str = "failed") -> None:
        """End an attempt badly: failed for good, or retried."""
        self.connection.execute(
            "select pgtask._finish(%s, %s, %s, array[null::text], array[%s], array[60::float8],"
            " array['error'], array['ValueError'], array['no such box'],"
            " array['Traceback: line 1'])",
            [worker, [job[0]], [job[1]], verdict],
        )


@pytest.fixture
def world(database: psycopg.Connection[Any]) -> World:
    return World(database)
