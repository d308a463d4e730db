"""LISTEN: one connection that hears what others notify, and hands it to whoever waits."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from pgtask.broker.bounded import BoundedConnection
from pgtask.broker.session import Session

log = logging.getLogger("pgtask.listener")

MAX_PAUSE = 10.0  # s between two attempts to reconnect
STEADY = 10.0  # s: a connection that breaks sooner was none
PING, PONG = 10.0, 5.0  # s: a silent connection is tested so often, and must answer within


class ResultListener:
    """One thread and one connection per process, for everybody who waits for a result.

    Notifications are hints: a waiter also polls, so a lost connection only delays it. Past a
    transaction pooler nothing would be heard: there, everybody polls.
    """

    def __init__(self, dsn: str, *, pooler: str = "auto") -> None:
        self._session = Session(dsn, pooler=pooler)
        self._lock = threading.Lock()
        self._waiting: defaultdict[int, list[Callable[[], object]]] = defaultdict(list)
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._connected = threading.Event()

    @property
    def is_connected(self) -> bool:
        """Whether announcements are heard now."""
        return self._connected.is_set()

    def wait_until_connected(self) -> None:
        """Wait up to a second for the connection, so that a first wait is as fast as later ones."""
        self._connected.wait(1.0)

    @contextmanager
    def subscribed(self, job_id: int, call: Callable[[], object]) -> Iterator[None]:
        """Call `call` from the listener's thread whenever the job is announced, while inside."""
        with self._lock:
            self._waiting[job_id].append(call)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._listen, name="pgtask-results", daemon=True
                )
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._waiting[job_id].remove(call)
                if not self._waiting[job_id]:
                    del self._waiting[job_id]

    def close(self) -> None:
        """End the thread and its connection."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def _listen(self) -> None:
        pause = 0.1
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                with self._session.connect("pgtask:results") as connection:
                    if self._session.pooled:
                        log.warning(
                            "results are waited for by polling: nobody can listen through a"
                            " connection pooler; PGTASK_LISTEN_DSN names a direct connection"
                        )
                        self._connected.set()
                        return
                    self._hear(connection)
            except psycopg.Error as error:
                self._connected.clear()
                if time.monotonic() - began > STEADY:
                    pause = 0.1
                log.warning("listening for results failed, again in %.1f s: %s", pause, error)
                self._closed.wait(pause * random.uniform(0.5, 1.5))
                pause = min(pause * 2, MAX_PAUSE)

    def _hear(self, connection: BoundedConnection) -> None:
        connection.patience = PONG
        connection.execute("listen pgtask_done")
        self._connected.set()
        self._announce_all()
        heard = time.monotonic()
        while not self._closed.is_set():
            for notification in connection.notifies(timeout=0.5):
                self._announce(notification.payload)
                heard = time.monotonic()
            if time.monotonic() - heard > PING:
                connection.execute("select 1")
                heard = time.monotonic()

    def _announce(self, payload: str) -> None:
        if payload.isdigit():
            with self._lock:
                calls = list(self._waiting.get(int(payload), ()))
            for call in calls:
                call()

    def _announce_all(self) -> None:
        # After a reconnect nobody knows what was missed.
        with self._lock:
            calls = [call for waiting in self._waiting.values() for call in waiting]
        for call in calls:
            call()
