"""Events: what happens to the jobs of a queue that wants them, as notifications."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, LiteralString

import psycopg
import pytest

from tests.conditions import eventually
from tests.sql.engine import Engine
from tests.sql.races import Another


class Ear:
    """Hears the events of one queue's jobs."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        connection.execute("listen pgtask_events")

    def heard(self) -> list[dict[str, Any]]:
        return [json.loads(n.payload) for n in self._connection.notifies(timeout=0)]

    def words(self) -> list[str]:
        return [event["event"] for event in self.heard()]


@pytest.fixture
def ear(engine: Engine) -> Iterator[Ear]:
    assert engine.value("select pgtask.set_queue_events('default', true)") is True
    yield Ear(engine.connection)
    for queue in engine.values("select name from pgtask.queue where events"):
        engine.all("select pgtask.set_queue_events(%s, false)", queue)


def triggers(engine: Engine) -> int:
    return int(
        engine.value(
            "select count(*) from pg_trigger t join pg_class c on c.oid = t.tgrelid"
            " where c.relnamespace = 'pgtask'::regnamespace and t.tgname like 'events%'"
        )
    )


def test_a_life_is_told_from_enqueue_to_outcome(engine: Engine, ear: Ear) -> None:
    worker = engine.worker()
    engine.connection.execute("set pgtask.tenant = 'acme'")
    job_id = engine.enqueue(task="t")
    engine.connection.execute("reset pgtask.tenant")
    (job,) = engine.claim(worker)
    engine.finish(worker, [job])

    heard = ear.heard()

    assert [event["event"] for event in heard] == ["enqueue", "claim", "succeeded"]
    for event in heard:
        assert list(event) == [
            "event", "job", "task", "queue", "attempt", "at", "worker", "tenant", "reason",
        ]  # fmt: skip
        assert (event["job"], event["task"], event["queue"]) == (str(job_id), "t", "default")
        assert datetime.fromisoformat(event["at"]).utcoffset() is not None
        assert event["tenant"] == "acme"
    assert [event["attempt"] for event in heard] == [0, 1, 1]
    assert [event["worker"] for event in heard] == [None, str(worker)[:8], str(worker)[:8]]


@pytest.mark.parametrize(
    ("verdict", "word", "reason"),
    [
        ("retried", "retried", "ValueError"),
        ("snoozed", "snoozed", None),
        ("crashed", "crashed", "ValueError"),
        ("timeout", "timed out", "ValueError"),
        ("lost", "lost", "ValueError"),
        ("released", "released", None),
        ("failed", "failed", "error"),
        ("cancelled", "cancelled", "cancelled"),
        ("succeeded", "succeeded", None),
    ],
)
@pytest.mark.parametrize("keep", ["all", "failures"])
def test_an_attempt_ends_in_its_outcome(
    engine: Engine, ear: Ear, verdict: str, word: str, reason: str | None, keep: str
) -> None:
    worker, job = engine.running(keep=keep)
    ear.heard()
    engine.finish(worker, [job], verdict, delays=[60.0], types=["ValueError"], messages=["no"])

    (event,) = ear.heard()

    assert (event["event"], event["reason"]) == (word, reason)


@pytest.mark.parametrize("verdict", ["crashed", "lost", "timeout"])
def test_the_last_attempt_says_why_the_job_failed(engine: Engine, ear: Ear, verdict: str) -> None:
    worker, job = engine.running(max_attempts=1)
    ear.heard()
    engine.finish(worker, [job], verdict)

    (event,) = ear.heard()

    assert (event["event"], event["reason"]) == ("failed", verdict)


def test_what_keeps_nothing_is_told_all_the_same(engine: Engine, ear: Ear) -> None:
    worker = engine.worker()
    jobs = [engine.running(worker, keep="none")[1] for _ in range(3)]
    pending = [engine.enqueue(keep="none") for _ in range(2)]
    ear.heard()

    engine.finish(worker, jobs[:1])
    engine.finish(worker, jobs[1:], "failed", "succeeded")
    engine.cancel(pending[0])
    engine.all("select pgtask.discard(%s)", pending[1:])

    assert [(event["event"], event["reason"]) for event in ear.heard()] == [
        ("succeeded", None),
        ("finish", None),
        ("finish", None),
        ("cancelled", "cancelled"),
        ("failed", "discarded"),
    ]


