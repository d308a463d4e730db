"""Pipe: the supervisor's end of the socketpair it shares with one child. It never waits."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

from pgtask.worker import wire

_BUFFER = 1 << 20


class Pipe:
    """Sends frames, later what does not fit in now, and gives what arrived as whole frames."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._unsent = bytearray()
        self._frames = wire.FrameBuffer()
        self.is_hung_up = False  # the child's end is closed

    @classmethod
    def pair(cls) -> tuple[Pipe, socket.socket]:
        """Return our end, and the socket for the child, which the caller closes."""
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        ours.settimeout(0)
        return cls(ours), theirs

    def on_arrival(self, call: Callable[[], None]) -> None:
        """Have this called when there is something to receive, the end included."""
        asyncio.get_running_loop().add_reader(self._connection, call)

    def send(self, kind: str, *body: object) -> None:
        """Send one frame; what becomes of it when the child is dead, its end tells."""
        data = wire.pack(kind, *body)
        if not self._unsent:
            try:
                sent = self._connection.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return
            if sent == len(data):
                return
            data = data[sent:]
            asyncio.get_running_loop().add_writer(self._connection, self._flush)
        self._unsent += data

    def receive(self) -> Iterator[bytes]:
        """Return the frames that are complete now; at the end of the pipe none, and hang up."""
        try:
            data = self._connection.recv(_BUFFER)
        except BlockingIOError:
            return iter(())
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._connection)
            self.is_hung_up = True
        return self._frames.feed(data)

    def rest(self) -> Iterator[bytes]:
        """Return all the frames that a child left behind which is dead."""
        with contextlib.suppress(OSError):
            while data := self._connection.recv(_BUFFER):
                yield from self._frames.feed(data)

    def close(self) -> None:
        """Close our end; the child, if it lives, will end."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._connection)
        loop.remove_writer(self._connection)
        self._connection.close()

    def _flush(self) -> None:
        try:
            sent = self._connection.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            sent = len(self._unsent)
        del self._unsent[:sent]
        if not self._unsent:
            asyncio.get_running_loop().remove_writer(self._connection)
