"""app.jobs: find, count, and change many jobs, in both colours."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any
from uuid import uuid4

import psycopg
import pytest

import pgtask
from pgtask import jobs
from pgtask.errors import BadCall, BadOption, BlockingCall


class Stand:
    """The app's jobs, and a worker that is played by hand."""

    def __init__(self, app: pgtask.App, connection: psycopg.Connection[Any]) -> None:
        self.app = app
        self._connection = connection
        self._worker = uuid4()
        self.ask("select pgtask.register(%s, 'h', 1, '0', '{*}', '{t.a,t.b}', 1)", self._worker)

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self._connection.execute(query.encode(), values).fetchall()

    def job(self, task: str = "t.a", **options: Any) -> int:
        named = "".join(f", {name} => %s" for name in options)
        return int(self.ask(f"select pgtask.enqueue(%s{named})", task, *options.values())[0][0])

    def claim(self, count: int = 1, queue: str = "default") -> list[tuple[int, int]]:
        return self.ask(
            "select id, epoch from pgtask._claim(%s, %s, array[%s], null)",
            self._worker, count, queue,
        )  # fmt: skip

    def finish(self, *attempts: tuple[int, int], verdict: str = "succeeded") -> None:
        for job, epoch in attempts:
            self.ask(
                "select pgtask._finish(%s, array[%s::bigint], array[%s], array['1'], array[%s])",
                self._worker, job, epoch, verdict,
            )  # fmt: skip

    def state(self, job: int) -> str | None:
        rows = self.ask("select state from pgtask.jobs where id = %s", job)
        return rows[0][0] if rows else None


@pytest.fixture
def stand(shop: ModuleType, connection: psycopg.Connection[Any]) -> Stand:
    return Stand(shop.app, connection)


def test_find_and_count_take_the_same_filters(stand: Stand) -> None:
    first, second = stand.job(queue="mail"), stand.job("t.b", tags=["vip"], tenant="acme")
    third = stand.job(key="k", serial="s", delay="1 hour")
    every = stand.app.jobs

    def ids(**which: Any) -> list[int]:
        found = [line.id for line in every.find(**which)]
        assert every.count(**which) == len(found)
        # The function that SQL clients call finds the same.
        same = {name: value for name, value in which.items() if isinstance(value, str)}
        if same == which:
            named = ", ".join(f"{name} => %s" for name in same)
            rows = stand.ask(f"select pgtask.find_jobs({named})", *same.values())
            assert [row[0] for row in rows] == found[::-1]
        return found

    assert ids() == [third, second, first]
    assert ids(queue="mail") == [first]
    assert ids(queue=["mail", "default"]) == [third, second, first]
    assert ids(task="*.b") == ids(tag="vip") == ids(tenant="acme") == [second]
    assert ids(key="k") == ids(serial="s") == ids(state="scheduled") == [third]
    assert ids(state=["ready", "failed"]) == [second, first]
    assert ids(since=60) == [third, second, first]
    assert ids(older_than=timedelta(minutes=1)) == ids(reason="error") == []
    assert [line.id for line in every.find(limit=1, before=third)] == [second]
    assert every.find(tenant="acme")[0].tenant == "acme"


def test_each_verb_answers_for_each_id(stand: Stand) -> None:
    running, done = stand.job(), stand.job()
    attempts = stand.claim(2)
    stand.finish(attempts[1])
    ready, later = stand.job(), stand.job(delay="1 hour")
    every = stand.app.jobs

    assert every.reschedule([running, done, ready, 999], priority=5) == {
        running: "running", done: "finished", ready: "rescheduled", 999: "missing",
    }  # fmt: skip
    assert every.discard((ready, running, done, 999), message="enough") == {
        ready: "discarded", running: "running", done: "finished", 999: "missing",
    }  # fmt: skip
    assert every.cancel({later, running, done}) == {
        later: "cancelled", running: "cancelling", done: "finished",
    }  # fmt: skip
    assert every.retry(ready) == {ready: "retried"}
    assert every.purge([done, ready, later, 999]) == {
        done: "purged", ready: "unfinished", later: "purged", 999: "missing",
    }  # fmt: skip
    assert every.cancel([]) == {}


