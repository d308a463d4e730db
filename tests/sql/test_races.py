"""Races: two sessions at the same rows; one holds its transaction open, the other waits or goes round."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import psycopg
import pytest

from tests.conditions import eventually
from tests.sql.engine import Engine

T = TypeVar("T")
Another = Callable[[], Engine]


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    """Threads for calls that have to wait."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


class Races:
    """Two sessions, and a way to know that one waits for the other."""

    def __init__(self, engine: Engine, another: Another, aside: ThreadPoolExecutor) -> None:
        self.engine, self.first, self.second = engine, another(), another()
        self._aside = aside

    def waiting(self, session: Engine, call: Callable[[], T]) -> Future[T]:
        """Start `call`, which uses `session`, and return when it waits for a lock."""
        future = self._aside.submit(call)
        pid = session.connection.info.backend_pid
        eventually(
            lambda: future.done() or self.engine.value("select cardinality(pg_blocking_pids(%s))", pid)
        )
        assert not future.done(), future.result()
        return future


@pytest.fixture
def races(engine: Engine, another: Another, aside: ThreadPoolExecutor) -> Races:
    return Races(engine, another, aside)


def test_a_claim_goes_round_what_another_claim_holds(races: Races) -> None:
    engine, first, second = races.engine, races.first, races.second
    ids = [engine.enqueue() for _ in range(4)]
    one, two = engine.worker(), engine.worker()
    with first.connection.transaction():
        assert [job.id for job in first.claim(one, 2)] == ids[:2]
        assert [job.id for job in second.claim(two)] == ids[2:]
    assert second.claim(two) == []


def test_many_claimers_get_every_job_exactly_once(
    engine: Engine, another: Another, aside: ThreadPoolExecutor
) -> None:
    ids = [job_id for job_id, _ in engine.enqueue_many([[]] * 600)]
    barrier = threading.Barrier(4)

    def claim_all() -> list[int]:
        session = another()
        worker, mine = session.worker(), []
        barrier.wait(10)
        while jobs := session.claim(worker, 7):
            mine += [job.id for job in jobs]
        return mine

    claimed = [future.result(30) for future in [aside.submit(claim_all) for _ in range(4)]]
    while jobs := engine.claim(engine.worker()):  # locked by another at every claimer's last look
        claimed.append([job.id for job in jobs])
    assert sorted(job_id for part in claimed for job_id in part) == ids


def test_a_rescue_leaves_alone_what_is_being_finished(races: Races) -> None:
    worker, job = races.engine.running()
    with races.first.connection.transaction():
        assert races.first.finish(worker, [job]) == {}
        assert races.second.all("select * from pgtask.rescue(%s, '{0}')", [worker]) == []
    assert races.second.all("select * from pgtask.rescue()") == []
    assert races.engine.job(job.id).state == "succeeded"


def test_a_finish_that_comes_after_the_rescue_is_stale(races: Races) -> None:
    worker, job = races.engine.running()
    with races.first.connection.transaction():
        assert races.first.all("select * from pgtask.rescue(%s, '{0}')", [worker]) == [(worker, 1)]
        assert races.second.finish(worker, [job]) == {job.id: "busy"}
    assert races.second.finish(worker, [job]) == {job.id: "stale"}
    assert races.engine.job(job.id).state == "scheduled"


@pytest.mark.parametrize("verdicts", [(), ("retried",)])
def test_a_row_locked_by_its_task_is_busy_and_does_not_stop_the_batch(
    races: Races, verdicts: tuple[str, ...]
) -> None:
    engine, worker = races.engine, races.engine.worker()
    engine.enqueue_many([[], []], serials=["a", "b"])
    locked, free = engine.claim(worker)
    with races.first.connection.transaction():
        races.first.all("select 1 from pgtask.running where id = %s for no key update", locked.id)
        assert races.second.finish(worker, [locked, free], *verdicts, delays=[9.0, 9.0]) == {locked.id: "busy"}
        assert engine.values("select job from pgtask.slot") == [locked.id]
    assert races.second.finish(worker, [locked], *verdicts, delays=[9.0]) == {}


def test_a_finish_that_is_repeated_after_a_lost_answer_proves_the_first(races: Races) -> None:
    worker, job = races.engine.running()
    races.first.finish(worker, [job], results=["1"])

    assert races.second.finish(worker, [job], results=["2"]) == {job.id: "stale"}
    row = races.engine.job(job.id)
    assert (row.epoch, row.worker, row.result) == (job.epoch, worker, 1)


def test_of_two_rescuers_one_takes_each_job(races: Races) -> None:
    pairs = [races.engine.running() for _ in range(3)]
    workers = [worker for worker, _ in pairs]
    with races.first.connection.transaction():
        rescue = "select * from pgtask.rescue(%s, '{0,0,0}')"
        assert len(races.first.all(rescue, workers)) == 3
        assert races.second.all(rescue, workers[::-1]) == []
    assert races.second.all(rescue, workers[::-1]) == []
    assert [races.engine.job(job.id).epoch for _, job in pairs] == [1, 1, 1]


