"""`pgtask schedule ...`: from making one to why it does not fire."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Call, World
from tests.clockwork import column

APP = """
from pgtask import App
app = App("shop")

@app.task(name="mail.send")
def send(to: str, n: int = 1) -> None: ...
"""


@pytest.fixture
def app(bare: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with an app."""
    monkeypatch.syspath_prepend(str(bare))
    name = f"shop_{abs(hash(bare)) % 10**9}"
    (bare / f"{name}.py").write_text(APP)
    return f"{name}:app"


def beat(world: World) -> None:
    """A beat that was seen this moment, and has found the next ticks."""
    world.connection.execute("select from pgtask._due(gen_random_uuid(), 'host', 7, '0', 0)")


# Making ------------------------------------------------------------------------------------------


def test_add_makes_a_schedule_checked_by_the_app(call: Call, world: World, app: str) -> None:
    answer = call(
        "-A", app, "schedule", "add", "nightly", "mail.send", "to=ada", "n=2",
        "--cron", "30 2 * * *", "--tz", "Europe/Berlin", "--priority", "7", "--overlap", "queue",
        "--grace", "10m", "--except", "2026-12-25",
    )  # fmt: skip

    assert (answer.code, answer.out) == (0, "")
    assert "nightly" in answer.err
    row = world.connection.execute(
        "select task, args::text, priority, overlap, grace, source, spec ->> 'tz',"
        " spec ->> 'exceptions' from pgtask.schedule"
    ).fetchone()
    assert row == (
        "mail.send", '["ada",2]', 7, "queue", 600.0, "cli", "Europe/Berlin", '["2026-12-25"]'
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["mail.send", "to=1", "--cron", "* * * * *"], 2, "to"),
        (["mail.send", "to=ada", "--cron", "0 25 * * *"], 2, "hour"),
        (["mail.send", "to=ada"], 2, "--cron"),
        (["mail.send", "to=ada", "--cron", "* * * * *", "--every", "5m"], 2, "--cron and --every"),
        (["mail.sent", "to=ada", "--every", "5m"], 6, "did you mean 'mail.send'"),
        (["mail.send", "to=ada", "--at", "2026-12-24T18:00"], 2, "offset"),
        (["mail.send", "to=ada", "--rule", "{"], 2, "JSON"),
        (["mail.send", "to=ada", "--every", "5m", "--tz", "Europe/Berlinn"], 2, "Europe/Berlin"),
    ],
)
def test_add_refuses_what_could_not_fire(
    call: Call, world: World, app: str, words: list[str], code: int, said: str
) -> None:
    answer = call("-A", app, "schedule", "add", "s", *words)

    assert answer.code == code
    assert said in answer.err
    assert world.one("select count(*) from pgtask.schedule") == 0


def test_add_takes_a_task_that_the_app_does_not_know_if_told(call: Call, world: World) -> None:
    assert call("schedule", "add", "s", "other.task", "[1]", "--every", "5m", "--unknown").code == 0

    assert column(world.connection, "s", "args::text") == "[1]"


@pytest.mark.parametrize(
    ("words", "spec"),
    [
        (["--every", "5m"], {"every": 300}),
        (["--rule", '{"hour": [8, 20]}'], {"rule": {"hour": [8, 20]}}),
        (
            ["--rule", '{"hour": 8}', "--tz", "Asia/Tokyo"],
            {"rule": {"hour": 8}, "tz": "Asia/Tokyo"},
        ),
        (["--spec", '{"cron": "0 8 * * *", "jitter": 5}'], {"cron": "0 8 * * *", "jitter": 5}),
    ],
)
def test_every_form_can_be_said(
    call: Call, world: World, words: list[str], spec: dict[str, Any]
) -> None:
    assert call("schedule", "add", "s", "t", "--unknown", *words).code == 0

    assert column(world.connection, "s", "spec") == spec


# Changing ----------------------------------------------------------------------------------------


@pytest.fixture
def hourly(call: Call, world: World) -> str:
    assert call("schedule", "add", "hourly", "t", "--unknown", "--cron", "0 * * * *").code == 0
    return "hourly"


def test_pause_and_resume_say_whether_anything_changed(
    call: Call, world: World, hourly: str
) -> None:
    assert "paused" in call("schedule", "pause", hourly, "--reason", "busy").err
    assert "was paused already" in call("schedule", "pause", hourly).err
    assert call("schedule", "resume", hourly, "--json").json == {
        "schedule": "hourly",
        "changed": True,
    }
    assert "was not paused" in call("schedule", "resume", hourly).err


def test_fire_enqueues_its_job_now(call: Call, world: World, hourly: str) -> None:
    answer = call("schedule", "fire", hourly)

    assert world.one(
        "select headers ->> 'schedule' from pgtask.ready where id = %s", int(answer.out)
    )


