"""Jobs: those in the app's database, to find, to count, and to change many at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias, TypedDict, TypeVar, Unpack

from pgtask.broker import inspect, jobs
from pgtask.broker.inspect import Filter, JobLine
from pgtask.broker.jobs import Verb
from pgtask.broker.statement import Statement
from pgtask.client import Client
from pgtask.config import near
from pgtask.errors import BadOption
from pgtask.job import STATES
from pgtask.lossless import shown, unfit
from pgtask.retry import parse_seconds

T = TypeVar("T")

PAGE = 1000  # jobs in one transaction
MAX_ID = 2**63 - 1

Change: TypeAlias = Callable[[list[int]], Statement[dict[int, str]]]
Steps: TypeAlias = Generator[Statement[Any], Any, T]


class JobFilter(TypedDict, total=False):
    """Which jobs are meant: those that match everything that is given.

    In `task` a `*` stands for any characters. `since` and `older_than`: seconds, or a timedelta,
    within which, or for longer than which, nothing has happened to the job.
    """

    queue: str | Sequence[str]
    task: str
    state: str | Sequence[str]
    since: float | timedelta
    older_than: float | timedelta
    key: str
    serial: str
    tag: str
    tenant: str
    reason: str


class Jobs:
    """The jobs in the app's database, for people and their scripts.

        app.jobs.retry(task="mail.*", since=timedelta(hours=2))
        app.jobs.cancel([17, 18])

    What changes jobs takes their ids or a filter, or `every=True`, and answers what became of each.
    It goes page by page, each in a transaction of its own; jobs that come meanwhile are left. Every
    method has a twin for coroutines: afind, acancel...
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def find(
        self, *, limit: int = 100, before: int | None = None, **which: Unpack[JobFilter]
    ) -> list[JobLine]:
        """The newest jobs that match, newest first; `before` is the id from which to go on."""
        found = replace(_filter(which), before=before)
        return self._client.run(inspect.jobs(found, _limit(limit)), twin="afind")

    async def afind(
        self, *, limit: int = 100, before: int | None = None, **which: Unpack[JobFilter]
    ) -> list[JobLine]:
        """As find."""
        found = replace(_filter(which), before=before)
        return await self._client.arun(inspect.jobs(found, _limit(limit)))

    def count(self, **which: Unpack[JobFilter]) -> int:
        """How many jobs match."""
        return self._client.run(inspect.count(_filter(which)), twin="acount")[0]

    async def acount(self, **which: Unpack[JobFilter]) -> int:
        """As count."""
        return (await self._client.arun(inspect.count(_filter(which))))[0]

    def cancel(
        self,
        ids: int | Iterable[int] | None = None,
        /,
        *,
        terminate: bool = False,
        every: bool = False,
        **which: Unpack[JobFilter],
    ) -> dict[int, str]:
        """Cancel jobs: cancelled, cancelling (it runs, and was asked to stop), finished, missing.

        `terminate=True` interrupts what runs, and kills it after its worker's cancel_grace.
        """
        return self._run(
            _steps(jobs.CANCEL, _cancel(terminate=terminate), ids, which, every=every), "cancel"
        )

    async def acancel(
        self,
        ids: int | Iterable[int] | None = None,
        /,
        *,
        terminate: bool = False,
        every: bool = False,
        **which: Unpack[JobFilter],
    ) -> dict[int, str]:
        """As cancel."""
        return await self._arun(
            _steps(jobs.CANCEL, _cancel(terminate=terminate), ids, which, every=every)
        )

    def retry(
        self,
        ids: int | Iterable[int] | None = None,
        /,
        *,
        every: bool = False,
        **which: Unpack[JobFilter],
    ) -> dict[int, str]:
        """Run finished jobs again: retried, unfinished, missing, refused (a newer one has its key).

        A filter without a state finds failed jobs. Attempts are counted anew.
        """
        return self._run(_steps(jobs.RETRY, jobs.retry, ids, which, every=every), "retry")

    async def aretry(
        self,
        ids: int | Iterable[int] | None = None,
        /,
        *,
        every: bool = False,
        **which: Unpack[JobFilter],
    ) -> dict[int, str]:
        """As retry."""
        return await self._arun(_steps(jobs.RETRY, jobs.retry, ids, which, every=every))

    def discard(
        self,
        ids: int | Iterable[int] | None = None,
        /,
        *,
        message: str | None = None,
        every: bool = False,
        **which: Unpack[JobFilter],
    ) -> dict[int, str]:
        """Give up jobs that have not begun: discarded, running, finished, missing.

        They end as failed, with `message` as their error; retry runs them again.
        """
        return self._run(
            _steps(jobs.DISCARD, _discard(message), ids, which, every=every), "discard"
        )

    async def adiscard(
        self,
        ids: int | Iterable[int] | None = None,
        /,
        *,
        message: str | None = None,
        every: bool = False,
        **which: Unpack[JobFilter],
    ) -> dict[int, str]:
        """As discard."""
        return await self._arun(_steps(jobs.DISCARD, _discard(message), ids, which, every=every))

    def reschedule(
        self,
        ids: int | Iterable[int] | None = None,
        /,
        *,
        run_at: datetime | None = None,
        delay: float | timedelta | None = None,
        priority: int | None = None,
        attempt: int | None = None,
        max_attempts: int | None = None,
        every: bool = False,
        **which: Unpack[JobFilter],
    ) -> dict[int, str]:
        """Change jobs that have not begun: rescheduled, running, finished, missing.

        What is None stays as it is. `attempt=0` gives a job all its attempts again.
        """
        change = _reschedule(run_at, delay, priority, attempt, max_attempts)
        return self._run(_steps(jobs.RESCHEDULE, change, ids, which, every=every), "reschedule")

    async def areschedule(
        self,
        ids: int | Iterable[int] | None = None,
        /,
        *,
        run_at: datetime | None = None,
        delay: float | timedelta | None = None,
        priority: int | None = None,
        attempt: int | None = None,
        max_attempts: int | None = None,
        every: bool = False,
        **which: Unpack[JobFilter],
    ) -> dict[int, str]:
        """As reschedule."""
        change = _reschedule(run_at, delay, priority, attempt, max_attempts)
        return await self._arun(_steps(jobs.RESCHEDULE, change, ids, which, every=every))

    def purge(
        self,
        ids: int | Iterable[int] | None = None,
        /,
        *,
        every: bool = False,
        **which: Unpack[JobFilter],
    ) -> dict[int, str]:
        """Remove finished jobs for good: purged, unfinished, missing, finished (it is in use)."""
        return self._run(_steps(jobs.PURGE, jobs.purge, ids, which, every=every), "purge")

    async def apurge(
        self,
        ids: int | Iterable[int] | None = None,
        /,
        *,
        every: bool = False,
        **which: Unpack[JobFilter],
    ) -> dict[int, str]:
        """As purge."""
        return await self._arun(_steps(jobs.PURGE, jobs.purge, ids, which, every=every))

    def _run(self, steps: Steps[T], call: str) -> T:
        answer = None
        while True:
            try:
                statement = steps.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # what the generator returns
            answer = self._client.run(statement, twin=f"a{call}")

    async def _arun(self, steps: Steps[T]) -> T:
        answer = None
        while True:
            try:
                statement = steps.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # what the generator returns
            answer = await self._client.arun(statement)


