"""AsyncResult: waiting for a job and reading how it ended, in both colours."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from pgtask import (
    App,
    BlockingCall,
    DecodeError,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobNotFound,
    ResultTimeout,
    config,
)
from pgtask.broker import attempts
from pgtask.broker.pool import Broker
from tests.conditions import eventually

app = App("results")


@app.task
def when(year: int) -> datetime:
    return datetime(year, 1, 1, tzinfo=UTC)


@app.task(keep="failures")
def kept_if_failed() -> int:
    return 1


@app.task(keep="none")
def never_kept() -> int:
    return 1


ANYWHERE = attempts.Range("default", -100, 100, 0)


class HandWorker:
    """A worker without processes: the test claims and finishes."""

    def __init__(self, dsn: str) -> None:
        self.id = uuid4()
        self.broker = Broker(dsn)
        tasks = list(app.own_tasks)
        row = attempts.WorkerRow(self.id, "here", 1, "0", ["*"], tasks, 1)
        self.broker.run(attempts.register(row))

    def finish(self, result: str | None = None, verdict: str = "succeeded", **more: str) -> None:
        (job,) = self.broker.run(attempts.claim(self.id, 1, [ANYWHERE], list(app.own_tasks), 1.0))
        ended = attempts.Ended(job.id, job.epoch, verdict, result, **more)  # type: ignore[arg-type]  # text fields only
        assert self.broker.run(attempts.finish(self.id, [ended])) == []


@pytest.fixture(autouse=True)
def worker(dsn: str) -> Iterator[HandWorker]:
    app.config = config.load({"dsn": dsn}, {}, {}, Path.cwd())
    worker = HandWorker(dsn)
    yield worker
    worker.broker.close()
    app.close()


def watched(connection: psycopg.Connection[object]) -> bool:
    row = connection.execute("select exists (select from pgtask.watcher)").fetchone()
    return row == (True,)


def has_looked(connection: psycopg.Connection[object]) -> bool:
    """Whether somebody watches, and now waits to be told."""
    row = connection.execute(
        "select exists (select from pg_stat_activity where datname = current_database()"
        " and application_name = 'pgtask:client' and state = 'idle' and query like '%_watch(%')"
    ).fetchone()
    return row == (True,)


def test_a_result_comes_back_in_the_type_of_the_annotation(worker: HandWorker) -> None:
    result = when.delay(2027)
    worker.finish('"2027-01-01T00:00:00Z"')

    assert result.get(timeout=5) == datetime(2027, 1, 1, tzinfo=UTC)
    assert result.state == "succeeded"
    assert result.ready()
    assert app.AsyncResult(result.id).get(timeout=5) == "2027-01-01T00:00:00Z"


def test_whoever_waits_is_woken_long_before_the_poll(
    worker: HandWorker, connection: psycopg.Connection[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgtask.result.POLL_FIRST", 60.0)
    monkeypatch.setattr("pgtask.result.POLL_MOST", 60.0)
    monkeypatch.setattr("pgtask.result.RECHECKS", ())
    result = when.delay(2027)
    got: list[datetime] = []
    waiter = threading.Thread(target=lambda: got.append(result.get(timeout=60)), daemon=True)
    waiter.start()
    eventually(lambda: has_looked(connection))

    begun = time.monotonic()
    worker.finish('"2027-01-01T00:00:00Z"')
    waiter.join()

    assert got == [datetime(2027, 1, 1, tzinfo=UTC)]
    assert time.monotonic() - begun < 30


@pytest.mark.asyncio
async def test_many_coroutines_wait_with_one_listener(
    worker: HandWorker, connection: psycopg.Connection[object]
) -> None:
    results = await when.adelay_many([(year,) for year in range(2001, 2011)])
    waiting = [asyncio.create_task(result.aget(timeout=30)) for result in results]

    def finish_all() -> None:
        eventually(lambda: watched(connection))
        for year in range(2001, 2011):
            worker.finish(f'"{year}-01-01T00:00:00Z"')

    await asyncio.to_thread(finish_all)

    assert [value.year for value in await asyncio.gather(*waiting)] == list(range(2001, 2011))
    listeners = connection.execute(
        "select count(*) from pg_stat_activity where application_name = 'pgtask:results'"
        " and datname = current_database()"
    ).fetchone()
    assert listeners == (1,)
    await app.aclose()


def test_a_lost_announcement_only_delays_the_answer(
    worker: HandWorker, connection: psycopg.Connection[object]
) -> None:
    result = when.delay(2027)
    got: list[datetime] = []
    waiter = threading.Thread(target=lambda: got.append(result.get(timeout=60)), daemon=True)
    waiter.start()
    eventually(lambda: watched(connection))
    connection.execute("truncate pgtask.watcher")

    worker.finish('"2027-01-01T00:00:00Z"')
    waiter.join(30)

    assert got == [datetime(2027, 1, 1, tzinfo=UTC)]


def test_a_failure_is_raised_with_its_traceback(worker: HandWorker) -> None:
    result = when.options(max_attempts=1).delay(2027)
    worker.finish(
        verdict="failed",
        reason="error",
        type="shop.Gone",
        message="no more",
        traceback="Traceback ...",
    )

    with pytest.raises(JobFailed, match=r"failed \(error\): shop.Gone: no more") as caught:
        result.get(timeout=5)
    assert caught.value.job_id == result.id
    assert caught.value.__notes__ == ["Traceback in the worker:\nTraceback ..."]
    assert (result.state, result.reason) == ("failed", "error")
    assert (result.error, result.traceback) == ("shop.Gone: no more", "Traceback ...")


def test_a_cancelled_job_says_so() -> None:
    result = when.delay(2027)

    assert result.cancel() == "cancelled"
    assert result.cancel() == "finished"
    with pytest.raises(JobCancelled, match=f"job {result.id} was cancelled"):
        result.get(timeout=5)


def test_an_expired_job_says_so(worker: HandWorker, connection: psycopg.Connection[object]) -> None:
    result = when.options(expires=0.001).delay(2027)
    eventually(
        lambda: (
            worker.broker.run(attempts.claim(worker.id, 1, [ANYWHERE], list(app.own_tasks), 1.0))
            == []
            and result.ready()
        )
    )

    with pytest.raises(JobExpired, match="was not started before it expired"):
        result.get(timeout=5)


def test_a_wait_ends_in_time() -> None:
    result = when.delay(2027)

    begun = time.monotonic()
    with pytest.raises(ResultTimeout, match=rf"job {result.id} is ready, not finished after 0.3 s"):
        result.get(timeout=0.3)
    assert 0.3 <= time.monotonic() - begun < 5


def test_a_job_that_never_was_is_not_pending() -> None:
    nobody = app.AsyncResult(2**62)

    for ask in (nobody.get, nobody.ready, nobody.cancel, nobody.refresh, lambda: nobody.state):
        with pytest.raises(JobNotFound, match=f"there is no job {2**62}"):
            ask()


def test_with_keep_none_there_is_nothing_to_wait_for(worker: HandWorker) -> None:
    result = never_kept.delay()

    assert result.get() is None
    worker.finish("1")
    assert result.ready()


def test_with_keep_failures_a_success_is_none_and_a_failure_is_raised(worker: HandWorker) -> None:
    good = kept_if_failed.delay()
    worker.finish("1")
    bad = kept_if_failed.options(max_attempts=1).delay()
    worker.finish(verdict="failed", reason="error", type="E", message="m", traceback="")

    assert good.get(timeout=5) is None
    with pytest.raises(JobFailed):
        bad.get(timeout=5)


def test_a_result_that_does_not_fit_the_annotation_names_the_job(worker: HandWorker) -> None:
    result = when.delay(2027)
    worker.finish("[1]")

    with pytest.raises(DecodeError, match=rf"job {result.id}: the result of .*when does not fit"):
        result.get(timeout=5)


@pytest.mark.asyncio
async def test_blocking_calls_on_an_event_loop_name_their_twins(worker: HandWorker) -> None:
    result = await when.adelay(2027)

    for call, twin in (
        (result.get, "aget"),
        (result.ready, "aready"),
        (result.cancel, "acancel"),
        (result.refresh, "arefresh"),
    ):
        with pytest.raises(BlockingCall, match=rf"use await {twin}\(\)"):
            call()
    with pytest.raises(BlockingCall, match=r"use await arefresh\(\)"):
        _ = result.state
    assert not await result.aready()
    assert (await result.arefresh()).state == "ready"
    assert await result.acancel() == "cancelled"
    with pytest.raises(JobCancelled):
        await result.aget(timeout=5)
    await app.aclose()
