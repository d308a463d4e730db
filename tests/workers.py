"""Worker: a real `pgtask worker` process under test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from tests.conditions import eventually

Start = Callable[..., "Worker"]
ROOT = Path(__file__).parents[1]

# Makes its stdin the terminal of a session of its own, then becomes the command.
_IN_TERMINAL = (
    "import fcntl, os, sys, termios\n"
    "os.setsid()\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
)


class Worker:
    """One worker process, its log, and the processes below it."""

    def __init__(
        self,
        dsn: str,
        app: str,
        arguments: Sequence[str],
        log: Path,
        env: Mapping[str, str],
        *,
        terminal: int | None = None,
    ) -> None:
        self.dsn = dsn
        self.log_path = log
        command = ["-m", "pgtask", "-A", app, "worker", *arguments]
        if terminal is not None:
            command = ["-c", _IN_TERMINAL, *command]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                env={**os.environ, "PGTASK_DSN": dsn, **env},
                cwd=ROOT,
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL if terminal is None else terminal,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_until_registered(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            eventually(lambda: self._is_registered(connection), timeout=30)

    def _is_registered(self, connection: psycopg.Connection[Any]) -> bool:
        assert self.process.poll() is None, f"the worker ended:\n{self.log}"
        return bool(
            connection.execute(
                "select from pgtask.worker where pid = %s and alive", [self.pid]
            ).fetchall()
        )

    def descendants(self) -> list[int]:
        """The zygote and its children."""
        return _descendants(self.pid)

    def children(self) -> list[int]:
        """The processes that run tasks."""
        return [pid for zygote in _children(self.pid) for pid in _children(zygote)]

    def both_children(self) -> list[int]:
        """Those of `-c 1`, one for each kind of task, once both are there."""
        return eventually(lambda: found if len(found := self.children()) == 2 else [], 30)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 30.0) -> int:
        return self.process.wait(timeout)

    def end(self) -> None:
        """End it, kindly first; whatever it leaves behind fails the test."""
        family = self.descendants()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGQUIT)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)
        eventually(lambda: not [pid for pid in family if lives(pid)], timeout=5)


def _children(pid: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in tasks.split()]


def _descendants(pid: int) -> list[int]:
    found = _children(pid)
    return found + [below for child in found for below in _descendants(child)]


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
