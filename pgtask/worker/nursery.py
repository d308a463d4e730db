"""Nursery: the supervisor's end of the zygote: start it, ask for children, hear of their ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable
from uuid import UUID

from pgtask.errors import AppNotFound
from pgtask.worker import wire
from pgtask.worker.hands import Child
from pgtask.worker.limits import resident
from pgtask.worker.zygote import (
    FORK,
    SIGN,
    Broken,
    Died,
    Forked,
    Frozen,
    Loaded,
    decode_announcement,
)

log = logging.getLogger("pgtask.worker")

PATIENCE = 2.0  # s for the process to end by itself
START_LIMIT = 60.0  # s for a child to shake hands, and for the app to import


class Nursery:
    """One zygote process, with the app as it was when it started, and the children it forked.

    `heard` is called with what it announces, and with None when it ends.
    """

    def __init__(
        self,
        *,
        spec: str,
        worker: UUID,
        installation: str,
        dsn: str,
        log: tuple[str, str],
        heard: Callable[[Nursery, Forked | Died | Frozen | None], None],
    ) -> None:
        self._spec = spec
        self._worker = worker
        self._installation = installation
        self._dsn = dsn
        self._log = log
        self._heard = heard
        self._frames = wire.FrameBuffer()
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self.is_dead = False

    async def start(self) -> Loaded:
        """Start the process and return the tasks it found; raises AppNotFound."""
        self._control, theirs = socket.socketpair()
        self._control.settimeout(0)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "pgtask.worker.zygote",
                str(theirs.fileno()),
                self._spec,
                str(self._worker),
                self._installation,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL,
                env={
                    **os.environ,
                    "PGTASK_DSN": self._dsn,
                    "PGTASK_LOG_LEVEL": self._log[0],
                    "PGTASK_LOG_FORMAT": self._log[1],
                },
            )
        try:
            async with asyncio.timeout(START_LIMIT):
                loaded = await self._first_word(self._control)
        except TimeoutError as error:
            raise AppNotFound(
                f"importing {self._spec!r} took over {START_LIMIT:g} s; does it connect somewhere?"
            ) from error
        if loaded.threads:
            log.warning(
                "importing %s started threads (%s): children are spawned, not forked",
                self._spec,
                ", ".join(loaded.threads),
            )
        asyncio.get_running_loop().add_reader(self._control, self._hear)
        return loaded

    def fork(self, child: Child, theirs: socket.socket) -> None:
        """Ask for the process of this child, at the other end of its socket and slot."""
        assert self._control is not None
        socket.send_fds(
            self._control,
            [FORK.pack(child.number, child.is_async)],
            [theirs.fileno(), child.slot.descriptor],
        )

    def sign(self) -> None:
        """Let the zygote know that this process has not come to a standstill."""
        if self._control is not None and not self.is_dead:
            with contextlib.suppress(OSError):
                self._control.send(SIGN)

    def size(self) -> int | None:
        """Return the bytes that it takes, and so every child at first; None where nobody tells."""
        return resident(self._process.pid) or None if self._process is not None else None

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process is not None and self._process.returncode is not None

    def dismiss(self) -> None:
        """Let the process end by itself, or kill it soon; it must have no children any more."""
        self._hang_up()
        asyncio.get_running_loop().call_later(PATIENCE, self._kill)

    async def close(self) -> None:
        """End the process; its children, if any are left, die with it."""
        self._hang_up()
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self._process.wait()
            self._kill()
            await self._process.wait()

    def _hang_up(self) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None

    def _kill(self) -> None:
        if self._process is not None and not self.has_ended:
            self._process.kill()

    async def _first_word(self, control: socket.socket) -> Loaded:
        loop = asyncio.get_running_loop()
        announcements: list[object] = []
        while not announcements:
            try:
                data = await loop.sock_recv(control, 1_048_576)
            except ConnectionResetError:
                data = b""  # it ended without having read all it was told
            if not data:
                raise AppNotFound(
                    f"importing {self._spec!r} ended the process; run it alone to see why"
                )
            announcements = [decode_announcement(frame) for frame in self._frames.feed(data)]
        word = announcements[0]
        if isinstance(word, Broken):
            broken = AppNotFound(word.message)
            broken.add_note(word.traceback)
            raise broken
        assert isinstance(word, Loaded)
        return word

    def _hear(self) -> None:
        assert self._control is not None
        try:
            data = self._control.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._control)
            self.is_dead = True
            self._heard(self, None)
            return
        for frame in self._frames.feed(data):
            announcement = decode_announcement(frame)
            if isinstance(announcement, (Forked, Died, Frozen)):
                self._heard(self, announcement)
