"""Two workers at the same jobs: one holds its transaction open, the other waits or goes round."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.sql.engine import Engine
from tests.sql.races import Another, Races


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
        assert races.second.finish(worker, [job], "succeeded") == {job.id: "busy"}
    assert races.second.finish(worker, [job], "succeeded") == {job.id: "stale"}
    assert races.second.finish(worker, [job]) == {job.id: "stale"}
    assert races.engine.job(job.id).state == "scheduled"


def test_a_batch_of_successes_waits_for_a_rescue_and_is_stale_after_it(races: Races) -> None:
    worker, job = races.engine.running()
    with races.first.connection.transaction():
        races.first.all("select * from pgtask.rescue(%s, '{0}')", [worker])
        finishing = races.waiting(races.second, lambda: races.second.finish(worker, [job]))
    assert finishing.result(10) == {job.id: "stale"}
    assert races.engine.job(job.id).state == "scheduled"


def test_a_batch_of_successes_that_waits_too_long_for_a_lock_changes_nothing(races: Races) -> None:
    engine, worker = races.engine, races.engine.worker()
    engine.enqueue_many([[], []])
    locked, free = engine.claim(worker)
    races.second.connection.execute("set lock_timeout = '50ms'")
    with races.first.connection.transaction():
        races.first.all("select 1 from pgtask.running where id = %s for update", locked.id)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            races.second.finish(worker, [locked, free])
        assert engine.values("select id from pgtask.running order by id") == [locked.id, free.id]
        # Spelt out, as the completer sends them again, they wait for nobody.
        assert races.second.finish(worker, [locked, free], "succeeded") == {locked.id: "busy"}
    assert races.second.finish(worker, [locked]) == {}


@pytest.mark.parametrize("verdicts", [("succeeded",), ("retried",)])
def test_a_row_locked_by_its_task_is_busy_and_does_not_stop_the_batch(
    races: Races, verdicts: tuple[str, ...]
) -> None:
    engine, worker = races.engine, races.engine.worker()
    engine.enqueue_many([[], []], serials=["a", "b"])
    locked, free = engine.claim(worker)
    with races.first.connection.transaction():
        races.first.all("select 1 from pgtask.running where id = %s for no key update", locked.id)
        assert races.second.finish(worker, [locked, free], *verdicts, delays=[9.0, 9.0]) == {
            locked.id: "busy"
        }
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
        races.second.all("select * from pgtask._heartbeat(%s, '{t}', '{cancelled}', '{1}')", worker)
    assert races.engine.tally() == {"cancelled": 2}


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
        assert races.second.value("select pgtask.purge('0 s')") == 0
    assert races.second.value("select pgtask.purge('0 s')") == 1
    assert races.engine.count("job_key") == 0


def test_two_purges_share_the_work(races: Races) -> None:
    worker = races.engine.worker()
    races.engine.enqueue_many([[]] * 20)
    races.engine.finish(worker, races.engine.claim(worker, 20))
    with races.first.connection.transaction():
        assert races.first.value("select pgtask.purge('0 s', 5)") == 5
        assert races.second.value("select pgtask.purge('0 s', 100)") == 15


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
            races.second, lambda: races.second.all("select * from pgtask._heartbeat(%s)", worker)
        )
    with pytest.raises(psycopg.Error) as refused:
        beat.result(10)
    assert refused.value.sqlstate == "TQ001"


def test_a_worker_that_is_beating_right_now_is_spared(races: Races) -> None:
    worker, job = races.engine.running()
    with races.first.connection.transaction():
        races.first.all("select * from pgtask._heartbeat(%s)", worker)
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


def test_a_job_that_ends_while_its_caller_begins_to_wait_is_seen_by_one_of_them(
    races: Races,
) -> None:
    races.second.connection.execute("listen pgtask_done")
    worker, job = races.engine.running()
    with races.first.connection.transaction():
        races.first.finish(worker, [job])
        (row,) = races.second.all("select * from pgtask._watch(%s::bigint[])", [job.id])
        assert row.state == "running"
    assert races.engine.result(job.id).state == "succeeded"
