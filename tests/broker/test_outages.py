"""Clients and links while the database is away, silent, or back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pgtask import config
from pgtask.broker import bounded, listener
from pgtask.broker.link import Link, WakeUps, pause_after
from pgtask.broker.pool import AsyncBroker, Broker
from pgtask.broker.session import Session
from pgtask.broker.statement import Statement, scalar
from pgtask.errors import Unavailable
from tests.broker.test_results import HandWorker, when
from tests.broker.test_results import app as results
from tests.conditions import eventually
from tests.proxy import Proxy

ONE = Statement("select 1", {}, scalar)


@pytest.fixture
def proxy(dsn: str) -> Iterator[Proxy]:
    with Proxy.before(dsn) as proxy:
        yield proxy


@pytest.fixture
def broker(proxy: Proxy, dsn: str) -> Iterator[Broker]:
    broker = Broker(proxy.dsn(dsn), timeout=2.0)
    yield broker
    proxy.thaw()
    broker.close()


def rest(broker: Broker, connections: int) -> None:
    """Let so many connections rest in the pool."""
    sleep = Statement("select 1 from pg_sleep(0.2)", {}, scalar)
    threads = [threading.Thread(target=broker.run, args=(sleep,)) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: len(broker._pool._pool) == connections)


def test_connections_that_broke_while_they_rested_fail_nobody(broker: Broker, proxy: Proxy) -> None:
    rest(broker, 4)

    proxy.cut()

    assert broker.run(ONE) == 1


def test_one_silent_connection_and_its_siblings_are_not_asked_again(
    broker: Broker, proxy: Proxy
) -> None:
    # given connections on which nothing comes back, and nothing says so
    rest(broker, 4)
    proxy.freeze()

    # when one is used, then it is given up in time,
    began = time.monotonic()
    with pytest.raises(Unavailable, match="no answer within"):
        broker.run(ONE, within=1.0)
    assert time.monotonic() - began < 15

    # and the others with it: the next call has a new one at once
    proxy.cut()
    proxy.thaw()
    before = proxy.accepted
    assert broker.run(ONE) == 1
    assert proxy.accepted > before


def test_without_a_server_a_call_ends_in_time_and_the_next_one_works(
    broker: Broker, proxy: Proxy
) -> None:
    rest(broker, 2)
    proxy.refuse()
    with pytest.raises(Unavailable):
        broker.run(ONE)

    proxy.accept()

    assert eventually(lambda: works(broker), timeout=30)


def works(broker: Broker) -> bool:
    try:
        return bool(broker.run(ONE))
    except Unavailable:
        return False


@pytest.mark.asyncio
async def test_coroutines_are_told_in_time_too(proxy: Proxy, dsn: str) -> None:
    broker = AsyncBroker(proxy.dsn(dsn), timeout=2.0)
    try:
        assert await broker.run(ONE) == 1
        proxy.freeze()
        with pytest.raises(Unavailable, match="no answer within"):
            await broker.run(ONE, within=0.5)
        proxy.cut()
        proxy.thaw()
        assert await broker.run(ONE) == 1
    finally:
        proxy.thaw()
        await broker.close()


@pytest.mark.asyncio
async def test_whoever_is_cancelled_on_a_silent_connection_leaves_at_once(
    proxy: Proxy, dsn: str
) -> None:
    async with Link.open(Session(proxy.dsn(dsn)), "test") as link:
        assert await link.run(ONE) == 1
        proxy.freeze()
        asking = asyncio.create_task(link.run(ONE, deadline=60))
        await asyncio.sleep(0.1)

        began = time.monotonic()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

        assert time.monotonic() - began < 3
        proxy.thaw()


@pytest.mark.asyncio
async def test_a_link_gives_up_a_silent_connection_and_a_silent_server_in_time(
    proxy: Proxy, dsn: str
) -> None:
    async with Link.open(Session(proxy.dsn(dsn)), "test") as link:
        assert await link.run(ONE) == 1
        proxy.freeze()
        for _ in ("a connection", "a new one"):
            began = time.monotonic()
            with pytest.raises(Unavailable):
                await link.run(ONE, deadline=0.5)
            assert time.monotonic() - began < 10
        proxy.thaw()
        assert await link.run(ONE) == 1


@pytest.mark.asyncio
async def test_a_link_that_must_end_hurries_what_it_asks_and_asks_nothing_more(
    proxy: Proxy, dsn: str
) -> None:
    async with Link.open(Session(proxy.dsn(dsn)), "test") as link:
        assert await link.run(ONE) == 1
        proxy.freeze()
        asking = asyncio.create_task(link.run(ONE, deadline=600))
        await asyncio.sleep(0.2)

        link.end_by(asyncio.get_running_loop().time() + 0.1)

        with pytest.raises(Unavailable):
            await asyncio.wait_for(asking, 30)
        await asyncio.sleep(0.1)
        with pytest.raises(Unavailable, match="no time is left"):
            await link.run(ONE)
        proxy.thaw()


@pytest.mark.asyncio
async def test_a_statement_for_one_connection_is_not_sent_on_another(
    proxy: Proxy, dsn: str
) -> None:
    async with Link.open(Session(proxy.dsn(dsn)), "test") as link:
        number = await link.connect()
        assert await link.run(ONE, only_on=number) == 1

        proxy.cut()
        with pytest.raises(Unavailable):
            await link.run(ONE, only_on=number)
        with pytest.raises(Unavailable, match="is a new one"):
            await link.run(ONE, only_on=number)

        assert await link.run(ONE, only_on=await link.connect()) == 1


@pytest.mark.asyncio
async def test_an_ear_that_hears_nothing_notices_a_silent_connection(
    proxy: Proxy, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WakeUps, "PING", 0.2)
    monkeypatch.setattr(WakeUps, "PONG", 0.5)
    async with Link.open(Session(proxy.dsn(dsn)), "test") as link:
        heard = WakeUps(link, "pgtask").listen()
        assert await anext(heard) == ("connected", "")
        proxy.freeze()

        with pytest.raises(Unavailable):
            await asyncio.wait_for(anext(heard), 20)
        proxy.thaw()


def test_pauses_grow_to_less_than_work_may_take_to_resume() -> None:
    assert 0.05 <= pause_after(0) <= 0.15
    assert all(1.5 <= pause_after(failures) <= 4.5 for failures in (5, 10, 2000))


@pytest.fixture
def worker(dsn: str, proxy: Proxy) -> Iterator[HandWorker]:
    results.config = config.load({"dsn": proxy.dsn(dsn)}, {}, {}, Path.cwd())
    worker = HandWorker(dsn)
    yield worker
    proxy.thaw()
    worker.broker.close()
    results.close()


def test_a_wait_survives_an_outage_that_ends_before_its_timeout(
    worker: HandWorker, proxy: Proxy
) -> None:
    # given somebody who waits for a job
    job = when.delay(2027)
    got: list[object] = []
    waiter = threading.Thread(target=lambda: got.append(job.get(timeout=90)), daemon=True)
    waiter.start()
    eventually(lambda: results.client.listener._connected.is_set(), timeout=30)

    # when the database is away, the job ends, and it is back
    proxy.refuse()
    worker.finish('"2027-01-01T00:00:00Z"')
    eventually(lambda: not results.client.listener._connected.is_set(), timeout=30)
    proxy.accept()

    waiter.join(60)
    assert len(got) == 1


def test_who_waits_for_results_is_woken_again_after_a_silent_connection(
    worker: HandWorker,
    proxy: Proxy,
    connection: psycopg.Connection[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "PING", 0.2)
    monkeypatch.setattr(listener, "PONG", 0.5)
    ear = results.client.listener
    heard = threading.Event()
    job = when.delay(2027)
    with ear.subscribed(job.id, heard.set):
        eventually(ear._connected.is_set, timeout=30)

        # given a listening connection that has fallen silent
        proxy.freeze()
        eventually(lambda: not ear._connected.is_set(), timeout=30)
        proxy.cut()
        proxy.thaw()

        # when it listens again, then it hears again
        eventually(ear._connected.is_set, timeout=30)
        heard.clear()
        connection.execute("select pg_notify('pgtask_done', %s)", [str(job.id)])
        assert heard.wait(30)


def test_patience_is_longer_than_what_the_server_is_told(dsn: str) -> None:
    with Session(dsn).connect("pgtask:test") as connection:
        row = connection.execute(
            "select extract(epoch from current_setting('statement_timeout')::interval)::float8"
        ).fetchone()
    assert row is not None
    assert row[0] < connection.patience == bounded.PATIENCE
