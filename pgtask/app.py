"""App: a registry of tasks, their configuration and their client."""

from __future__ import annotations

import importlib
import inspect
import os
from collections import ChainMap
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, Unpack, overload
from weakref import WeakSet

from pgtask import config as settings
from pgtask import result
from pgtask.client import Client, Enqueued
from pgtask.codec import decode_result, encode_untyped
from pgtask.current import JobContext
from pgtask.definition import Catchup, Definition, Overlap
from pgtask.errors import ConfigError, DefinitionError, ScheduleInvalid, TaskExists
from pgtask.jobs import Jobs
from pgtask.retry import parse_seconds
from pgtask.schedule import Schedule
from pgtask.schedules import Declarations, Declared, Schedules
from pgtask.signature import (
    Options,
    PeriodicOptions,
    Signature,
    TaskOptions,
    check_flag,
    check_task_name,
    merge,
    validate,
)
from pgtask.task import AsyncTask, Task

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound=Task[Any, Any])

# Tasks of the module-level decorator: libraries define them without knowing any App.
_shared: dict[str, Task[Any, Any]] = {}
_shared_schedules = Declarations()
_apps: WeakSet[App] = WeakSet()
_first: App | None = None
_implicit: App | None = None


class _Decorator:
    """`@app.task(queue="mail")`, still to be given its function."""

    def __init__(self, register: Callable[..., Any], options: TaskOptions) -> None:
        self._register = register
        self._options = options

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        return self._register(function, bind=False, options=self._options)