def _steps(
    verb: Verb,
    change: Change,
    ids: int | Iterable[int] | None,
    which: JobFilter,
    *,
    every: bool,
) -> Steps[dict[int, str]]:
    """The statements, one after the other; sent their answers, it returns what became of all."""
    if (ids is not None) + bool(which) + every != 1:
        raise BadOption(
            f"{verb.name}() takes ids, or a filter such as queue='mail', or every=True: one of them"
        )
    outcomes: dict[int, str] = {}
    if ids is not None:
        given = _ids(ids)
        for start in range(0, len(given), PAGE):
            outcomes |= yield change(given[start : start + PAGE])
        return outcomes
    found = _filter(which)
    for state in found.states:
        if state not in verb.possible_states:
            raise BadOption(
                f"{verb.name}() does nothing to {state} jobs; state is one of "
                + ", ".join(verb.possible_states)
            )
    found = found if found.states else replace(found, states=verb.default_states)
    total, last = yield inspect.count(found)
    # No further than what was counted: jobs that fail meanwhile would never come to an end.
    found = replace(found, before=last + 1)
    after = 0
    while total and (page := (yield inspect.matching_ids(found, after, PAGE))):
        outcomes |= yield change(page)
        after = page[-1]
    return outcomes


def _filter(which: JobFilter) -> Filter:
    unknown = set(which) - JobFilter.__annotations__.keys()
    if unknown:
        name = min(unknown)
        raise BadOption(
            f"there is no filter {name!r}{near(name, sorted(JobFilter.__annotations__))}"
        )
    for name in ("task", "key", "serial", "tag", "tenant", "reason"):
        word = which.get(name, "")
        if not isinstance(word, str):
            raise BadOption(f"{name} is a string, got {word!r}")
        _check_text(name, word)
    states = _words("state", which.get("state", ()))
    for state in states:
        if state not in STATES:
            raise BadOption(
                f"there is no state {state!r}{near(state, STATES)}; one of {', '.join(STATES)}"
            )
    return Filter(
        queues=_words("queue", which.get("queue", ())),
        states=states,
        task=which.get("task"),
        since=_seconds("since", which.get("since")),
        older_than=_seconds("older_than", which.get("older_than")),
        key=which.get("key"),
        serial=which.get("serial"),
        tag=which.get("tag"),
        tenant=which.get("tenant"),
        reason=which.get("reason"),
    )


