"""Every exception pgtask raises, verdicts included.

PgTaskError
├── ConfigError(ValueError)         a setting cannot work: names it, its source, the remedy
│   └── AppNotFound                 the application could not be imported
├── EmbeddedError                   the private PostgreSQL could not be found, made or started
├── DefinitionError                 a task is defined in a way that cannot work
│   ├── TaskExists(ValueError) · TaskNotFound(LookupError) · BadOption(TypeError, ValueError)
│   └── ScheduleInvalid(ValueError) names the field, its value, the reason and the remedy
├── BadArguments                    a call's arguments, refused before any SQL
│   └── ArgumentMismatch(TypeError) · ArgumentInvalid(ValueError) · PayloadTooLarge(ValueError)
├── CodecError(ValueError)          DecodeError
├── BrokerError                     the database could not do what was asked
│   ├── UnknownConnection(TypeError) · BlockingCall(RuntimeError)
│   ├── Unavailable · SchemaMissing · SchemaTooOld · SchemaTooNew · MigrationChanged
│   ├── AmbiguousTransaction        two transactions could be meant
│   ├── TransactionEnded            a task ended the transaction that completes its job
│   ├── NoTaskConnection(Unavailable)  none could be had; the task's body has not begun
│   ├── NotGranted(PermissionError) the role may not do that here: names the grant it needs
│   ├── AccessRefused(Unavailable)  a wrong role, password or database name: no outage
│   ├── CommitUnknown(Unavailable)  lost during the COMMIT of a task: did it commit?
│   ├── WrongDatabase               a connection to a database that is not this app's
│   ├── ScheduleNotFound(LookupError)
│   └── Refused                     by a function of the schema, each with a SQLSTATE of ours
│       └── WorkerNotAlive · BadCall(ValueError) · DuplicateJob · LeaseLost · QueueNotFound
└── JobError                        something about one job
    ├── JobNotFound(LookupError) · JobFailed · JobCancelled · ResultTimeout(TimeoutError)
    ├── JobExpired(JobCancelled)    not started before it expired
    ├── ResultTooLarge(ValueError)  it succeeded; what it returned was not kept
    ├── NoCurrentJob(LookupError)   current_job() outside a task
    └── WouldDeadlock(RuntimeError) get() inside the transaction that made the job
Verdict                             Retry · Snooze · Reject: raised by task code
SoftTimeLimitExceeded               a task's soft time is up: raised inside a def task
"""

from __future__ import annotations

import math


class PgTaskError(Exception):
    """The root of every error that pgtask raises."""


class ConfigError(PgTaskError, ValueError):
    """A setting cannot work."""


class AppNotFound(ConfigError):
    """The application could not be found or imported."""


class EmbeddedError(PgTaskError):
    """The private PostgreSQL could not be found, made or started."""


class DefinitionError(PgTaskError):
    """A task is defined in a way that cannot work."""


class TaskExists(DefinitionError, ValueError):
    """Two functions claim one task name."""


class TaskNotFound(DefinitionError, LookupError):
    """No task of that name is registered here."""


class BadOption(DefinitionError, TypeError, ValueError):
    """An option is unknown, or its value cannot work."""


class ScheduleInvalid(DefinitionError, ValueError):
    """A schedule says what cannot work."""

    @classmethod
    def of(cls, field: str, value: object, reason: str, remedy: str = "") -> ScheduleInvalid:
        shown = repr(value)
        if len(shown) > 200:
            shown = shown[:200] + "…"
        return cls(f"{field} {shown}: {reason}" + (f" → {remedy}" if remedy else ""))


class BadArguments(PgTaskError):
    """The arguments of a call were refused before any SQL."""


class ArgumentMismatch(BadArguments, TypeError):
    """Arguments do not bind to the task's signature."""


class ArgumentInvalid(BadArguments, ValueError):
    """An argument has the wrong type, or a value that JSON cannot carry."""


class PayloadTooLarge(BadArguments, ValueError):
    """The encoded arguments exceed the limit."""


class CodecError(PgTaskError, ValueError):
    """A value could not be encoded."""


class DecodeError(CodecError):
    """Stored JSON does not fit the expected type."""


class BrokerError(PgTaskError):
    """The database could not do what was asked."""


class Unavailable(BrokerError):
    """The database cannot be reached, or the connection was lost."""


class SchemaMissing(BrokerError):
    """The database has no pgtask schema."""


class SchemaTooOld(BrokerError):
    """The schema is older than this code needs."""


class SchemaTooNew(BrokerError):
    """A migration declared this code too old for the schema."""


class MigrationChanged(BrokerError):
    """A migration that was applied differs from the file of that number."""


