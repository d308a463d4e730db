"""Proxy: stands between clients and a PostgreSQL, and can fall silent, cut, or refuse."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class Proxy:
    """Listens on 127.0.0.1:`port` while entered, and forwards to a host, or a socket's directory.

    with Proxy(host, port) as proxy:
        connect(proxy.dsn(dsn))
        proxy.freeze()
    """

    def __init__(self, host: str, port: int | str) -> None:
        self._there = (host, int(port))
        self._listening: socket.socket | None = None
        self._flows = threading.Event()
        self._flows.set()
        self._lock = threading.Lock()
        self._wires: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._delay = 0.0
        self.port = 0
        self.accepted = 0  # connections so far

    @classmethod
    def before(cls, dsn: str) -> Proxy:
        """A proxy for the server of this DSN."""
        where = conninfo_to_dict(dsn)
        return cls(str(where.get("host") or "/tmp"), str(where.get("port") or 5432))

    def dsn(self, dsn: str) -> str:
        """This DSN, by way of the proxy."""
        return make_conninfo(
            dsn, host="127.0.0.1", hostaddr=None, port=self.port, sslmode="disable"
        )

    def __enter__(self) -> Proxy:
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._flows.set()
        for thread in self._threads:
            thread.join(10)
        with self._lock:
            for wire in self._wires:
                wire.close()

    def freeze(self) -> None:
        """Forward nothing more, of old connections or new: a half-open network."""
        self._flows.clear()

    def thaw(self) -> None:
        """Forward again, what was held back first."""
        self._flows.set()

    def delay(self, seconds: float) -> None:
        """Forward each packet so much later."""
        self._delay = seconds

    def cut(self) -> None:
        """Break every connection; new ones are welcome."""
        with self._lock:
            for wire in self._wires:
                with suppress(OSError):
                    wire.shutdown(socket.SHUT_RDWR)

    def refuse(self) -> None:
        """Break every connection, and refuse new ones until accept()."""
        listening, self._listening = self._listening, None
        if listening is not None:
            # Wakes the thread that waits in accept().
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()
        self.cut()

    def accept(self) -> None:
        """Take connections, on the same port as before."""
        if self._listening is None:
            self._listening = socket.create_server(("127.0.0.1", self.port))
            self.port = int(self._listening.getsockname()[1])
            self._start(self._welcome, self._listening)

    def _start(self, *call: object) -> None:
        function, *arguments = call
        thread = threading.Thread(target=function, args=arguments, name="proxy", daemon=True)  # type: ignore[arg-type]
        self._threads = [known for known in self._threads if known.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _welcome(self, listening: socket.socket) -> None:
        while True:
            try:
                here, _ = listening.accept()
            except OSError:
                return  # refuse()
            self.accepted += 1
            self._remember(here)
            self._start(self._join, here, listening)

    def _join(self, here: socket.socket, listening: socket.socket) -> None:
        self._flows.wait()
        host, port = self._there
        family = socket.AF_UNIX if host.startswith("/") else socket.AF_INET
        there = socket.socket(family)
        try:
            there.connect(f"{host}/.s.PGSQL.{port}" if family == socket.AF_UNIX else self._there)
        except OSError:
            there.close()
            self._forget(here)
            return
        self._remember(there)
        if listening is not self._listening:
            self.cut()  # refused meanwhile
        back = threading.Thread(target=self._pump, args=(there, here), name="proxy", daemon=True)
        back.start()
        self._pump(here, there)
        back.join()
        self._forget(here, there)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if self._delay:
                    time.sleep(self._delay)
                self._flows.wait()
                sink.sendall(data)
        # Not while frozen: the end of a connection is a packet, too.
        self._flows.wait()
        for wire in (source, sink):
            with suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)

    def _remember(self, wire: socket.socket) -> None:
        with self._lock:
            self._wires.add(wire)

    def _forget(self, *wires: socket.socket) -> None:
        with self._lock:
            self._wires.difference_update(wires)
            for wire in wires:
                wire.close()