def test_the_rescue_of_busy_jobs_comes_to_an_end_and_is_made_up_for_later(races: Races) -> None:
    engine, worker, keys = races.engine, races.engine.worker(), [f"k{n}" for n in range(1100)]
    engine.enqueue_many([[]] * 1100, keys=keys)
    assert len(engine.claim(worker, 2000)) == 1100
    with races.first.connection.transaction(force_rollback=True):
        races.first.enqueue_many([[]] * 1099, keys=keys[1:])
        assert races.second.all("select * from pgtask.rescue(%s, '{0}')", [worker]) == [(worker, 1)]
        assert engine.tally() == {"lost": 1}
    assert races.second.all("select * from pgtask.rescue()") == [(worker, 1099)]
    assert engine.tally() == {"lost": 1100}


def test_a_claim_goes_round_what_is_being_cancelled(races: Races) -> None:
    job_id, worker = races.engine.enqueue(), races.engine.worker()
    with races.first.connection.transaction():
        assert races.first.cancel(job_id) == {job_id: "cancelled"}
        assert races.second.claim(worker) == []
    assert races.engine.job(job_id).state == "cancelled"


def test_a_cancel_waits_for_the_claim_and_then_asks_it_to_stop(races: Races) -> None:
    job_id, worker = races.engine.enqueue(), races.engine.worker()
    with races.first.connection.transaction():
        assert len(races.first.claim(worker)) == 1
        cancelled = races.waiting(races.second, lambda: races.second.cancel(job_id))
    assert cancelled.result(10) == {job_id: "cancelling"}
    assert races.engine.where(job_id) == ["running"]


@pytest.mark.parametrize("verdict", ["retried", "released", "failed"])
def test_a_cancel_that_overlaps_with_the_end_of_an_attempt_is_not_forgotten(
    races: Races, verdict: str
) -> None:
    worker, job = races.engine.running()
    with races.first.connection.transaction():
        assert races.first.cancel(job.id) == {job.id: "cancelling"}
        assert races.second.finish(worker, [job], verdict, delays=[60.0]) == {}
    races.second.all("select * from pgtask.rescue()")

    assert races.engine.job(job.id).state == ("failed" if verdict == "failed" else "cancelled")


def test_a_cancel_in_an_open_transaction_stops_no_heartbeat(races: Races) -> None:
    job_id, worker = races.engine.enqueue(), races.engine.worker()
    with races.first.connection.transaction():
        races.first.cancel(job_id)
        races.second.connection.execute("set lock_timeout = '2s'")
        races.second.all("select * from pgtask.heartbeat(%s, '{t}', '{cancelled}', '{1}')", worker)
    assert races.engine.tally() == {"cancelled": 2}


@pytest.mark.parametrize("on_conflict", ["replace", "keep", "raise"])
def test_the_second_producer_of_a_key_waits_and_then_does_as_asked(races: Races, on_conflict: str) -> None:
    def produce() -> list[tuple[int, bool]]:
        return races.second.enqueue_many([[2]], keys=["k"], on_conflict=on_conflict)

    with races.first.connection.transaction():
        owner = races.first.enqueue(1, key="k")
        second = races.waiting(races.second, produce)
    assert second.result(10) == [(owner, False)]
    assert races.engine.job(owner).args == ([2] if on_conflict == "replace" else [1])


@pytest.mark.parametrize("on_conflict", ["replace", "keep", "raise"])
def test_the_second_producer_gets_the_key_when_the_first_rolls_back(races: Races, on_conflict: str) -> None:
    with races.first.connection.transaction(force_rollback=True):
        races.first.enqueue(1, key="k")
        second = races.waiting(
            races.second, lambda: races.second.enqueue_many([[2]], keys=["k"], on_conflict=on_conflict)
        )
    ((job_id, created),) = second.result(10)
    assert created
    assert races.engine.job(job_id).args == [2]


@pytest.mark.parametrize("on_conflict", ["replace", "keep"])
def test_two_who_replace_one_pending_job_come_one_after_the_other(races: Races, on_conflict: str) -> None:
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
def test_an_owner_cannot_go_back_to_work_while_its_key_is_passed_on(races: Races, verdict: str) -> None:
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
def test_a_producer_who_waited_for_the_retry_of_the_owner_rewrites_it(races: Races, verdict: str) -> None:
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
def test_a_key_left_behind_by_a_producer_who_rolled_back_is_free(races: Races, on_conflict: str) -> None:
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


def test_two_persons_retry_a_job_once(races: Races) -> None:
    worker, job = races.engine.running()
    races.engine.finish(worker, [job])
    with races.first.connection.transaction():
        assert races.first.retry(job.id) == {job.id: "retried"}
        second = races.waiting(races.second, lambda: races.second.retry(job.id))
    assert second.result(10) == {job.id: "unfinished"}


