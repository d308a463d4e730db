"""claim, complete, fail, snooze, finish, release: how processes without pgtask take jobs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.sql.consumers import Consumer, refused
from tests.sql.engine import Engine


@pytest.fixture
def consumer(engine: Engine) -> Consumer:
    return Consumer(engine)


# What comes back from a claim -------------------------------------------------------------------


def test_a_claim_returns_all_that_a_job_needs(engine: Engine, consumer: Consumer) -> None:
    job_id = engine.enqueue(
        1, "x", task="mail.send", queue="mail", priority=7, headers='{"trace": "1"}', tags=["a"],
        policy={"timeout": 90}, max_attempts=5, kwargs=[{"to": "ada"}],
    )  # fmt: skip
    job = consumer.one()

    assert (job.id, job.epoch, job.attempt, job.max_attempts) == (job_id, 1, 1, 5)
    assert (job.task, job.queue, job.priority, job.tags) == ("mail.send", "mail", 7, ["a"])
    assert (job.args, job.kwargs, job.headers) == ([1, "x"], {"to": "ada"}, {"trace": "1"})
    assert (job.timeout, job.tenant) == (timedelta(seconds=90), None)
    assert engine.job(job_id).worker == consumer.id


def test_large_arguments_come_back_and_absent_ones_are_empty(
    engine: Engine, consumer: Consumer
) -> None:
    large, bare = engine.enqueue("x" * 5000), engine.enqueue()
    first, second = consumer.claim()

    assert (first.id, first.args, first.kwargs) == (large, ["x" * 5000], {})
    assert (second.id, second.args, second.kwargs) == (bare, [], {})
    assert (second.headers, second.timeout, second.tags) == (None, None, None)


def test_null_means_one_job_of_any_queue_and_task(engine: Engine, consumer: Consumer) -> None:
    ids = {engine.enqueue(queue=queue, task=queue) for queue in ("a", "b", "c")}

    found = {consumer.claim(None)[0].id for _ in range(3)}
    assert found == ids
    assert consumer.claim(None) == []


def test_priority_goes_first_within_a_queue_and_queues_in_the_order_given(
    engine: Engine, consumer: Consumer
) -> None:
    low, high = engine.enqueue(queue="a", priority=-1), engine.enqueue(queue="a", priority=1)
    other = engine.enqueue(queue="b", priority=100)

    claimed = [consumer.one(queues=["b", "a", "b"]).id for _ in range(3)]
    assert claimed == [other, high, low]


def test_a_list_with_one_queue_twice_fills_the_claim(engine: Engine, consumer: Consumer) -> None:
    engine.enqueue_many([[]] * 6, queue="a")

    assert len(consumer.claim(4, queues=["a", "a"])) == 4
    assert engine.count("ready") == 2


def test_a_paused_queue_gives_nothing(engine: Engine, consumer: Consumer) -> None:
    engine.enqueue()
    engine.all("select pgtask.pause_queue('default')")

    assert consumer.claim() == []


@pytest.mark.parametrize(
    ("globs", "names"),
    [
        (["mail.*"], {"mail.send", "mail.", "mail.a.b"}),
        (["*.send"], {"mail.send", "mailxsend.send"}),
        (["mail.send"], {"mail.send"}),
        (["mail.send", "a*z"], {"mail.send", "a.b-z", "az"}),
        (["*"], None),
        (["none", "*"], None),
        (["m*l.*d"], {"mail.send"}),
        (["load_all"], {"load_all"}),
        (["load_*"], {"load_all"}),
        (["mail%", "mai_.send", "?ail.send", "mail.[a-z]*"], set()),
        (["mail.send|az", "(az)", "^az$", "a{1}z", "\\az", "az+", "***=az"], set()),
        (["a.b-z"], {"a.b-z"}),
        (["a.b-*"], {"a.b-z"}),
        (["MAIL.*"], set()),
        (["'; drop table pgtask.ready; --*"], set()),
        (["ä*", "*é"], set()),
    ],
)
def test_in_task_globs_only_the_star_is_special(
    engine: Engine, consumer: Consumer, globs: list[str], names: set[str] | None
) -> None:
    known = {
        "mail.send", "mail.", "mail.a.b", "mailxsend.send", "az", "a.b-z", "load_all", "loadXall",
    }  # fmt: skip
    for name in known:
        engine.enqueue(task=name)

    assert {job.task for job in consumer.claim(tasks=globs)} == (known if names is None else names)


def test_globs_mean_the_same_where_backslashes_are_read_otherwise(
    engine: Engine, consumer: Consumer
) -> None:
    engine.connection.execute("set standard_conforming_strings = off")
    engine.connection.execute("set escape_string_warning = off")
    engine.enqueue(task="a.b")
    engine.enqueue(task="axb")

    assert [job.task for job in consumer.claim(tasks=["a.*", "x(", "\\d*"])] == ["a.b"]


def test_a_thousand_long_globs_are_no_burden(engine: Engine, consumer: Consumer) -> None:
    job_id = engine.enqueue(task="t" * 128)
    globs = [f"{n:03}*{'.*' * 62}" for n in range(999)]

    assert [job.id for job in consumer.claim(tasks=[*globs, "t*"])] == [job_id]


def test_a_claim_for_a_tenant_never_returns_another_ones_job(
    engine: Engine, consumer: Consumer
) -> None:
    for tenant in ("a", "b", ""):
        engine.all("select set_config('pgtask.tenant', %s, false)", tenant)
        engine.enqueue(task=f"of.{tenant}")

    assert [job.tenant for job in consumer.claim(tenant="a")] == ["a"]
    engine.all("select set_config('pgtask.tenant', 'b', false)")
    assert [job.tenant for job in consumer.claim()] == ["b"]
    assert consumer.claim() == []
    assert [job.tenant for job in consumer.claim(tenant="")] == [None]


def test_two_consumers_never_have_the_same_job(engine: Engine) -> None:
    engine.enqueue_many([[]] * 10)
    a, b = Consumer(engine), Consumer(engine)

    assert not {j.id for j in a.claim(6)} & {j.id for j in b.claim(6)}


def test_of_a_serial_lane_one_job_is_claimed_and_the_next_after_it(
    engine: Engine, consumer: Consumer
) -> None:
    first, second = engine.enqueue(serial="s"), engine.enqueue(serial="s")

    (job,) = consumer.claim()
    assert (job.id, consumer.claim()) == (first, [])
    consumer.complete(job)
    assert consumer.one().id == second


# Outcomes ---------------------------------------------------------------------------------------


def test_a_completed_job_has_its_result(engine: Engine, consumer: Consumer) -> None:
    job_id, bare = engine.enqueue(), engine.enqueue()
    first, second = consumer.claim()
    consumer.complete(first, {"n": [1, None]})
    consumer.complete(second)

    assert engine.result(job_id).result == '{"n": [1, null]}'
    assert engine.result(bare)[1:5] == ("succeeded", None, 1, None)
    assert engine.tally() == {"succeeded": 2}


def test_a_failed_attempt_is_retried_while_attempts_remain(
    engine: Engine, consumer: Consumer
) -> None:
    job_id = engine.enqueue(max_attempts=2, policy={"backoff": "const:60", "jitter": 0})
    consumer.fail(consumer.one(), "no route")

    row = engine.job(job_id)
    assert (row.state, row.attempt) == ("scheduled", 1)
    assert timedelta(seconds=50) < row.run_at - row.created_at < timedelta(seconds=70)
    engine.promote(ahead=100)
    consumer.fail(consumer.one(), "no route again")

    row = engine.job(job_id)
    assert (row.state, row.reason, row.attempt) == ("failed", "error", 2)
    assert engine.values("select error_message from pgtask.attempts order by attempt") == [
        "no route",
        "no route again",
    ]
    assert engine.tally() == {"retried": 1, "failed": 1}


def test_an_explicit_time_wins_over_the_backoff(engine: Engine, consumer: Consumer) -> None:
    later, past = engine.enqueue(), engine.enqueue()
    first, second = consumer.claim()
    consumer.fail(first, "x", "2100-01-01 00:00Z")
    consumer.fail(second, "x", "2000-01-01 00:00Z")

    assert abs(
        engine.value("select run_at - '2100-01-01 00:00Z' from pgtask.jobs where id = %s", later)
    ) < timedelta(seconds=1)
    assert engine.promote() == 1
    assert engine.where(past) == ["ready"]


def test_a_failure_without_a_message_still_ends_the_attempt(
    engine: Engine, consumer: Consumer
) -> None:
    job_id = engine.enqueue(max_attempts=1, serial="s", key="k")
    consumer.fail(consumer.one(), None)

    assert engine.job(job_id).state == "failed"
    assert engine.one("select * from pgtask.attempts").error_message is None
    assert engine.count("slot") == engine.count("job_key") == 0


def test_a_huge_message_is_cut(engine: Engine, consumer: Consumer) -> None:
    engine.enqueue(max_attempts=1)
    consumer.fail(consumer.one(), "ä" * 100_000)

    assert engine.value("select length(error_message) from pgtask.attempts") == 16384


def test_a_snoozed_job_comes_back_uncounted(engine: Engine, consumer: Consumer) -> None:
    job_id = engine.enqueue(max_attempts=1)
    consumer.snooze(consumer.one(), "5 minutes")
    row = engine.job(job_id)
    assert (row.state, row.attempt) == ("scheduled", 0)

    engine.promote(ahead=301)
    job = consumer.one()
    assert (job.attempt, job.epoch) == (1, 2)
    consumer.snooze(job)
    assert engine.job(job_id).state == "scheduled"


def test_a_replaced_job_may_succeed_but_not_go_on(engine: Engine, consumer: Consumer) -> None:
    engine.enqueue(key="k")
    job = consumer.one()
    new = engine.enqueue(key="k")
    consumer.fail(job, "x")

    assert (engine.job(job.id).state, engine.job(job.id).reason) == ("failed", "superseded")
    assert engine.where(new) == ["ready"]


@pytest.mark.parametrize("call", ["complete", "fail", "snooze"])
def test_who_does_not_hold_the_attempt_changes_nothing(
    engine: Engine, consumer: Consumer, call: str
) -> None:
    engine.enqueue(serial="s")
    job = consumer.one()
    wrong, other = Consumer(engine), Consumer(engine)
    other.claim()
    before = engine.all("select * from pgtask.running")

    for who, attempt in [
        (wrong, job),
        (other, job),
        (consumer, job._replace(epoch=0)),
        (consumer, job._replace(epoch=2)),
        (consumer, job._replace(id=job.id + 1)),
    ]:
        with refused("TQ004", "not in the hands"):
            getattr(who, call)(attempt)
    for attempt in (job._replace(id=None), job._replace(epoch=None)):
        with refused("TQ002"):
            getattr(consumer, call)(attempt)
    assert engine.all("select * from pgtask.running") == before
    assert engine.count("attempt_error") == engine.count("tally") == 0

    getattr(consumer, call)(job)
    with refused("TQ004"):
        getattr(consumer, call)(job)


def test_an_old_epoch_is_refused_where_the_job_runs_again(
    engine: Engine, consumer: Consumer
) -> None:
    engine.enqueue()
    old = consumer.one()
    consumer.fail(old, "x", "2000-01-01 00:00Z")
    engine.promote()
    new = consumer.one()

    with refused("TQ004"):
        consumer.complete(old)
    assert new.epoch == 2
    consumer.complete(new)


@pytest.mark.parametrize(
    ("call", "arguments", "match"),
    [
        ("fail", ("x", "infinity"), "retry_at"),
        ("fail", ("x", "-infinity"), "retry_at"),
        ("fail", ("x", "9999-01-01 00:00Z"), "retry_at"),
        ("snooze", ("-1 second",), "delay"),
        ("snooze", ("200 years",), "delay"),
        ("complete", ("x" * 1_048_576,), "at most 1048576"),
    ],
)
def test_what_cannot_be_recorded_is_refused_and_the_attempt_goes_on(
    engine: Engine, consumer: Consumer, call: str, arguments: tuple[str, ...], match: str
) -> None:
    engine.enqueue()
    job = consumer.one()
    with refused("TQ002", match):
        getattr(consumer, call)(job, *arguments)

    consumer.complete(job)


@pytest.mark.parametrize("result", ['"a\\u0000b"', '["\\ud800"]', '{"\\udc00\\ud800": 1}'])
def test_a_result_with_text_that_cannot_be_stored_is_refused(
    engine: Engine, consumer: Consumer, result: str
) -> None:
    engine.enqueue()
    job = consumer.one()
    call = "select pgtask.complete(%s, %s, %s, %s)"
    with refused("TQ002", "NUL or half of a surrogate pair"):
        engine.connection.execute(call, [consumer.id, job.id, job.epoch, result])

    fine = '["\\\\u0000", "\\ud83d\\ude00"]'
    engine.connection.execute(call, [consumer.id, job.id, job.epoch, fine])
    assert engine.value("select result ->> 1 from pgtask.jobs") == "😀"


def test_hostile_text_arrives_verbatim(engine: Engine, consumer: Consumer) -> None:
    hostile = "'); drop table pgtask.done; -- \\ %s $1 ${x} \u2028 \" \n"
    engine.enqueue(max_attempts=1)
    engine.enqueue()
    first, second = consumer.claim()
    consumer.fail(first, hostile)
    consumer.complete(second, hostile)

    assert engine.value("select error_message from pgtask.attempts") == hostile
    assert engine.value("select result from pgtask.jobs where id = %s", second.id) == hostile


# Batches ----------------------------------------------------------------------------------------


def test_a_batch_records_each_verdict(engine: Engine, consumer: Consumer) -> None:
    engine.enqueue_many([[]] * 8, max_attempts=2, task="t")
    jobs = consumer.claim()
    verdicts = [
        "succeeded", "failed", "retried", "snoozed", "released", "cancelled", "crashed", "timeout",
    ]  # fmt: skip
    answers = consumer.finish(
        *[
            (job, verdict, '{"a": 1}', "why", "2 hours")
            for job, verdict in zip(jobs, verdicts, strict=True)
        ]
    )

    assert answers == {}
    assert [engine.job(job.id).state for job in jobs] == [
        "succeeded", "failed", "scheduled", "scheduled", "ready", "cancelled", "scheduled",
        "scheduled",
    ]  # fmt: skip
    assert [engine.job(job.id).attempt for job in jobs] == [1, 1, 1, 0, 0, 1, 1, 1]
    assert engine.tally() == dict.fromkeys([*verdicts[:-1], "timed out"], 1)


def test_in_a_batch_too_a_retry_without_attempts_left_is_a_failure(
    engine: Engine, consumer: Consumer
) -> None:
    job_id = engine.enqueue(max_attempts=1)
    consumer.finish((consumer.one(), "retried", None, "x"))

    assert engine.job(job_id).state == "failed"
    assert engine.tally() == {"failed": 1}


def test_a_batch_answers_what_it_did_not_record(
    engine: Engine, consumer: Consumer, another: Any
) -> None:
    engine.enqueue_many([[]] * 3)
    good, old, locked = consumer.claim()
    holder = another()
    with holder.connection.transaction():
        holder.all("select id from pgtask.running where id = %s for update", locked.id)
        answers = consumer.finish(
            (good, "succeeded"), (old._replace(epoch=7), "succeeded"), (locked, "succeeded")
        )
    assert answers == {old.id: "stale", locked.id: "busy"}
    assert engine.tally() == {"succeeded": 1, "stale": 1}

    assert Consumer(engine).finish((old, "succeeded")) == {old.id: "stale"}
    assert consumer.finish((locked, "succeeded"), (old, "succeeded")) == {}


def test_an_old_attempt_in_the_same_batch_does_not_speak_for_the_new_one(
    engine: Engine, consumer: Consumer
) -> None:
    engine.enqueue()
    old = consumer.one()
    consumer.finish((old, "released"))
    new = consumer.one()

    consumer.finish((old, "failed", None, "old"), (new, "succeeded"))
    assert engine.job(new.id).state == "succeeded"


@pytest.mark.parametrize(
    "outcome",
    [
        (None, 1, "succeeded", None, None, None),
        (1, None, "succeeded", None, None, None),
        (1, 1, None, None, None, None),
        (1, 1, "lost", None, None, None),
        (1, 1, "SUCCEEDED", None, None, None),
        (1, 1, "'; drop table pgtask.done; --", None, None, None),
        (1, 1, "snoozed", None, None, timedelta(seconds=-1)),
        (1, 1, "succeeded", f'"{"x" * 1_048_576}"', None, None),
    ],
)
def test_a_batch_with_a_bad_outcome_records_nothing(
    engine: Engine, consumer: Consumer, outcome: tuple[object, ...]
) -> None:
    engine.enqueue()
    job = consumer.one()
    with refused("TQ002"):
        engine.all(
            "select * from pgtask.finish(%s, array[(%s::bigint, %s::int, 'succeeded', null, null,"
            " null)::pgtask.outcome, (%s::bigint, %s::int, %s::text, %s::json, %s::text,"
            " %s::interval)::pgtask.outcome])",
            consumer.id, job.id, job.epoch, *outcome,
        )  # fmt: skip

    assert engine.where(job.id) == ["running"]
    assert engine.count("tally") == 0


def test_a_batch_with_one_attempt_twice_is_refused_and_an_empty_one_is_not(
    engine: Engine, consumer: Consumer
) -> None:
    engine.enqueue()
    job = consumer.one()
    with refused("TQ002", "two outcomes"):
        consumer.finish((job, "succeeded"), (job, "failed"))

    assert consumer.finish() == {}
    assert engine.all("select * from pgtask.finish(%s, null)", consumer.id) == []
    assert engine.where(job.id) == ["running"]


# Giving back ------------------------------------------------------------------------------------


def test_released_jobs_are_ready_again_uncounted(engine: Engine, consumer: Consumer) -> None:
    first, second = engine.enqueue(serial="s"), engine.enqueue()
    consumer.claim()

    assert consumer.release(first, first + 1000) == [first]
    row = engine.job(first)
    assert (row.state, row.attempt, row.epoch) == ("ready", 0, 1)
    assert engine.where(second) == ["running"]
    assert consumer.row().alive
    assert engine.count("slot") == 0


def test_who_releases_everything_has_left_and_may_come_again(
    engine: Engine, consumer: Consumer
) -> None:
    engine.enqueue_many([[]] * 1203)
    other = Consumer(engine)
    kept = other.one()
    held = {job.id for job in consumer.claim(2000)}

    assert set(consumer.release()) == held
    assert engine.tally() == {"released": 1202}
    assert engine.where(kept.id) == ["running"]
    assert engine.values("select id from pgtask.workers") == [other.id]
    with refused("TQ001", "not known"):
        consumer.heartbeat()
    assert consumer.one().epoch == 2


def test_a_job_that_was_to_be_cancelled_is_not_given_back_to_others(
    engine: Engine, consumer: Consumer
) -> None:
    engine.enqueue()
    job = consumer.one()
    engine.cancel(job.id)
    assert consumer.heartbeat() == {job.id: False}
    consumer.release()

    assert engine.job(job.id).state == "cancelled"


# Who calls --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n": 0}, "n is 1"),
        ({"n": -1}, "n is 1"),
        ({"n": 10_001}, "n is 1"),
        ({"lease": "-1 second"}, "lease"),
        ({"lease": "0.5 seconds"}, "lease"),
        ({"lease": "25 hours"}, "lease"),
        ({"wake_for": "-1 second"}, "wake_for"),
        ({"wake_for": "2 minutes"}, "wake_for"),
        ({"queues": []}, "empty"),
        ({"tasks": []}, "empty"),
        ({"queues": [None]}, "NULL"),
        ({"queues": ["a", ""]}, "queue name"),
        ({"queues": ["a*"]}, "queue name"),
        ({"queues": ["'; drop table pgtask.ready; --"]}, "queue name"),
        ({"tasks": [None]}, "NULL"),
        ({"tasks": ["mail.*", ""]}, "task"),
        ({"tasks": ["x" * 129]}, "task"),
        ({"tasks": ["x"] * 1001}, "1000"),
    ],
)
def test_a_claim_that_cannot_work_is_refused_and_registers_nobody(
    engine: Engine, consumer: Consumer, options: dict[str, Any], match: str
) -> None:
    job_id = engine.enqueue()
    with refused("TQ002", match):
        consumer.claim(**options)

    assert engine.count("worker") == 0
    assert engine.where(job_id) == ["ready"]


def test_without_an_id_nothing_is_claimed(engine: Engine) -> None:
    with refused("TQ002", "gen_random_uuid"):
        engine.all("select * from pgtask.claim(null)")
    with refused("TQ002"):
        engine.all("select * from pgtask.heartbeat(null)")
    with refused("TQ002"):
        engine.all("select * from pgtask.release(null)")


def test_an_unknown_id_is_refused_except_by_a_claim(engine: Engine, consumer: Consumer) -> None:
    for call in (consumer.heartbeat, consumer.release):
        with refused("TQ001", "first claim registers"):
            call()
    assert consumer.claim() == []
    assert consumer.heartbeat() == {}


def test_a_consumer_does_not_pass_for_a_worker_of_pgtask(engine: Engine) -> None:
    worker, job = engine.running()
    impostor = Consumer(engine, worker)

    for call in (impostor.claim, impostor.heartbeat, impostor.release):
        with refused("TQ002", "one of pgtask's own"):
            call()
    assert engine.where(job.id) == ["running"]


def test_the_caller_s_transaction_stays_as_durable_as_it_was(
    engine: Engine, consumer: Consumer
) -> None:
    engine.enqueue_many([[]] * 2)
    with engine.connection.transaction():
        engine.all("select set_config('synchronous_commit', 'local', true)")
        first, _ = consumer.claim()
        consumer.heartbeat()
        consumer.complete(first)
        consumer.release()
        assert engine.value("select current_setting('synchronous_commit')") == "local"


def test_work_and_outcome_are_one_transaction_where_the_caller_wants_it(
    engine: Engine, consumer: Consumer
) -> None:
    job_id = engine.enqueue(serial="s")
    with engine.connection.transaction(force_rollback=True):
        consumer.complete(consumer.one())

    assert engine.where(job_id) == ["ready"]
    assert engine.count("worker") == 0
    assert isinstance(consumer.one().id, int)
