"""JobContext and current_job(): the job whose task is running here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import msgspec

from pgtask.errors import NoCurrentJob


def _never() -> bool:
    return False


# A Struct, because one is made for each job: a frozen dataclass costs seven times as much.
class JobContext(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a task may know about the attempt it is.

    `attempt` counts from 1 and is for people; `epoch` never repeats. The hooks belong to the
    child: whether a cancellation was asked for, and the transaction's connection or session.
    """

    id: int
    task: str
    queue: str = "default"
    attempt: int = 1
    max_attempts: int = 1
    epoch: int = 1
    headers: Mapping[str, Any] = msgspec.field(default_factory=dict)
    tags: tuple[str, ...] = ()
    cancelled_hook: Callable[[], bool] = _never
    connection_hook: Callable[[], Any] | None = None
    session_hook: Callable[[], Any] | None = None
    installation: str = ""

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this job, and for no other: for other systems.

        "0d9fbd1c41a6-17": job 17 of this installation. Two installations (production and a test
        system) number their jobs alike, and may talk to the same bank. At most 32 characters.
        """
        # The last group of a random UUID: 48 bits.
        return f"{self.installation[-12:]}-{self.id}" if self.installation else str(self.id)

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked to cancel this job; a long task looks now and then and returns."""
        return self.cancelled_hook()

    @property
    def connection(self) -> Any:
        """The connection whose transaction completes this job; only with transaction=True."""
        if self.session_hook is not None:
            raise NoCurrentJob(
                f"task {self.task!r} has a session instead, as its transaction= says; use "
                "current_job().session, or session.connection()"
            )
        if self.connection_hook is None:
            raise NoCurrentJob(
                f"task {self.task!r} has no transaction of its own; "
                "declare it with transaction=True to use its connection"
            )
        return self.connection_hook()

    @property
    def session(self) -> Any:
        """The SQLAlchemy session whose transaction completes this job."""
        if self.session_hook is None:
            raise NoCurrentJob(
                f"task {self.task!r} has no session of its own; "
                "declare it with transaction=SessionLocal, your sessionmaker"
            )
        return self.session_hook()


_current: ContextVar[JobContext] = ContextVar("pgtask.current_job")
enter, leave = _current.set, _current.reset  # for who cannot afford running() at each job


def current_job() -> JobContext:
    """The running job, in any function the task calls; raises NoCurrentJob (a LookupError)."""
    try:
        return _current.get()
    except LookupError as error:
        raise NoCurrentJob("current_job() is called outside a running task") from error


@contextmanager
def running(context: JobContext) -> Iterator[JobContext]:
    """Make this the current job for the block."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)
