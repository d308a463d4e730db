"""A proxy that loses COMMITs: on their way, while they are executed, or their answers."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from typing import Literal

from psycopg.conninfo import conninfo_to_dict, make_conninfo

_COMMIT = re.compile(rb"COMMIT;?\0")
Moment = Literal["before", "during", "after"]


class LosingCommits:
    """Forwards connections to the server of a DSN, and cuts those of the first few COMMITs.

    before: it never arrives · during: it arrives · after: it was executed, the answer is lost.
    """

    def __init__(self, dsn: str, moment: Moment, times: int = 1) -> None:
        self._target = dsn
        self._moment = moment
        self._left = times
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._pairs: list[tuple[socket.socket, socket.socket]] = []

    def __enter__(self) -> LosingCommits:
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        self.dsn = make_conninfo(
            self._target, host="127.0.0.1", hostaddr=None, port=port, sslmode="disable"
        )
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for pair in self._pairs:
            _cut(pair)
        for thread in self._threads:
            thread.join(10)
        for pair in self._pairs:
            for each in pair:
                each.close()

    @property
    def left(self) -> int:
        return self._left

    def _accept(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                near, _ = self._listening.accept()
                pair = near, _connect(self._target)
                self._pairs.append(pair)
                answered = threading.Event()
                self._start(self._forward, pair, answered)
                self._start(self._answer, pair, answered)

    def _forward(self, pair: tuple[socket.socket, socket.socket], lose: threading.Event) -> None:
        near, far = pair
        with suppress(OSError):
            while data := near.recv(65_536):
                if _COMMIT.search(data) and self._takes_one():
                    if self._moment == "after":
                        lose.set()
                    if self._moment != "before":
                        far.sendall(data)
                    if self._moment != "after":
                        break
                else:
                    far.sendall(data)
        if not lose.is_set():
            _cut(pair)

    def _answer(self, pair: tuple[socket.socket, socket.socket], lose: threading.Event) -> None:
        near, far = pair
        with suppress(OSError):
            while (data := far.recv(65_536)) and not lose.is_set():
                near.sendall(data)
        _cut(pair)

    def _takes_one(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]  # our own
        self._threads.append(thread)
        thread.start()


def _connect(dsn: str) -> socket.socket:
    known = conninfo_to_dict(dsn)
    host, port = str(known["host"]), known.get("port") or 5432
    if not host.startswith("/"):
        return socket.create_connection((host, int(port)))
    far = socket.socket(socket.AF_UNIX)
    far.connect(f"{host}/.s.PGSQL.{port}")
    return far


def _cut(pair: tuple[socket.socket, socket.socket]) -> None:
    for each in pair:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
