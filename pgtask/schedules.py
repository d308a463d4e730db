"""Schedules: what an app declares in code, and those in the database, to look at and to change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from pgtask.broker import schedules
from pgtask.broker.schedules import ScheduleLine
from pgtask.broker.statement import Statement
from pgtask.client import Client
from pgtask.config import near
from pgtask.definition import Catchup, Definition, Overlap
from pgtask.errors import ScheduleInvalid, ScheduleNotFound, TaskNotFound
from pgtask.result import AsyncResult
from pgtask.schedule import Schedule
from pgtask.signature import Signature, check_schedule_name
from pgtask.task import Task
from pgtask.zones import zone

R = TypeVar("R")
SHOWN = 10  # names in an error


class Declared(NamedTuple):
    """A schedule as the code says it; the call is encoded when somebody needs it."""

    name: str
    task: Task[Any, Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    schedule: Schedule
    catchup: Catchup
    overlap: Overlap
    grace: float | timedelta | None

    @classmethod
    def of(
        cls,
        task: Task[Any, Any],
        schedule: Schedule | str,
        *,
        name: str | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        catchup: Catchup = "last",
        overlap: Overlap = "skip",
        grace: float | timedelta | None = None,
    ) -> Declared:
        """Return it, checked as `delay` checks a call; raises ScheduleInvalid, BadArguments."""
        made = cls(
            check_schedule_name(task.name if name is None else name),
            task,
            tuple(args),
            kwargs or {},
            as_schedule(schedule),
            catchup,
            overlap,
            grace,
        )
        made._with(task.sketch(made.args, made.kwargs))
        return made

    def definition(self) -> Definition:
        """What to store; asks the task's client, and so reads the configuration."""
        return self._with(self.task.s(*self.args, **self.kwargs))

    def _with(self, signature: Signature) -> Definition:
        return Definition(
            self.name, signature, self.schedule, self.catchup, self.overlap, self.grace
        )


class Declarations:
    """Schedules by name, no two of one name."""

    def __init__(self) -> None:
        self._by_name: dict[str, Declared] = {}

    @property
    def by_name(self) -> Mapping[str, Declared]:
        """What was declared, by name."""
        return MappingProxyType(self._by_name)

    def add(self, made: Declared, *others: Mapping[str, Declared]) -> None:
        """Take one more; a module that is loaded anew may declare its own again."""
        for registry in (self._by_name, *others):
            other = registry.get(made.name)
            if other is not None and not _is_reloaded(made.task, other.task):
                raise ScheduleInvalid.of(
                    "name",
                    made.name,
                    f"two schedules have it, of {other.task.place} and of {made.task.place}",
                    "give one of them another: periodic(..., name=...)",
                )
        self._by_name[made.name] = made


