"""The directory of one embedded server: its paths, its locks, and what they tell.

Three files are locks, and stay for ever, since a newcomer may be waiting on any of them: `lease`
(shared: somebody uses the server; exclusive: nobody does), `keeper` (exclusive: a keeper lives) and
`start` (shared: looking whether the server is ready; exclusive: starting it, or ending it).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pgtask.embedded_keeper import answers, command_line, try_lock
from pgtask.embedded_place import Account, make_directory, make_home, socket_directory
from pgtask.errors import EmbeddedError

PATIENCE = 360.0


class Holder(NamedTuple):
    """A process that holds a lease."""

    pid: int
    command: str


class Instance:
    """One server's place in a home: `pg18`, or `pg18-fast` for one that runs without durability.

    The two never share data, so a cluster that ran without fsync is not taken for a safe one.
    """

    def __init__(self, home: Path, account: Account | None, major: int, *, durable: bool) -> None:
        self.home = home
        self.account = account
        self.directory = home / (f"pg{major}" if durable else f"pg{major}-fast")
        self.data = self.directory / "data"
        self.log_path = self.directory / "postgres.log"
        self.state_path = self.directory / "state.json"
        self.sockets = socket_directory(self.directory, account)

    def create(self) -> None:
        """Make the directory, and the home around it, unless they are there."""
        make_home(self.home, self.account)
        if not self.directory.exists():
            make_directory(self.directory, 0o700 if self.account is None else 0o711, {"lease": ""})

    def share_lease(self, descriptor: int) -> None:
        """Take the shared lease: at once, but while the keeper looks or the server goes down."""
        self.wait(lambda: try_lock(descriptor, fcntl.LOCK_SH))

    @contextlib.contextmanager
    def starting(self, kind: int) -> Iterator[None]:
        """Hold the `start` lock, shared or exclusive."""
        descriptor = open_lock(self.directory / "start")
        try:
            fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def alone(self, *, force: bool) -> Iterator[None]:
        """Hold the lease exclusively, so that nobody joins meanwhile; with force, go on without."""
        descriptor = open_lock(self.directory / "lease")
        try:
            # The keeper's own look takes an instant, a holder that is just ending a little more.
            deadline = time.monotonic() + 0.5
            while not (mine := try_lock(descriptor, fcntl.LOCK_EX)):
                if force or time.monotonic() > deadline:
                    break
                time.sleep(0.02)
            if not (mine or force):
                who = ", ".join(f"{pid} ({command})" for pid, command in self.holders())
                raise EmbeddedError(
                    f"the private PostgreSQL in {self.directory} is in use by process "
                    f"{who or '(id unknown here)'}; end it first"
                )
            yield
        finally:
            os.close(descriptor)

    def kept(self) -> bool:
        """Whether a keeper lives; its lock says so, never a process id."""
        try:
            descriptor = os.open(self.directory / "keeper", os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            return not try_lock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def state(self) -> dict[str, Any]:
        """What the keeper wrote down; {} while it has no server that is ready."""
        try:
            found: dict[str, Any] = json.loads(self.state_path.read_text())
        except FileNotFoundError:
            return {}
        return found

    def ready(self) -> str | None:
        """The version of the server that takes connections; None when there is none.

        To be called under the `start` lock: spawners hold it exclusively and remove a dead keeper's
        state first, so a state beside a living keeper means a server that is ready.
        """
        if not self.kept():
            return None
        state = self.state()
        return str(state["version"]) if state and answers(str(self.sockets)) else None

    def end_keeper(self) -> None:
        """Have the keeper stop its server, and wait until both are gone."""
        self.wait(lambda: self.state() or not self.kept())
        if self.state():
            self.signal_keeper(signal.SIGTERM)
        self.wait(lambda: not self.kept())

    def signal_keeper(self, number: signal.Signals) -> None:
        pid = self.state().get("keeper_pid", 0)
        # The number of another container's keeper belongs to a stranger here, or to nobody.
        if any(str(self.directory) in word for word in command_line(pid)):
            os.kill(pid, number)
        elif self.kept():
            raise EmbeddedError(
                f"the keeper of {self.directory} (process {pid}) cannot be seen from here; "
                "stop it where it was started"
            )

    def holders(self) -> Iterator[Holder]:
        """Who holds the lease, where the system tells (Linux)."""
        try:
            inode = (self.directory / "lease").stat().st_ino
            locks = Path("/proc/locks").read_text().splitlines()
        except OSError:
            return
        for words in map(str.split, locks):
            # 1: FLOCK ADVISORY READ 4711 fd:01:262146 0 EOF; a waiting lock has an arrow in front.
            if words[1:4] == ["FLOCK", "ADVISORY", "READ"] and words[5].endswith(f":{inode}"):
                yield Holder(int(words[4]), " ".join(command_line(int(words[4]))))

    def wait(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"waited {PATIENCE:g} s for the private PostgreSQL in {self.directory}; "
                    f"see {self.log_path}, or end it with: pgtask db stop"
                )
            time.sleep(0.02)


def open_lock(path: Path) -> int:
    """Open a lock file; Python closes it on exec, so that a started program holds no lock."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
