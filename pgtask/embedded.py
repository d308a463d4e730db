"""A private PostgreSQL for laptops, demo and tests, alive as long as somebody holds a lease on it.

A lease is a shared flock: the kernel gives it back however its holder ends. A detached keeper
(embedded_keeper.py) is the parent of the server and stops it when the last lease is gone. Nothing
here ever looks at, or touches, a server that pgtask did not start itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import quote

from pgtask import embedded_keeper
from pgtask.embedded_instance import Holder, Instance, open_lock
from pgtask.embedded_keeper import PORT, Plan, ServerError, answers, query
from pgtask.embedded_place import (
    SYSTEM_STATE,
    Binaries,
    data_home,
    find_binaries,
    make_system_state,
    password,
    runnable_by,
    server_account,
    settle,
)
from pgtask.errors import EmbeddedError

__all__ = [
    "Binaries",
    "Holder",
    "Lease",
    "Server",
    "Status",
    "data_home",
    "find_binaries",
    "hold_for_process",
    "lease",
    "reset",
    "start_detached",
    "status",
    "stop",
    "url",
]

LARGEST_LOG = 5_000_000


class Status(NamedTuple):
    """What is known about one server without starting it."""

    home: Path
    directory: Path
    log_path: Path
    running: bool
    detached: bool
    version: str | None
    server_pid: int | None
    keeper_pid: int | None
    holders: tuple[Holder, ...]


class Lease:
    """Keeps the server alive until close(), or until the process ends in whatever way.

    An flock belongs to the open file, not to the process: children forked while it is held keep it
    too (closing it here leaves it to them), programs started by exec do not.

    >>> with lease(data_home(Path.cwd())) as held:  # doctest: +SKIP
    ...     psycopg.connect(held.dsn)
    """

    def __init__(self, instance: Instance, descriptor: int, secret: str, version: str) -> None:
        self.home = instance.home
        self.directory = instance.directory
        self.log_path = instance.log_path
        self.sockets = instance.sockets
        self.version = version
        self._password = secret
        self._descriptor: int | None = descriptor

    @property
    def dsn(self) -> str:
        """Conninfo of the unprivileged role pgtask in its database; contains the password."""
        return self.dsn_of("pgtask", "pgtask", self._password)

    @property
    def superuser_dsn(self) -> str:
        """Conninfo of the superuser, for tests that create databases and roles."""
        return self.dsn_of("postgres", "postgres")

    def dsn_of(self, user: str, dbname: str, password: str | None = None) -> str:
        """Conninfo of any other role and database on this server.

        Only postgres is trusted; every other role needs its password.
        """
        words = {"host": str(self.sockets), "port": str(PORT), "dbname": dbname, "user": user}
        if password is not None:
            words["password"] = password
        return " ".join(f"{name}={_quoted(value)}" for name, value in words.items())

    def libpq_environment(self) -> dict[str, str]:
        """What dsn says, for programs that read libpq variables; the password stays in a file."""
        return {
            "PGHOST": str(self.sockets),
            "PGPORT": str(PORT),
            "PGDATABASE": "pgtask",
            "PGUSER": "pgtask",
            "PGPASSFILE": str(self.home / "pgpass"),
        }

    def fileno(self) -> int:
        """The file whose lock is the lease; make it inheritable to keep it across an exec."""
        if self._descriptor is None:
            raise EmbeddedError(f"the lease on {self.directory} is closed; take a new one")
        return self._descriptor

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._descriptor is None else "held"
        return f"<Lease on PostgreSQL {self.version} in {self.directory}, {state}>"


class Server:
    """One private server: how to join, examine and end it.

    As a context manager it gives a lease: `with Server(home, durable=False) as held: ...`
    """

    def __init__(
        self,
        home: Path,
        *,
        durable: bool = True,
        linger: float = 10.0,
        binaries: Binaries | None = None,
        quiet: bool = False,
    ) -> None:
        self.account = server_account()
        self.binaries = binaries or find_binaries(os.environ)
        self.durable = durable
        self.linger = linger
        self.quiet = quiet
        self.instance = Instance(settle(home), self.account, self.binaries.major, durable=durable)
        self._entered: list[Lease] = []

    def __enter__(self) -> Lease:
        self._entered.append(self.lease())
        return self._entered[-1]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._entered.pop().close()

    def lease(self) -> Lease:
        """Join the server, after starting it when it does not run."""
        place = self.instance
        try:
            place.create()
            secret, changed = password(place.home / "pgpass")
            with contextlib.ExitStack() as undo:
                descriptor = open_lock(place.directory / "lease")
                undo.callback(os.close, descriptor)
                place.share_lease(descriptor)
                version = self.ensure()
                if changed:
                    query(str(place.sockets), f"ALTER ROLE pgtask PASSWORD '{secret}'")
                undo.pop_all()
        except (OSError, ServerError) as error:
            raise EmbeddedError(
                f"the private PostgreSQL in {place.directory} cannot be used: {error}; "
                f"see {place.log_path}, or set PGTASK_DSN to a running server"
            ) from error
        return Lease(place, descriptor, secret, version)

    def ensure(self) -> str:
        """The version of the server, which is started unless it runs. The caller holds a lease."""
        with self.instance.starting(fcntl.LOCK_SH):
            version = self.instance.ready()
        return version or self._start()

    def status(self) -> Status:
        place = self.instance
        state = place.state() if place.kept() else {}
        return Status(
            home=place.home,
            directory=place.directory,
            log_path=place.log_path,
            running=bool(state) and answers(str(place.sockets)),
            detached=bool(state.get("pinned")),
            version=state.get("version"),
            server_pid=state.get("server_pid"),
            keeper_pid=state.get("keeper_pid"),
            holders=tuple(place.holders()),
        )

    def url(self) -> str | None:
        """The URL of role pgtask with its password, as libpq reads it; None when none runs."""
        place = self.instance
        if not self.status().running:
            return None
        secret, changed = password(place.home / "pgpass")
        if changed:
            query(str(place.sockets), f"ALTER ROLE pgtask PASSWORD '{secret}'")
        return f"postgresql://pgtask:{secret}@/pgtask?host={quote(str(place.sockets))}&port={PORT}"

    def stop(self, *, force: bool = False) -> bool:
        """End the server, detached or not; False when none runs.

        Raises EmbeddedError when processes hold leases, unless `force`.
        """
        place = self.instance
        if not place.directory.exists():
            return False
        with place.starting(fcntl.LOCK_EX):
            if not place.kept():
                return False
            with place.alone(force=force):
                place.end_keeper()
        return True

    def reset(self) -> bool:
        """Stop the server and delete its data; False when there was none.

        Raises EmbeddedError when processes hold leases.
        """
        place = self.instance
        if not place.directory.exists():
            return False
        with place.starting(fcntl.LOCK_EX), place.alone(force=False):
            if place.kept():
                place.end_keeper()
            existed = place.data.exists()
            if existed:
                shutil.rmtree(place.data)
            for draft in place.directory.glob("data.init*"):
                shutil.rmtree(draft)
            place.log_path.unlink(missing_ok=True)
        return existed

    def start_detached(self) -> Status:
        """Start the server and have its keeper hold it until stop()."""
        place = self.instance
        with self.lease():
            place.signal_keeper(signal.SIGUSR1)
            place.wait(lambda: place.state().get("pinned"))
        return self.status()

    def _start(self) -> str:
        place = self.instance
        with place.starting(fcntl.LOCK_EX):
            # A keeper whose client died is still starting, or one is stopping: either ends soon.
            place.wait(lambda: place.ready() or not place.kept())
            version = place.ready()
            if version is None:
                place.state_path.unlink(missing_ok=True)
                version = self._spawn()
        return version

    def _spawn(self) -> str:
        place = self.instance
        if not self.quiet and not place.data.exists():
            sys.stderr.write(
                f"pgtask: creating a private PostgreSQL {self.binaries.version} "
                f"in {_shown(place.home)} …\n"
            )
            sys.stderr.flush()
        # Python ignores its own settings (-I) and site-packages (-S): a keeper stays small.
        script = Path(embedded_keeper.__file__).absolute()
        command = [sys.executable, "-I", "-S", str(script), json.dumps(self._plan()._asdict())]
        log = self._open_log()
        try:
            starter = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env=_server_environment(),
            )
        finally:
            os.close(log)
        # The process started here forks the keeper and ends, so the keeper is nobody's child. The
        # keeper answers once and closes the pipe; its death closes it too.
        with starter:
            answer = starter.communicate()[0]
        result = json.loads(answer) if answer else {}
        if "ok" not in result:
            reason = result.get("error", f"its keeper died; see {place.log_path}")
            raise EmbeddedError(f"the private PostgreSQL in {place.directory}: {reason}")
        return str(result["ok"])

    def _plan(self) -> Plan:
        place = self.instance
        bindir = self.binaries.bindir
        if self.account is not None:
            bindir = runnable_by(self.account, self.binaries)
        if place.sockets.parent == SYSTEM_STATE:
            make_system_state()
        return Plan(
            directory=str(place.directory),
            bindir=str(bindir),
            sockets=str(place.sockets),
            password_file=str(place.home / "pgpass"),
            version=self.binaries.version,
            major=self.binaries.major,
            durable=self.durable,
            linger=self.linger,
            uid=self.account.uid if self.account else None,
            gid=self.account.gid if self.account else None,
        )

    def _open_log(self) -> int:
        log = self.instance.log_path
        if log.exists() and log.stat().st_size > LARGEST_LOG:
            log.rename(log.with_suffix(".old"))
        return os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def lease(
    home: Path,
    *,
    durable: bool = True,
    linger: float = 10.0,
    binaries: Binaries | None = None,
    quiet: bool = False,
) -> Lease:
    """Join the private server of `home`, after making and starting it when needed.

    It stops `linger` seconds after its last lease is gone; the first comer's word counts. Without
    `durable` a crash of the machine may corrupt it: for tests only. Raises EmbeddedError.

    >>> held = lease(data_home(Path.cwd()))  # doctest: +SKIP
    """
    return Server(home, durable=durable, linger=linger, binaries=binaries, quiet=quiet).lease()


_held: dict[tuple[Path, bool], tuple[Server, Lease]] = {}
_held_lock = threading.Lock()


def hold_for_process(home: Path, *, durable: bool = True, quiet: bool = False) -> Lease:
    """One lease per process and home, given back by the kernel when the process ends.

    Every call makes sure that the server runs: one that died meanwhile is started again. A forked
    child that calls this takes a lease of its own, and holds the inherited one until it ends.
    """
    with _held_lock:
        known = _held.get((home, durable))
        if known is None:
            server = Server(home, durable=durable, quiet=quiet)
            known = _held[home, durable] = server, server.lease()
        else:
            known[0].ensure()
        return known[1]


def _forget_held() -> None:
    global _held_lock
    _held_lock = threading.Lock()
    _held.clear()


os.register_at_fork(after_in_child=_forget_held)


def status(home: Path, *, durable: bool = True) -> Status:
    """What runs in `home`; starts nothing."""
    return Server(home, durable=durable).status()


def url(home: Path, *, durable: bool = True) -> str | None:
    """The URL of the server of `home`, password included; None when none runs. Starts nothing.

    It holds no lease: unless the server is kept by start_detached(), it may stop at any time.
    """
    return Server(home, durable=durable).url()


def stop(home: Path, *, durable: bool = True, force: bool = False) -> bool:
    """End the server of `home`, also a detached one; False when none runs.

    Raises EmbeddedError, naming the processes, when others hold leases, unless `force`.
    """
    return Server(home, durable=durable).stop(force=force)


def start_detached(home: Path, *, durable: bool = True, quiet: bool = False) -> Status:
    """Start the server of `home` and keep it until stop(), whoever comes and goes."""
    return Server(home, durable=durable, quiet=quiet).start_detached()


def reset(home: Path, *, durable: bool = True) -> bool:
    """Stop the server of `home` and delete its data; False when there was none.

    Raises EmbeddedError, naming the processes, when others hold leases.
    """
    return Server(home, durable=durable).reset()


def _server_environment() -> dict[str, str]:
    """Ours without what would steer PostgreSQL: its variables, locales, the service manager."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "LC_", "LANG", "NOTIFY_", "LISTEN_"))
    }
    return ours | {"LC_ALL": "C"}


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _shown(path: Path) -> str:
    try:
        return f"./{path.relative_to(Path.cwd())}"
    except ValueError:
        return str(path)
