"""Health: whether this worker lives and is ready, and a small HTTP server that says so."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from http import HTTPStatus

from pgtask.config import host_and_port
from pgtask.errors import ConfigError
from pgtask.worker.children import Children
from pgtask.worker.claimer import Claimer

log = logging.getLogger("pgtask.worker")

LONGEST_TURN = (
    60.0  # s for one turn of the claim loop: each of its statements has a deadline of 5 s
)
SHORTEST = 10.0  # s without a turn that are never taken for a failure
MOST_HEAD = 8192  # bytes of a request
MOST_OPEN = 32  # connections at a time: they share the descriptors of the process with the lease
TIME = 5.0  # s for a request

_REQUEST = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.[01]\r\n")


class Health:
    """What is wrong with this worker at the moment, and since when."""

    def __init__(self, poll: float) -> None:
        self._patience = max(3 * poll, SHORTEST)
        self._life: tuple[Claimer, Children] | None = None
        self._since: dict[str, float] = {}  # condition that fails → since when, as time.time()
        self._open = 0
        self.is_stopping = False

    @contextlib.contextmanager
    def of(self, claimer: Claimer, children: Children) -> Iterator[None]:
        """While inside, these two are looked at; outside of it a worker is not ready."""
        self._life = claimer, children
        try:
            yield
        finally:
            self._life = None

    def look(self) -> dict[str, str]:
        """Return what keeps the worker from being ready: a sentence for each condition."""
        failing = self._failing()
        now = time.time()
        self._since = {name: self._since.get(name, now) for name in failing}
        return failing

    def is_alive(self) -> bool:
        """Whether the worker can still do its work, or is on its way to an end.

        An outage of the database, or children that cannot start, are no reason to kill it.
        """
        if self._life is None or self.is_stopping:
            return True
        claimer, _ = self._life
        return asyncio.get_running_loop().time() - claimer.came_round < LONGEST_TURN

    def _failing(self) -> dict[str, str]:
        if self.is_stopping:
            return {"running": "the worker was told to end"}
        if self._life is None:
            return {"running": "the worker has not registered yet"}
        claimer, children = self._life
        now = asyncio.get_running_loop().time()
        failing = {}
        if now - claimer.turned > self._patience:
            failing["claiming"] = f"no claim has succeeded for {now - claimer.turned:.0f} s"
        if not children.are_up:
            failing["children"] = "no child is up" + (
                f"; the last shook hands {now - children.last_handshake:.0f} s ago"
                if children.last_handshake > 0
                else "; none has ever shaken hands"
            )
        return failing

    def answer(self, path: str) -> tuple[HTTPStatus, dict[str, object]]:
        """Return status and body for a path."""
        if path == "/livez":
            alive = self.is_alive()
            return (
                HTTPStatus.OK if alive else HTTPStatus.SERVICE_UNAVAILABLE,
                {"alive": alive},
            )
        if path == "/readyz":
            failing = self.look()
            return (
                HTTPStatus.SERVICE_UNAVAILABLE if failing else HTTPStatus.OK,
                {
                    "ready": not failing,
                    "failing": [
                        {"condition": name, "why": why, "since": _instant(self._since[name])}
                        for name, why in failing.items()
                    ],
                },
            )
        return HTTPStatus.NOT_FOUND, {"error": "there are /livez and /readyz"}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and close."""
        self._open += 1
        try:
            if self._open <= MOST_OPEN:
                async with asyncio.timeout(TIME):
                    await self._serve(reader, writer)
        except (TimeoutError, ConnectionError) as error:
            log.debug("a question about health was not heard to its end: %r", error)
        finally:
            self._open -= 1
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = b""
        request = _REQUEST.match(head)
        body: dict[str, object]
        method, target = (part.decode() for part in request.groups()) if request else ("", "")
        if not request:
            status, body = HTTPStatus.BAD_REQUEST, {"error": "this is no HTTP/1 request"}
        elif method not in ("GET", "HEAD"):
            status, body = HTTPStatus.METHOD_NOT_ALLOWED, {"error": "ask with GET or HEAD"}
        else:
            status, body = self.answer(target.partition("?")[0])
        text = json.dumps(body).encode() + b"\n"
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            "Content-Type: application/json",
            f"Content-Length: {len(text)}",
            "Cache-Control: no-store",
            "Connection: close",
        ]
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            lines.append("Allow: GET, HEAD")
        writer.write("\r\n".join([*lines, "", ""]).encode())
        if method != "HEAD":
            writer.write(text)
        await writer.drain()
        if not request:
            # What is left unread would reset the connection, and the answer would be lost with it.
            writer.write_eof()
            while await reader.read(MOST_HEAD):
                pass


@contextlib.asynccontextmanager
async def served(health: Health, where: str) -> AsyncIterator[None]:
    """Answer questions at this HOST:PORT while inside; raises ConfigError when that cannot be."""
    host, port = host_and_port(where)
    try:
        server = await asyncio.start_server(health.serve, host or None, port, limit=MOST_HEAD)
    except OSError as error:
        raise ConfigError(
            f"health = {where!r}: cannot listen there: {error.strerror or error}"
            " → choose another address or port"
        ) from error
    for listening in server.sockets:
        name, number = listening.getsockname()[:2]
        shown = f"[{name}]" if ":" in name else name
        log.info("health on http://%s:%d/livez and /readyz", shown, number)
    try:
        yield
    finally:
        server.close()


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
