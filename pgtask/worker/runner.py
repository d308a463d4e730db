"""Runner: call one task once; whatever happens becomes an Outcome."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from pgtask.codec import MAX_PAYLOAD, encode_result, placeholder_of
from pgtask.current import JobContext, enter, leave, running
from pgtask.errors import (
    CommitUnknown,
    JobCancelled,
    NoTaskConnection,
    Reject,
    Retry,
    Snooze,
    SoftTimeLimitExceeded,
    TransactionEnded,
)
from pgtask.job import Attempt
from pgtask.outcome import (
    Cancelled,
    Committed,
    Crashed,
    Failed,
    Failure,
    InDoubt,
    Outcome,
    Retried,
    Snoozed,
    Succeeded,
    TimedOut,
)
from pgtask.retry import RetryPolicy
from pgtask.worker.interrupt import Interrupts
from pgtask.worker.transactions import AsyncTransactions, Clock, Transactions

if TYPE_CHECKING:
    from pgtask.app import App
    from pgtask.task import Task
    from pgtask.worker.wire import Job


log = logging.getLogger("pgtask.worker")

# A task that raises one of these would have ended its process, were it one of its own.
_LEAVING = (SystemExit, KeyboardInterrupt, GeneratorExit)


class Policy(msgspec.Struct):
    """What the row says about its attempts; where it is silent, the task decides."""

    backoff: str | list[float] | None = None
    jitter: float | None = None
    timeout: float | None = None
    soft_timeout: float | None = None
    memory_limit: int | None = None
    on_crash: str | None = None
    result_ttl: float | None = None


read_policy = msgspec.json.Decoder(Policy).decode
NO_POLICY = Policy()


class Runner:
    """Knows the app's tasks and runs their jobs, one call a job. Lives in a child process."""

    def __init__(self, app: App, worker: UUID, dsn: str, installation: str) -> None:
        self._app = app
        self._tasks: Mapping[str, Task[..., Any]] = app.tasks
        self._worker = worker
        self._installation = installation
        self._transactions = Transactions(dsn, installation)
        self._async_transactions = AsyncTransactions(dsn, installation)
        self.interrupts = Interrupts()

    def run(self, job: Job, is_cancelled: Callable[[], bool]) -> Outcome:
        """Run a sync task here and now, in the main thread."""
        task = self._tasks[job.task]
        policy = read_policy(job.policy) if job.policy else NO_POLICY
        try:
            args, kwargs = task.codec.decode(job.args, job.kwargs)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with them, it will be next time
            return Failed(Failure.of(error))
        soft = policy.soft_timeout or task.defaults.soft_timeout
        try:
            if task.transaction:
                return self._run_in_transaction(task, job, is_cancelled, soft, args, kwargs)
            context = self._context(job, is_cancelled)
            token = enter(context)
            try:
                if soft is None:
                    result = task.run(context, args, kwargs)
                else:
                    with self._soft_limit(soft):
                        result = task.run(context, args, kwargs)
            finally:
                leave(token)
        except JobCancelled as error:
            return Cancelled() if is_cancelled() else self._judge(error, job, task, policy)
        except BaseException as error:  # noqa: BLE001 - user code: whatever it raises is an outcome
            return self._judge(error, job, task, policy)
        return self._succeeded(job, result)

    async def run_async(self, job: Job, is_cancelled: Callable[[], bool]) -> Outcome:
        """Run an async task on the running loop."""
        import asyncio

        task = self._tasks[job.task]
        policy = read_policy(job.policy) if job.policy else NO_POLICY
        try:
            args, kwargs = task.codec.decode(job.args, job.kwargs)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with them, it will be next time
            return Failed(Failure.of(error))
        soft = policy.soft_timeout or task.defaults.soft_timeout
        hard = policy.timeout or task.defaults.timeout
        try:
            if task.transaction:
                return await self._run_in_async_transaction(
                    task, job, is_cancelled, (soft, hard), args, kwargs
                )
            context = self._context(job, is_cancelled)
            with running(context):
                result = await _limited(task.run(context, args, kwargs), soft, hard)
        except _HardLimit as error:
            told = Failure.of(error)
            failure = Failure("HardTimeLimit", told.message, told.traceback)
            return TimedOut(failure, self._delay(job, task, policy))
        except asyncio.CancelledError as error:
            return Cancelled() if is_cancelled() else self._judge(error, job, task, policy)
        except BaseException as error:  # noqa: BLE001 - user code: whatever it raises is an outcome
            return self._judge(error, job, task, policy)
        return self._succeeded(job, result)

    def _run_in_transaction(
        self,
        task: Task[..., Any],
        job: Job,
        is_cancelled: Callable[[], bool],
        soft: float | None,
        args: Any,
        kwargs: Any,
    ) -> Outcome:
        clock = Clock(soft, time.monotonic)
        first = [(args, kwargs)]

        def body(connection: Any) -> str | None:
            # Decoded afresh for each further run: the body may have changed them.
            args, kwargs = first.pop() if first else task.codec.decode(job.args, job.kwargs)
            context = self._context(job, is_cancelled, connection)
            with (
                running(context),
                self._app.using(connection),
                self._soft_limit(soft, clock.left()),
            ):
                result = task.run(context, args, kwargs)
            return self._encoded(job, result)

        self._transactions.run(task, self._attempt(job), body, clock, is_cancelled)
        return Committed()

    async def _run_in_async_transaction(
        self,
        task: Task[..., Any],
        job: Job,
        is_cancelled: Callable[[], bool],
        limits: tuple[float | None, float | None],
        args: Any,
        kwargs: Any,
    ) -> Outcome:
        import asyncio

        soft, hard = limits
        clock = Clock(soft, asyncio.get_running_loop().time)
        first = [(args, kwargs)]

        async def body(connection: Any) -> str | None:
            args, kwargs = first.pop() if first else task.codec.decode(job.args, job.kwargs)
            context = self._context(job, is_cancelled, connection)
            with running(context), self._app.using(connection):
                async with _deadline(
                    clock.left(),
                    lambda: SoftTimeLimitExceeded(f"soft_timeout of {soft:g} s passed"),
                ):
                    result = await task.run(context, args, kwargs)
            return self._encoded(job, result)

        # The hard limit holds for all of it: the wait for a connection, each run of the body, and
        # the COMMIT.
        async with _deadline(hard, lambda: _HardLimit(f"timeout of {hard:g} s passed")):
            await self._async_transactions.run(task, self._attempt(job), body, clock, is_cancelled)
        return Committed()

    def _judge(
        self, error: BaseException, job: Job, task: Task[..., Any], policy: Policy
    ) -> Outcome:
        if isinstance(error, Snooze):
            return Snoozed(error.seconds)
        if isinstance(error, NoTaskConnection):
            log.warning("job %d (%s) waits a second: %s", job.id, job.task, error)
            return Snoozed(1.0)
        if isinstance(error, CommitUnknown):
            return InDoubt(Failure.of(error))
        if isinstance(error, _Unstorable) and error.__cause__ is not None:
            return Failed(Failure.of(error.__cause__))
        failure = Failure.of(error)
        # A retry would end the transaction, and with it commit half of its work, once more.
        if isinstance(error, (Reject, TransactionEnded)):
            return Failed(failure)
        if isinstance(error, Retry):
            if job.attempt < job.max_attempts:
                own = error.delay
                return Retried(failure, self._delay(job, task, policy) if own is None else own)
            cause = error.__cause__ or error.__context__
            return Failed(failure if cause is None else Failure.of(cause))
        is_named = isinstance(error, (*task.retry_for, *task.give_up_on))
        if isinstance(error, _LEAVING) and not is_named:
            # Only the child lives on: it counts as what it is where a task has its own process.
            return Crashed(failure, self._delay(job, task, policy))
        known = error if is_named or isinstance(error, Exception) else RuntimeError(str(error))
        if task.retry_policy().should_retry(known, job.attempt, job.max_attempts):
            return Retried(failure, self._delay(job, task, policy))
        return Failed(failure)

    def _delay(self, job: Job, task: Task[..., Any], policy: Policy) -> float:
        said = {
            name: value
            for name, value in (("backoff", policy.backoff), ("jitter", policy.jitter))
            if value is not None
        }
        try:
            return task.retry_policy(said).delay(job.attempt, random.random)
        except Exception:
            # A backoff function is user code: the attempt still ends as it did.
            log.exception("job %d (%s): its backoff failed, the default holds", job.id, job.task)
            return RetryPolicy().delay(job.attempt, random.random)

    def _context(
        self, job: Job, is_cancelled: Callable[[], bool], connection: object | None = None
    ) -> JobContext:
        of_session = connection is not None and self._tasks[job.task].transaction is not True
        return JobContext(
            id=job.id,
            task=job.task,
            queue=job.queue,
            attempt=job.attempt,
            max_attempts=job.max_attempts,
            epoch=job.epoch,
            headers=msgspec.json.decode(job.headers) if job.headers else {},
            tags=tuple(job.tags or ()),
            cancelled_hook=is_cancelled,
            connection_hook=None if connection is None or of_session else lambda: connection,
            session_hook=(lambda: connection) if of_session else None,
            installation=self._installation,
        )

    def _succeeded(self, job: Job, result: object) -> Outcome:
        if result is None:
            return NOTHING_RETURNED
        try:
            return Succeeded(self._stored(job, result))
        except Exception as error:  # noqa: BLE001 - user objects may raise anything when encoded
            return Failed(Failure.of(error))

    def _encoded(self, job: Job, result: object) -> str | None:
        try:
            return None if result is None else self._stored(job, result)
        except Exception as error:
            raise _Unstorable(str(error)) from error

    def _stored(self, job: Job, result: object) -> str:
        text = encode_result(result)
        if len(text) <= MAX_PAYLOAD // 4:  # a character takes four bytes at most
            return text
        limit = max(MAX_PAYLOAD, self._app.client.max_payload)
        # What the task did is done, so it has succeeded; but no supervisor should carry this.
        if (size := len(text.encode())) > limit:
            log.warning(
                "job %d (%s) returned %d bytes as JSON, more than %d: the result is not"
                " kept; store it and return its id",
                job.id,
                job.task,
                size,
                limit,
            )
            return placeholder_of(size, limit)
        return text

    def _attempt(self, job: Job) -> Attempt:
        return Attempt(job.id, job.epoch, self._worker)

    def _soft_limit(
        self, seconds: float | None, left: float | None = None
    ) -> AbstractContextManager[None]:
        return nullcontext() if seconds is None else self.interrupts.limit(seconds, left)


class _HardLimit(Exception):
    """The coroutine was cancelled because its timeout passed."""


class _Unstorable(Exception):
    """What the task returned cannot be stored; a retry would return the same."""


NOTHING_RETURNED = Succeeded()


@asynccontextmanager
async def _deadline(seconds: float | None, error: Callable[[], Exception]) -> AsyncIterator[None]:
    """Cancel the block after so many seconds, and raise the error in place of that."""
    import asyncio

    scope = asyncio.timeout(seconds)
    try:
        async with scope:
            yield
    except TimeoutError as passed:
        if not scope.expired():
            raise
        raise error() from passed


async def _limited(call: Awaitable[Any], soft: float | None, hard: float | None) -> Any:
    if soft is None and hard is None:
        return await call
    async with (
        _deadline(hard, lambda: _HardLimit(f"timeout of {hard:g} s passed")),
        _deadline(soft, lambda: SoftTimeLimitExceeded(f"soft_timeout of {soft:g} s passed")),
    ):
        return await call