def test_a_discarded_job_tells_its_message(stand: Stand) -> None:
    job = stand.job()
    stand.app.jobs.discard(job, message="the customer is gone")

    with pytest.raises(pgtask.JobFailed, match="the customer is gone") as failed:
        stand.app.AsyncResult(job).get(timeout=5)
    assert failed.value.reason == "discarded"


def test_a_verb_takes_the_states_that_it_can_change(stand: Stand) -> None:
    good, bad = stand.job(), stand.job()
    first, second = stand.claim(2)
    stand.finish(first)
    stand.finish(second, verdict="failed")
    ready = stand.job()
    every = stand.app.jobs

    assert every.retry(every=True) == {bad: "retried"}
    assert every.cancel(task="t.*") == {bad: "cancelled", ready: "cancelled"}
    assert set(every.purge(state=["succeeded"])) == {good}
    with pytest.raises(BadOption, match="retry\\(\\) does nothing to running jobs"):
        every.retry(state="running")


def test_when_a_job_runs_can_be_said_in_two_ways(stand: Stand) -> None:
    job = stand.job()
    at = datetime(2101, 1, 1, tzinfo=UTC)
    stand.app.jobs.reschedule(job, run_at=at)
    assert stand.app.jobs.find()[0].run_at == at
    stand.app.jobs.reschedule(job, delay=timedelta(hours=1), attempt=0)
    (found,) = stand.app.jobs.find()
    assert found.run_at is not None
    assert timedelta(minutes=59) < found.run_at - datetime.now(UTC) < timedelta(minutes=61)
    stand.app.jobs.reschedule(job, delay=0)
    assert stand.state(job) == "ready"


def test_it_goes_page_by_page_and_no_further_than_it_counted(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PAGE", 2)
    ids = [stand.job() for _ in range(5)]

    assert stand.app.jobs.cancel(queue="default") == dict.fromkeys(ids, "cancelled")
    assert stand.app.jobs.retry(ids) == dict.fromkeys(ids, "retried")


def test_the_twins_do_the_same(stand: Stand) -> None:
    first, second, third = stand.job(), stand.job(), stand.job()

    async def work() -> None:
        every = stand.app.jobs
        assert [line.id for line in await every.afind()] == [third, second, first]
        assert await every.acount(queue="default") == 3
        assert await every.areschedule(first, priority=3) == {first: "rescheduled"}
        assert await every.acancel(first) == {first: "cancelled"}
        assert await every.adiscard([second]) == {second: "discarded"}
        assert await every.aretry(every=True) == {second: "retried"}
        assert await every.apurge(state="cancelled") == {first: "purged"}
        with pytest.raises(BlockingCall, match="await acancel"):
            every.cancel(third)
        await stand.app.aclose()

    asyncio.run(work())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda every: every.cancel(), "takes ids, or a filter"),
        (lambda every: every.cancel([1], queue="q"), "one of them"),
        (lambda every: every.retry(1, every=True), "one of them"),
        (lambda every: every.cancel(["1"]), "the id of a job is a whole number"),
        (lambda every: every.cancel(2**63), "the id of a job is a whole number"),
        (lambda every: every.find(que="q"), "no filter 'que', did you mean 'queue'"),
        (lambda every: every.find(state="reday"), "no state 'reday', did you mean 'ready'"),
        (lambda every: every.find(since=-1), "since must be between 0"),
        (lambda every: every.find(key=7), "key is a string, got 7"),
        (lambda every: every.find(key="a\0"), "PostgreSQL cannot store the character NUL"),
        (lambda every: every.cancel(queue=["a\udcff"]), "is not valid Unicode"),
        (lambda every: every.find(queue=[7]), "queue is a string or several"),
        (lambda every: every.find(limit=-1), "limit is a whole number"),
        (lambda every: every.reschedule(1), "changes nothing"),
        (lambda every: every.reschedule(1, run_at=datetime.now(), delay=1), "both say when"),
        (lambda every: every.reschedule(1, run_at=datetime(2030, 1, 1)), "has no time zone"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_sql(stand: Stand, call: Any, said: str) -> None:
    with pytest.raises(BadOption, match=said):
        call(stand.app.jobs)


def test_what_the_database_refuses_is_a_bad_call(stand: Stand) -> None:
    with pytest.raises(BadCall, match="priority is -100 to 100, got 101"):
        stand.app.jobs.reschedule(stand.job(), priority=101)