def test_a_purge_waits_for_no_producer_and_leaves_no_key_behind(races: Races) -> None:
    worker, owner = races.engine.running(key="k")
    with races.first.connection.transaction(force_rollback=True):
        races.first.enqueue(2, key="k")
        races.second.finish(worker, [owner])
        assert races.second.value("select pgtask.purge(0)") == 0
    assert races.second.value("select pgtask.purge(0)") == 1
    assert races.engine.count("job_key") == 0


def test_two_purges_share_the_work(races: Races) -> None:
    worker = races.engine.worker()
    races.engine.enqueue_many([[]] * 20)
    races.engine.finish(worker, races.engine.claim(worker, 20))
    with races.first.connection.transaction():
        assert races.first.value("select pgtask.purge(0, 5)") == 5
        assert races.second.value("select pgtask.purge(0, 100)") == 15


def test_the_second_claimer_of_a_lane_waits_and_then_parks_its_job(races: Races) -> None:
    engine, one, two = races.engine, races.engine.worker(), races.engine.worker()
    head, tail = engine.enqueue(serial="s"), engine.enqueue(serial="s")
    with races.first.connection.transaction():
        assert [job.id for job in races.first.claim(one, 1)] == [head]
        second = races.waiting(races.second, lambda: races.second.claim(two, 1))
    assert second.result(10) == []
    assert engine.where(tail) == ["waiting"]


def test_the_second_claimer_has_the_lane_when_the_first_rolls_back(races: Races) -> None:
    engine, one, two = races.engine, races.engine.worker(), races.engine.worker()
    head, tail = engine.enqueue(serial="s"), engine.enqueue(serial="s")
    with races.first.connection.transaction(force_rollback=True):
        races.first.claim(one, 1)
        second = races.waiting(races.second, lambda: races.second.claim(two, 1))
    assert [job.id for job in second.result(10)] == [tail]
    assert engine.claim(one) == []
    assert engine.where(head) == ["waiting"]


def test_a_lane_that_was_freed_while_the_next_was_being_parked_is_handed_over_by_promote(
    races: Races,
) -> None:
    engine, one, two = races.engine, races.engine.worker(), races.engine.worker()
    head, tail = engine.enqueue(serial="s"), engine.enqueue(serial="s")
    (job,) = engine.claim(one, 1)
    with races.first.connection.transaction():
        assert races.first.claim(two) == []  # parks the tail, not committed
        assert races.second.finish(one, [job]) == {}
    assert (engine.job(head).state, engine.where(tail)) == ("succeeded", ["waiting"])

    engine.promote()
    assert [job.id for job in engine.claim(two)] == [tail]


def test_two_do_not_promote_at_once(races: Races) -> None:
    job_id = races.engine.enqueue(delay=5.0)
    with races.first.connection.transaction():
        assert races.first.promote(ahead=6) == 1
        assert races.second.promote(ahead=6) == 0
    assert races.second.promote(ahead=6) == 0
    assert races.engine.where(job_id) == ["ready"]


def test_a_promote_goes_round_what_is_being_cancelled(races: Races) -> None:
    job_id = races.engine.enqueue(delay=5.0)
    with races.first.connection.transaction():
        races.first.cancel(job_id)
        assert races.second.promote(ahead=6) == 0
    assert races.engine.job(job_id).state == "cancelled"


def test_a_worker_that_is_being_declared_dead_learns_it_from_its_heartbeat(races: Races) -> None:
    worker, _ = races.engine.running()
    with races.first.connection.transaction():
        races.first.all("select * from pgtask.rescue(%s, '{0}')", [worker])
        beat = races.waiting(
            races.second, lambda: races.second.all("select * from pgtask.heartbeat(%s)", worker)
        )
    with pytest.raises(psycopg.Error) as refused:
        beat.result(10)
    assert refused.value.sqlstate == "TQ001"


def test_a_worker_that_is_beating_right_now_is_spared(races: Races) -> None:
    worker, job = races.engine.running()
    with races.first.connection.transaction():
        races.first.all("select * from pgtask.heartbeat(%s)", worker)
        assert races.second.all("select * from pgtask.rescue(%s, '{0}')", [worker]) == []
    assert races.second.all("select * from pgtask.rescue(%s, '{0}')", [worker]) == []
    assert races.engine.where(job.id) == ["running"]


def test_a_claim_that_committed_after_its_workers_death_is_taken_back(races: Races) -> None:
    job_id, worker = races.engine.enqueue(), races.engine.worker()
    with races.first.connection.transaction():
        assert len(races.first.claim(worker)) == 1
        assert races.second.all("select * from pgtask.rescue(%s, '{0}')", [worker]) == []
    assert races.second.all("select * from pgtask.rescue()") == [(worker, 1)]
    assert races.engine.job(job_id).state == "scheduled"


def test_a_job_that_ends_while_its_caller_begins_to_wait_is_seen_by_one_of_them(races: Races) -> None:
    races.second.connection.execute("listen pgtask_done")
    worker, job = races.engine.running()
    with races.first.connection.transaction():
        races.first.finish(worker, [job])
        (row,) = races.second.all("select * from pgtask._watch(%s::bigint[])", [job.id])
        assert row.state == "running"
    assert races.engine.result(job.id).state == "succeeded"
