"""Service: the service manager that started this worker, told what becomes of it (sd_notify)."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, MutableMapping

from pgtask.errors import ConfigError

log = logging.getLogger("pgtask.worker")

STATUS = 2.0  # s between two lines of status, at least


class Service:
    """Who listens at NOTIFY_SOCKET; without one, nobody is told anything."""

    def __init__(self, address: str, watchdog: float | None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog = watchdog  # s without a sign of life after which we are killed
        self._socket: socket.socket | None = None
        self._deaf = False
        self._status = ""
        self._said = self._petted = float("-inf")

    @classmethod
    @contextlib.contextmanager
    def open(cls, environ: MutableMapping[str, str]) -> Iterator[Service]:
        """Yield the service manager of this environment, whose words are taken out of it.

        What a task starts is not the worker, and must not speak for it. Raises ConfigError.
        """
        address = environ.pop("NOTIFY_SOCKET", "")
        usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        if usec and not usec.isdigit():
            raise ConfigError(f"WATCHDOG_USEC = {usec!r} is no number → leave it to systemd")
        ours = int(usec or 0) > 0 and pid in ("", str(os.getpid()))
        service = cls(address, int(usec) / 1e6 if ours else None)
        with contextlib.ExitStack() as stack:
            if address.startswith(("/", "@")):
                service._socket = stack.enter_context(
                    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                )
                service._socket.settimeout(0)
            elif address:
                log.warning("NOTIFY_SOCKET = %r is neither a path nor @name: ignored", address)
            yield service

    @property
    def pause(self) -> float:
        """Seconds between two calls of attend()."""
        return min(1.0, self._watchdog / 2) if self._watchdog else 1.0

    def tell(self, *words: str) -> None:
        """Send these assignments (READY=1, STATUS=…) in one message."""
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(words).encode(), self._address)
        except OSError as error:
            if not self._deaf:
                log.warning("the service manager cannot be told %s: %s", words[0], error)
            self._deaf = True
        else:
            self._deaf = False

    def attend(self, *, is_well: bool, status: str) -> None:
        """Say what the worker does, now and then, and that it lives, if it is well."""
        if self._socket is None:
            return
        now = time.monotonic()
        words = []
        if status != self._status and now - self._said >= STATUS:
            self._status, self._said = status, now
            words.append(f"STATUS={status}")
        if self._watchdog and is_well and now - self._petted >= self._watchdog / 2 - 0.05:
            self._petted = now
            words.append("WATCHDOG=1")
        if words:
            self.tell(*words)
