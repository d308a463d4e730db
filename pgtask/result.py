"""AsyncResult: a job as its caller sees it; wait, look, cancel, in both colours."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pgtask.client import Client, event_loop_runs, refuse_in_loop
from pgtask.codec import decode_result, refused_size
from pgtask.errors import (
    AccessRefused,
    DecodeError,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobNotFound,
    ResultTimeout,
    ResultTooLarge,
    Unavailable,
    WouldDeadlock,
)
from pgtask.job import FINISHED

if TYPE_CHECKING:
    from pgtask.broker.foreign import Foreign
    from pgtask.broker.jobs import Standing
    from pgtask.broker.statement import Statement

R = TypeVar("R")

# The finish that ran while the watch was being registered may not have seen it.
RECHECKS = (0.005, 0.01, 0.02)
POLL_FIRST, POLL_MOST = 0.2, 2.0
RENEW = 30.0  # s: a registration lives 60
OUTAGE = 60.0  # s a wait without a timeout goes on while the database is away
LEAST = 5.0  # s for one question, however short the timeout: less says nothing about the database


class AsyncResult(Generic[R]):
    """A job by its id; `created` is False when an unfinished job with the key was kept instead.

    Properties read the row when asked; on a running event loop they answer from what was read
    last, so `await result.arefresh()` first. All of them raise JobNotFound for an id that was
    never committed, was rolled back, or is past its retention.

        result = add.delay(2, 3)
        result.get(timeout=10)
    """

    def __init__(
        self,
        client: Client,
        job_id: int | str,
        *,
        created: bool = True,
        decode: Callable[[str | None], Any] = decode_result,
        keep: str | None = None,
        foreign: Foreign | None = None,
    ) -> None:
        self.id = _job_id(job_id)
        self.created = created
        self._client = client
        self._decode = decode
        self._keep = keep
        self._foreign = foreign
        self._standing: Standing | None = None
        # A job of our own autocommit was there; one of a transaction may never be.
        self._existed = False

    @classmethod
    def enqueued(
        cls,
        client: Client,
        job: tuple[int, bool],
        *,
        decode: Callable[[str | None], Any],
        keep: str | None,
        foreign: Foreign | None,
    ) -> AsyncResult[R]:
        result = cls(client, job[0], created=job[1], decode=decode, keep=keep, foreign=foreign)
        result._existed = foreign is None
        return result

    def get(self, timeout: float | None = None) -> R:
        """Wait for the job to end and return what the task returned.

        Raises JobFailed, JobCancelled, JobExpired, JobNotFound, ResultTimeout after `timeout`
        seconds, and WouldDeadlock in the transaction that made the job. While waiting it survives
        an outage of the database that ends within the timeout (without one: 60 s), and raises
        Unavailable after it. With keep="none" there is nothing to wait for: None, at once.
        """
        refuse_in_loop("get", "aget")
        if self._keep == "none":
            return self._nothing()
        deadline = _deadline(timeout)
        patience = _Patience(deadline)
        broker, listener = self._client.broker, self._client.listener
        is_first = not listener.is_connected
        # Who never waited may not have to: no connection is opened for a job that is over.
        if is_first and self._is_over(broker.run(self._watch(), within=patience.left())):
            return self._outcome()
        import threading

        announced = threading.Event()
        with listener.subscribed(self.id, announced.set):
            if is_first:
                listener.wait_until_connected()
            for pause, statement in self._looks(deadline, timeout):
                announced.clear()
                with patience:
                    if self._is_over(broker.run(statement, within=patience.left())):
                        return self._outcome()
                announced.wait(pause)
        raise AssertionError("the looks end with ResultTimeout")

    async def aget(self, timeout: float | None = None) -> R:  # noqa: ASYNC109 - the twin of get
        """As get."""
        if self._keep == "none":
            return self._nothing()
        deadline = _deadline(timeout)
        patience = _Patience(deadline)
        client, listener = self._client, self._client.listener
        is_first = not listener.is_connected
        if is_first and self._is_over(await client.arun(self._watch(), within=patience.left())):
            return self._outcome()
        import asyncio

        announced = asyncio.Event()
        loop = asyncio.get_running_loop()
        with listener.subscribed(self.id, lambda: loop.call_soon_threadsafe(announced.set)):
            if is_first:
                await asyncio.to_thread(listener.wait_until_connected)
            for pause, statement in self._looks(deadline, timeout):
                announced.clear()
                with patience:
                    if self._is_over(await client.arun(statement, within=patience.left())):
                        return self._outcome()
                try:
                    await asyncio.wait_for(announced.wait(), pause)
                except TimeoutError:
                    continue
        raise AssertionError("the looks end with ResultTimeout")

    def refresh(self) -> AsyncResult[R]:
        """Read the row again."""
        self._see(self._client.run(self._results(), twin="arefresh"))
        return self

    async def arefresh(self) -> AsyncResult[R]:
        """As refresh."""
        self._see(await self._client.arun(self._results()))
        return self

    @property
    def state(self) -> str:
        return self._read().state

    @property
    def reason(self) -> str | None:
        """Why a finished job ended: error, timeout, crashed, lost, expired, cancelled, ..."""
        return self._read().reason

    @property
    def attempt(self) -> int:
        return self._read().attempt

    @property
    def error(self) -> str | None:
        """The exception of a failed job, as "ValueError: what it said"."""
        standing = self._read()
        if standing.error_type is None:
            return None
        return f"{standing.error_type}: {standing.error_message}"

    @property
    def traceback(self) -> str | None:
        return self._read().error_traceback

    def ready(self) -> bool:
        """Whether the job has ended, in whatever way."""
        return self._is_over(self._client.run(self._results(), twin="aready"))

    async def aready(self) -> bool:
        return self._is_over(await self._client.arun(self._results()))

    def cancel(self, *, terminate: bool = False) -> str:
        """Cancel the job; answers cancelled, cancelling (it runs; it may look) or finished.

        `terminate=True` interrupts a running one, and kills it after its worker's cancel_grace.
        Raises JobNotFound.
        """
        return self._cancelled(self._client.run(self._cancel(terminate), twin="acancel"))

    async def acancel(self, *, terminate: bool = False) -> str:
        """As cancel."""
        return self._cancelled(await self._client.arun(self._cancel(terminate)))

    def __repr__(self) -> str:
        return f"<AsyncResult of job {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def _looks(
        self, deadline: float | None, timeout: float | None
    ) -> Iterator[tuple[float, Statement[dict[int, Standing]]]]:
        """How to look next and how long to wait after it, until the time is up."""
        registered = float("-inf")
        rechecks = iter(RECHECKS)
        poll = POLL_FIRST
        while True:
            now = time.monotonic()
            if now - registered > RENEW:
                registered, statement = now, self._watch()
            else:
                statement = self._results()
            pause = next(rechecks, None)
            if pause is None:
                pause, poll = poll, min(poll * 1.5, POLL_MOST)
            if deadline is not None:
                pause = min(pause, max(0.0, deadline - now))
            yield pause, statement
            if deadline is not None and now >= deadline:
                raise ResultTimeout(
                    f"job {self.id} is {self._standing.state if self._standing else 'unknown'}, "
                    f"not finished after {timeout:g} s"
                )

    def _watch(self) -> Statement[dict[int, Standing]]:
        from pgtask.broker import jobs

        return jobs.watch([self.id])

    def _results(self) -> Statement[dict[int, Standing]]:
        from pgtask.broker import jobs

        return jobs.results([self.id])

    def _cancel(self, terminate: bool) -> Statement[dict[int, str]]:  # noqa: FBT001 - private
        from pgtask.broker import jobs

        return jobs.cancel([self.id], terminate=terminate)

    def _cancelled(self, answers: dict[int, str]) -> str:
        outcome = answers.get(self.id, "missing")
        if outcome == "missing":
            raise self._missing()
        return outcome

    def _read(self) -> Standing:
        if not event_loop_runs():
            self.refresh()
        elif self._standing is None:
            refuse_in_loop("refresh", "arefresh")
        assert self._standing is not None
        return self._standing

    def _see(self, standings: dict[int, Standing]) -> None:
        self._standing = standings.get(self.id)
        if self._standing is None:
            raise self._missing()
        self._existed = True

    def _is_over(self, standings: dict[int, Standing]) -> bool:
        """Take note of what was read; True when there is nothing more to wait for."""
        if self.id not in standings and self._existed and self._keep in ("failures", "none"):
            # A success leaves no row then.
            self._standing = None
            return True
        self._see(standings)
        assert self._standing is not None
        return self._standing.state in FINISHED

    def _outcome(self) -> R:
        standing = self._standing
        if standing is None:
            return self._nothing()
        if standing.state == "succeeded":
            if (refused := refused_size(standing.result)) is not None:
                raise ResultTooLarge(
                    f"job {self.id} succeeded, but its result took {refused[0]} bytes as JSON, "
                    f"more than {refused[1]}, and was not kept; store it and return its id, or "
                    "raise max_payload for the worker"
                )
            try:
                value: R = self._decode(standing.result)
            except DecodeError as error:
                raise DecodeError(f"job {self.id}: {error}") from error
            return value
        if standing.state == "cancelled":
            if standing.reason == "expired":
                raise JobExpired(f"job {self.id} was not started before it expired")
            raise JobCancelled(f"job {self.id} was cancelled")
        raise JobFailed(
            self.id,
            reason=standing.reason or "error",
            type=standing.error_type or standing.reason or "error",
            message=standing.error_message or "",
            traceback=standing.error_traceback or "",
        )

    def _nothing(self) -> R:
        nothing: Any = None
        return nothing  # type: ignore[no-any-return]  # a result that is not kept, whatever R is

    def _missing(self) -> JobNotFound | WouldDeadlock:
        if self._foreign is not None and not self._existed and self._foreign.in_transaction():
            return WouldDeadlock(
                f"job {self.id} cannot be seen before the transaction that made it commits; "
                "commit first, then ask"
            )
        hint = " or succeeded, which keep='failures' does not record" if self._keep else ""
        return JobNotFound(
            f"there is no job {self.id}: it was never committed, its transaction was rolled back, "
            f"or it is past its retention{hint}"
        )


class _Patience:
    """How long a wait bears that the database is away: as a block, it swallows Unavailable."""

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        self._since: float | None = None

    def left(self) -> float | None:
        """Seconds for one question."""
        return None if self._deadline is None else max(LEAST, self._deadline - time.monotonic())

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> bool:
        if not isinstance(error, Unavailable) or isinstance(error, AccessRefused):
            self._since = None
            return False
        now = time.monotonic()
        self._since = self._since or now
        return now < (self._since + OUTAGE if self._deadline is None else self._deadline)


def _job_id(value: int | str) -> int:
    # Ids are strings in JSON and on the dashboard.
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"a job's id is an integer, got {value!r}")
    try:
        job_id = int(value)
    except ValueError as error:
        raise ValueError(f"a job's id is an integer, got {value!r}") from error
    if not 0 < job_id < 2**63:
        raise ValueError(f"a job's id is a positive 64-bit integer, got {value!r}")
    return job_id


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + max(0.0, timeout)
