"""Zygote: has the user's modules imported, no threads and no connections, and forks children.

Nothing that ever opened a connection or a thread forks: libpq sockets and locks do not survive it.
Started by the supervisor as `python -m pgtask.worker.zygote FD APP WORKER INSTALLATION`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar
from uuid import UUID

import msgspec

from pgtask.errors import AppNotFound
from pgtask.worker import child, logs
from pgtask.worker.runner import Runner
from pgtask.worker.slot import Slot

T = TypeVar("T", bound=msgspec.Struct)

_PR_SET_PDEATHSIG = 1


class TaskInfo(msgspec.Struct, array_like=True):
    """What the supervisor must know of a task it never imports."""

    name: str
    is_async: bool
    timeout: float | None
    memory_limit: int | None
    commits: bool  # its job is finished by the task's own transaction


class Loaded(msgspec.Struct, array_like=True, tag="loaded"):
    """The app is imported; `threads` are those its import started, which forbid forking."""

    tasks: list[TaskInfo]
    threads: list[str]


class Broken(msgspec.Struct, array_like=True, tag="broken"):
    """The app could not be imported."""

    message: str
    traceback: str


class Settings(msgspec.Struct, array_like=True, tag="settings"):
    """What App(...) was given."""

    values: dict[str, Any]


class Forked(msgspec.Struct, array_like=True, tag="forked"):
    """Child `number` is process `pid`."""

    number: int
    pid: int


class Died(msgspec.Struct, array_like=True, tag="died"):
    """A child ended; `status` as from waitpid."""

    pid: int
    status: int


class Frozen(msgspec.Struct, array_like=True, tag="frozen"):
    """The supervisor gave no sign of life for so long that its children had to be killed."""

    seconds: float


Announcement = Loaded | Broken | Forked | Died | Frozen


class Fork(NamedTuple):
    """A request: fork a child for sync or async tasks. Its socket and slot come along."""

    number: int
    is_async: bool


# Of fixed size: on a stream, descriptors arrive with the first byte they were sent with.
FORK = struct.Struct("<i?")
SIGN = FORK.pack(0, False)  # noqa: FBT003 - no request: the supervisor lives
# Others may have the jobs of a worker whose heart has not beaten for 30 s, and it beats every 5 s.
SILENCE = 25.0  # s
WATCH = 5.0  # s between two looks
decode_announcement = msgspec.msgpack.Decoder(Announcement).decode


def main(arguments: list[str]) -> int:
    """Load the app, announce its tasks, then fork on request until the supervisor is gone."""
    control = socket.socket(fileno=int(arguments[0]))
    spec, worker, dsn = arguments[1], UUID(arguments[2]), os.environ["PGTASK_DSN"]
    die_with_parent(signal.SIGKILL)
    # As in the children: what is told to every process of the worker is for the supervisor.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: None)
    try:
        app = _load(spec)
        tasks = [
            TaskInfo(
                name,
                task.is_async,
                task.defaults.timeout,
                task.defaults.memory_limit,
                bool(task.transaction),
            )
            for name, task in app.tasks.items()
        ]
    except BaseException as error:  # noqa: BLE001 - a child's main: user modules may raise anything
        _announce(control, _broken(error))
        return 3
    threads = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    _announce(control, Loaded(tasks, threads))
    runner = Runner(app, worker, dsn, installation=arguments[3])
    # What is alive now is shared with every child; a collection there would copy the pages.
    gc.collect()
    gc.freeze()
    _serve(control, runner, arguments, spawn=bool(threads))
    return 0


def _serve(control: socket.socket, runner: Runner, arguments: list[str], *, spawn: bool) -> None:
    # From now on the end of the supervisor shows on the socket, and what it leaves is killed. Where
    # this process is stopped, it must go on for that.
    die_with_parent(signal.SIGCONT)
    living: set[int] = set()
    try:
        _fork_on_request(control, runner, arguments, living, spawn=spawn)
    except (BrokenPipeError, ConnectionResetError):
        return  # the supervisor is gone; so is who would want to hear of it
    finally:
        _kill(living)


def _fork_on_request(
    control: socket.socket, runner: Runner, arguments: list[str], living: set[int], *, spawn: bool
) -> None:
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    heard = looked = time.monotonic()
    while True:
        readable, _, _ = select.select([control.fileno(), woken], [], [], WATCH)
        now = time.monotonic()
        if now - looked > 2 * WATCH:
            heard = now  # this process stood still as well: whether the other did will show
        looked = now
        if woken in readable:
            os.read(woken, 4096)
            _reap(control, living)
        if control.fileno() not in readable:
            if living and now - heard > SILENCE:
                _announce(control, Frozen(now - heard))
                _kill(living)
            continue
        heard = now
        data, descriptors, _, _ = socket.recv_fds(control, FORK.size, 2)
        if len(data) < FORK.size:
            return
        if data == SIGN:
            continue
        request = Fork._make(FORK.unpack(data))
        if spawn:
            pid = _spawn(request, descriptors, arguments)
        else:
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                for descriptor in (woken, wake):
                    os.close(descriptor)
                control.close()
                run_child(runner, request, *descriptors)
        living.add(pid)
        # Also here: it must be there before anybody wants to kill it.
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
        for descriptor in descriptors:
            os.close(descriptor)
        _announce(control, Forked(request.number, pid))


def run_child(runner: Runner, request: Fork, socket_descriptor: int, slot_descriptor: int) -> None:
    """Be a child until the pipe closes; never returns."""
    status = 1
    try:
        child.reset_process()
        die_with_parent(signal.SIGKILL)
        connection = socket.socket(fileno=socket_descriptor)
        serve = child.serve_async if request.is_async else child.serve
        serve(runner, connection, Slot(slot_descriptor))
        status = 0
    except (BrokenPipeError, ConnectionResetError):
        status = 0  # the supervisor is gone, and with it the reason to be
    except BaseException:  # noqa: BLE001 - a child's main: say why it ends, then end
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _spawn(request: Fork, descriptors: list[int], arguments: list[str]) -> int:
    # Threads are alive: a forked child could inherit a lock that nobody will ever release.
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)  # noqa: FBT003 - has no name
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pgtask.worker.zygote",
            "--child",
            *arguments[1:4],
            "async" if request.is_async else "sync",
            *map(str, descriptors),
        ],
        pass_fds=descriptors,
        process_group=0,
    )
    # _reap() waits for every child process; Popen must not.
    process.returncode = 0
    return process.pid


def _reap(control: socket.socket, living: set[int]) -> None:
    while (ended := _wait()) is not None:
        living.discard(ended[0])
        _announce(control, Died(*ended))


def _wait() -> tuple[int, int] | None:
    """Return pid and status of a child that has ended; what its tasks started is killed."""
    try:
        if hasattr(os, "waitid"):
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None:
                return None
            # As long as nobody has waited for it, no other process group can have its number.
            _kill([found.si_pid])
            return os.waitpid(found.si_pid, 0)
        pid, status = os.waitpid(-1, os.WNOHANG)  # macOS
    except ChildProcessError:
        return None
    if pid == 0:
        return None
    _kill([pid])
    return pid, status


def _kill(pids: Iterable[int]) -> None:
    """Kill child processes and all that their tasks have started."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _announce(control: socket.socket, announcement: Announcement) -> None:
    payload = msgspec.msgpack.encode(announcement)
    control.sendall(len(payload).to_bytes(4, "little") + payload)


