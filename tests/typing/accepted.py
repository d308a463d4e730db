"""What a type checker must accept, and the types it must see."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, assert_type

from sqlalchemy.orm import Session, sessionmaker

from pgtask import App, AsyncResult, AsyncTask, JobContext, Schedule, Task, injected, task
from pgtask.signature import Signature

app = App("typed")


@app.task
def add(x: int, y: int = 1) -> int:
    return x + y


@app.task
async def fetch(url: str) -> bytes:
    return url.encode()


@app.task(queue="mail", max_attempts=5, backoff=[1, 2.5, timedelta(minutes=1)])
def send(to: str, *, subject: str) -> None: ...


@app.task(bind=True, retry_for=(OSError,), transaction=True)
def charge(context: JobContext, order: int) -> str:
    return context.idempotency_key + str(order)


@app.task(transaction=sessionmaker())
def book(order: int, session: Session = injected()) -> int:  # noqa: B008 - a marker
    return order


@app.task(bind=True)
async def crawl(context: JobContext, url: str) -> list[str]:
    return [url]


@task
def shared(x: int) -> float:
    return x / 2


@task(name="library.other", key="{x}", bind=False)
def other(x: int) -> None: ...


@task(bind=True)
def shared_bound(context: JobContext, x: int) -> int:
    return x


def calls() -> None:
    assert_type(add(2, 3), int)
    assert_type(add.delay(2, y=3), AsyncResult[int])
    assert_type(add.delay(2).get(timeout=1), int)
    assert_type(fetch.delay("x"), AsyncResult[bytes])
    coroutine: Coroutine[Any, Any, bytes] = fetch("x")
    coroutine.close()
    assert_type(send.delay("ada", subject="hi").get(), None)
    assert_type(charge.delay(7), AsyncResult[str])
    assert_type(book.delay(7), AsyncResult[int])
    assert_type(charge(7), str)
    assert_type(crawl.delay("x").get(), list[str])
    assert_type(shared.delay(1).get(), float)
    assert_type(other.delay(1), AsyncResult[None])
    assert_type(shared_bound.delay(1), AsyncResult[int])
    assert_type(add.options(priority=9, countdown=60, eta=None).delay(2), AsyncResult[int])
    assert_type(add.using(object()).options(expires=timedelta(1)).delay(2, 3).get(), int)
    assert_type(add.apply_async((2, 3), countdown=60, queue="calc"), AsyncResult[int])
    assert_type(add.delay_many([(1, 2), (3,)]), list[AsyncResult[int]])
    assert_type(app.enqueue("x.y", [1], {"z": 2}, priority=1), AsyncResult[Any])
    assert_type(app.AsyncResult(7).get(), Any)
    assert_type(add.s(2, y=3), Signature)
    assert_type(look.delay("x"), AsyncResult[int])
    assert_type(app.schedules.upsert("s", add.s(2), Schedule(every=60), grace=5), int)
    assert_type(app.schedules.fire("s"), AsyncResult[Any])


@app.periodic("*/5 * * * *", tz="Europe/Vienna", name="early", args=["x"], jitter=5, queue="q")
@app.task(schedule=Schedule(every=60), max_attempts=1)
def look(at: str = "") -> int:
    return len(at)


async def awaited() -> None:
    assert_type(await add.adelay(2, 3), AsyncResult[int])
    assert_type(await fetch("x"), bytes)
    assert_type(await (await fetch.adelay("x")).aget(timeout=2), bytes)
    assert_type(await add.aapply_async((2,)), AsyncResult[int])
    assert_type(await add.adelay_many([(1,)]), list[AsyncResult[int]])


def takes_any_task(one: Task[..., Any]) -> str:
    return one.name


def many() -> list[str]:
    asynchronous: AsyncTask[[str], bytes] = fetch
    return [takes_any_task(one) for one in (add, fetch, send, charge, asynchronous)]