class _BindingDecorator:
    """`@app.task(bind=True)`: the function's first parameter takes the context."""

    def __init__(self, register: Callable[..., Any], options: TaskOptions) -> None:
        self._register = register
        self._options = options

    @overload
    def __call__(
        self, function: Callable[Concatenate[JobContext, P], Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[JobContext, P], R], /) -> Task[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        return self._register(function, bind=True, options=self._options)


class App:
    """The tasks of a program and the database they are enqueued in. Never connects on import.

    `dsn` is used where neither a flag, PGTASK_DSN nor a configuration file names a database.
    `imports` are the modules that define tasks; a worker imports them. `task_defaults` are
    options for every call, `retention` is how long finished jobs are kept, in seconds. `tz` is the
    zone of schedules that name none (UTC).

        app = App("shop", imports=["shop.tasks"])
    """

    def __init__(
        self,
        name: str,
        dsn: str | None = None,
        *,
        imports: Sequence[str] = (),
        default_queue: str = "default",
        task_defaults: Options | None = None,
        max_payload: int | None = None,
        retention: float | timedelta | None = None,
        tz: str | None = None,
    ) -> None:
        global _first
        self._prepare(
            name,
            imports,
            {**validate({"queue": default_queue}), **validate(task_defaults or {})},
            {
                "dsn": dsn,
                "max_payload": max_payload,
                "retention": None if retention is None else parse_seconds("retention", retention),
            },
            tz,
        )
        if _first is None:
            _first = self

    def _prepare(
        self,
        name: str,
        imports: Sequence[str],
        defaults: Mapping[str, Any],
        code: Mapping[str, object],
        tz: str | None = None,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"App(name): a name is a string, got {name!r}")
        if isinstance(imports, str):
            raise ConfigError(f"App(imports): a list of module names; write [{imports!r}]")
        merge(defaults)
        self.name = name
        self.imports = tuple(imports)
        # What the code says, for whoever loads the configuration with flags of its own.
        self.settings: Mapping[str, object] = MappingProxyType(
            {field: value for field, value in code.items() if value is not None}
        )
        self.client = Client(lambda: self.config, defaults)
        self._tasks: dict[str, Task[Any, Any]] = {}
        self.schedules = Schedules(self.client, lambda: self.tasks, tz)
        self.jobs = Jobs(self.client)
        self._config: settings.Config | None = None
        _apps.add(self)

    @property
    def config(self) -> settings.Config:
        """The settings in force, read from files and the environment at the first need."""
        if self._config is None:
            self._config = settings.load({}, self.settings, os.environ, Path.cwd())
        return self._config

    @config.setter
    def config(self, config: settings.Config) -> None:
        self._config = config
        self.client.reconfigure()

    @property
    def tasks(self) -> Mapping[str, Task[Any, Any]]:
        """Every task this app knows by name, those of the module-level decorator included."""
        return MappingProxyType(ChainMap(self._tasks, _shared))

    @property
    def own_tasks(self) -> Mapping[str, Task[Any, Any]]:
        """The tasks that were registered with this app."""
        return MappingProxyType(self._tasks)

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self, /, *, bind: Literal[True], **options: Unpack[TaskOptions]
    ) -> _BindingDecorator: ...
    @overload
    def task(
        self, /, *, bind: Literal[False] = False, **options: Unpack[TaskOptions]
    ) -> _Decorator: ...
    def task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        bind: bool = False,
        **options: Unpack[TaskOptions],
    ) -> Any:
        """Register a function as a task: `@app.task`, or `@app.task(queue="mail")`.

        Raises DefinitionError for what no worker could find or call, TaskExists for a name that
        another function has, BadOption for an option that is unknown or cannot work.
        """
        return _decorate(self._register, function, bind=bind, options=options)

    def periodic(
        self,
        schedule: Schedule | str,
        /,
        *,
        tz: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exceptions: Sequence[date | time | datetime] = (),
        jitter: float | timedelta = 0,
        name: str | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        catchup: Catchup = "last",
        overlap: Overlap = "skip",
        grace: float | timedelta | None = None,
        **options: Unpack[PeriodicOptions],
    ) -> Callable[[T], T]:
        """Declare a schedule of a task; a beat of this app writes it to the database.

            @app.periodic("*/5 * * * *", tz="Europe/Vienna")
            @app.task
            def look() -> None: ...

        May stand over a task several times; from the second on, each needs a name. `options` are
        those of its calls. Raises ScheduleInvalid, BadOption, and what `delay` has against the
        arguments.
        """
        said = {"tz": tz, "start": start, "end": end, "exceptions": exceptions, "jitter": jitter}
        given = {field: value for field, value in said.items() if value}
        if isinstance(schedule, str):
            schedule = Schedule(cron=schedule, **given)  # type: ignore[arg-type]  # typed above
        elif given:
            field, value = next(iter(given.items()))
            raise ScheduleInvalid.of(
                field, value, "is given beside a Schedule(...)", "say it in the Schedule itself"
            )

        def declare(task: T) -> T:
            if not isinstance(task, Task):
                raise DefinitionError(
                    f"periodic() stands over a task, got {task!r}; write @app.task below it"
                )
            made = Declared.of(
                task.options(**options),
                schedule,
                name=name,
                args=args,
                kwargs=kwargs,
                catchup=catchup,
                overlap=overlap,
                grace=grace,
            )
            self.schedules.declarations.add(made, _shared_schedules.by_name)
            return task

        return declare

    def definitions(self) -> list[Definition]:
        """The schedules that the code declares, as a beat writes them to the database."""
        declared = {**_shared_schedules.by_name, **self.schedules.declarations.by_name}
        return [self.schedules.here(declared[name].definition()) for name in sorted(declared)]

    @contextmanager
    def using(self, connection: Any) -> Iterator[None]:
        """Enqueue in this connection's transaction, for the block and what it calls."""
        with self.client.using(connection):
            yield

    def enqueue(
        self,
        task: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[Options],
    ) -> result.AsyncResult[Any]:
        """Enqueue by name. A name that is not registered here waits for a worker that knows it."""
        known = self.tasks.get(task)
        if known is not None:
            return known.through(self.client).apply_async(args, kwargs, **options)
        signature = self._untyped(task, args, kwargs or {}, options)
        enqueued = self.client.enqueue([signature])
        return self._result(signature, enqueued)

    async def aenqueue(
        self,
        task: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[Options],
    ) -> result.AsyncResult[Any]:
        """As enqueue."""
        known = self.tasks.get(task)
        if known is not None:
            return await known.through(self.client).aapply_async(args, kwargs, **options)
        signature = self._untyped(task, args, kwargs or {}, options)
        enqueued = await self.client.aenqueue([signature])
        return self._result(signature, enqueued)

    def signature(
        self,
        task: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[Options],
    ) -> Signature:
        """The call of a task by name, as a value; `send.s(...)` where the task is at hand."""
        known = self.tasks.get(task)
        if known is not None:
            return known.through(self.client).options(**options).s(*args, **(kwargs or {}))
        return self._untyped(task, args, kwargs or {}, options)

    def AsyncResult(self, job_id: int | str) -> result.AsyncResult[Any]:  # noqa: N802 - Celery's spelling
        """The job of that id, its result as plain JSON; ValueError for what is no id."""
        return result.AsyncResult(self.client, job_id)

    def load(self) -> Mapping[str, Task[Any, Any]]:
        """Import the modules in `imports` and return the tasks; what they raise goes through."""
        for module in self.imports:
            importlib.import_module(module)
        return self.tasks

    def close(self) -> None:
        """Close the connections that synchronous code opened; the next call opens new ones."""
        self.client.close()

    async def aclose(self) -> None:
        """Close the connections of this event loop, and those of synchronous code."""
        await self.client.aclose()

    def __repr__(self) -> str:
        return f"<App {self.name!r}>"

    def _register(
        self, function: Callable[..., Any], *, bind: bool, options: TaskOptions
    ) -> Task[Any, Any]:
        made = _make(function, lambda: self.client, bind=bind, options=options)
        _refuse_other(made, self._tasks, _shared)
        if (schedule := options.get("schedule")) is not None:
            self.schedules.declarations.add(Declared.of(made, schedule), _shared_schedules.by_name)
        self._tasks[made.name] = made
        return made

    def _untyped(
        self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Options
    ) -> Signature:
        args_json, kwargs_json = encode_untyped(
            args, kwargs, task=check_task_name(task), max_payload=self.client.max_payload
        )
        merged = merge(self.client.defaults, validate(options))
        return merged.signature(task, args_json, kwargs_json, lambda: kwargs)

    def _result(self, signature: Signature, enqueued: Enqueued) -> result.AsyncResult[Any]:
        return result.AsyncResult.enqueued(
            self.client,
            enqueued.jobs[0],
            decode=decode_result,
            keep=signature.options.keep,
            foreign=enqueued.foreign,
        )


