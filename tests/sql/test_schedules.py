"""Schedules as people write them: define, edit, pause, drop; what is refused, and who hears."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from tests.sql.engine import Engine
from tests.sql.schedules import due, instant, plan, put, row, tick, ticks

BAD_COLUMNS = [
    ("name", "", "a schedule name is 1 to 128"),
    ("name", "a b", "a schedule name is 1 to 128"),
    ("name", "x'; drop table pgtask.schedule --", "a schedule name is 1 to 128"),
    ("name", "n" * 129, "a schedule name is 1 to 128"),
    ("name", None, "a schedule name is 1 to 128"),
    ("task", "a b", "a task name is"),
    ("task", None, "a task name is"),
    ("queue", "a b", "a queue name is"),
    ("priority", 101, "priority is -100 to 100, got 101"),
    ("max_attempts", 0, "max_attempts and max_crashes are 1 to 32767"),
    ("max_crashes", 40000, "max_attempts and max_crashes are 1 to 32767"),
    ("key", "", "a job key or serial key has 1 to 512"),
    ("serial", "k" * 513, "a job key or serial key has 1 to 512"),
    ("on_conflict", "ignore", "on_conflict is replace, keep or raise"),
    ("keep", "some", "keep is all, failures or none"),
    ("expires_in", 0, "expires_in is more than 0"),
    ("policy", {"timeout": 0}, "timeout is more than 0"),
    ("policy", {"backoff": "never"}, "backoff is"),
    ("headers", {"h": "x" * 65536}, "headers take 65545 bytes"),
    ("tags", [""], "tags are strings of 1 to 128"),
    ("tags", [None], "tags are strings of 1 to 128"),
    ("tags", ["t" * 129], "tags are strings of 1 to 128"),
    ("spec", None, "spec of schedule 's' says when"),
    ("spec", {}, "spec of schedule 's' says when"),
    ("spec", "", "spec of schedule 's' says when"),
    ("spec", " ", "spec of schedule 's' says when"),
    ("spec", [1], "spec of schedule 's' says when"),
    ("spec", 5, "spec of schedule 's' says when"),
    ("spec", {"cron": "x" * 70000}, "spec of schedule 's' says when"),
    ("spec", {"cron": "* * * * \0"}, "cannot hold the character NUL"),
    ("args", [{"a": "x\0"}], "cannot hold the character NUL"),
    ("headers", {"\\\0": 1}, "cannot hold the character NUL"),
    ("catchup", "some", "catchup is last, none or all, got 'some'"),
    ("overlap", "allow", "overlap is skip, queue or replace, got 'allow'"),
]
BAD_KINDS = [
    ("args", {}, "args of a schedule is a JSON array"),
    ("kwargs", [], "kwargs of a schedule is a JSON object"),
    ("headers", "x", "headers of a schedule is a JSON object"),
    ("policy", 1, "policy of a schedule is a JSON object"),
    ("tags", "a", "tags of a schedule is a JSON array"),
    ("priority", "5", "priority of a schedule is a JSON number"),
    ("priority", 1.5, "priority of a schedule is a whole number, got 1.5"),
    ("max_attempts", 10**12, "max_attempts of a schedule is a whole number"),
    ("grace", -1, "grace of a schedule is a number of seconds, at least 0, got -1"),
    ("expires_in", -0.5, "expires_in of a schedule is a number of seconds"),
    ("enabled", "yes", "enabled of a schedule is a JSON boolean"),
    ("task", 7, "task of a schedule is a JSON string"),
    ("cron", "* * * * *", "a schedule has no 'cron'; it has name, task, spec"),
    ("next_at", "2030-01-01", "a schedule has no 'next_at'"),
]


def _refused(engine: Engine, text: str, *params: object) -> str:
    with pytest.raises(psycopg.Error) as refused:
        engine.connection.execute(text.encode(), params or None)
    assert refused.value.sqlstate == "TQ002", refused.value
    return str(refused.value)


def _heard(engine: Engine) -> list[tuple[str, str]]:
    return [(n.channel, n.payload) for n in engine.connection.notifies(timeout=0)]


def test_a_schedule_is_put_with_everything_that_can_be_said_of_a_call(engine: Engine) -> None:
    engine.all(
        "select pgtask.put_schedule('s', 't', '{\"cron\": \"0 3 * * *\"}', '[1, 2]', '{\"a\": 1}',"
        " 'mail', 5, 7, 'k', 'keep', 'one', interval '90 s', '\"const:5\"', interval '1 hour',"
        " 'none', '{x,y}', '{\"h\": null}', 'all', 'queue', interval '2 min', false)"
    )

    found = row(engine)
    assert (found.task, found.args, found.kwargs, found.queue) == ("t", [1, 2], {"a": 1}, "mail")
    assert (found.priority, found.max_attempts, found.max_crashes) == (5, 7, None)
    assert (found.key, found.on_conflict, found.serial, found.keep) == ("k", "keep", "one", "none")
    assert found.policy == {"backoff": "const:5", "timeout": 90}
    assert (found.expires_in, found.tags, found.headers) == (3600, ["x", "y"], {"h": None})
    assert (found.spec, found.catchup, found.overlap) == ({"cron": "0 3 * * *"}, "all", "queue")
    assert (found.grace, found.enabled, found.source, found.edited) == (120, False, "sql", False)


def test_what_is_not_said_is_as_by_default_also_where_it_was_said_before(engine: Engine) -> None:
    first = put(engine, queue="mail", grace=5, catchup="all", enabled=False, args=[1], tags=["a"])
    assert put(engine, tags=None) == first

    found = row(engine)
    assert (found.queue, found.grace, found.catchup, found.enabled) == (None, None, "last", True)
    assert (found.args, found.tags, found.revision) == ([], None, 2)


@pytest.mark.parametrize(("column", "value", "message"), BAD_COLUMNS)
def test_a_call_that_could_not_be_enqueued_is_refused(
    engine: Engine, column: str, value: object, message: str
) -> None:
    said = {"name": "s", "task": "t", "spec": {"every": 5}, column: value}
    put_it = "select pgtask._put_schedule(%s, 'api')"
    assert message in _refused(engine, put_it, json.dumps(said))
    assert engine.count("schedule") == 0


@pytest.mark.parametrize(("column", "value", "message"), BAD_KINDS)
def test_json_of_another_kind_is_refused_with_the_field_and_the_value(
    engine: Engine, column: str, value: object, message: str
) -> None:
    said = {"name": "s", "task": "t", "spec": {"every": 5}, column: value}
    put_it = "select pgtask._put_schedule(%s, 'api')"
    assert message in _refused(engine, put_it, json.dumps(said))


def test_a_backslash_before_u0000_is_no_nul(engine: Engine) -> None:
    put(engine, args=["\\u0000", "\\\\u0000", "\U0001f600"], headers={"\\u0000": 1})
    job = engine.job(tick(engine).job)
    assert job.args == ["\\u0000", "\\\\u0000", "\U0001f600"]
    assert job.headers["\\u0000"] == 1


@pytest.mark.parametrize("arguments", [
    "null, 'api'", "'[]', 'api'", "'null', 'api'", "'\"s\"', 'api'",
    "'{\"name\": \"s\"}', 'api'", "'{}', 'api'", "'{\"name\": \"s\", \"task\": \"t\"}', 'api'",
    "'{\"name\": \"s\", \"task\": \"t\", \"spec\": \"@daily\"}', 'code'",
    "'{\"name\": \"s\", \"task\": \"t\", \"spec\": \"@daily\"}', null",
])  # fmt: skip
def test_nonsense_is_not_put(engine: Engine, arguments: str) -> None:
    _refused(engine, f"select pgtask._put_schedule({arguments})")
    assert engine.count("schedule") == 0


@pytest.mark.parametrize(("change", "message"), [
    ("name = 'a b'", "a schedule name"), ("task = ''", "a task name"),
    ("args = '{}'", "args is a JSON array, got object"), ("args = 'null'", "args is a JSON array"),
    ("args = null", "args is a JSON array, got NULL"),
    ("kwargs = '[]'", "kwargs is a JSON object, got array"),
    ("kwargs = 'null'", "kwargs is a JSON object, got null"),
    ("headers = '1'", "headers is a JSON object, got number"),
    ("policy = '[]'", "policy is a JSON object"), ("spec = '{ }'", "spec of schedule 's'"),
    ("spec = '\"\\u0000\"'", "spec of schedule 's'"),
    ("spec = '{\"cron\": \"\\ud834\"}'", "spec of schedule 's'"),
    ("spec = null", "spec of schedule 's'"), ("catchup = null", "catchup is last, none or all"),
    ("overlap = null", "overlap is skip, queue or replace"),
    ("grace = -1", "grace is 0 to"), ("grace = 'NaN'", "grace is 0 to"),
    ("grace = 'infinity'", "grace is 0 to"), ("expires_in = 'NaN'", "expires_in is more than 0"),
    ("expires_in = 1e300", "expires_in is more than 0"), ("tags = '{{a},{b}}'", "tags are"),
    ("priority = -101", "priority is"), ("queue = ''", "a queue name"),
])  # fmt: skip
def test_rows_written_by_hand_are_checked_as_strictly(
    engine: Engine, change: str, message: str
) -> None:
    put(engine)
    assert message in _refused(engine, f"update pgtask.schedule set {change}")
    assert row(engine).revision == 1


def test_a_row_needs_a_name_a_task_and_a_spec_only(engine: Engine) -> None:
    engine.connection.execute(
        "insert into pgtask.schedule (name, task, spec, revision, planned_revision, next_at, error,"
        " pending, last_job) values ('s', 't', '\"@hourly\"', 9, 9, now(), 'e', '{1}', 7)"
    )
    found = row(engine)
    assert (found.source, found.enabled, found.catchup, found.overlap) == (
        "sql", True, "last", "skip",
    )  # fmt: skip
    # What beat writes is not for others to say.
    assert (found.revision, found.planned_revision, found.next_at) == (1, 0, None)
    assert (found.error, found.pending, found.last_job) == (None, [], None)
    assert [found.name for found in due(engine)] == ["s"]


def test_no_instant_that_python_cannot_read_gets_into_a_row(engine: Engine) -> None:
    put(engine)
    for instant_ in ("infinity", "-infinity", "10000-01-01", "4000-01-01 BC"):
        with pytest.raises(psycopg.errors.CheckViolation):
            engine.all("update pgtask.schedule set next_at = %s returning id", instant_)


def test_an_edit_of_the_call_counts_but_keeps_a_tick_that_is_due(engine: Engine) -> None:
    put(engine)
    before = plan(engine)
    put(engine, args=[1], queue="mail")

    (after,) = due(engine)
    assert (after.revision, after.planned, after.next_at) == (2, True, before.next_at)
    assert row(engine).updated_at > row(engine).created_at


@pytest.mark.parametrize("change", [
    "spec = '{\"every\": 7}'", "enabled = false", "paused = true", "gone = true",
])  # fmt: skip
def test_an_edit_of_when_it_fires_forgets_the_next_tick(engine: Engine, change: str) -> None:
    put(engine)
    plan(engine)
    engine.connection.execute(f"update pgtask.schedule set {change}".encode())

    found = row(engine)
    assert (found.revision, found.next_at) == (2, None)
    assert found.planned_revision != found.revision


def test_what_beat_writes_and_what_changes_nothing_is_no_edit(engine: Engine) -> None:
    put(engine, args=[1], tags=["a"])
    plan(engine)
    engine.connection.execute("listen pgtask_schedule")
    put(engine, args=[1], tags=["a"])
    engine.connection.execute("update pgtask.schedule set name = name, spec = spec, args = args")
    tick(engine)
    engine.all("select pgtask._replan(), pgtask.fire_schedule('s')")

    assert row(engine).revision == 1
    assert _heard(engine) == []


def test_an_edit_takes_the_error_away_and_has_it_planned_anew(engine: Engine) -> None:
    put(engine)
    plan(engine)
    engine.connection.execute(
        "update pgtask.schedule set error = 'bad', next_at = null, planned_revision = revision"
    )
    assert due(engine) == []
    put(engine, args=[2])

    assert row(engine).error is None
    assert [(found.name, found.planned) for found in due(engine)] == [("s", False)]


def test_beats_hear_of_what_people_do_once_a_transaction(engine: Engine) -> None:
    engine.connection.execute("listen pgtask_schedule")
    with engine.connection.transaction():
        for n in range(5):
            put(engine, f"s{n}")
    assert _heard(engine) == [("pgtask_schedule", "")]

    for statement in (
        "select pgtask.pause_schedule('s1')", "select pgtask.resume_schedule('s1')",
        "update pgtask.schedule set queue = 'q' where name = 's2'",
        "insert into pgtask.schedule (name, task, spec) values ('x', 't', '\"@daily\"')",
    ):  # fmt: skip
        engine.connection.execute(statement.encode())
        assert _heard(engine) == [("pgtask_schedule", "")], statement


def test_pausing_says_who_when_and_why_and_happens_once(engine: Engine) -> None:
    put(engine)
    plan(engine)
    assert engine.value("select pgtask.pause_schedule('s', 'holidays')") is True
    assert engine.value("select pgtask.pause_schedule('s', 'again')") is False

    found = row(engine)
    assert (found.paused, found.paused_reason, found.paused_by) == (True, "holidays", "pgtask")
    assert found.paused_at is not None
    assert (found.edited, found.next_at, due(engine)) == (False, None, [])

    put(engine, args=[3])
    assert row(engine).paused
    assert engine.value("select pgtask.resume_schedule('s')") is True
    assert engine.value("select pgtask.resume_schedule('s')") is False
    found = row(engine)
    assert (found.paused_reason, found.paused_by, found.paused_at) == (None, None, None)
    assert [(found.name, found.planned) for found in due(engine)] == [("s", False)]


def test_one_who_pauses_by_hand_is_noted_too(engine: Engine) -> None:
    put(engine)
    engine.connection.execute("update pgtask.schedule set paused = true")
    assert (row(engine).paused_by, row(engine).paused_at is not None) == ("pgtask", True)


def test_dropping_takes_the_history_and_leaves_the_jobs(engine: Engine) -> None:
    put(engine, "other")
    tick(engine, "other")
    put(engine)
    job_id = tick(engine).job
    assert engine.value("select pgtask.drop_schedule('s')") is True
    assert engine.value("select pgtask.drop_schedule('s')") is False

    assert engine.where(job_id) == ["ready"]
    assert engine.count("tick") == 1
    engine.connection.execute("delete from pgtask.schedule")
    assert engine.count("tick") == 0


def test_a_name_that_is_not_there_is_no_error(engine: Engine) -> None:
    for function in ("drop", "pause", "resume", "reset"):
        for name in ("nobody", "", None, "x'; drop table pgtask.schedule --"):
            assert engine.value(f"select pgtask.{function}_schedule(%s)", name) is False
    assert engine.value("select pgtask.fire_schedule('nobody')") is None
    assert engine.value("select pgtask.fire_schedule(null)") is None
    assert engine.count("ready") == 0


def test_firing_by_hand_makes_a_job_whatever_the_state_and_leaves_the_next_tick(
    engine: Engine,
) -> None:
    put(engine, args=[1], enabled=False, expires_in=60, headers={"h": 1})
    jobs = [engine.value("select pgtask.fire_schedule('s')") for _ in range(3)]

    assert ticks(engine) == [("manual", True)] * 3
    found = row(engine)
    assert (found.last_job, found.pending, found.next_at) == (jobs[-1], jobs, None)
    job = engine.job(jobs[0])
    assert (job.state, job.args, job.headers["h"], job.headers["schedule"]) == (
        "ready", [1], 1, "s",
    )  # fmt: skip
    assert 50 < (job.expires_at - instant(engine)).total_seconds() <= 60


def test_a_job_fired_by_hand_stands_in_the_way_of_the_next_tick(engine: Engine) -> None:
    put(engine)
    found = plan(engine)
    engine.value("select pgtask.fire_schedule('s')")
    assert row(engine).next_at == found.next_at

    assert tick(engine).reason == "overlap"


def test_firing_by_hand_goes_by_the_key_of_the_call(engine: Engine) -> None:
    owner = engine.enqueue(key="k")
    for then, expected in (("keep", owner), ("replace", owner)):
        put(engine, key="k", on_conflict=then)
        assert engine.value("select pgtask.fire_schedule('s')") == expected
    put(engine, key="k", on_conflict="raise")
    with pytest.raises(psycopg.Error, match=f"job {owner} is unfinished") as refused:
        engine.value("select pgtask.fire_schedule('s')")
    assert refused.value.sqlstate == "TQ003"
    assert ticks(engine) == [("manual", True)] * 2


@pytest.mark.parametrize(("state", "change"), [
    ("active", "spec = spec"), ("paused", "paused = true"), ("disabled", "enabled = false"),
    ("gone", "gone = true, paused = true"),
])  # fmt: skip
def test_the_view_says_in_one_word_what_state_it_is_in(
    engine: Engine, state: str, change: str
) -> None:
    put(engine)
    plan(engine, ago=-60)
    engine.connection.execute(f"update pgtask.schedule set {change}".encode())
    assert engine.value("select state from pgtask.schedules") == state


def test_the_view_tells_broken_and_ended_from_active(engine: Engine) -> None:
    put(engine)
    assert engine.value("select state from pgtask.schedules") == "active"
    engine.connection.execute("update pgtask.schedule set planned_revision = 1")
    assert engine.value("select state from pgtask.schedules") == "ended"
    engine.connection.execute("update pgtask.schedule set error = 'hour 24'")
    assert engine.value("select state from pgtask.schedules") == "broken"


def test_the_views_tell_what_became_of_the_jobs(engine: Engine) -> None:
    put(engine)
    fired = tick(engine)
    view: Any = engine.one("select * from pgtask.schedules")
    assert (view.last_job, view.last_state, view.last_tick) == (fired.job, "ready", fired.tick_at)
    worker = engine.worker()
    engine.finish(worker, engine.claim(worker), "failed")
    assert engine.value("select last_state from pgtask.schedules") == "failed"
    shown: Any = engine.one("select * from pgtask.ticks")
    assert (shown.schedule, shown.job, shown.reason, shown.outcome) == (
        "s", fired.job, None, "failed",
    )  # fmt: skip
    assert shown.lateness == shown.fired_at - shown.tick_at

    engine.all("select pgtask.purge('0 s')")
    assert engine.value("select outcome from pgtask.ticks") is None
    assert engine.value("select last_state from pgtask.schedules") is None