def _load(spec: str) -> Any:
    from pgtask.discover import load_app

    app = load_app(spec, Path.cwd())
    app.load()
    # After the import: an application that sets up logging itself has its way.
    shape: Any = os.environ.get("PGTASK_LOG_FORMAT", "text")
    logs.configure(os.environ.get("PGTASK_LOG_LEVEL", "INFO"), shape)
    return app


def _broken(error: BaseException) -> Broken:
    if isinstance(error, AppNotFound):  # its note is the traceback, trimmed to the user's frames
        return Broken(str(error), "".join(getattr(error, "__notes__", ())))
    return Broken(f"{type(error).__name__}: {error}", traceback.format_exc())


def die_with_parent(number: signal.Signals) -> None:
    """Ask the kernel (Linux) for this signal when the parent dies; else the pipe's end must do."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it died in between
            os._exit(1)


def settings_of(spec: str) -> dict[str, Any]:
    """Return what App(...) says about the database and limits, asked in a process of its own.

    The supervisor needs it before it connects, and never imports the app. Raises AppNotFound.
    """
    asked = subprocess.run(
        [sys.executable, "-m", "pgtask.worker.zygote", "--settings", spec],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return heard(spec, asked.stdout, asked.returncode, Settings).values


def heard(spec: str, output: bytes, status: int, kind: type[T]) -> T:
    """The answer of a process that called tell(). Raises AppNotFound if it could not."""
    # The app's own prints come first; the answer is the last line.
    lines = output.splitlines()
    try:
        answer: T | Broken = msgspec.json.decode(lines[-1] if lines else b"", type=kind | Broken)
    except msgspec.DecodeError as error:
        raise AppNotFound(
            f"importing {spec!r} ended the process with status {status}"
            " → run the module alone to see why"
        ) from error
    if isinstance(answer, Broken):
        broken = AppNotFound(answer.message)
        broken.add_note(answer.traceback)
        raise broken
    return answer


def tell(spec: str, about: Callable[[Any], msgspec.Struct]) -> NoReturn:
    """Import the app, write what there is to say about it as the last line, and end."""
    try:
        answer = about(_load(spec))
    except BaseException as error:  # noqa: BLE001 - a child's main: user modules may raise anything
        answer = _broken(error)
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] == "--settings":
        tell(sys.argv[2], lambda app: Settings(dict(app.settings)))
    if sys.argv[1] == "--child":
        _spec, _worker, _installation, _kind, _socket, _slot = sys.argv[2:]
        run_child(
            Runner(_load(_spec), UUID(_worker), os.environ["PGTASK_DSN"], _installation),
            Fork(0, _kind == "async"),
            int(_socket),
            int(_slot),
        )
    raise SystemExit(main(sys.argv[1:]))