class Schedules:
    """The schedules in the app's database.

        app.schedules.upsert("nightly", report.s(tenant=7), Schedule(cron="30 2 * * *"))

    Every method has a twin for coroutines: aupsert, apause...
    """

    def __init__(
        self, client: Client, tasks: Callable[[], Mapping[str, Any]], tz: str | None = None
    ) -> None:
        if tz is not None:
            zone(tz)
        self._client = client
        self._tasks = tasks
        self._tz = tz
        self.declarations = Declarations()

    def upsert(
        self,
        name: str,
        signature: Signature,
        schedule: Schedule | str,
        *,
        catchup: Catchup = "last",
        overlap: Overlap = "skip",
        grace: float | timedelta | None = None,
        enabled: bool = True,
        unchecked: bool = False,
    ) -> int:
        """Make the schedule or change it, and return its id; every beat takes note at once.

        Raises ScheduleInvalid, and TaskNotFound for a task that this app does not know, unless
        `unchecked`.
        """
        made = self._defined(
            name, signature, schedule, catchup, overlap, grace, enabled, unchecked=unchecked
        )
        return self._run(schedules.put(made.row(), "api"), "upsert")

    async def aupsert(
        self,
        name: str,
        signature: Signature,
        schedule: Schedule | str,
        *,
        catchup: Catchup = "last",
        overlap: Overlap = "skip",
        grace: float | timedelta | None = None,
        enabled: bool = True,
        unchecked: bool = False,
    ) -> int:
        """As upsert."""
        made = self._defined(
            name, signature, schedule, catchup, overlap, grace, enabled, unchecked=unchecked
        )
        return await self._client.arun(schedules.put(made.row(), "api"))

    def pause(self, name: str, reason: str | None = None) -> bool:
        """Let it fire no more until it is resumed; False when it was paused before."""
        changed = self._run(schedules.pause(name, reason), "pause")
        return changed or self._was_there(name, "pause")

    async def apause(self, name: str, reason: str | None = None) -> bool:
        """As pause."""
        changed = await self._client.arun(schedules.pause(name, reason))
        return changed or await self._awas_there(name)

    def resume(self, name: str) -> bool:
        """Let it fire again, from now on; False when it was not paused."""
        changed = self._run(schedules.resume(name), "resume")
        return changed or self._was_there(name, "resume")

    async def aresume(self, name: str) -> bool:
        """As resume."""
        changed = await self._client.arun(schedules.resume(name))
        return changed or await self._awas_there(name)

    def fire(self, name: str) -> AsyncResult[Any]:
        """Enqueue its job now, beside what the schedule itself does."""
        job_id = self._run(schedules.fire_now(name), "fire")
        if job_id is None:
            raise unknown(name, self._run(schedules.names(), "fire"))
        return AsyncResult(self._client, job_id)

    async def afire(self, name: str) -> AsyncResult[Any]:
        """As fire."""
        job_id = await self._client.arun(schedules.fire_now(name))
        if job_id is None:
            raise unknown(name, await self._client.arun(schedules.names()))
        return AsyncResult(self._client, job_id)

    def delete(self, name: str) -> None:
        """Remove it with its history; one that the code declares comes back with the next beat."""
        if not self._run(schedules.drop(name), "delete"):
            raise unknown(name, self._run(schedules.names(), "delete"))

    async def adelete(self, name: str) -> None:
        """As delete."""
        if not await self._client.arun(schedules.drop(name)):
            raise unknown(name, await self._client.arun(schedules.names()))

    def reset(self, name: str) -> bool:
        """Undo what was edited at run time; False when the code has not declared it."""
        changed = self._run(schedules.reset(name), "reset")
        return changed or self._was_there(name, "reset")

    async def areset(self, name: str) -> bool:
        """As reset."""
        changed = await self._client.arun(schedules.reset(name))
        return changed or await self._awas_there(name)

    def list(self) -> Sequence[ScheduleLine]:
        """Every schedule there is, by name."""
        return self._run(schedules.list_(), "list")

    async def alist(self) -> Sequence[ScheduleLine]:
        """As list."""
        return await self._client.arun(schedules.list_())

    def get(self, name: str) -> ScheduleLine:
        """The schedule of that name."""
        found = self._run(schedules.get(name), "get")
        if found is None:
            raise unknown(name, self._run(schedules.names(), "get"))
        return found

    async def aget(self, name: str) -> ScheduleLine:
        """As get."""
        found = await self._client.arun(schedules.get(name))
        if found is None:
            raise unknown(name, await self._client.arun(schedules.names()))
        return found

    def preview(self, name: str, n: int = 10) -> Sequence[datetime]:
        """Its next `n` ticks, in UTC, as if it were neither paused nor disabled."""
        return _next(self.get(name), n)

    async def apreview(self, name: str, n: int = 10) -> Sequence[datetime]:
        """As preview."""
        return _next(await self.aget(name), n)

    def _defined(
        self,
        name: str,
        signature: Signature,
        schedule: Schedule | str,
        catchup: Catchup,
        overlap: Overlap,
        grace: float | timedelta | None,
        enabled: bool,  # noqa: FBT001 - handed on as it came
        *,
        unchecked: bool,
    ) -> Definition:
        if not isinstance(signature, Signature):
            raise TypeError(f"a signature is made by a task: send.s(...), got {signature!r}")
        known = self._tasks()
        if signature.task not in known and not unchecked:
            raise TaskNotFound(
                f"no task {signature.task!r} is registered here"
                f"{near(signature.task, sorted(known))}; import its module, or say unchecked=True"
            )
        return self.here(
            Definition(
                name, signature, as_schedule(schedule), catchup, overlap, grace, enabled=enabled
            )
        )

    def here(self, definition: Definition) -> Definition:
        """The definition in the app's zone, unless it names one."""
        return replace(definition, schedule=definition.schedule.in_zone(self._tz))

    def _run(self, statement: Statement[R], call: str) -> R:
        return self._client.run(statement, twin=f"a{call}")

    def _was_there(self, name: str, call: str) -> bool:
        names = self._run(schedules.names(), call)
        if name not in names:
            raise unknown(name, names)
        return False

    async def _awas_there(self, name: str) -> bool:
        names = await self._client.arun(schedules.names())
        if name not in names:
            raise unknown(name, names)
        return False


def unknown(name: str, names: list[str]) -> ScheduleNotFound:
    """The error for a name that no schedule has."""
    shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    return ScheduleNotFound(
        f"there is no schedule {name!r}{near(name, names)} → "
        + (f"there are: {shown}" if names else "there are none at all")
    )


def as_schedule(schedule: Schedule | str) -> Schedule:
    """The recurrence that is meant; a string is cron text."""
    return Schedule(cron=schedule) if isinstance(schedule, str) else schedule


def _is_reloaded(task: Task[Any, Any], other: Task[Any, Any]) -> bool:
    return task.function is not other.function and task.place.is_same_as(other.place)


def _next(line: ScheduleLine, n: int) -> list[datetime]:
    if n < 0:
        raise ValueError(f"preview: n={n} is less than 0; say how many ticks you want")
    return [*islice(Schedule.from_json(line.spec).upcoming(line.now), n)]
