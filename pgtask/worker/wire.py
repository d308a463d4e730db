"""The frames between supervisor and child: four bytes of length, then msgpack."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import msgspec

from pgtask.outcome import Outcome

# supervisor → child
JOBS, CANCEL, STOP = "j", "c", "s"
# child → supervisor
READY, OUTCOMES, REFUSED = "r", "o", "x"


class Job(msgspec.Struct, array_like=True):
    """One attempt on its way to a child: the first columns of what was claimed.

    A frame of jobs gives the place of its first one; places number the jobs on that child's pipe.
    """

    id: int
    epoch: int
    attempt: int
    max_attempts: int
    task: str
    queue: str
    args: str
    kwargs: str | None
    policy: str | None
    headers: str | None
    tags: list[str] | None


class Run(msgspec.Struct, array_like=True, gc=False):
    """Jobs of one task that came one after the other and succeeded.

    `seconds` is how long the child was busy with them; without `results` all returned None.
    """

    first: int
    count: int
    seconds: float
    results: list[str | None] | None = None


class Report(msgspec.Struct, array_like=True, gc=False):
    """How one attempt ended, and how many seconds the child was busy with it."""

    place: int
    seconds: float
    outcome: Outcome


encode = msgspec.msgpack.Encoder().encode
decode_jobs = msgspec.msgpack.Decoder(tuple[str, int, list[Job]]).decode
decode_places = msgspec.msgpack.Decoder(tuple[str, list[int]]).decode
decode_outcomes = msgspec.msgpack.Decoder(tuple[str, list[Run], list[Report]]).decode


def pack(kind: str, *body: object) -> bytes:
    """Return one frame, ready to send."""
    payload = encode((kind, *body))
    return len(payload).to_bytes(4, "little") + payload


def kind_of(payload: bytes | bytearray | memoryview) -> str:
    """Return the kind of a frame without decoding it."""
    # msgpack: 0x9n = array of n, 0xa1 = string of one, then the letter.
    return chr(payload[2])


class FrameBuffer:
    """Bytes as they arrive, given back as whole frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add what arrived; yield the payload of every frame that is complete."""
        self._data += data
        start = 0
        while len(self._data) - start >= 4:
            length = int.from_bytes(self._data[start : start + 4], "little")
            if len(self._data) - start - 4 < length:
                break
            yield bytes(self._data[start + 4 : start + 4 + length])
            start += 4 + length
        if start:
            del self._data[:start]


def receive(connection: socket.socket) -> bytes | None:
    """Block until one frame is there; None when the other end is gone."""
    head = _receive_exactly(connection, 4)
    return None if head is None else _receive_exactly(connection, int.from_bytes(head, "little"))


def _receive_exactly(connection: socket.socket, length: int) -> bytes | None:
    data = b""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            return None
        data = data + part if data else part
    return data
