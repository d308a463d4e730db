"""Pulse: who is taken for dead, judged by silence that was observed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import pytest

from pgtask.broker import attempts
from pgtask.broker.link import Link
from pgtask.broker.session import Session
from pgtask.worker import pulse
from pgtask.worker.pulse import Pulse
from tests.standing import Connection


@pytest.fixture
def silent(connection: Connection) -> UUID:
    """A worker that has registered, and says nothing more."""
    worker = uuid4()
    row = attempts.WorkerRow(worker, "host", 1, "0", ["*"], [], 1)
    statement = attempts.register(row)
    connection.execute(statement.text, statement.params)
    return worker


@pytest.fixture(autouse=True)
def _short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "LEASE", 0.6)


def alive(connection: Connection, worker: UUID) -> bool:
    row = connection.execute("select alive from pgtask.worker where id = %s", [worker]).fetchone()
    assert row is not None
    return bool(row[0])


def with_pulse(dsn: str, story: Any) -> None:
    async def run() -> None:
        async with Link.open(Session(dsn, worker=True), "control") as link:
            await asyncio.wait_for(story(Pulse(link, link, uuid4(), 3600.0, Counter())), 20)

    asyncio.run(run())


async def look_until(watcher: Pulse, until: float) -> None:
    while time.monotonic() < until:
        await watcher._rescue()


def test_a_worker_that_is_silent_for_a_lease_is_dead(
    dsn: str, connection: Connection, silent: UUID
) -> None:
    async def story(watcher: Pulse) -> None:
        began = time.monotonic()
        await look_until(watcher, began + 0.4)
        assert alive(connection, silent)
        await look_until(watcher, began + 1.0)
        assert not alive(connection, silent)

    with_pulse(dsn, story)


def test_a_worker_that_beats_is_not(dsn: str, connection: Connection, silent: UUID) -> None:
    async def story(watcher: Pulse) -> None:
        until = time.monotonic() + 1.2
        while time.monotonic() < until:
            connection.execute("select * from pgtask._heartbeat(%s)", [silent])
            await watcher._rescue()
        assert alive(connection, silent)

    with_pulse(dsn, story)


def test_silence_before_and_after_a_time_that_nobody_watched_does_count(
    dsn: str, connection: Connection, silent: UUID
) -> None:
    async def story(watcher: Pulse) -> None:
        # given an outage every 0.4 s
        for _ in range(3):
            await look_until(watcher, time.monotonic() + 0.3)
            connection.execute("select pg_sleep(0.4)")
        await watcher._rescue()
        await watcher._rescue()

        # then a worker that never beats is dead when it was watched for a lease
        assert not alive(connection, silent)

    with_pulse(dsn, story)


def test_silence_that_nobody_watched_does_not_count(
    dsn: str, connection: Connection, silent: UUID
) -> None:
    async def story(watcher: Pulse) -> None:
        # given a watcher that was away, or without a database, for longer than a lease
        await watcher._rescue()
        connection.execute("select pg_sleep(0.8)")

        # when it looks again
        await watcher._rescue()

        # then it has seen nothing yet
        assert alive(connection, silent)

    with_pulse(dsn, story)
