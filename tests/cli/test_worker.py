"""pgtask worker, as far as the command goes: settings, the app, and its exit codes."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Call, World

APP = """\
import os
from pgtask import App

app = App("shop")

@app.task(name="shop.place")
def place() -> int:
    return os.getppid()
"""


def test_a_draining_worker_does_what_is_there_and_ends(
    spawn: Call, world: World, bare: Path
) -> None:
    (bare / "app.py").write_text(APP)
    job, other = world.job(task="shop.place", args="[]"), world.job(task="mail.send")

    answer = spawn("worker", "--drain", "-c", 1, "-n", "till", "--poll", "0.1")

    assert answer.code == 0, answer
    assert spawn("show", job, "--json").json["state"] == "succeeded"
    assert spawn("show", other, "--json").json["state"] == "ready"
    (line,) = spawn("workers", "--json").json
    assert (line["host"], line["children"], line["alive"]) == ("till", 1, False)


def test_a_worker_takes_only_the_queues_it_was_given(spawn: Call, world: World, bare: Path) -> None:
    (bare / "app.py").write_text(APP)
    mine = world.job(task="shop.place", args="[]", queue="a")
    not_mine = world.job(task="shop.place", args="[]", queue="b")

    assert spawn("worker", "--drain", "-Q", "a,c", "-c", 1).code == 0

    states = {job["id"]: job["state"] for job in spawn("ls", "--json").json}
    assert states == {str(mine): "succeeded", str(not_mine): "ready"}


def test_a_worker_without_an_app_is_exit_3(spawn: Call, world: World, bare: Path) -> None:
    none = spawn("worker", "--drain")
    missing = spawn("worker", "--drain", "-A", "nowhere")
    (bare / "app.py").write_text("1 / 0\n")
    broken = spawn("worker", "--drain")

    assert (none.code, missing.code, broken.code) == (3, 3, 3)
    assert "no app: there is no -A" in none.err
    assert "there is no module 'nowhere'" in missing.err
    assert "ZeroDivisionError: division by zero" in broken.err


def test_a_worker_with_a_wrong_setting_is_exit_2(spawn: Call, world: World, bare: Path) -> None:
    (bare / "app.py").write_text(APP)

    level = spawn("worker", "--log-level", "loud")
    queues = spawn("worker", "-Q", "not a name")
    health = spawn("worker", "--health", "here")

    assert (level.code, queues.code, health.code) == (2, 2, 2)
    assert "health = 'here' (--health): is no HOST:PORT → write 127.0.0.1:8080" in health.err
    assert "log_level = 'loud' (--log-level)" in level.err
    assert "queues = 'not a name' (--queues)" in queues.err


def test_a_worker_without_a_schema_is_exit_5(spawn: Call, bare: Path, fresh_database: str) -> None:
    (bare / "app.py").write_text(APP)

    answer = spawn("worker", "--drain", "--dsn", fresh_database)

    assert answer.code == 5, answer
    assert "→ run: pgtask migrate" in answer.err


def test_errands_that_contradict_each_other_are_refused(
    spawn: Call, world: World, bare: Path
) -> None:
    (bare / "app.py").write_text(APP)

    for words in (
        ("--once", 1, "--drain"),
        ("--once", 1, "--max-jobs", 2),
        ("--once", 1, "--max-seconds", "2s"),
        ("--once", 1, "--beat"),
        ("--drain", "--beat"),
        ("--max-jobs", 1, "--beat"),
        ("--max-jobs", 0),
        ("--max-seconds", "soon"),
        ("--once", "first"),
        ("--drain", "--tasks", "mail.*"),
    ):
        answer = spawn("worker", *words)
        assert answer.code == 2, (words, answer)
    assert "--tasks 'mail.*': no registered task fits" in answer.err


def test_one_job_that_is_not_there_is_exit_6(spawn: Call, world: World, bare: Path) -> None:
    (bare / "app.py").write_text(APP)

    answer = spawn("worker", "--once", 42)
    assert (answer.code, "there is no job 42" in answer.err) == (6, True)


def test_a_job_that_keeps_nothing_is_run_once_too(spawn: Call, world: World, bare: Path) -> None:
    (bare / "app.py").write_text(APP)
    job = world.job(task="shop.place", args="[]", keep="none")

    answer = spawn("worker", "--once", job)
    assert (answer.code, f"job {job} succeeded" in answer.err) == (0, True), answer
