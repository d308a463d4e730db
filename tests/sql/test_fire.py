"""Due, then fire: what a tick makes, what it is kept from making, and what beat is told."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.sql.engine import Engine
from tests.sql.schedules import (
    agenda,
    due,
    fire,
    fire_of,
    instant,
    plan,
    put,
    row,
    tick,
    ticks,
)

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def _at(engine: Engine, ahead: float = 0.0) -> datetime:
    return instant(engine, ahead).replace(microsecond=0)


def _finish_all(engine: Engine) -> None:
    worker = engine.worker()
    engine.finish(worker, engine.claim(worker, 1000))


# --- due ----------------------------------------------------------------------------------------


def test_nothing_due_is_one_row_with_the_time_and_how_long_to_wait(engine: Engine) -> None:
    assert agenda(engine).now is not None
    assert (agenda(engine).id, agenda(engine).wait) == (None, None)
    put(engine)
    plan(engine, ago=-60)
    put(engine, "later")
    plan(engine, "later", ago=-600)

    found = agenda(engine)
    assert found.id is None
    assert 55 < found.wait <= 60


def test_the_due_come_first_and_the_oldest_of_them_at_the_top(engine: Engine) -> None:
    put(engine, "unplanned")
    for name, ago in (("a", 5.0), ("b", 50.0), ("c", 20.0)):
        put(engine, name)
        plan(engine, name, ago=ago)

    found = due(engine)
    assert [(f.name, f.planned) for f in found] == [
        ("b", True), ("c", True), ("a", True), ("unplanned", False),
    ]  # fmt: skip
    assert [f.name for f in due(engine, limit=2)] == ["b", "c"]
    assert due(engine, limit=0) == []
    assert agenda(engine, limit=0).wait is None


@pytest.mark.parametrize("state", [
    "enabled = false", "paused = true", "gone = true", "error = 'bad'", "spec = '\"@daily\"'",
])  # fmt: skip
def test_what_must_not_fire_is_not_due_even_with_a_next_tick_written_by_hand(
    engine: Engine, state: str
) -> None:
    put(engine)
    plan(engine)
    engine.connection.execute(f"update pgtask.schedule set {state}".encode())
    engine.connection.execute("update pgtask.schedule set next_at = now() - interval '1 min'")

    assert [found.planned for found in due(engine)] == ([False] if "spec" in state else [])
    assert agenda(engine).wait is None


def test_a_beat_is_noted_at_most_every_five_seconds(engine: Engine) -> None:
    beat = uuid4()
    due(engine, beat=beat)
    first = engine.one("select *, xmin from pgtask.beat")
    due(engine, beat=beat)
    assert engine.one("select *, xmin from pgtask.beat") == first

    for moved in ("- interval '6 s'", "+ interval '1 h'"):  # and when the clock was set back
        engine.connection.execute(f"update pgtask.beat set seen_at = seen_at {moved}".encode())
        due(engine, beat=beat)
        (found,) = engine.all("select * from pgtask.beats")
        assert abs((found.seen_at - instant(engine)).total_seconds()) < 5
        assert (found.id, found.host, found.pid, found.live) == (beat, "host", 1, True)
    engine.connection.execute("update pgtask.beat set seen_at = seen_at - interval '31 s'")
    assert engine.value("select live from pgtask.beats") is False
    due(engine, beat=None)
    assert engine.count("beat") == 1


# --- what a tick makes --------------------------------------------------------------------------


def test_a_tick_makes_one_job_with_everything_the_schedule_says(engine: Engine) -> None:
    put(
        engine, args=[1, "x"], kwargs={"a": None}, queue="mail", priority=5, max_attempts=7,
        max_crashes=2, serial="one", keep="failures", policy={"timeout": 5}, tags=["a"],
        headers={"trace": "é", "schedule": "mine"}, expires_in=90,
    )  # fmt: skip
    schedule = plan(engine)
    at, after = _at(engine), _at(engine, 3600)
    (fired,) = fire(engine, fire_of(schedule, at, next=after))

    assert (fired.id, fired.tick_at, fired.reason) == (schedule.id, at, None)
    job = engine.job(fired.job)
    assert (job.state, job.task, job.args, job.kwargs) == ("ready", "t", [1, "x"], {"a": None})
    assert (job.queue, job.priority, job.max_attempts, job.max_crashes) == ("mail", 5, 7, 2)
    assert (job.serial, job.keep, job.policy, job.tags) == (
        "one",
        "failures",
        {"timeout": 5},
        ["a"],
    )
    assert job.headers == {
        "trace": "é", "schedule": "s", "scheduled_for": f"{at:%Y-%m-%dT%H:%M:%SZ}",
    }  # fmt: skip
    assert job.expires_at == at + timedelta(seconds=90)
    found = row(engine)
    assert (found.next_at, found.last_tick, found.last_job) == (after, at, fired.job)
    assert (found.pending, found.planned_revision, found.revision) == ([fired.job], 1, 1)


def test_large_arguments_do_not_stand_in_the_row_of_the_job(engine: Engine) -> None:
    put(engine, args=["x" * 5000])
    assert engine.value("select args from pgtask.payload where job = %s", tick(engine).job)


def test_a_fire_wakes_idle_workers(engine: Engine) -> None:
    put(engine, queue="mail")
    engine.claim(engine.worker(), queues=["mail"])
    engine.connection.execute("listen pgtask")
    tick(engine)
    assert [n.payload for n in engine.connection.notifies(timeout=0)] == ["mail"]


def test_many_schedules_fire_in_one_statement_oldest_tick_first(engine: Engine) -> None:
    fires = []
    for n in range(5):
        put(engine, f"s{n}", key="shared" if n == 3 else None)
        schedule = plan(engine, f"s{n}")
        fires.append(fire_of(schedule, _at(engine, -100 + n), _at(engine, -n), next=None))
    answers = fire(engine, *fires)

    assert [a.reason for a in answers] == [None] * 10
    assert [a.tick_at for a in answers] == sorted(a.tick_at for a in answers)
    assert len({a.job for a in answers}) == 9  # the second tick of the keyed one rewrote its job
    assert engine.count("tick") == 10


def test_ticks_that_do_not_fire_are_recorded_with_their_reason(engine: Engine) -> None:
    put(engine)
    schedule = plan(engine)
    first, second, third = (_at(engine, -30), "missed", 7), (_at(engine, -20), "late", 0), LONG_AGO
    answers = fire(engine, fire_of(schedule, third, first, second, next=_at(engine, 60)))

    assert [(a.reason, a.job is not None) for a in answers] == [
        (None, True), ("missed", False), ("late", False),
    ]  # fmt: skip
    assert ticks(engine) == [(None, True), ("missed", False), ("late", False)]
    assert engine.values("select missed from pgtask.tick order by tick_at") == [0, 7, 0]
    assert engine.value("select outcome from pgtask.ticks where missed = 7") == "missed"
    # The last one that made a job, though others came after it.
    assert row(engine).last_tick == LONG_AGO


def test_a_tick_that_has_its_row_is_not_fired_again(engine: Engine) -> None:
    put(engine, overlap="queue")
    at = tick(engine).tick_at
    # The clock was set back: everything is planned anew, and comes to the same tick.
    assert engine.value("select pgtask._replan()") == 1
    (schedule,) = due(engine)
    assert not schedule.planned
    answers = fire(engine, fire_of(schedule, at, at + timedelta(seconds=1), next=None))

    assert [(a.tick_at - at, a.reason) for a in answers] == [
        (timedelta(0), "repeated"), (timedelta(seconds=1), None),
    ]  # fmt: skip
    assert engine.count("ready") == 2
    assert ticks(engine) == [(None, True)] * 2


# --- jitter -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [
    '"* * * * *"', '{"every": 5, "jitter": 0}', '{"every": 5, "jitter": "much"}',
    '{"every": 5, "jitter": -9}', '{"every": 5, "jitter": null}', '{"every": 5, "jitter": [1]}',
    '{"every": 5, "jitter": "NaN"}', '{"every": 5, "jitter": "infinity"}',
])  # fmt: skip
def test_without_a_jitter_that_can_be_read_a_tick_runs_at_once(engine: Engine, spec: str) -> None:
    put(engine, spec=json.loads(spec))
    assert engine.job(tick(engine).job).state == "ready"


def test_jitter_is_a_share_that_is_the_same_for_the_same_tick(engine: Engine) -> None:
    put(engine, spec={"every": 60, "jitter": 3600}, overlap="queue")
    schedule = plan(engine)
    at = [_at(engine, n) for n in range(50)]
    answers = fire(engine, fire_of(schedule, *at, next=None))
    run_at = {
        a.tick_at: engine.value("select run_at from pgtask.waiting where id = %s", a.job)
        for a in answers
        if engine.where(a.job) == ["waiting"]
    }
    shares = [(run_at[tick_at] - tick_at).total_seconds() / 3600 for tick_at in run_at]
    assert all(0 <= share < 1 for share in shares)
    assert min(shares) < 0.2
    assert max(shares) > 0.8

    engine.connection.execute("delete from pgtask.tick")
    schedule = plan(engine)
    for again in fire(engine, fire_of(schedule, *at, next=None)):
        if again.tick_at in run_at:
            found = engine.value("select run_at from pgtask.waiting where id = %s", again.job)
            assert found == run_at[again.tick_at]


def test_a_jitter_out_of_all_bounds_still_makes_a_job(engine: Engine) -> None:
    put(engine, spec={"every": 60, "jitter": 10**14})
    assert engine.job(tick(engine).job).state == "scheduled"


# --- overlap ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["ready", "running", "scheduled", "retrying", "blocked"])
def test_skip_while_a_job_of_an_earlier_tick_is_unfinished(engine: Engine, state: str) -> None:
    put(engine)
    job_id = tick(engine).job
    if state in ("running", "retrying"):
        worker = engine.worker()
        jobs = engine.claim(worker)
        if state == "retrying":
            engine.finish(worker, jobs, "retried", delays=[60.0])
    if state in ("scheduled", "blocked"):
        engine.connection.execute(
            "with gone as (delete from pgtask.ready returning *) insert into pgtask.waiting"
            " (id, task, queue, args, run_at) select id, task, queue, args,"
            f" {'now()' if state == 'scheduled' else 'null'} from gone".encode()
        )
    skipped = tick(engine)

    assert (skipped.reason, skipped.job) == ("overlap", None)
    assert row(engine).pending == [job_id]
    assert row(engine).last_job == job_id
    assert ticks(engine) == [(None, True), ("overlap", False)]


@pytest.mark.parametrize("verdict", ["succeeded", "failed", "cancelled"])
@pytest.mark.parametrize("keep", ["all", "none"])
def test_finished_jobs_never_stand_in_the_way(engine: Engine, verdict: str, keep: str) -> None:
    put(engine, keep=keep)
    first = tick(engine).job
    if verdict == "cancelled":
        engine.cancel(first)
    else:
        worker = engine.worker()
        engine.finish(worker, engine.claim(worker), verdict)
    second = tick(engine)

    assert second.reason is None
    assert row(engine).pending == [second.job]


def test_ticks_of_one_call_do_not_stand_in_each_others_way(engine: Engine) -> None:
    put(engine, catchup="all")
    schedule = plan(engine)
    answers = fire(engine, fire_of(schedule, *(_at(engine, -n) for n in (30, 20, 10)), next=None))
    assert [a.reason for a in answers] == [None] * 3
    assert [job.id for job in engine.claim(engine.worker())] == [a.job for a in answers]
    assert tick(engine).reason == "overlap"


def test_queue_enqueues_all_the_same_and_remembers_what_is_unfinished(engine: Engine) -> None:
    put(engine, overlap="queue")
    jobs = [tick(engine).job for _ in range(3)]
    assert row(engine).pending == jobs
    engine.cancel(jobs[1])
    jobs.append(tick(engine).job)
    assert row(engine).pending == [jobs[0], jobs[2], jobs[3]]


def test_replace_rewrites_what_has_not_begun(engine: Engine) -> None:
    put(engine, overlap="replace", args=[1])
    first = tick(engine)
    put(engine, overlap="replace", args=[2])
    second = tick(engine)

    assert (second.job, second.reason) == (first.job, None)
    assert engine.job(first.job).args == [2]
    assert engine.job(first.job).key == "schedule:s"
    assert engine.count("ready") == 1
    assert row(engine).pending == [first.job]
    assert ticks(engine) == [(None, True)] * 2


def test_a_tick_whose_job_went_to_a_later_one_is_told_as_replaced(engine: Engine) -> None:
    put(engine, overlap="replace")
    for _ in range(3):
        tick(engine)
    worker = engine.worker()
    (running,) = engine.claim(worker)
    engine.finish(worker, [running], "succeeded")
    tick(engine)

    outcomes = engine.connection.execute("select outcome from pgtask.ticks order by tick_at")
    assert [outcome for (outcome,) in outcomes] == ["replaced", "replaced", "succeeded", "ready"]


def test_replace_supersedes_what_runs(engine: Engine) -> None:
    put(engine, overlap="replace")
    tick(engine)
    worker = engine.worker()
    (running,) = engine.claim(worker)
    newer = tick(engine)

    assert newer.job != running.id
    assert row(engine).pending == [running.id, newer.job]
    # It may finish, but not retry: the new one has its key.
    engine.finish(worker, [running], "retried", delays=[0.0])
    assert engine.where(running.id) == ["done"]


def test_replace_goes_by_the_key_of_the_call_where_it_has_one(engine: Engine) -> None:
    owner = engine.enqueue(key="k")
    put(engine, overlap="replace", key="k", on_conflict="keep")
    assert tick(engine).job == owner
    assert engine.job(owner).headers["schedule"] == "s"


@pytest.mark.parametrize("overlap", ["skip", "queue"])
@pytest.mark.parametrize("on_conflict", ["keep", "raise"])
def test_a_key_that_an_unfinished_job_keeps_is_an_overlap(
    engine: Engine, overlap: str, on_conflict: str
) -> None:
    owner = engine.enqueue("mine", key="k")
    put(engine, overlap=overlap, key="k", on_conflict=on_conflict)
    assert tick(engine).reason == "overlap"
    assert engine.job(owner).args == ["mine"]
    assert row(engine).pending == []

    engine.cancel(owner)
    assert tick(engine).reason is None


def test_a_key_is_replaced_by_default_as_by_any_enqueue(engine: Engine) -> None:
    owner = engine.enqueue("mine", key="k")
    put(engine, key="k", args=["theirs"])
    assert tick(engine).job == owner
    assert engine.job(owner).args == ["theirs"]
    assert tick(engine).reason == "overlap"  # it is the schedule's own now


@pytest.mark.parametrize("pending", ["{}", "{NULL}", "{NULL,1,-5}", "{{1,2},{3,4}}"])
def test_pending_written_by_hand_does_no_harm(engine: Engine, pending: str) -> None:
    put(engine)
    plan(engine)
    engine.all("update pgtask.schedule set pending = %s::bigint[] returning id", pending)
    fired = tick(engine)
    assert fired.reason is None
    assert row(engine).pending == [fired.job]


def test_pending_never_grows_beyond_a_thousand(engine: Engine) -> None:
    put(engine, overlap="queue")
    jobs = [i for i, _ in engine.enqueue_many([[]] * 1200)]
    plan(engine)
    engine.all("update pgtask.schedule set pending = %s returning id", jobs)
    newest = tick(engine).job
    assert row(engine).pending == [*jobs[-999:], newest]
    newest = engine.value("select pgtask.fire_schedule('s')")
    assert len(row(engine).pending) == 1000
    assert row(engine).pending[-1] == newest


# --- not as it was read -------------------------------------------------------------------------


def test_an_edit_between_due_and_fire_fires_nothing(engine: Engine) -> None:
    for number, edit in enumerate((
        "args = '[2]'", "spec = '\"@daily\"'", "paused = true", "enabled = false", "grace = 5",
    )):  # fmt: skip
        name = f"s{number}"
        put(engine, name)
        schedule = plan(engine, name)
        engine.connection.execute(
            f"update pgtask.schedule set {edit} where name = '{name}'".encode()
        )
        before = row(engine, name)
        answers = fire(engine, fire_of(schedule, _at(engine), next=None))

        assert answers == [(schedule.id, None, None, "changed")], edit
        assert row(engine, name) == before
    assert (engine.count("tick"), engine.count("ready")) == (0, 0)


def test_a_next_tick_that_moved_and_a_drop_fire_nothing_and_the_others_fire(engine: Engine) -> None:
    for name in ("moved", "dropped", "fine"):
        put(engine, name)
        plan(engine, name)
    read = {schedule.name: schedule for schedule in due(engine)}
    engine.connection.execute(
        "update pgtask.schedule set next_at = next_at + interval '1 us' where name = 'moved'"
    )
    engine.all("select pgtask.drop_schedule('dropped')")
    answers = fire(engine, *(fire_of(s, _at(engine), next=None) for s in read.values()))

    assert {(a.id, a.reason) for a in answers} == {
        (read["moved"].id, "changed"), (read["dropped"].id, "missing"), (read["fine"].id, None),
    }  # fmt: skip
    assert engine.count("ready") == 1
    put(engine, "dropped")
    assert ticks(engine, "dropped") == []


def test_the_second_of_two_with_the_same_reading_fires_nothing(engine: Engine) -> None:
    put(engine, overlap="queue")
    schedule = plan(engine)
    request = fire_of(schedule, _at(engine), next=_at(engine, 60))
    assert [a.reason for a in fire(engine, request)] == [None]
    assert [a.reason for a in fire(engine, request)] == ["changed"]
    assert engine.count("ready") == 1


def test_planning_answers_nothing_and_makes_nothing(engine: Engine) -> None:
    put(engine)
    (schedule,) = due(engine)
    assert fire(engine, fire_of(schedule, next=None)) == []
    assert fire(engine) == []

    assert (due(engine), engine.count("tick")) == ([], 0)
    assert engine.value("select state from pgtask.schedules") == "ended"


def test_a_schedule_with_an_error_does_not_fire_until_it_is_edited(engine: Engine) -> None:
    put(engine)
    schedule = plan(engine)
    at = _at(engine)
    answers = fire(
        engine, fire_of(schedule, (at, "error", 0), next=_at(engine, 5), error="hour 24: 0 to 23")
    )
    assert [(a.tick_at, a.reason) for a in answers] == [(at, "error")]
    found = row(engine)
    assert (found.error, found.next_at, due(engine)) == ("hour 24: 0 to 23", None, [])

    put(engine, spec={"every": 5})
    assert [s.planned for s in due(engine)] == [False]


# --- nonsense -----------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", [
    "null", "'{}'", "'null'", "'1'", "'[{\"id\": null}]'", "'[{}]'", "'[{\"id\": 1}, {\"id\": 1}]'",
])  # fmt: skip
def test_nonsense_is_refused(engine: Engine, argument: str) -> None:
    with pytest.raises(psycopg.Error, match="_fire takes") as refused:
        engine.connection.execute(f"select pgtask._fire({argument})".encode())
    assert refused.value.sqlstate == "TQ002"


def test_a_schedule_nobody_knows_and_one_without_a_revision_are_told_apart(engine: Engine) -> None:
    schedule_id = put(engine)
    assert [tuple(a) for a in fire(engine, {"id": 10**15}, {"id": schedule_id})] == [
        (schedule_id, None, None, "changed"), (10**15, None, None, "missing"),
    ]  # fmt: skip


@pytest.mark.parametrize("damage", [
    "args = '{}'", "task = 'a b'", "priority = 1000", "headers = '[1]'",
    "policy = '{\"timeout\": 0}'", "expires_in = 'infinity'", "expires_in = 1e300", "key = ''",
])  # fmt: skip
def test_a_row_gone_bad_in_spite_of_the_checks_undoes_its_batch_only(
    engine: Engine, damage: str
) -> None:
    for name in ("bad", "fine"):
        put(engine, name)
        plan(engine, name)
    engine.connection.execute("alter table pgtask.schedule disable trigger schedule_check")
    try:
        engine.connection.execute(
            f"update pgtask.schedule set {damage} where name = 'bad'".encode()
        )
    finally:
        engine.connection.execute("alter table pgtask.schedule enable trigger schedule_check")
    read: dict[str, Any] = {schedule.name: schedule for schedule in due(engine)}
    requests = {n: fire_of(s, _at(engine), next=None) for n, s in read.items()}
    if not damage.startswith("args"):  # what an enqueue does not look at either
        for together in (["bad", "fine"], ["bad"]):
            with pytest.raises(psycopg.DataError if "1e300" in damage else psycopg.Error):
                fire(engine, *(requests[name] for name in together))
        assert (engine.count("tick"), engine.count("ready")) == (0, 0)
    assert [a.reason for a in fire(engine, requests["fine"])] == [None]


@pytest.mark.parametrize("wrong", [
    {"at": None}, {"at": "infinity"}, {"at": "soon"}, {"reason": "bored"}, {"reason": "manual"},
    {"missed": -1},
])  # fmt: skip
def test_a_tick_that_is_none_undoes_the_batch(engine: Engine, wrong: dict[str, object]) -> None:
    put(engine)
    schedule = plan(engine)
    request = fire_of(schedule, _at(engine), next=None)
    request["ticks"][0] |= wrong
    with pytest.raises(psycopg.Error):
        fire(engine, request)
    request["ticks"] = [{"at": "2030-01-01"}, {"at": "2030-01-01"}]
    with pytest.raises(psycopg.errors.UniqueViolation):
        fire(engine, request)
    assert (engine.count("tick"), engine.count("ready")) == (0, 0)
    request["ticks"] = None
    assert fire(engine, request) == []


def test_nothing_fires_differently_in_a_session_with_other_habits(engine: Engine) -> None:
    put(engine)
    schedule = plan(engine)
    at = _at(engine)
    engine.connection.execute("set timezone = 'Asia/Kathmandu'")
    engine.connection.execute("set search_path = ''")
    (fired,) = fire(engine, fire_of(schedule, at, next=None))
    assert fired.tick_at == at
    assert engine.job(fired.job).headers["scheduled_for"] == f"{at:%Y-%m-%dT%H:%M:%SZ}"
    _finish_all(engine)
