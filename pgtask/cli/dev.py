"""`pgtask dev`: the schema, a worker and a beat in one terminal."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import IO

import click

from pgtask.cli import failure
from pgtask.cli.session import Session, pass_session
from pgtask.worker.zygote import die_with_parent

LOOKS = 0.1  # s between two looks whether a process has ended
PATIENCE = 35.0  # s that they have to end, which is more than a worker's grace
COLOURS = {"worker": "cyan", "beat": "magenta", "dev": "yellow"}


@click.command()
@click.option("-c", "--concurrency", type=click.IntRange(1), help="Children (one a CPU).")
@click.option("--reload/--no-reload", default=None, help="Load the app anew when a file changes.")
@click.option("--log-level", metavar="LEVEL", help="What to log (INFO).")
@pass_session
def dev(
    session: Session, /, *, concurrency: int | None, reload: bool | None, log_level: str | None
) -> int:
    """Migrate, and run a worker and a beat in one terminal.

    For your desk: both load the app anew when a file changes. When one of them ends, or Ctrl-C is
    pressed, all end.
    """
    from pgtask.broker import migrate
    from pgtask.discover import find_spec, no_app

    app = find_spec(session.config_without_app.app, session.directory)
    if app is None:
        raise no_app(session.directory)
    dsn = session.database_url()
    say = _Printer(session)
    with migrate.connection(dsn) as connection:
        applied = migrate.migrate(connection)
    if applied:
        say("dev", f"the schema is new: {len(applied.migrations)} migrations were applied")
    if reload is None:
        reload = importlib.util.find_spec("watchfiles") is not None
        if not reload:
            say("dev", "changed files are not noticed → python -m pip install watchfiles")
    common = (["--reload"] if reload else []) + (["--log-level", log_level] if log_level else [])
    children = [] if concurrency is None else ["-c", str(concurrency)]
    with _Staff(dsn, app, session, say) as staff:
        staff.start("worker", *common, *children)
        staff.start("beat", *common)
        return staff.wait()


class _Staff:
    """The processes, of which none outlives the others."""

    def __init__(self, dsn: str, app: str, session: Session, say: _Printer) -> None:
        self._command = [sys.executable, "-m", "pgtask", "-A", app]
        if "config" in session.flags:
            self._command += ["--config", str(session.flags["config"])]
        # The database is found once, here: a private one is held by this process.
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1"} | ({"PGTASK_DSN": dsn} if dsn else {})
        self._say = say
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._readers: list[threading.Thread] = []
        self._told = False

    def __enter__(self) -> _Staff:
        self._before = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._end()
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def start(self, name: str, *arguments: str) -> None:
        """Start one; nobody hears it before wait()."""
        process = subprocess.Popen(
            [*self._command, name, *arguments],
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for this process, which ends them in order.
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal.SIGTERM),
        )
        self._running[name] = process

    def wait(self) -> int:
        """Pass on what they say until one ends or somebody says so; return the exit code of all."""
        # No sooner: what runs between fork and exec must not meet another thread's lock.
        for name, process in self._running.items():
            assert process.stdout is not None
            reader = threading.Thread(target=self._read, args=(name, process.stdout), daemon=True)
            reader.start()
            self._readers.append(reader)
        while not self._told:
            for name, process in self._running.items():
                if (code := process.poll()) is not None:
                    self._say("dev", f"{name} ended with {_said(code)}: the others end, too")
                    return code if code > 0 else failure.FAILED
            time.sleep(LOOKS)
        return failure.OK

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._told = True
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    def _end(self) -> None:
        if not self._told:
            self._signal(signal.SIGTERM)
        until = time.monotonic() + PATIENCE
        for process in self._running.values():
            # Ctrl-C may be pressed again meanwhile, and is handed on.
            while process.poll() is None and time.monotonic() < until:
                time.sleep(LOOKS)
            if process.poll() is None:
                process.kill()
                process.wait()
        for reader in self._readers:
            reader.join(1.0)

    def _read(self, name: str, stream: IO[bytes]) -> None:
        for line in stream:
            self._say(name, line.decode(errors="replace").rstrip("\n"))


class _Printer:
    """Lines of several processes, each with its name before it, none inside another."""

    def __init__(self, session: Session) -> None:
        self._lock = threading.Lock()
        self._color = session.color
        self._width = max(map(len, COLOURS))

    def __call__(self, name: str, text: str) -> None:
        prefix = click.style(f"{name:<{self._width}} │", fg=COLOURS[name])
        with self._lock, contextlib.suppress(BrokenPipeError):
            click.echo(f"{prefix} {text}", color=self._color)


def _said(code: int) -> str:
    return f"status {code}" if code >= 0 else signal.Signals(-code).name
