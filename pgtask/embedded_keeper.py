"""The keeper: a detached process that owns one embedded PostgreSQL and ends it with its last user.

Runs as a script under `python -I -S`, so it imports the standard library only: a keeper that loaded
pgtask would cost every laptop the memory of a driver it never uses. embedded.py imports the few
functions that both sides must agree on.

Invariant: whoever holds the exclusive lock on `keeper` owns everything else in the directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import json
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

PORT = 5432
CHECKS_A_SECOND = 5
LOG_LINES_SHOWN = 20
START_TIMEOUT = 300.0
STOP_TIMEOUT = 30.0
PR_SET_PDEATHSIG = 1
TOO_MANY_CONNECTIONS = "53300"


class KeeperError(Exception):
    """The server could not be made or started; the message goes to the client that asked."""


class ServerError(Exception):
    """PostgreSQL answered with an error."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(f"{message} (SQLSTATE {sqlstate})")
        self.sqlstate = sqlstate


class Plan(NamedTuple):
    """What one keeper is to run; every path is absolute. Linger is in seconds."""

    directory: str
    bindir: str
    sockets: str
    password_file: str
    version: str
    major: int
    durable: bool
    linger: float
    uid: int | None
    gid: int | None

    @property
    def data(self) -> str:
        return str(Path(self.directory) / "data")

    @property
    def groups(self) -> list[int] | None:
        """Supplementary groups of the server: none of root's, or what the keeper has."""
        return None if self.uid is None else []


def try_lock(descriptor: int, kind: int) -> bool:
    """Take the flock without waiting; False when another open file has it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def command_line(pid: int) -> list[str]:
    """The arguments of a live process, [] when there is none (or only a zombie)."""
    if Path("/proc/self/cmdline").exists():
        try:
            raw = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return []
        return [os.fsdecode(part) for part in raw.split(b"\0")[:-1]]
    shown = subprocess.run(
        ["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False
    )
    return os.fsdecode(shown.stdout).split()


def query(sockets: str, sql: str | None = None, timeout: float = 60.0) -> int:
    """Connect as postgres, run one statement, return the number of rows.

    Raises OSError when nothing listens, ServerError when the server refuses.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as wire:
        wire.settimeout(timeout)
        wire.connect(f"{sockets}/.s.PGSQL.{PORT}")
        body = struct.pack("!i", 196608) + b"user\0postgres\0database\0postgres\0\0"
        wire.sendall(struct.pack("!i", len(body) + 4) + body)
        rows = _read_until_ready(wire)
        if sql is not None:
            text = sql.encode() + b"\0"
            wire.sendall(b"Q" + struct.pack("!i", len(text) + 4) + text)
            rows = _read_until_ready(wire)
        wire.sendall(b"X\0\0\0\4")
    return rows


def answers(sockets: str) -> bool:
    """True when the server takes connections, even if it has none left to give."""
    try:
        query(sockets, timeout=5.0)
    except ServerError as error:
        return error.sqlstate == TOO_MANY_CONNECTIONS
    except OSError:
        return False
    return True


def _read_until_ready(wire: socket.socket) -> int:
    rows = 0
    failure: ServerError | None = None
    while True:
        kind, length = struct.unpack("!ci", _read(wire, 5))
        body = _read(wire, length - 4)
        if kind == b"D":
            rows += 1
        elif kind == b"E":
            fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0")}
            failure = ServerError(fields.get(b"C", ""), fields.get(b"M", ""))
            if fields.get(b"S") in {"FATAL", "PANIC"}:
                raise failure
        elif kind == b"R" and body[:4] != b"\0\0\0\0":
            raise ServerError("28000", "the server asks postgres for a password")
        elif kind == b"Z":
            if failure is not None:
                raise failure
            return rows


def _read(wire: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = wire.recv(size - len(parts))
        if not part:
            raise ConnectionResetError("the server closed the connection")
        parts += part
    return parts


class Signals:
    """Signals as facts to look at, and a pause that any of them ends."""

    def __init__(self) -> None:
        self.stop = False
        self.pinned = False
        self._read, self._write = socket.socketpair()
        self._read.settimeout(0)
        self._write.settimeout(0)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGUSR1, self._on_pin)
        for number in (signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, self._on_noise)

    def pause(self, seconds: float) -> None:
        self._read.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            self._read.recv(4096)

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stop = True

    def _on_pin(self, _number: int, _frame: FrameType | None) -> None:
        self.pinned = True

    def _on_noise(self, _number: int, _frame: FrameType | None) -> None:
        """A handler, not SIG_IGN: an ignored signal would stay ignored in PostgreSQL."""


