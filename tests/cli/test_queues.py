"""queues, queue, workers and tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Call, World


def test_queues_shows_what_each_holds(call: Call, world: World) -> None:
    worker = world.worker(queues=("default",))
    world.worker(queues=("*",))
    world.job()
    world.job()
    world.claim(worker)
    world.job(queue="mail", delay="1 hour")

    answer = call("queues")
    document = call("queues", "--json").json

    assert answer.lines[0] == [
        "QUEUE", "READY", "RUNNING", "SCHEDULED", "BLOCKED", "OLDEST", "WORKERS", "PAUSED",
    ]  # fmt: skip
    assert [line[:5] for line in answer.lines[1:]] == [
        ["default", "1", "1", "0", "0"],
        ["mail", "0", "0", "1", "0"],
    ]
    assert [(line["queue"], line["workers"], line["paused"]) for line in document] == [
        ("default", 2, False),
        ("mail", 1, False),
    ]
    assert document[0]["oldest_ready"] > 0
    assert document[1]["oldest_ready"] is None


def test_a_queue_is_paused_with_a_reason_and_resumed(call: Call, world: World) -> None:
    added = call("queue", "add", "mail")
    paused = call("queue", "pause", "mail", "--reason", "smtp is down")
    again = call("queue", "pause", "mail")
    shown = call("queues")
    resumed = call("queue", "resume", "mail", "--json")
    resumed_again = call("queue", "resume", "mail", "--json")

    assert (added.code, added.out, added.err) == (0, "", "queue mail added\n")
    assert paused.err == "queue mail paused\n"
    assert again.err == "queue mail was paused already\n"
    assert f"by {world.one('select session_user')}: smtp is down" in shown.out
    assert resumed.json == {"queue": "mail", "changed": True}
    assert resumed_again.json == {"queue": "mail", "changed": False}
    assert world.one("select paused from pgtask.queues where queue = 'mail'") is False


@pytest.mark.parametrize("verb", ["add", "pause", "resume"])
def test_a_name_that_no_queue_can_have_is_refused_before_any_sql(call: Call, verb: str) -> None:
    # Nothing listens there: a command that connected would end with 4.
    answer = call("queue", verb, "bad name", "--dsn", "postgresql://ada@127.0.0.1:1/shop")

    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        "pgtask: queue must be 1 to 128 of the characters A-Z a-z 0-9 _ . : -, got 'bad name'\n"
    )


def test_to_resume_a_queue_that_never_was_is_exit_6_and_says_which_there_are(
    call: Call, world: World
) -> None:
    alone = call("queue", "resume", "mial")
    call("queue", "add", "mail")
    world.job(queue="reports", delay="1 hour")
    typed_wrong = call("queue", "resume", "mial")
    by_its_row = call("queue", "resume", "mail")
    by_its_job = call("queue", "resume", "reports")

    assert (alone.code, alone.out) == (6, "")
    assert alone.err == ("pgtask: there is no queue 'mial' → add it by: pgtask queue add mial\n")
    assert (typed_wrong.code, typed_wrong.out) == (6, "")
    assert typed_wrong.err == (
        "pgtask: there is no queue 'mial', did you mean 'mail'? → there are: mail, reports; "
        "add it by: pgtask queue add mial\n"
    )
    assert (by_its_row.code, by_its_row.err) == (0, "queue mail was not paused\n")
    assert (by_its_job.code, by_its_job.err) == (0, "queue reports was not paused\n")


def test_quiet_says_nothing_beside_the_data(call: Call, world: World) -> None:
    assert call("queue", "add", "mail", "--quiet").err == ""


def test_workers_shows_the_living_and_the_dead(call: Call, world: World) -> None:
    dead, alive = world.worker(), world.worker(queues=("mail", "default"), children=4)
    world.one("select pgtask.deregister(%s)", dead)
    world.connection.execute(
        "insert into pgtask.worker (id, alive, host, pid, version, queues, tasks, children)"
        " select gen_random_uuid(), false, 'gone', 8, '0.0.9', '{}', '{}', 1"
        " where not exists (select from pgtask.worker where not alive)"
    )
    world.job()
    world.claim(alive)

    answer = call("workers")
    document = call("workers", "--json").json

    assert answer.lines[0][:3] == ["WORKER", "KIND", "VERSION"]
    assert [line[1] for line in answer.lines[1:]] == ["worker", "worker"]
    assert [line[3] for line in answer.lines[1:]] == ["alive", "dead"]
    assert answer.lines[1][0] == "host:7"
    assert "1/4" in answer.lines[1]
    assert "mail,default" in answer.lines[1]
    assert document[0]["id"] == alive
    assert (document[0]["running"], document[0]["children"]) == (1, 4)
    assert document[0]["tasks"] == ["mail.send"]
    assert [worker["alive"] for worker in document] == [True, False]


def test_tasks_without_an_app_are_those_of_workers_and_jobs(call: Call, world: World) -> None:
    world.worker(tasks=("mail.send", "mail.count"))
    world.job(task="mail.send")
    world.job(task="mail.lost")

    answer = call("tasks")
    document = call("tasks", "--json").json

    assert answer.lines[1:] == [
        ["mail.count", "?", "1", "0", "0"],
        [
            "mail.lost",
            "?",
            "0",
            "1",
            "0",
            *["jobs", "wait,", "but", "no", "live", "worker", "knows", "it"],
        ],
        ["mail.send", "?", "1", "1", "0"],
    ]
    assert [(task["task"], task["registered"]) for task in document] == [
        ("mail.count", None),
        ("mail.lost", None),
        ("mail.send", None),
    ]


def test_tasks_compares_the_app_with_the_workers(spawn: Call, world: World, bare: Path) -> None:
    (bare / "shop.py").write_text(
        "from pgtask import App\n"
        "app = App('shop')\n"
        "@app.task(name='mail.send')\n"
        "def send(to: str) -> None: ...\n"
        "@app.task(name='mail.new')\n"
        "def new(to: str) -> None: ...\n"
    )
    world.worker(tasks=("mail.send", "mail.old"))

    document = spawn("tasks", "--json", "-A", "shop:app").json

    assert [(task["task"], task["registered"], task["workers"]) for task in document] == [
        ("mail.new", True, 0),
        ("mail.old", False, 1),
        ("mail.send", True, 1),
    ]