def test_a_success_that_is_not_kept_is_a_success(engine: Engine, ear: Ear) -> None:
    worker, job = engine.running(keep="failures")
    ear.heard()
    engine.finish(worker, [job])

    assert ear.words() == ["succeeded"]


@pytest.mark.parametrize("keep", ["all", "none"])
def test_what_people_do_is_told_by_its_verb(engine: Engine, ear: Ear, keep: str) -> None:
    job_id = engine.enqueue(delay=60.0, keep=keep)
    engine.all("select pgtask.reschedule(%s, priority => 5)", [job_id])
    engine.all("select pgtask.reschedule(%s, run_at => now())", [job_id])
    engine.cancel(job_id)
    assert ear.words() == ["enqueue", "reschedule", "reschedule", "cancelled"]
    if keep == "all":
        engine.retry(job_id)
        engine.all("select pgtask.discard(%s)", [job_id])
        assert ear.words() == ["retry", "failed"]


@pytest.mark.parametrize("keep", ["all", "none"])
def test_a_job_that_is_promoted_replaced_or_expires_is_told(
    engine: Engine, ear: Ear, keep: str
) -> None:
    engine.enqueue(delay=60.0, keep=keep)
    engine.promote(ahead=120)
    assert ear.words() == ["enqueue", "promote"]
    for _ in range(2):
        engine.enqueue(key="k", keep=keep)
    assert ear.words() == ["enqueue", "enqueue"]
    engine.claim(engine.worker())
    ear.heard()
    engine.enqueue(expires_in=-1.0, keep=keep)
    engine.claim(engine.worker())
    heard = ear.heard()
    assert [event["event"] for event in heard] == ["enqueue", "cancelled"]
    assert heard[1]["reason"] == "expired"


def test_parking_says_nothing_and_the_hand_over_promotes(engine: Engine, ear: Ear) -> None:
    worker, first = engine.running(serial="s")
    engine.enqueue(serial="s")
    engine.claim(worker)
    ear.heard()
    engine.finish(worker, [first])

    assert sorted(ear.words()) == ["promote", "succeeded"]


def test_a_bulk_is_one_event_a_job(engine: Engine, ear: Ear) -> None:
    engine.enqueue_many([[n] for n in range(100)])
    ids = [event["job"] for event in ear.heard()]
    assert len(set(ids)) == 100


def test_a_dead_workers_jobs_are_lost(engine: Engine, ear: Ear) -> None:
    worker, _ = engine.running()
    engine.all("select pgtask.deregister(%s)", worker)
    ear.heard()
    engine.all("select * from pgtask.rescue()")

    assert ear.words() == ["lost"]


def test_other_queues_say_nothing_and_arguments_never_appear(engine: Engine, ear: Ear) -> None:
    engine.enqueue("secret", queue="other")
    engine.enqueue("secret", key="secret", tags=["secret"], serial="secret")

    (event,) = ear.heard()

    assert "secret" not in json.dumps(event)


def test_an_event_fits_into_a_notification_whatever_a_tenant_is_called(
    engine: Engine, ear: Ear
) -> None:
    engine.connection.execute("select set_config('pgtask.tenant', repeat(E'\\x01', 5000), false)")
    engine.connection.execute(
        "insert into pgtask.ready (id, task, queue, tenant)"
        " select 1, repeat('t', 9000), 'default', current_setting('pgtask.tenant')"
    )

    (event,) = ear.heard()

    assert len(json.dumps(event)) < 8000
    engine.connection.execute("truncate pgtask.ready")


def test_nothing_is_told_of_what_was_rolled_back(engine: Engine, ear: Ear) -> None:
    with engine.connection.transaction(force_rollback=True):
        engine.enqueue()

    assert ear.heard() == []


def test_a_users_own_function_of_the_same_name_confuses_nobody(engine: Engine, ear: Ear) -> None:
    engine.connection.execute(
        "create function pg_temp.retry(n int) returns bigint language plpgsql as"
        " $$ begin return pgtask.enqueue('t'); end $$"
    )
    engine.all("select pg_temp.retry(1)")

    assert ear.words() == ["enqueue"]