class Keeper:
    """One run of one server; the caller holds the keeper lock."""

    def __init__(self, plan: Plan, signals: Signals) -> None:
        self.plan = plan
        self.signals = signals
        self.directory = Path(plan.directory)
        self.log = self.directory / "postgres.log"
        self.log_start = self.log.stat().st_size if self.log.exists() else 0

    def start(self) -> subprocess.Popen[bytes]:
        self._end_orphan()
        self._make_sockets()
        self._write_hba()
        if not Path(self.plan.data).exists():
            self._initialise()
        for attempt in (1, 2):
            server = self._spawn()
            with contextlib.ExitStack() as undo:
                undo.callback(self.stop, server)
                if self._wait_until_ready(server):
                    self._make_role_and_database()
                    undo.pop_all()
                    return server
            if self.signals.stop:
                raise KeeperError("stopped while PostgreSQL was starting")
            if attempt == 1:
                # Backends of a killed postmaster need a moment to notice and let go of its memory.
                self.signals.pause(1.0)
                self._end_orphan()
        raise KeeperError(
            f"PostgreSQL {self.plan.version} did not start in {self.plan.data}; "
            f"the end of {self.log}:\n{self._log_tail()}"
        )

    def watch(self, server: subprocess.Popen[bytes], lease: int) -> None:
        """Return when the server is gone, a stop was asked for, or nobody used it for `linger`.

        In the last case the exclusive lock on `lease` is kept, so that newcomers wait until the
        server is down instead of joining one that is about to go.
        """
        idle_since: float | None = None
        recorded = False
        while server.poll() is None and not self.signals.stop:
            if self.signals.pinned and not recorded:
                self.record(server)
                recorded = True
            self.signals.pause(1 / CHECKS_A_SECOND)
            if self.signals.pinned or not try_lock(lease, fcntl.LOCK_EX):
                idle_since = None
                continue
            idle_since = idle_since or time.monotonic()
            if time.monotonic() - idle_since >= self.plan.linger:
                return
            fcntl.flock(lease, fcntl.LOCK_UN)

    def record(self, server: subprocess.Popen[bytes]) -> None:
        """Say in state.json what runs. The file exists only while the server is ready."""
        state = {
            "keeper_pid": os.getpid(),
            "server_pid": server.pid,
            "version": self.plan.version,
            "pinned": self.signals.pinned,
        }
        fresh = self.directory / "state.new"
        fresh.write_text(json.dumps(state))
        fresh.replace(self.directory / "state.json")

    def forget(self) -> None:
        (self.directory / "state.json").unlink(missing_ok=True)

    def stop(self, server: subprocess.Popen[bytes]) -> None:
        """Fast shutdown; then immediate; then kill, which crash recovery survives."""
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if server.poll() is not None:
                return
            server.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(STOP_TIMEOUT)

    def _initialise(self) -> None:
        """Make a cluster beside its place, then rename: half of one is never taken for a whole.

        The draft's name is new each time, because where a keeper's death does not end its initdb,
        that one goes on writing to the path it was given.
        """
        for leftover in self.directory.glob("data.init*"):
            shutil.rmtree(leftover, ignore_errors=True)
        draft = self.directory / f"data.init.{os.getpid()}.{time.time_ns()}"
        self._make_private(draft)
        locale = ["--locale=C"]
        if self.plan.major >= 17:
            locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        made = subprocess.run(
            [
                str(Path(self.plan.bindir) / "initdb"),
                *("-D", str(draft), "-U", "postgres", "-E", "UTF8", *locale),
                *("--auth-local=trust", "--auth-host=reject", "--no-instructions"),
                *(() if self.plan.durable else ("--no-sync",)),
            ],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=2,
            user=self.plan.uid,
            group=self.plan.gid,
            extra_groups=self.plan.groups,
            preexec_fn=_die_with_parent(signal.SIGKILL),
            check=False,
        )
        if made.returncode != 0:
            raise KeeperError(
                f"initdb of {self.plan.bindir} failed (exit {made.returncode}) in {draft}; "
                f"the end of {self.log}:\n{self._log_tail()}"
            )
        draft.rename(self.plan.data)

    def _spawn(self) -> subprocess.Popen[bytes]:
        settings = {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": self.plan.sockets,
            "hba_file": str(self.directory / "pg_hba.conf"),
            "max_connections": "100",
            "shared_buffers": "128MB",
            "logging_collector": "off",
            "fsync": "on" if self.plan.durable else "off",
        }
        if not self.plan.durable:
            settings |= {"synchronous_commit": "off", "full_page_writes": "off"}
        command = [str(Path(self.plan.bindir) / "postgres"), "-D", self.plan.data]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return subprocess.Popen(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=2,
            user=self.plan.uid,
            group=self.plan.gid,
            extra_groups=self.plan.groups,
            preexec_fn=_die_with_parent(signal.SIGINT),
        )

    def _wait_until_ready(self, server: subprocess.Popen[bytes]) -> bool:
        """Ready means that a connection answered, never that a process exists."""
        deadline = time.monotonic() + START_TIMEOUT
        while server.poll() is None:
            if answers(self.plan.sockets):
                return True
            if self.signals.stop or time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return False

    def _make_role_and_database(self) -> None:
        password = Path(self.plan.password_file).read_text().strip().rpartition(":")[2]
        if not query(self.plan.sockets, "SELECT FROM pg_roles WHERE rolname = 'pgtask'"):
            query(self.plan.sockets, "CREATE ROLE pgtask LOGIN")
        # Every time, so that a lost or replaced pgpass heals at the next start.
        query(self.plan.sockets, f"ALTER ROLE pgtask LOGIN PASSWORD '{password}'")
        if not query(self.plan.sockets, "SELECT FROM pg_database WHERE datname = 'pgtask'"):
            query(self.plan.sockets, "CREATE DATABASE pgtask OWNER pgtask")

    def _end_orphan(self) -> None:
        """No postmaster may survive its keeper: stop ours, and drop a pid file that names another.

        PostgreSQL itself refuses to start while the pid in the file belongs to any live process of
        the same user, which is the usual state after a container restart.
        """
        pid_file = Path(self.plan.data) / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split("\n", 1)[0])
        except (FileNotFoundError, NotADirectoryError, ValueError):
            pid = 0
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if not self._is_our_postmaster(pid):
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            _wait_while(lambda: self._is_our_postmaster(pid), STOP_TIMEOUT)
        pid_file.unlink(missing_ok=True)

    def _is_our_postmaster(self, pid: int) -> bool:
        words = command_line(pid) if pid > 0 else []
        if ("-D", self.plan.data) in itertools.pairwise(words):
            return True
        # Where only `ps` tells, a path with blanks is split: look for it in the whole line.
        line = " ".join(words)
        return not Path("/proc/self/cmdline").exists() and f"-D {self.plan.data} " in line

    def _make_sockets(self) -> None:
        """A directory that only the server's user may enter; what a dead server left there goes."""
        directory = Path(self.plan.sockets)
        if not os.path.lexists(directory):
            self._make_private(directory)
        found = directory.lstat()
        owner = os.geteuid() if self.plan.uid is None else self.plan.uid
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
            raise KeeperError(
                f"the socket directory {directory} is not a private directory of uid {owner}; "
                "remove it and try again"
            )
        for leftover in directory.iterdir():
            leftover.unlink()

    def _make_private(self, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        if self.plan.uid is not None and self.plan.gid is not None:
            os.chown(directory, self.plan.uid, self.plan.gid)

    def _write_hba(self) -> None:
        """Trust is for postgres alone, behind the socket directory's mode.

        pgtask is asked for its password because dblink serves an unprivileged role only when the
        server really demanded one.
        """
        rules = self.directory / "pg_hba.conf"
        fresh = self.directory / "pg_hba.new"
        fresh.write_text(
            "local all pgtask scram-sha-256\n"
            "local all postgres trust\n"
            "local replication postgres trust\n"
            "local all all scram-sha-256\n"
        )
        fresh.chmod(0o600 if self.plan.uid is None else 0o644)
        fresh.replace(rules)

    def _log_tail(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self.log_start)
            text = log.read().decode(errors="replace")
        return "\n".join(f"  {line}" for line in text.splitlines()[-LOG_LINES_SHOWN:])


def _die_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """For the child between fork and exec: on Linux a killed keeper takes its children along.

    Other systems have no such call; there the next keeper ends the orphan.
    """
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    keeper = os.getpid()

    def ask_the_kernel() -> None:
        libc.prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != keeper:
            os._exit(1)

    return ask_the_kernel


def _wait_while(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _report(result: dict[str, str]) -> None:
    """Answer the client on standard output and close it."""
    # The client may have been killed while it waited; the next one finds the server running.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(result).encode())
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


@contextlib.contextmanager
def _file(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def main(arguments: list[str]) -> int:
    """Run one server until nobody uses it; 0 when it ended in order.

    Forks first, so that the keeper is not a child of its client: it would be left as a zombie
    there, and would turn up in a supervisor's waitpid().
    """
    if os.fork():
        return 0
    plan = Plan(**json.loads(arguments[0]))
    signals = Signals()
    os.umask(0o077)
    directory = Path(plan.directory)
    with _file(directory / "keeper") as keeper_lock, _file(directory / "lease") as lease:
        # Others test this lock by taking it for an instant: hence the patience.
        if not _wait_while(lambda: not try_lock(keeper_lock, fcntl.LOCK_EX), 5.0):
            _report({"error": f"another keeper runs in {directory}"})
            return 1
        keeper = Keeper(plan, signals)
        keeper.forget()
        try:
            server = keeper.start()
        except (KeeperError, ServerError, OSError, subprocess.SubprocessError) as error:
            _report({"error": str(error)})
            return 1
        try:
            keeper.record(server)
            _report({"ok": plan.version})
            keeper.watch(server, lease)
        finally:
            keeper.forget()
            keeper.stop(server)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
