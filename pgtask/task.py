"""Task: a registered function, and the ways to enqueue a call of it."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, ParamSpec, Self, TypeVar, Unpack

from pgtask.client import CHUNK, Client
from pgtask.codec import CallCodec
from pgtask.current import JobContext, current_job
from pgtask.errors import ArgumentMismatch, BadArguments, BadOption, DefinitionError, NoCurrentJob
from pgtask.result import AsyncResult
from pgtask.retry import RetryPolicy
from pgtask.signature import (
    CallOptions,
    Options,
    Signature,
    TaskOptions,
    check_exceptions,
    check_flag,
    check_task_name,
    merge,
    placeholders,
    validate,
)

P = ParamSpec("P")
R = TypeVar("R")


class Place(NamedTuple):
    """Where a task's function stands; the same place may define a name again, after a reload."""

    module: str
    qualname: str
    file: str
    line: int

    def is_same_as(self, other: Place) -> bool:
        return self[:3] == other[:3]

    def __str__(self) -> str:
        return f"{self.module}.{self.qualname} ({self.file}:{self.line})"


class Task(Generic[P, R]):
    """A function under a stable name. Calling it runs it here; `delay` enqueues the call.

    `options` and `using` return the same task with more said about its calls; nothing changes
    the task itself.
    """

    __name__: str
    __wrapped__: Callable[..., Any]

    def __init__(
        self,
        function: Callable[..., Any],
        client: Callable[[], Client],
        *,
        bind: bool = False,
        **options: Unpack[TaskOptions],
    ) -> None:
        _check_function(function, named=options.get("name") is not None)
        given: dict[str, Any] = dict(options)
        name = given.pop("name", None)
        self.name = check_task_name(name or _name_of(function))
        self.function = function
        self.place = _place_of(function)
        self.bind = check_flag("bind", bind)
        self.is_async = inspect.iscoroutinefunction(function)
        self.transaction = _check_transaction(
            self.name, given.pop("transaction", False), is_async=self.is_async
        )
        self.retry_for = check_exceptions("retry_for", given.pop("retry_for", (Exception,)))
        self.give_up_on = check_exceptions("give_up_on", given.pop("give_up_on", ()))
        self._client = client
        self._said: dict[str, Any] = validate(given)
        self._said_per_call: dict[str, Any] = {}
        self._connection: Any = None
        self._merged: tuple[Client, CallOptions] | None = None
        self.defaults = merge(self._said)
        self._check_memory_limit(self.defaults)
        self.codec = CallCodec(function, task=self.name, bind=self.bind)
        self._injected = self.codec.parameters.injected
        if self._injected and not self.transaction:
            raise DefinitionError(
                f"task {self.name!r}: parameter {self._injected[0]!r} is injected from the job's "
                "transaction; declare the task with transaction=True"
            )
        self._check_placeholders(self.defaults)
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now, as if it were not decorated."""
        missing = [name for name in self._injected if name not in kwargs]
        if missing:
            raise TypeError(f"{self.name}(): a direct call must pass {missing[0]!r} by keyword")
        result: R = self.function(*self._context(), *args, **kwargs)
        return result

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Enqueue a call, in the transaction that is open here or else in one of its own.

        Arguments are checked against the signature first: ArgumentMismatch (a TypeError),
        ArgumentInvalid and PayloadTooLarge (ValueErrors) are raised before any SQL.
        """
        client = self._client()
        enqueued = client.enqueue([self._signature(client, args, kwargs)], self._connection)
        return self._results(client, enqueued)[0]

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """As delay."""
        client = self._client()
        enqueued = await client.aenqueue([self._signature(client, args, kwargs)], self._connection)
        return self._results(client, enqueued)[0]

    def s(self, *args: P.args, **kwargs: P.kwargs) -> Signature:
        """The call as a value, to be enqueued by somebody else; checked as delay checks it.

        app.schedules.upsert("hourly", report.s(tenant=7), "0 * * * *")
        """
        return self._signature(self._client(), args, kwargs)

    def sketch(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Signature:
        """As s, with what the task itself says only: needs no settings, so imports may ask it."""
        args_json, kwargs_json = self.codec.encode(args, kwargs, sys.maxsize)
        return merge(self._said, self._said_per_call).signature(
            self.name, args_json, kwargs_json, lambda: self.codec.arguments(args, kwargs)
        )

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[Options],
    ) -> AsyncResult[R]:
        """Celery's spelling of `options(...).delay(...)`; the arguments are not type-checked."""
        _check_sequence(self.name, args)
        enqueue: Any = self.options(**options).delay
        result: AsyncResult[R] = enqueue(*args, **(kwargs or {}))
        return result

    async def aapply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[Options],
    ) -> AsyncResult[R]:
        """As apply_async."""
        _check_sequence(self.name, args)
        enqueue: Any = self.options(**options).adelay
        result: AsyncResult[R] = await enqueue(*args, **(kwargs or {}))
        return result

    def delay_many(
        self, calls: Iterable[Sequence[Any]], *, chunk: int = CHUNK
    ) -> list[AsyncResult[R]]:
        """Enqueue a call per tuple of arguments: all or none, one round trip per `chunk`.

        send.delay_many([("ada@example.com", "hi"), ("bob@example.com", "hi")])
        """
        client, signatures = self._signatures(calls, chunk)
        if not signatures:
            return []
        return self._results(client, client.enqueue(signatures, self._connection, chunk=chunk))

    async def adelay_many(
        self, calls: Iterable[Sequence[Any]], *, chunk: int = CHUNK
    ) -> list[AsyncResult[R]]:
        """As delay_many."""
        client, signatures = self._signatures(calls, chunk)
        if not signatures:
            return []
        enqueued = await client.aenqueue(signatures, self._connection, chunk=chunk)
        return self._results(client, enqueued)

    def options(self, **options: Unpack[Options]) -> Self:
        """The task with these options for its calls; raises BadOption.

        send.options(priority=9, countdown=60).delay("ada@example.com", "hi")
        """
        said = {**self._said_per_call, **validate(options)}
        merged = merge(self._said, said)
        self._check_memory_limit(merged)
        self._check_placeholders(merged)
        return self._with(_said_per_call=said)

    def using(self, connection: Any) -> Self:
        """The task with its calls enqueued in the connection's open transaction.

        Takes psycopg and SQLAlchemy connections and sessions, of both colours; raises
        UnknownConnection (a TypeError) for anything else.
        """
        from pgtask.broker.foreign import adapter

        adapter(connection)
        return self._with(_connection=connection)

    def through(self, client: Client) -> Self:
        """The task with its calls enqueued by this client, whatever app it belongs to."""
        return self._with(_client=lambda: client)

    def retry_policy(self, policy: Mapping[str, Any] | None = None) -> RetryPolicy:
        """How to retry a job of this task; what the job's own policy says wins."""
        said = policy or {}
        return RetryPolicy.parse(
            said.get("backoff", self.defaults.backoff),
            said.get("jitter", self.defaults.jitter),
            self.retry_for,
            self.give_up_on,
        )

    def run(self, context: JobContext, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call the function as a worker does, with decoded arguments; a coroutine if it is one."""
        if self._injected:
            given = context.connection if self.transaction is True else context.session
            kwargs = {**kwargs, **dict.fromkeys(self._injected, given)}
        if self.bind:
            return self.function(context, *args, **kwargs)
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def _signature(
        self, client: Client, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Signature:
        args_json, kwargs_json = self.codec.encode(args, kwargs, client.max_payload)
        return self._options_for(client).signature(
            self.name, args_json, kwargs_json, lambda: self.codec.arguments(args, kwargs)
        )

    def _signatures(
        self, calls: Iterable[Sequence[Any]], chunk: int
    ) -> tuple[Client, list[Signature]]:
        if chunk < 1:
            raise BadOption(f"chunk must be at least 1, got {chunk!r}")
        client = self._client()
        signatures = []
        for index, args in enumerate(calls):
            if not isinstance(args, (tuple, list)):
                raise ArgumentMismatch(
                    f"call {index} of {self.name}: expected a tuple of its arguments, got {args!r}"
                )
            try:
                signatures.append(self._signature(client, args, {}))
            except BadArguments as error:
                raise type(error)(f"call {index}: {error}") from error
        return client, signatures

    def _options_for(self, client: Client) -> CallOptions:
        if self._merged is None or self._merged[0] is not client:
            merged = merge(client.defaults, self._said, self._said_per_call)
            if self.is_async and merged.memory_limit is not None:
                merged = replace(merged, memory_limit=None)  # the app's default, for others
            self._merged = (client, merged)
        return self._merged[1]

    def _results(self, client: Client, enqueued: Any) -> list[AsyncResult[R]]:
        keep = self._options_for(client).keep
        return [
            AsyncResult.enqueued(
                client,
                job,
                decode=self.codec.decode_result,
                keep=keep,
                foreign=enqueued.foreign,
            )
            for job in enqueued.jobs
        ]

    def _context(self) -> tuple[JobContext, ...]:
        if not self.bind:
            return ()
        try:
            return (current_job(),)
        except NoCurrentJob:
            return (JobContext(id=0, task=self.name),)

    def _check_memory_limit(self, options: CallOptions) -> None:
        if self.is_async and options.memory_limit is not None:
            raise BadOption(
                f"task {self.name!r}: memory_limit cannot be enforced for an async def, whose "
                "process runs others as well; make it a def, or limit the worker with "
                "--max-memory-per-child"
            )

    def _check_placeholders(self, options: CallOptions) -> None:
        if not options.has_placeholders:
            return
        known = {parameter.name for parameter in self.codec.parameters.taken}
        for name in placeholders(options) - known:
            raise BadOption(
                f"task {self.name!r} has no parameter {name!r} to fill {{{name}}} in key or "
                f"serial; it has: {', '.join(sorted(known)) or 'none'}"
            )

    def _with(self, **changes: Any) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, _merged=None, **changes)
        return other


class AsyncTask(Task[P, R]):
    """A task whose function is a coroutine function: a direct call is to be awaited."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]  # the plain call of an async def
        coroutine: Any = super().__call__(*args, **kwargs)
        return coroutine  # type: ignore[no-any-return]  # by is_async


def _check_transaction(task: str, value: Any, *, is_async: bool) -> bool | Callable[[], Any]:
    if isinstance(value, bool):
        return value
    from pgtask.broker.foreign import makes_async_sessions

    makes_async = makes_async_sessions(value)
    if makes_async is None:
        raise BadOption(
            f"transaction must be True or False, or a factory of SQLAlchemy sessions (sessionmaker,"
            f" async_sessionmaker or a scoped one), got {value!r}"
        )
    if makes_async is not is_async:
        wanted = "async_sessionmaker" if is_async else "sessionmaker"
        raise BadOption(
            f"task {task!r}: transaction={value!r} does not fit {'an async' if is_async else 'a'}"
            f" def; give it: {wanted}(...)"
        )
    factory: Callable[[], Any] = value
    return factory


def _check_sequence(task: str, args: Any) -> None:
    if not isinstance(args, (tuple, list)):
        raise ArgumentMismatch(f"{task}(): args must be a tuple or list of arguments, got {args!r}")


def _check_function(function: Any, *, named: bool) -> None:
    if isinstance(function, Task):
        raise DefinitionError(f"{function.name} is a task already; decorate the function once")
    if not inspect.isfunction(function):
        what = "a class" if isinstance(function, type) else f"a {type(function).__name__}"
        raise DefinitionError(f"a task is a function made by def, not {what}: {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DefinitionError(
            f"task {function.__qualname__}: a generator cannot be a task; return a list"
        )
    if not named and function.__name__ == "<lambda>":
        raise DefinitionError("a lambda has no name to be found by; give one: task(name=...)")
    if not named and "<locals>" in function.__qualname__:
        raise DefinitionError(
            f"{function.__qualname__} is defined inside a function, where no worker can find it; "
            "move it to the module, or give a name: task(name=...)"
        )


def _name_of(function: Callable[..., Any]) -> str:
    return f"{_module_of(function)}.{function.__qualname__}"


def _module_of(function: Callable[..., Any]) -> str:
    module = function.__module__
    if module != "__main__":
        return module
    # The worker imports the file under its real name, so the job must carry that one.
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else module


def _place_of(function: Any) -> Place:
    code = inspect.unwrap(function).__code__
    return Place(_module_of(function), function.__qualname__, code.co_filename, code.co_firstlineno)
