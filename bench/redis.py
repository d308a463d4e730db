"""The Redis of the peers that need one: the installed redis-server, nothing persisted."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench import processes
from bench.environments import NotAvailable

START = 10.0


class Redis:
    """A running server."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self.url = f"redis://127.0.0.1:{port}"

    def cpu(self) -> float:
        return processes.cpu(self.pid)


@contextmanager
def running() -> Iterator[Redis]:
    """Start a server that keeps nothing on disk; raises NotAvailable when none is installed."""
    program = _program()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        program,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        _wait(server, port)
        yield Redis(server.pid, port)
    finally:
        server.terminate()
        server.wait()


def version() -> str:
    """What `redis-server --version` says."""
    told = subprocess.run([_program(), "--version"], capture_output=True, text=True, check=True)
    return told.stdout.partition("v=")[2].partition(" ")[0]


def _program() -> str:
    program = shutil.which("redis-server")
    if program is None:
        raise NotAvailable("there is no redis-server; install it (Debian, Ubuntu: redis-server)")
    return program


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise NotAvailable("redis-server does not start") from None
        time.sleep(0.02)