class AmbiguousTransaction(BrokerError):
    """Two open transactions could be meant; say which with using()."""


class WrongDatabase(BrokerError):
    """The connection leads to a database that is not this app's."""


class TransactionEnded(BrokerError):
    """A task committed or rolled back by itself the transaction that completes its job."""


class NoTaskConnection(Unavailable):
    """No connection for a task with transaction=True could be had; its body has not begun."""


class AccessRefused(Unavailable):
    """The server refuses the role, its password or the name of the database."""


class NotGranted(BrokerError, PermissionError):
    """The role may not call this function, or not read this view."""


class CommitUnknown(Unavailable):
    """The connection was lost before it said whether a task's transaction was committed."""


class UnknownConnection(BrokerError, TypeError):
    """using() was given something that is no supported connection."""


class BlockingCall(BrokerError, RuntimeError):
    """A blocking call where only its async twin can work."""


class Refused(BrokerError):
    """A function of the schema refused the call; `sqlstate` says which rule."""

    sqlstate = "TQ000"


class WorkerNotAlive(Refused):
    """The worker was declared dead, or never registered."""

    sqlstate = "TQ001"


class BadCall(Refused, ValueError):
    """A function of the schema refused an argument."""

    sqlstate = "TQ002"


class DuplicateJob(Refused):
    """An unfinished job has the key and on_conflict is "raise"; `job_id` owns it."""

    sqlstate = "TQ003"

    def __init__(self, message: str, job_id: int | None = None) -> None:
        super().__init__(message)
        self.job_id = job_id


class LeaseLost(Refused):
    """The attempt is no longer current: another one owns the job."""

    sqlstate = "TQ004"


class QueueNotFound(Refused, LookupError):
    """No such queue."""

    sqlstate = "TQ005"


class ScheduleNotFound(BrokerError, LookupError):
    """No such schedule."""


class JobError(PgTaskError):
    """Something about one job."""


class JobNotFound(JobError, LookupError):
    """No such job: never committed, rolled back, or dropped after its retention."""


class JobFailed(JobError):
    """The job ended failed.

    `type` is the exception's qualified name, `message` its text, `traceback` the text of the
    traceback in the child, `reason` why the job ended (error, timeout, crashed, lost, ...).
    """

    def __init__(
        self, job_id: int, *, reason: str, type: str, message: str, traceback: str = ""
    ) -> None:
        self.job_id = job_id
        self.reason = reason
        self.type = type
        self.message = message
        self.traceback = traceback
        super().__init__(f"job {job_id} failed ({reason}): {type}: {message}")
        if traceback:
            self.add_note(f"Traceback in the worker:\n{traceback}")


class JobCancelled(JobError):
    """The job was cancelled; inside a `def` task: with terminate, so clean up and end."""


class JobExpired(JobCancelled):
    """The job was not started before it expired."""


class ResultTimeout(JobError, TimeoutError):
    """The job did not finish within the time given to get()."""


class ResultTooLarge(JobError, ValueError):
    """The job succeeded, but what it returned took too many bytes, and was not kept."""


class WouldDeadlock(JobError, RuntimeError):
    """get() would wait for a job that cannot be seen before this transaction commits."""


class NoCurrentJob(JobError, LookupError):
    """No task runs here, or the one that does has not what was asked for."""


class Verdict(Exception):
    """Raised by task code to decide the attempt's outcome."""


class Retry(Verdict):
    """Run the job again, `delay` seconds from now (None: by its backoff); counts as an attempt.

    Ends the job as failed when no attempts are left. A negative delay means now.
    """

    def __init__(self, delay: float | None = None) -> None:
        self.delay = None if delay is None else _seconds("Retry(delay)", delay)
        super().__init__(f"retry in {delay} s" if delay is not None else "retry")


class Snooze(Verdict):
    """Run the job again in `seconds`, without counting this attempt."""

    def __init__(self, seconds: float) -> None:
        self.seconds = _seconds("Snooze(seconds)", seconds)
        super().__init__(f"snooze for {seconds} s")


class Reject(Verdict):
    """End the job as failed, without another try."""

    def __init__(self, reason: str = "rejected") -> None:
        self.reason = str(reason)
        super().__init__(self.reason)


class SoftTimeLimitExceeded(Exception):
    """The attempt has run for its soft_timeout; clean up and return, or let it end the attempt.

    Raised inside a `def` task. An `async def` task is cancelled instead: it sees
    asyncio.CancelledError where it awaits, and its attempt ends with this unless it returns.
    """


def _seconds(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BadOption(f"{name} must be a finite number of seconds, got {value!r}")
    return max(0.0, float(value))