def _words(name: str, value: str | Sequence[str]) -> tuple[str, ...]:
    words = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(word, str) for word in words):
        raise BadOption(f"{name} is a string or several, got {value!r}")
    for word in words:
        _check_text(name, word)
    return words


def _check_text(name: str, word: str) -> None:
    if fault := unfit(word, name):
        raise BadOption(f"{name} {shown(word)}: {fault.message} → leave it out")


def _seconds(name: str, value: float | timedelta | None) -> float | None:
    return None if value is None else parse_seconds(name, value)


def _limit(limit: int) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise BadOption(f"limit is a whole number of at least 0, got {limit!r}")
    return limit


def _ids(ids: int | Iterable[int]) -> list[int]:
    given = [ids] if isinstance(ids, int) else list(ids)
    for one in given:
        if isinstance(one, bool) or not isinstance(one, int) or abs(one) > MAX_ID:
            raise BadOption(f"the id of a job is a whole number, got {one!r}")
    return sorted(set(given))


def _cancel(*, terminate: bool) -> Change:
    return lambda ids: jobs.cancel(ids, terminate=terminate)


def _discard(message: str | None) -> Change:
    return lambda ids: jobs.discard(ids, message)


def _reschedule(
    run_at: datetime | None,
    delay: float | timedelta | None,
    priority: int | None,
    attempt: int | None,
    max_attempts: int | None,
) -> Change:
    if run_at is not None and delay is not None:
        raise BadOption("run_at and delay both say when; give one of them")
    if run_at is not None and run_at.utcoffset() is None:
        raise BadOption(f"run_at has no time zone: {run_at!r}; write datetime.now(UTC) + ...")
    if all(value is None for value in (run_at, delay, priority, attempt, max_attempts)):
        raise BadOption(
            "reschedule() changes nothing; give run_at, delay, priority, attempt or max_attempts"
        )
    seconds = _seconds("delay", delay)
    return lambda ids: jobs.reschedule(
        ids,
        run_at=run_at,
        delay=seconds,
        priority=priority,
        attempt=attempt,
        max_attempts=max_attempts,
    )