def test_a_day_of_history_that_is_dropped_says_nothing(engine: Engine, ear: Ear) -> None:
    engine.all("select pgtask.maintain('604800 s', '2030-01-01 12:00+00')")
    worker, job = engine.running(policy={"result_ttl": 3e9})
    engine.connection.execute("alter table pgtask.done disable trigger user")
    engine.finish(worker, [job])
    engine.connection.execute("alter table pgtask.done enable trigger user")
    engine.connection.execute("update pgtask.done set finished_at = '2030-01-01 13:00+00'")
    ear.heard()
    for _ in range(3):
        engine.all("select pgtask.maintain('604800 s', '2030-02-01 12:00+00')")

    assert ear.heard() == []
    assert engine.where(job.id) == ["done"]
    engine.connection.execute("truncate pgtask.done")
    for _ in range(3):
        engine.all("select pgtask.maintain('0 s', '2031-02-01 12:00+00')")


# --- switching -----------------------------------------------------------------------------------


def test_without_events_there_is_no_trigger_and_no_notification(engine: Engine) -> None:
    engine.connection.execute("listen pgtask_events")
    engine.enqueue()

    assert triggers(engine) == 0
    assert list(engine.connection.notifies(timeout=0)) == []


def test_they_are_switched_per_queue_and_leave_nothing(engine: Engine, ear: Ear) -> None:
    one = triggers(engine)
    assert engine.value("select pgtask.set_queue_events('default', true)") is False
    assert engine.value("select pgtask.set_queue_events('mail')") is True
    assert triggers(engine) == 2 * one
    assert engine.all("select queue::text, events from pgtask.queues order by 1") == [
        ("default", True),
        ("mail", True),
    ]
    assert engine.value("select pgtask.set_queue_events('default', false)") is True
    engine.enqueue(queue="mail")
    engine.enqueue()
    assert [event["queue"] for event in ear.heard()] == ["mail"]
    assert engine.value("select pgtask.set_queue_events('mail', false)") is True
    assert triggers(engine) == 0
    assert engine.value("select pgtask.set_queue_events('mail', false)") is False


def test_switching_says_nothing_by_the_way(engine: Engine) -> None:
    notices: list[str | None] = []
    engine.connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    for on in (True, False):
        engine.all("select pgtask.set_queue_events('default', %s)", on)

    assert notices == []


def test_a_trigger_that_is_missing_is_made_again(engine: Engine, ear: Ear) -> None:
    engine.connection.execute(
        "do $$ declare n text; begin select tgname into n from pg_trigger"
        " where tgrelid = 'pgtask.ready'::regclass limit 1;"
        " execute format('drop trigger %I on pgtask.ready', n); end $$"
    )
    assert engine.value("select pgtask.set_queue_events('default', true)") is True
    engine.enqueue()
    assert ear.words() == ["enqueue"]


def test_the_longest_name_of_a_queue_works_and_a_bad_one_is_refused(
    engine: Engine, ear: Ear
) -> None:
    names = ["q" * 128, "q" * 127 + "r"]
    for name in names:
        engine.all("select pgtask.set_queue_events(%s, true)", name)
        engine.enqueue(queue=name)
    assert [event["queue"] for event in ear.heard()] == names

    bad: tuple[LiteralString, ...] = ("null", "''", "'a b'", "'x''); drop table pgtask.ready; --'")
    for name in bad:
        with pytest.raises(psycopg.Error, match="a queue name is") as refused:
            engine.all(f"select pgtask.set_queue_events({name}, true)")
        assert refused.value.sqlstate == "TQ002"


def test_new_days_of_history_tell_too(engine: Engine, ear: Ear) -> None:
    engine.all("select pgtask.maintain()")
    worker, job = engine.running()
    ear.heard()
    engine.finish(worker, [job])

    assert ear.words() == ["succeeded"]
    engine.connection.execute("truncate pgtask.done")


def test_who_writes_is_waited_for_but_not_for_ever(
    engine: Engine, another: Another, aside: ThreadPoolExecutor, ear: Ear
) -> None:
    writer = another()
    with writer.connection.transaction():
        writer.enqueue(queue="other")
        waiting = aside.submit(engine.value, "select pgtask.set_queue_events('mail', true)")
        eventually(lambda: writer.value("select exists (select from pg_locks where not granted)"))
        writer.enqueue(queue="other", delay=60.0)
        writer.claim(writer.worker(), queues=["other"])
    assert waiting.result(10) is True
