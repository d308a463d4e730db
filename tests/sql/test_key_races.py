"""Two at the same job key: producers among themselves, and against workers and persons."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.sql.engine import Engine
from tests.sql.races import Another, Races


@pytest.mark.parametrize("on_conflict", ["replace", "keep", "raise"])
def test_the_second_producer_of_a_key_waits_and_then_does_as_asked(
    races: Races, on_conflict: str
) -> None:
    def produce() -> list[tuple[int, bool]]:
        return races.second.enqueue_many([[2]], keys=["k"], on_conflict=on_conflict)

    with races.first.connection.transaction():
        owner = races.first.enqueue(1, key="k")
        second = races.waiting(races.second, produce)
    assert second.result(10) == [(owner, False)]
    assert races.engine.job(owner).args == ([2] if on_conflict == "replace" else [1])


@pytest.mark.parametrize("on_conflict", ["replace", "keep", "raise"])
def test_the_second_producer_gets_the_key_when_the_first_rolls_back(
    races: Races, on_conflict: str
) -> None:
    with races.first.connection.transaction(force_rollback=True):
        races.first.enqueue(1, key="k")
        second = races.waiting(
            races.second,
            lambda: races.second.enqueue_many([[2]], keys=["k"], on_conflict=on_conflict),
        )
    ((job_id, created),) = second.result(10)
    assert created
    assert races.engine.job(job_id).args == [2]


@pytest.mark.parametrize("on_conflict", ["replace", "keep"])
def test_two_who_replace_one_pending_job_come_one_after_the_other(
    races: Races, on_conflict: str
) -> None:
    owner = races.engine.enqueue(0, key="k")
    with races.first.connection.transaction():
        assert races.first.enqueue(1, key="k", delay=60.0) == owner
        if on_conflict == "keep":  # sees the job that is committed, and waits for nobody
            assert races.second.enqueue(2, key="k", on_conflict="keep") == owner
            return
        second = races.waiting(races.second, lambda: races.second.enqueue(2, key="k", delay=30.0))
    assert second.result(10) == owner
    assert races.engine.job(owner).args == [2]


def test_a_producer_waits_for_the_claim_of_the_owner_and_then_takes_its_key(races: Races) -> None:
    worker, owner = races.engine.worker(), races.engine.enqueue(key="k")
    with races.first.connection.transaction():
        assert len(races.first.claim(worker)) == 1
        second = races.waiting(races.second, lambda: races.second.enqueue(2, key="k"))
    job_id = second.result(10)
    assert job_id != owner
    assert races.engine.all("select * from pgtask.job_key") == [("k", job_id)]


def test_a_producer_waits_for_the_cancel_of_the_owner_and_then_has_a_free_key(races: Races) -> None:
    owner = races.engine.enqueue(key="k")
    with races.first.connection.transaction():
        races.first.cancel(owner)
        second = races.waiting(races.second, lambda: races.second.enqueue(2, key="k"))
    assert second.result(10) != owner
    assert races.engine.job(owner).state == "cancelled"


def test_bulk_producers_with_the_same_keys_in_opposite_orders_never_cross(
    engine: Engine, another: Another, aside: ThreadPoolExecutor
) -> None:
    keys = [f"k{n}" for n in range(60)]
    barrier = threading.Barrier(3)

    def produce(order: list[str]) -> None:
        session = another()
        for _ in range(15):
            barrier.wait(10)
            session.enqueue_many([[]] * 60, keys=order, delay=60.0)

    def cancel() -> None:
        session = another()
        for _ in range(15):
            barrier.wait(10)
            session.cancel(*session.values("select id from pgtask.waiting order by key desc"))

    futures = [aside.submit(produce, keys), aside.submit(produce, keys[::-1]), aside.submit(cancel)]
    for future in futures:
        future.result(60)
    assert engine.count("waiting") <= 60


def test_a_cancel_and_a_producer_who_lock_the_same_jobs_do_not_wait_in_a_ring(races: Races) -> None:
    b = races.engine.enqueue(key="b")
    a = races.engine.enqueue(key="a", delay=60.0)
    with races.first.connection.transaction():
        assert races.first.enqueue(1, key="a") == a
        cancelled = races.waiting(races.second, lambda: races.second.cancel(b, a))
        assert races.first.enqueue(1, key="b") == b
    assert cancelled.result(10) == {a: "cancelled", b: "cancelled"}


@pytest.mark.parametrize("verdict", ["retried", "released", "lost"])
def test_an_owner_cannot_go_back_to_work_while_its_key_is_passed_on(
    races: Races, verdict: str
) -> None:
    worker, owner = races.engine.running(key="k", serial="s")
    with races.first.connection.transaction():
        newer = races.first.enqueue(2, key="k", delay=60.0)
        assert races.second.finish(worker, [owner], verdict, delays=[9.0]) == {owner.id: "busy"}
        assert races.engine.count("slot") == 1
    assert races.second.finish(worker, [owner], verdict, delays=[9.0]) == {}
    assert races.engine.job(owner.id).reason == "superseded"
    assert races.engine.job(newer).state == "scheduled"


def test_an_owner_whose_key_was_not_passed_on_after_all_goes_back_to_work(races: Races) -> None:
    worker, owner = races.engine.running(key="k")
    with races.first.connection.transaction(force_rollback=True):
        races.first.enqueue(2, key="k")
        assert races.second.finish(worker, [owner], "retried", delays=[9.0]) == {owner.id: "busy"}
    assert races.second.finish(worker, [owner], "retried", delays=[9.0]) == {}
    assert races.engine.job(owner.id).state == "scheduled"


@pytest.mark.parametrize("verdict", ["retried", "released"])
def test_a_producer_who_waited_for_the_retry_of_the_owner_rewrites_it(
    races: Races, verdict: str
) -> None:
    worker, owner = races.engine.running(key="k")
    with races.first.connection.transaction():
        assert races.first.finish(worker, [owner], verdict, delays=[60.0]) == {}
        second = races.waiting(races.second, lambda: races.second.enqueue_many([[2]], keys=["k"]))
    assert second.result(10) == [(owner.id, False)]
    assert races.engine.job(owner.id).args == [2]
    assert races.engine.count("jobs") == 1


def test_an_owner_may_end_while_its_key_is_passed_on(races: Races) -> None:
    worker, owner = races.engine.running(key="k")
    with races.first.connection.transaction():
        newer = races.first.enqueue(2, key="k")
        assert races.second.finish(worker, [owner]) == {}
    assert races.engine.job(owner.id).state == "succeeded"
    assert races.engine.all("select * from pgtask.job_key") == [("k", newer)]


@pytest.mark.parametrize("on_conflict", ["replace", "keep", "raise"])
def test_a_key_left_behind_by_a_producer_who_rolled_back_is_free(
    races: Races, on_conflict: str
) -> None:
    worker, owner = races.engine.running(key="k")
    with races.first.connection.transaction(force_rollback=True):
        races.first.enqueue(2, key="k")
        assert races.second.finish(worker, [owner]) == {}
    ((job_id, created),) = races.second.enqueue_many([[3]], keys=["k"], on_conflict=on_conflict)
    assert created
    assert races.engine.all("select * from pgtask.job_key") == [("k", job_id)]


def test_a_person_who_retries_waits_for_a_producer_passing_the_key_on(races: Races) -> None:
    worker, owner = races.engine.running(key="k")
    with races.first.connection.transaction():
        newer = races.first.enqueue(2, key="k")
        races.second.finish(worker, [owner])
        retried = races.waiting(races.second, lambda: races.second.retry(owner.id))
    assert retried.result(10) == {owner.id: "refused"}
    assert races.engine.all("select * from pgtask.job_key") == [("k", newer)]
