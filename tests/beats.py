"""Beat: a real `pgtask beat` process under test."""

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
from tests.workers import ROOT

StartBeat = Callable[..., "Beat"]


class Beat:
    """One beat process and its log."""

    def __init__(
        self,
        dsn: str,
        app: str | None,
        arguments: Sequence[str],
        log: Path,
        env: Mapping[str, str],
        directory: Path = ROOT,
    ) -> None:
        self.dsn = dsn
        self.log_path = log
        named = [] if app is None else ["-A", app]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pgtask", *named, "beat", *arguments],
                env={**os.environ, "PGTASK_DSN": dsn, "PYTHONPATH": str(ROOT), **env},
                cwd=directory,
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_until_seen(self) -> None:
        """Wait until it has looked at the schedules."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            eventually(lambda: self._is_seen(connection), timeout=30)

    def _is_seen(self, connection: psycopg.Connection[Any]) -> bool:
        assert self.process.poll() is None, f"the beat ended:\n{self.log}"
        return bool(
            connection.execute("select from pgtask.beat where pid = %s", [self.pid]).fetchall()
        )

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(5)

    def wait(self, timeout: float = 30.0) -> int:
        return self.process.wait(timeout)

    def end(self) -> None:
        """End it, kindly first."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
