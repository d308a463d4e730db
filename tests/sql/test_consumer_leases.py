"""Consumers' leases, and a database where nobody runs but consumers: rescue, promote, purge."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from pgtask.broker import inspect
from pgtask.broker.pool import Broker
from tests.conditions import eventually
from tests.sql.consumers import Consumer, refused
from tests.sql.engine import Engine
from tests.sql.races import Races


@pytest.fixture
def consumer(engine: Engine) -> Consumer:
    return Consumer(engine)


def _again(engine: Engine) -> None:
    """Let the next claim do its upkeep, as if a second had passed."""
    engine.all("select setval('pgtask.upkeep_at', 0) + setval('pgtask.purge_at', 0) as zero")


# The row of a consumer --------------------------------------------------------------------------


def test_the_first_claim_registers_and_each_one_is_a_sign_of_life(
    engine: Engine, consumer: Consumer
) -> None:
    consumer.claim(3, queues=["a"], tasks=["mail.*"])
    row = consumer.row()
    assert (row.kind, row.alive, row.lease) == ("consumer", True, timedelta(seconds=30))
    assert (row.queues, row.tasks, row.children, row.version) == (["a"], ["mail.*"], 3, "-")
    assert row.host in ("local", "127.0.0.1", "::1")

    consumer.fall_silent("10 seconds")
    consumer.claim(lease="1 hour")
    again = consumer.row()
    assert again.last_beat_at > row.last_beat_at - timedelta(seconds=1)
    assert (again.queues, again.tasks, again.lease) == (["*"], ["*"], timedelta(hours=1))
    consumer.claim()
    assert consumer.row().lease == timedelta(hours=1)


def test_pgtask_s_own_workers_have_no_lease_in_their_row(engine: Engine) -> None:
    engine.worker()

    row = engine.one("select * from pgtask.workers")
    assert (row.kind, row.lease) == ("worker", None)


def test_workers_do_not_judge_consumers_by_their_own_silence(
    engine: Engine, consumer: Consumer
) -> None:
    worker = engine.worker()
    consumer.claim(lease="1 hour")

    assert engine.all("select * from pgtask.beats()") == [(worker, 0)]


@pytest.mark.parametrize("sign", ["heartbeat", "claim"])
def test_a_sign_of_life_renews_the_lease(engine: Engine, consumer: Consumer, sign: str) -> None:
    engine.enqueue()
    job = consumer.one()
    consumer.fall_silent("29 seconds")
    getattr(consumer, sign)()
    engine.all("select * from pgtask.rescue()")

    assert engine.where(job.id) == ["running"]
    assert engine.value(
        "select last_beat_at > clock_timestamp() - interval '9 s' from pgtask.worker"
    )


def test_to_end_an_attempt_is_a_sign_of_life_too(engine: Engine, consumer: Consumer) -> None:
    engine.enqueue_many([[]] * 3)
    first, second, third = consumer.claim()
    consumer.fall_silent("20 seconds")
    consumer.complete(first)
    consumer.fall_silent("20 seconds")
    consumer.finish((second, "succeeded"))
    consumer.fall_silent("20 seconds")
    engine.all("select * from pgtask.rescue()")

    consumer.complete(third)


# Crashes ----------------------------------------------------------------------------------------


def test_the_jobs_of_a_crashed_consumer_come_back_with_somebody_s_claim(
    engine: Engine, consumer: Consumer
) -> None:
    job_id = engine.enqueue(serial="s", policy={"backoff": "const:0"})
    old = consumer.one()
    other = Consumer(engine)
    assert other.claim() == []

    consumer.fall_silent("29 seconds")
    assert other.claim() == []
    consumer.fall_silent("2 seconds")
    assert other.claim() == []
    _again(engine)
    (job,) = other.claim()

    assert (job.id, job.attempt, job.epoch) == (job_id, 2, 2)
    error = engine.one("select * from pgtask.attempts")
    assert (error.outcome, error.error_type, error.worker) == ("lost", "WorkerLost", consumer.id)
    assert engine.tally() == {"lost": 1}
    assert not consumer.row().alive
    with refused("TQ004"):
        consumer.complete(old)
    for call in (consumer.claim, consumer.heartbeat, consumer.release):
        with refused("TQ001", "fresh id"):
            call()
    assert engine.job(job_id).worker == other.id


def test_rescue_by_a_worker_declares_silent_consumers_dead(
    engine: Engine, consumer: Consumer
) -> None:
    engine.enqueue()
    job = consumer.one()
    engine.worker()
    consumer.fall_silent("31 seconds")

    assert engine.all("select * from pgtask.rescue()") == [(consumer.id, 1)]
    assert engine.where(job.id) == ["waiting"]


def test_a_claim_with_a_live_worker_beside_it_still_finds_the_dead_consumer(
    engine: Engine, consumer: Consumer
) -> None:
    engine.enqueue()
    job = consumer.one()
    engine.worker()
    consumer.fall_silent("31 seconds")
    Consumer(engine).claim()

    assert engine.where(job.id) == ["waiting"]


def test_within_a_second_only_one_claim_looks_for_the_dead(
    engine: Engine, consumer: Consumer
) -> None:
    engine.enqueue()
    job = consumer.one()
    other = Consumer(engine)
    consumer.fall_silent("31 seconds")
    engine.all(
        "select setval('pgtask.upkeep_at', (extract(epoch from clock_timestamp()) * 1000)::bigint"
        " + 900)"
    )
    other.claim()
    assert engine.where(job.id) == ["running"]

    # a clock that was put back by an hour
    engine.all(
        "select setval('pgtask.upkeep_at', (extract(epoch from clock_timestamp()) * 1000)::bigint"
        " + 3600000)"
    )
    other.claim()
    assert engine.where(job.id) == ["waiting"]


def test_one_that_comes_back_before_anybody_looked_lives_on(
    engine: Engine, consumer: Consumer
) -> None:
    engine.enqueue()
    job = consumer.one()
    consumer.fall_silent()
    consumer.heartbeat()
    engine.all("select * from pgtask.rescue()")

    consumer.complete(job)


def test_in_an_old_transaction_upkeep_is_left_to_others(
    engine: Engine, consumer: Consumer, another: Any
) -> None:
    due = engine.enqueue(delay=3600.0)
    engine.all("update pgtask.waiting set run_at = clock_timestamp() returning id")
    other = Consumer(another())
    with engine.connection.transaction():
        eventually(lambda: engine.value("select now() < clock_timestamp() - interval '100 ms'"))
        engine.all(
            "select setval('pgtask.upkeep_at', (extract(epoch from clock_timestamp()) * 1000)"
            "::bigint - 100)"
        )
        assert consumer.claim() == []
        # what the first promoted, if it did, nobody else would see
        assert [job.id for job in other.claim()] == [due]


def test_a_heartbeat_does_not_wait_for_a_transaction_of_the_same_consumer(
    engine: Engine, consumer: Consumer, another: Any
) -> None:
    engine.enqueue_many([[]] * 2)
    consumer.claim(1)
    with engine.connection.transaction():
        (job,) = consumer.claim(1)
        same = Consumer(another(), consumer.id)
        same.engine.all("select set_config('lock_timeout', '500ms', false)")
        assert same.heartbeat() == {}
        same.claim()
        consumer.complete(job)


def test_one_that_is_being_declared_dead_learns_it(races: Races) -> None:
    consumer = Consumer(races.first)
    consumer.claim()
    consumer.fall_silent()
    with races.second.connection.transaction():
        races.second.all("select * from pgtask.rescue()")
        heard = races.waiting(races.first, consumer.heartbeat)
    with refused("TQ001"):
        heard.result(10)


def test_a_consumer_in_a_transaction_is_not_dead_however_long_that_takes(
    engine: Engine, consumer: Consumer, another: Any
) -> None:
    engine.enqueue()
    job = consumer.one()
    with engine.connection.transaction():
        consumer.heartbeat()
        consumer.fall_silent()
        another().all("select * from pgtask.rescue()")
        consumer.complete(job)
    assert engine.job(job.id).state == "succeeded"


# Alone ------------------------------------------------------------------------------------------


def test_where_no_worker_lives_a_claim_promotes_what_is_due(
    engine: Engine, consumer: Consumer
) -> None:
    ids = [engine.enqueue(delay=3600.0) for _ in range(3)]
    assert consumer.claim() == []
    engine.all("update pgtask.waiting set run_at = clock_timestamp() returning id")
    _again(engine)

    assert [job.id for job in consumer.claim()] == ids


def test_where_a_worker_lives_promotion_is_its_business(engine: Engine, consumer: Consumer) -> None:
    worker = engine.worker()
    engine.enqueue(delay=3600.0)
    engine.all("update pgtask.waiting set run_at = clock_timestamp() returning id")
    assert consumer.claim() == []

    # one that was killed long ago, and that nobody has missed
    engine.all(
        "update pgtask.worker set last_beat_at = now() - interval '2 minutes' where id = %s"
        " returning id",
        worker,
    )
    _again(engine)
    assert len(consumer.claim()) == 1


def test_a_missed_hand_over_of_a_lane_is_made_up_for(engine: Engine, consumer: Consumer) -> None:
    first, second = engine.enqueue(serial="s"), engine.enqueue(serial="s")
    assert [job.id for job in consumer.claim()] == [first]
    engine.all("delete from pgtask.running returning id")
    engine.all("delete from pgtask.slot returning key")
    _again(engine)

    assert [job.id for job in consumer.claim()] == [second]


def test_where_no_worker_was_for_a_day_a_claim_removes_old_history(
    engine: Engine, consumer: Consumer
) -> None:
    job_id = engine.enqueue()
    consumer.complete(consumer.one())
    engine.all("update pgtask.done set finished_at = now() - interval '8 days' returning id")

    # one that was here, and may have been told to keep history for longer
    worker = engine.worker()
    engine.all("select pgtask.deregister(%s)", worker)
    _again(engine)
    consumer.claim()
    assert engine.where(job_id) == ["done"]

    engine.all("delete from pgtask.worker where id = %s returning id", worker)
    _again(engine)
    consumer.claim()
    assert engine.where(job_id) == []


def test_upkeep_that_fails_keeps_nobody_from_its_jobs(engine: Engine, consumer: Consumer) -> None:
    engine.enqueue(delay=3600.0)
    job_id = engine.enqueue()
    engine.all("update pgtask.waiting set run_at = clock_timestamp() returning id")
    engine.connection.execute(
        "alter table pgtask.waiting add constraint broken check (queue <> 'default') not valid"
    )
    engine.connection.execute("create function pg_temp.broken() returns trigger language plpgsql"
                              " as $$ begin raise 'broken'; end $$")  # fmt: skip
    engine.connection.execute(
        "create trigger broken before delete on pgtask.waiting for each row"
        " execute function pg_temp.broken()"
    )
    heard: list[str | None] = []
    engine.connection.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    try:
        assert [job.id for job in consumer.claim()] == [job_id]
    finally:
        engine.connection.execute("drop trigger broken on pgtask.waiting")
        engine.connection.execute("alter table pgtask.waiting drop constraint broken")
    assert heard == ["pgtask: upkeep was put off: broken"]


# Wake-ups ---------------------------------------------------------------------------------------


def test_a_claim_that_finds_nothing_may_ask_to_be_woken(
    engine: Engine, consumer: Consumer, another: Any
) -> None:
    consumer.claim(wake_for="20 seconds")
    ear = another().connection
    ear.execute("listen pgtask")
    engine.enqueue(queue="mail")

    heard = next(ear.notifies(timeout=5))
    assert (heard.channel, heard.payload) == ("pgtask", "mail")


@pytest.mark.parametrize("wake_for", [None, "0 seconds"])
def test_who_does_not_ask_wakes_nobody_and_leaves_the_flag_to_others(
    engine: Engine, consumer: Consumer, wake_for: str | None
) -> None:
    engine.all("select setval('pgtask.idle_until', 42)")
    consumer.claim(wake_for=wake_for)

    assert engine.value("select last_value from pgtask.idle_until") == 42


def test_a_consumer_hears_whom_to_cancel(engine: Engine, consumer: Consumer, another: Any) -> None:
    engine.enqueue_many([[]] * 2)
    soft, hard = consumer.claim()
    ear = another().connection
    ear.execute("listen pgtask_cancel")
    engine.cancel(soft.id)
    engine.cancel(hard.id, terminate=True)

    heard = next(ear.notifies(timeout=5))
    assert heard.payload == str(consumer.id)
    assert consumer.heartbeat() == {soft.id: False, hard.id: True}
    consumer.finish((soft, "cancelled"), (hard, "cancelled"))
    assert consumer.heartbeat() == {}
    assert {engine.job(job.id).state for job in (soft, hard)} == {"cancelled"}


def test_any_number_of_crashed_consumers_lose_all_they_held(engine: Engine) -> None:
    engine.enqueue_many([[]] * 40, policy={"backoff": "const:0"})
    crashed = [Consumer(engine, uuid4()) for _ in range(20)]
    for each in crashed:
        assert len(each.claim(2)) == 2
    for each in crashed:
        each.fall_silent("31 seconds")

    last = Consumer(engine)
    assert last.claim(100) == []
    assert engine.tally() == {"lost": 40}
    _again(engine)
    assert len(last.claim(100)) == 40


# What people are told ---------------------------------------------------------------------------


def test_a_consumer_counts_as_one_who_knows_the_tasks_its_globs_fit(
    engine: Engine, consumer: Consumer, dsn: str
) -> None:
    mine, other = engine.enqueue(task="mail_send.now"), engine.enqueue(task="mailxsend.now")
    engine.all("select pgtask.pause_queue('default')")
    consumer.claim(tasks=["mail_s*.now", "%", "\\", "!"])
    broker = Broker(dsn, pool_max=1)
    try:
        facts = [broker.run(inspect.obstacles(job_id)) for job_id in (mine, other)]
        known = [line.task for line in broker.run(inspect.tasks()) if line.workers]
    finally:
        broker.close()

    assert [fact and fact.workers_of_task for fact in facts] == [1, 0]
    assert known == []