def test_rm_asks_unless_told_and_removes(call: Call, world: World, hourly: str) -> None:
    assert call("schedule", "rm", hourly).code == 2
    assert call("schedule", "rm", hourly, "--yes").code == 0
    assert world.one("select count(*) from pgtask.schedule") == 0


def test_reset_is_for_what_the_code_declares(call: Call, world: World, hourly: str) -> None:
    assert call("schedule", "reset", hourly).code == 2
    world.one(
        "select pgtask._declare_schedules('shop', %s)",
        '[{"name": "coded", "task": "t", "spec": {"every": 60}}]',
    )
    world.connection.execute("update pgtask.schedule set priority = 3 where name = 'coded'")

    assert "reset" in call("schedule", "reset", "coded").err

    assert column(world.connection, "coded", "priority") is None


@pytest.mark.parametrize(
    "words",
    [["show"], ["pause"], ["resume"], ["fire"], ["rm", "--yes"], ["reset"], ["next"]],
)
def test_an_unknown_name_is_refused_with_a_near_one(
    call: Call, world: World, hourly: str, words: list[str]
) -> None:
    answer = call("schedule", words[0], "hourlyy", *words[1:])

    assert answer.code == 6
    assert "did you mean 'hourly'" in answer.err


# Looking -----------------------------------------------------------------------------------------


def test_ls_lists_them_and_says_when_no_beat_is_alive(
    call: Call, world: World, hourly: str
) -> None:
    answer = call("schedule", "ls")
    assert answer.lines[0][:4] == ["SCHEDULE", "TASK", "WHEN", "STATE"]
    assert "hourly" in answer.out
    assert "no beat is alive" in answer.err

    beat(world)
    assert "no beat" not in call("schedule", "ls").err
    (line,) = call("schedule", "ls", "--json").json
    assert (line["name"], line["state"], line["spec"]) == (
        "hourly",
        "active",
        {"cron": "0 * * * *"},
    )


def test_ls_flags_a_schedule_whose_task_no_live_worker_knows(
    call: Call, world: World, hourly: str
) -> None:
    world.connection.execute(
        "insert into pgtask.schedule (name, task, spec) values ('typo', 'mail.sned', '\"@daily\"')"
    )
    assert "unknown task" not in call("schedule", "ls").out  # with no worker nobody can tell
    task = column(world.connection, hourly, "task")
    world.worker(tasks=(task,))

    answer = call("schedule", "ls")

    flagged = [line for line in answer.out.splitlines() if "unknown task" in line]
    assert [line.split()[0] for line in flagged] == ["typo"]
    assert "no live worker knows mail.sned" in answer.err
    known = {line["name"]: line["known"] for line in call("schedule", "ls", "--json").json}
    assert known == {"hourly": True, "typo": False}


def test_show_names_the_job_that_stands_in_the_way(call: Call, world: World, hourly: str) -> None:
    # given ticks, all skipped, after one whose job never ended
    job = world.one("select pgtask.fire_schedule('hourly')")
    world.connection.execute("update pgtask.tick set tick_at = tick_at - interval '100 h'")
    for hours in range(50):
        world.connection.execute(
            "insert into pgtask.tick (schedule, tick_at, reason) values (%s,"
            " date_trunc('hour', now()) - %s * interval '1 h', 'overlap')",
            [column(world.connection, hourly, "id"), hours],
        )

    answer = call("schedule", "show", hourly)

    assert f"since job {job} (ready) is not finished → pgtask show {job}" in answer.out
    assert re.search(rf"^last .*, job {job}: ready$", answer.out, re.M)


def test_show_says_that_nothing_comes_before_any_beat_has_looked(call: Call, world: World) -> None:
    call("schedule", "add", "s", "t", "--unknown", "--at", "2020-01-01T00:00:00Z")

    assert "it has no further tick" in call("schedule", "show", "s").out


def test_one_spec_that_nobody_can_read_hides_no_other(
    call: Call, world: World, hourly: str
) -> None:
    # given specs that SQL takes for JSON
    for name, spec in (
        ("deep", '{"rule": ' + "[" * 6000 + "]" * 6000 + "}"),
        ("large", '{"every": 1' + "0" * 400 + "}"),
        ("zone", '{"cron": "@daily", "tz": []}'),
    ):
        world.connection.execute(
            "insert into pgtask.schedule (name, task, spec) values (%s, 't', %s)", [name, spec]
        )

        assert call("schedule", "show", name).code == 0
        assert call("schedule", "show", name, "--json").json["words"] is None
        assert call("schedule", "next", name).code == 2

    assert hourly in call("schedule", "ls").out
    assert len(call("schedule", "ls", "--json").json) == 4


