"""reschedule, discard, purge by ids and find_jobs: what people do to jobs that stand somewhere."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import psycopg
import pytest

from tests.conditions import eventually
from tests.sql.engine import Engine
from tests.sql.races import Another

SOON = datetime.now(UTC) + timedelta(hours=1)
PAST = datetime(2001, 1, 1, tzinfo=UTC)


def reschedule(engine: Engine, *ids: int | None, **said: object) -> dict[int, Any]:
    named = "".join(f", {name} => %s" for name in said)
    text = f"select * from pgtask.reschedule(%s::bigint[]{named})"
    rows = engine.all(text, list(ids), *said.values())
    return {row.id: row for row in rows}


def discard(engine: Engine, *ids: int | None, reason: str | None = None) -> dict[int, Any]:
    rows = engine.all("select * from pgtask.discard(%s::bigint[], %s)", list(ids), reason)
    return {row.id: row for row in rows}


def find(engine: Engine, **said: object) -> list[int]:
    named = ", ".join(f'"{name}" => %s' for name in said)
    return engine.values(f"select pgtask.find_jobs({named})", *said.values())


def refused(engine: Engine, text: LiteralString) -> str:
    with pytest.raises(psycopg.Error) as error:
        engine.all(text)
    assert error.value.sqlstate == "TQ002"
    return str(error.value)


# --- reschedule ----------------------------------------------------------------------------------


def test_a_ready_job_waits_and_a_scheduled_one_becomes_ready(engine: Engine) -> None:
    ready, scheduled = engine.enqueue(), engine.enqueue(delay=60.0)

    later = reschedule(engine, ready, run_at=SOON)
    now = reschedule(engine, scheduled, run_at=PAST)

    assert (later[ready].state, later[ready].run_at) == ("scheduled", SOON)
    assert (now[scheduled].state, now[scheduled].run_at) == ("ready", None)
    assert (engine.job(ready).run_at, engine.where(ready)) == (SOON, ["waiting"])
    assert engine.where(scheduled) == ["ready"]


def test_what_is_null_stays_as_it_is(engine: Engine) -> None:
    job_id = engine.enqueue(
        "a", delay=60.0, priority=3, max_attempts=7, key="k", serial="s", tags=["x"],
        headers='{"h": 1}', policy={"timeout": 5}, max_crashes=2, keep="failures",
    )  # fmt: skip
    before = engine.job(job_id)

    changed = reschedule(engine, job_id, priority=-5)

    after = engine.job(job_id)
    assert changed[job_id].priority == after.priority == -5
    assert after._replace(priority=3) == before


def test_arguments_of_any_size_stay(engine: Engine) -> None:
    job_id = engine.enqueue("x" * 3000)
    reschedule(engine, job_id, run_at=SOON)
    reschedule(engine, job_id, run_at=PAST)

    (job,) = engine.claim(engine.worker())
    assert len(job.args) > 3000


def test_a_job_of_a_higher_priority_is_claimed_first_and_one_of_the_same_keeps_its_place(
    engine: Engine,
) -> None:
    first, second, third = engine.enqueue(), engine.enqueue(), engine.enqueue()
    reschedule(engine, first, max_attempts=9)
    reschedule(engine, second, priority=0)
    reschedule(engine, third, priority=1)

    claimed = [job.id for job in engine.claim(engine.worker())]
    assert claimed == [third, first, second]


def test_attempts_can_start_anew(engine: Engine) -> None:
    worker, job = engine.running()
    engine.finish(worker, [job], "retried", delays=[60.0])

    changed = reschedule(engine, job.id, attempt=0, max_attempts=1, run_at=PAST)

    assert (changed[job.id].attempt, changed[job.id].max_attempts) == (0, 1)
    (again,) = engine.claim(worker)
    assert (again.attempt, again.epoch) == (1, 2)


def test_a_job_that_would_have_no_attempt_left_is_refused_and_nothing_changes(
    engine: Engine,
) -> None:
    worker, job = engine.running()
    engine.finish(worker, [job], "retried", delays=[60.0])
    other = engine.enqueue()

    said = refused(
        engine,
        f"select pgtask.reschedule('{{{job.id},{other}}}', max_attempts => 1)",
    )

    assert f"job {job.id} would have had 1 of 1 attempts and none left; give attempt => 0" in said
    assert engine.job(other).max_attempts == 3


def test_what_runs_has_finished_or_never_was_does_not_come_back(engine: Engine) -> None:
    worker, running = engine.running()
    _, done = engine.running(worker)
    engine.finish(worker, [done])
    ready = engine.enqueue()
    before = engine.job(running.id), engine.job(done.id)

    assert set(reschedule(engine, running.id, done.id, ready, 999, None, ready, priority=5)) == {
        ready
    }
    assert (engine.job(running.id), engine.job(done.id)) == before
    assert reschedule(engine, priority=5) == {}
    assert engine.all("select * from pgtask.reschedule(null, priority => 5)") == []


def test_a_parked_job_stays_in_its_lane_unless_it_is_for_later(engine: Engine) -> None:
    worker, first = engine.running(serial="s")
    parked, other = engine.enqueue(serial="s"), engine.enqueue(serial="s")
    engine.claim(worker)

    changed = reschedule(engine, parked, other, run_at=PAST, priority=4)
    later = reschedule(engine, other, run_at=SOON)

    assert [row.state for row in changed.values()] == ["blocked", "blocked"]
    assert later[other].state == "scheduled"
    engine.finish(worker, [first])
    assert [(job.id, job.priority) for job in engine.claim(worker)] == [(parked, 4)]
    assert engine.job(other).state == "scheduled"


def test_a_keyed_job_can_still_be_replaced_under_its_id(engine: Engine) -> None:
    job_id = engine.enqueue(key="k")
    reschedule(engine, job_id, run_at=SOON)

    assert engine.enqueue_many(keys=["k"]) == [(job_id, False)]
    assert engine.where(job_id) == ["ready"]


def test_idle_workers_are_woken_once_a_queue(engine: Engine) -> None:
    ids = [engine.enqueue(queue=queue, delay=60.0) for queue in ("a", "a", "b")]
    assert engine.claim(engine.worker()) == []
    engine.connection.execute("listen pgtask")
    reschedule(engine, *ids, run_at=PAST)

    assert sorted(n.payload for n in engine.connection.notifies(timeout=0)) == ["a", "b"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("", "changes nothing; give run_at"),
        ("run_at => 'infinity'", "run_at is an instant"),
        ("run_at => '20000-01-01'", "run_at is an instant before the year 10000"),
        ("priority => 101", "priority is -100 to 100, got 101"),
        ("attempt => -1", "attempt is 0 to 32766"),
        ("attempt => 32767", "attempt is 0 to 32766"),
        ("max_attempts => 0", "max_attempts 1 to 32767"),
        ("max_attempts => 40000", "max_attempts 1 to 32767"),
    ],
)
def test_what_cannot_work_is_refused(engine: Engine, said: str, words: str) -> None:
    job_id = engine.enqueue()
    comma = ", " if said else ""
    assert words in refused(engine, f"select pgtask.reschedule('{{{job_id}}}'{comma}{said})")
    assert engine.where(job_id) == ["ready"]


def test_a_reschedule_that_is_rolled_back_has_not_been(engine: Engine) -> None:
    job_id = engine.enqueue()
    with engine.connection.transaction(force_rollback=True):
        reschedule(engine, job_id, run_at=SOON)

    assert engine.where(job_id) == ["ready"]


def test_it_waits_for_whoever_holds_a_job_and_finds_it_where_it_went(
    engine: Engine, another: Another, aside: ThreadPoolExecutor
) -> None:
    job_id = engine.enqueue(delay=60.0)
    other = another()
    with other.connection.transaction():
        assert other.promote(ahead=120) == 1
        waiting = aside.submit(reschedule, engine, job_id, priority=9)
        eventually(lambda: other.value("select exists (select from pg_locks where not granted)"))
    assert waiting.result(10)[job_id].state == "ready"
    assert engine.job(job_id).priority == 9


def test_a_claim_that_was_first_keeps_the_job(
    engine: Engine, another: Another, aside: ThreadPoolExecutor
) -> None:
    job_id = engine.enqueue()
    other = another()
    worker = other.worker()
    with other.connection.transaction():
        other.claim(worker)
        waiting = aside.submit(discard, engine, job_id)
        eventually(lambda: other.value("select exists (select from pg_locks where not granted)"))
    assert waiting.result(10) == {}
    assert engine.where(job_id) == ["running"]


# --- discard -------------------------------------------------------------------------------------


def test_what_has_not_begun_ends_as_failed(engine: Engine) -> None:
    worker, running = engine.running()
    _, done = engine.running(worker)
    engine.finish(worker, [done])
    ready, later = engine.enqueue(key="k"), engine.enqueue("x" * 3000, delay=60.0)

    gone = discard(engine, running.id, done.id, ready, later, 999, None)

    assert {(row.id, row.state, row.reason, row.error) for row in gone.values()} == {
        (ready, "failed", "discarded", "Manually marked as failed"),
        (later, "failed", "discarded", "Manually marked as failed"),
    }
    job = engine.job(ready)
    assert (job.state, job.reason, job.error) == (
        "failed",
        "discarded",
        "Manually marked as failed",
    )
    assert engine.count("job_key") == 0
    assert engine.tally()["discarded"] == 2
    assert engine.where(running.id) == ["running"]


def test_its_text_is_what_the_caller_says_and_what_whoever_waits_reads(engine: Engine) -> None:
    worker, job = engine.running()
    engine.finish(
        worker, [job], "retried", delays=[60.0], types=["ValueError"], messages=["no such box"],
        tracebacks=["line 1"],
    )  # fmt: skip
    engine.connection.execute("listen pgtask_done")
    engine.all("select * from pgtask._watch(%s::bigint[])", [job.id])

    discard(engine, job.id, reason="the customer is gone; '); drop table x; --")

    result = engine.result(job.id)
    assert (result.state, result.reason, result.error_type) == ("failed", "discarded", None)
    assert result.error_message == "the customer is gone; '); drop table x; --"
    assert [n.payload for n in engine.connection.notifies(timeout=0)] == [str(job.id)]
    assert engine.count("attempt_error") == 1


def test_a_very_long_reason_is_cut(engine: Engine) -> None:
    job_id = engine.enqueue()
    assert len(discard(engine, job_id, reason="x" * 5000)[job_id].error) == 1000


def test_what_keeps_nothing_leaves_nothing(engine: Engine) -> None:
    job_id = engine.enqueue("x" * 3000, keep="none", key="k")

    assert set(discard(engine, job_id)) == {job_id}
    assert engine.count("jobs") == engine.count("payload") == engine.count("job_key") == 0


def test_a_discarded_job_can_be_retried(engine: Engine) -> None:
    job_id = engine.enqueue()
    discard(engine, job_id)

    assert engine.retry(job_id) == {job_id: "retried"}
    assert engine.claim(engine.worker())[0].id == job_id


def test_a_key_that_is_being_replaced_is_waited_for_without_a_deadlock(
    engine: Engine, another: Another, aside: ThreadPoolExecutor
) -> None:
    # Ids in the opposite order of keys: whoever locked by id alone would meet the producer.
    second, first = engine.enqueue(key="b"), engine.enqueue(key="a")
    producer = another()
    with producer.connection.transaction():
        producer.enqueue(key="a")
        waiting = aside.submit(discard, engine, first, second)
        eventually(lambda: producer.value("select exists (select from pg_locks where not granted)"))
        producer.enqueue(key="b")
    assert set(waiting.result(10)) == {first, second}


# --- purge by ids --------------------------------------------------------------------------------


def test_purge_by_ids_removes_finished_ones_among_them_page_by_page(engine: Engine) -> None:
    worker = engine.worker()
    jobs = [engine.running(worker, max_attempts=1)[1] for _ in range(5)]
    engine.finish(worker, jobs[:4], "failed", messages=["no"] * 4)
    ready = engine.enqueue()
    ids = [*[job.id for job in jobs], ready, 999]
    kept = jobs[3].id

    pages = [
        engine.value("select pgtask.purge(page => 2, ids => %s::bigint[])", ids[:3])
        for _ in range(3)
    ]
    young = engine.value("select pgtask.purge('60 s', ids => %s::bigint[])", ids)

    assert pages == [2, 1, 0]
    assert young == 0
    assert engine.where(kept) == ["done"]
    assert engine.value("select pgtask.purge(ids => %s::bigint[])", ids) == 1
    assert engine.count("attempt_error") == 0
    assert engine.where(ready) == ["ready"]
    assert engine.value("select pgtask.purge(ids => '{}')") == 0


# --- find_jobs -----------------------------------------------------------------------------------


def test_every_filter_finds_its_jobs(engine: Engine) -> None:
    worker = engine.worker()
    failed = engine.running(worker)[1]
    engine.finish(worker, [failed], "failed")
    mail = engine.enqueue(queue="mail")
    other = engine.enqueue(task="mail.send_all")
    tagged, keyed, serial = engine.enqueue(tags=["a", "b"]), engine.enqueue(key="k"), 0
    serial = engine.enqueue(serial="s")
    later = engine.enqueue(delay=60.0)
    engine.connection.execute("set pgtask.tenant = 'acme'")
    acme = engine.enqueue()
    engine.connection.execute("reset pgtask.tenant")
    every = [failed.id, mail, other, tagged, keyed, serial, later, acme]

    assert find(engine, queue=None) == every
    assert find(engine, queue="mail") == [mail]
    assert find(engine, task="mail.*") == find(engine, task="*_all") == [other]
    assert find(engine, state="scheduled") == [later]
    assert find(engine, tag="b") == [tagged]
    assert find(engine, key="k") == [keyed]
    assert find(engine, serial="s") == [serial]
    assert find(engine, tenant="acme") == [acme]
    assert find(engine, tenant="") == every
    assert find(engine, reason="error") == [failed.id]
    assert find(engine, state="ready", queue="default", task="t", limit=2) == [tagged, keyed]
    assert find(engine, limit=0) == []
    assert find(engine, older_than="1 hour") == find(engine, older_than="9000000 years") == []
    assert find(engine, older_than="0") == every


def test_an_age_counts_from_what_happened_last(engine: Engine) -> None:
    engine.running()
    ready = engine.enqueue()
    engine.connection.execute("update pgtask.running set created_at = now() - interval '2 hours'")
    engine.connection.execute("update pgtask.ready set created_at = now() - interval '2 hours'")

    assert find(engine, older_than="1 hour") == [ready]


@pytest.mark.parametrize("glob", ["a_c", "a%", "a\\", "a\\*", "a%*", "?", "[a]", "a.c"])
def test_only_an_asterisk_is_special_in_a_glob(engine: Engine, glob: str) -> None:
    engine.connection.execute(
        "insert into pgtask.ready (id, task, queue) select n, t, 'q'"
        " from unnest(array['abc', 'a_c', 'a%%c', 'a\\c', 'a.c', 'ab', 'a', 'a?', '[a]', '%%a',"
        " '?']) with ordinality as u (t, n)".replace("%%", "%").encode()
    )
    names = dict(engine.all("select id, task from pgtask.ready"))

    found = {names[job_id] for job_id in find(engine, task=glob)}

    head, star, tail = glob.partition("*")
    assert found == {
        name
        for name in names.values()
        if name == glob
        or (star and name.startswith(head) and name.endswith(tail) and len(name) >= len(glob) - 1)
    }
    engine.connection.execute("truncate pgtask.ready")


def test_the_setting_of_a_session_is_its_tenant(engine: Engine) -> None:
    engine.enqueue()
    engine.connection.execute("set pgtask.tenant = 'acme'")
    acme = engine.enqueue()

    assert find(engine, queue=None) == [acme]
    assert find(engine, tenant="other") == []
    assert len(find(engine, tenant="")) == 2


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("state => 'done'", "state is blocked, scheduled"),
        ("older_than => '-1 s'", "older_than is at least 0"),
        ('"limit" => -1', "limit is at least 0"),
    ],
)
def test_a_filter_that_cannot_match_is_refused(engine: Engine, said: str, words: str) -> None:
    assert words in refused(engine, f"select pgtask.find_jobs({said})")


def test_what_was_found_is_what_the_verbs_take(engine: Engine) -> None:
    engine.enqueue_many([[]] * 3, queue="mail")
    other = engine.enqueue()

    outcomes = engine.all(
        "select outcome, count(*)::int from"
        " pgtask.cancel(array(select pgtask.find_jobs(queue => 'mail'))) group by 1"
    )

    assert dict(outcomes) == {"cancelled": 3}
    assert engine.where(other) == ["ready"]
    assert engine.retry(*find(engine, state="cancelled")) == dict.fromkeys((1, 2, 3), "retried")