def default_app() -> App:
    """The app of module-level tasks: the first App that was made, or one called "default"."""
    global _implicit
    if _first is not None:
        return _first
    if _implicit is None:
        # Not through App(): it must not count as the first that somebody made.
        _implicit = object.__new__(App)
        _implicit._prepare("default", (), {}, {})
    return _implicit


@overload
def task(function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(*, bind: Literal[True], **options: Unpack[TaskOptions]) -> _BindingDecorator: ...
@overload
def task(*, bind: Literal[False] = False, **options: Unpack[TaskOptions]) -> _Decorator: ...
def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    bind: bool = False,
    **options: Unpack[TaskOptions],
) -> Any:
    """Register a task for every App, as a library does that knows none; otherwise as App.task.

    @task(queue="mail")
    def send(to: str, subject: str) -> None: ...
    """
    return _decorate(_share, function, bind=bind, options=options)


def _share(function: Callable[..., Any], *, bind: bool, options: TaskOptions) -> Task[Any, Any]:
    made = _make(function, lambda: default_app().client, bind=bind, options=options)
    _refuse_other(made, _shared, *(app.own_tasks for app in _apps))
    if (schedule := options.get("schedule")) is not None:
        _shared_schedules.add(
            Declared.of(made, schedule), *(app.schedules.declarations.by_name for app in _apps)
        )
    _shared[made.name] = made
    return made


def _decorate(
    register: Callable[..., Any],
    function: Callable[..., Any] | None,
    *,
    bind: bool,
    options: TaskOptions,
) -> Any:
    check_flag("bind", bind)
    if function is not None:
        return register(function, bind=bind, options=options)
    return _BindingDecorator(register, options) if bind else _Decorator(register, options)


def _make(
    function: Callable[..., Any],
    client: Callable[[], Client],
    *,
    bind: bool,
    options: TaskOptions,
) -> Task[Any, Any]:
    kind = AsyncTask if inspect.iscoroutinefunction(function) else Task
    given = options.copy()
    given.pop("schedule", None)  # the registry's
    return kind(function, client, bind=bind, **given)


def _refuse_other(made: Task[Any, Any], *registries: Mapping[str, Task[Any, Any]]) -> None:
    for registry in registries:
        other = registry.get(made.name)
        if other is not None and not made.place.is_same_as(other.place):
            raise TaskExists(
                f"two tasks are called {made.name!r}: {other.place} and {made.place}; "
                "give one of them another name: task(name=...)"
            )