def test_show_tells_what_it_is_what_it_did_and_what_comes(
    call: Call, world: World, hourly: str
) -> None:
    # given ticks with every kind of outcome
    schedule = column(world.connection, hourly, "id")
    world.one("select pgtask.fire_schedule('hourly')")
    for hours, reason, missed in ((1, "overlap", 0), (2, "missed", 7), (3, "late", 0)):
        world.connection.execute(
            "insert into pgtask.tick (schedule, tick_at, reason, missed)"
            " values (%s, date_trunc('hour', now()) - %s * interval '1 h', %s, %s)",
            [schedule, hours, reason, missed],
        )
    beat(world)

    answer = call("schedule", "show", hourly)

    assert answer.code == 0
    assert "lmo·" in answer.out
    assert "7 missed" in answer.out
    assert "by hand" in answer.out
    assert "no live worker knows task 't'" in answer.out
    assert (
        len(re.findall(r"^\w{3} \d{4}-\d\d-\d\d .* \d{4}-\d\d-\d\d \d\d:00:00Z", answer.out, re.M))
        == 5
    )

    document = call("schedule", "show", hourly, "--json").json
    assert [tick["outcome"] for tick in document["ticks"]] == [
        "ready", "overlap", "missed", "late"
    ]  # fmt: skip
    assert len(document["next"]) == 5
    assert document["words"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("paused = true, paused_reason = 'too loud'", "too loud"),
        ("enabled = false", "it is disabled"),
        ("gone = true, app = 'shop', source = 'code'", "app shop does not declare it any more"),
        ("error = 'hour 25: no'", "it is broken: hour 25: no"),
        ("planned_revision = revision, next_at = null", "it has no further tick"),
    ],
)
def test_show_says_why_it_does_not_fire(
    call: Call, world: World, hourly: str, change: str, said: str
) -> None:
    world.connection.execute(f"update pgtask.schedule set {change}".encode())

    answer = call("schedule", "show", hourly)

    assert said in answer.out
    assert "no beat is alive" in answer.out
    reasons = call("schedule", "show", hourly, "--json").json["why_not_firing"]
    assert any(said in reason for reason in reasons)


def test_show_says_that_the_queue_of_its_jobs_is_paused(
    call: Call, world: World, hourly: str
) -> None:
    world.one("select pgtask.pause_queue('default')")

    assert "queue 'default' is paused" in call("schedule", "show", hourly).out


def test_next_shows_local_times_of_any_zone(call: Call, world: World, hourly: str) -> None:
    answer = call("schedule", "next", hourly, "-n", "3", "--tz", "Asia/Tokyo")

    assert len(answer.lines) == 4
    assert all("JST" in line for line in answer.lines[1:])
    assert "Asia/Tokyoo" in call("schedule", "next", hourly, "--tz", "Asia/Tokyoo").err


def test_next_marks_ticks_by_which_the_job_before_will_not_have_ended(
    call: Call, world: World, hourly: str
) -> None:
    assert "nobody knows" in call("schedule", "next", hourly, "--overlaps").err
    # given a job that took two hours
    job = world.one("select pgtask.fire_schedule('hourly')")
    worker = world.worker(tasks=("t",))
    world.connection.execute(
        "select pgtask._finish(%s, array_agg(id), array_agg(epoch), array['1'])"
        " from pgtask._claim(%s, 1, array['default'], array['t'])",
        [worker, worker],
    )
    world.connection.execute(
        "update pgtask.done set claimed_at = finished_at - interval '2 h' where id = %s", [job]
    )

    rows = call("schedule", "next", hourly, "-n", "3", "--overlaps", "--json").json

    assert [row["overlaps"] for row in rows] == [False, True, True]
    assert "may still run" in call("schedule", "next", hourly, "--overlaps").out


# Explaining --------------------------------------------------------------------------------------


def test_explain_needs_no_database(call: Call) -> None:
    answer = call(
        "schedule", "explain", "30 2 * * *", "--tz", "Europe/Berlin", "-n", "2",
        "--from", "2026-10-24T12:00:00+00:00", "--dsn", "postgresql://nobody@127.0.0.1:1/none",
    )  # fmt: skip

    assert answer.code == 0
    assert "Europe/Berlin" in answer.out
    assert "2026-10-25 00:30:00Z" in answer.out
    assert "first pass" in answer.out


def test_ticks_are_instants_in_json_as_everywhere(call: Call) -> None:
    words = ("30 2 * * *", "--tz", "Europe/Berlin", "--from", "2026-10-24T12:00:00Z", "-n", "1")
    (tick,) = call("schedule", "explain", *words, "--json").json["next"]

    assert tick == {
        "utc": "2026-10-25T00:30:00+00:00",
        "local": "Sun 2026-10-25 02:30:00 +0200 CEST",
        "in": 45000.0,
        "note": "first pass of a repeated hour",
    }


def test_explain_takes_every_form_and_refuses_what_is_none(call: Call) -> None:
    assert call("schedule", "explain", '{"hour": 8, "minute": 0}', "--json").json["spec"]
    assert call("schedule", "explain", '"0 8 * * *"', "--end", "2020-01-01T00:00:00Z").code == 0
    assert call("schedule", "explain", "0 8 * *").code == 2
    assert call("schedule", "explain", '{"weekday": 1}').code == 2
