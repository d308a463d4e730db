"""init, config and migrate: the files and the schema that a project begins with."""

from __future__ import annotations

import tomllib
from pathlib import Path

import psycopg
import pytest

from pgtask.broker.migrate import sql_script
from pgtask.config import SETTINGS, load
from tests.cli.conftest import Call, World


def test_init_writes_three_files_and_never_overwrites_one(call: Call, bare: Path) -> None:
    (bare / "tasks.py").write_text("mine = 1\n")

    first = call("init")
    second = call("init", "--json")

    assert first.out == "wrote pgtask.toml\nwrote .env.example\n"
    assert "kept tasks.py" in first.err
    assert (bare / "tasks.py").read_text() == "mine = 1\n"
    assert second.json == {"written": [], "kept": ["pgtask.toml", "tasks.py", ".env.example"]}


def test_what_init_writes_works(spawn: Call, world: World, bare: Path) -> None:
    assert spawn("init").code == 0

    enqueued = spawn("enqueue", "tasks.greet", "name=Ada")

    assert enqueued.code == 0, enqueued
    assert world.one("select task from pgtask.jobs where id = %s", enqueued.out) == "tasks.greet"


def test_every_setting_in_the_files_of_init_is_one(call: Call, bare: Path) -> None:
    call("init")

    toml = (bare / "pgtask.toml").read_text()
    uncommented = "\n".join(line.removeprefix("# ") for line in toml.splitlines() if " = " in line)
    environ = dict(
        line.removeprefix("# ").split("=", 1)
        for line in (bare / ".env.example").read_text().splitlines()
        if "=" in line
    )

    assert set(tomllib.loads(uncommented)) <= set(SETTINGS)
    assert load({}, {}, environ, bare).dsn is not None


def test_config_shows_each_setting_its_value_and_its_source(
    call: Call, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bare / "pgtask.toml").write_text('grace = "5s"\n')
    monkeypatch.setenv("PGTASK_QUEUES", "a,b")
    monkeypatch.setenv("PGTASK_LISTEN_DSN", "host=x password=geheim")

    answer = call("config", "--dsn", "postgresql://ada:geheim@db/shop")
    document = call("config", "--dsn", "postgresql://ada:geheim@db/shop", "--json")

    assert (answer.code, answer.err) == (0, "")
    assert ["dsn", "postgresql://ada:***@db/shop", "--dsn"] in answer.lines
    assert ["queues", "a,b", "PGTASK_QUEUES"] in answer.lines
    assert ["grace", "5.0", "pgtask.toml"] in answer.lines
    assert ["concurrency", "-", "default"] in answer.lines
    assert [line[0] for line in answer.lines[1:]] == list(SETTINGS)
    assert document.json["grace"] == {"value": 5.0, "source": "pgtask.toml"}
    assert "geheim" not in answer.out + document.out


def test_config_still_answers_when_the_app_is_broken(spawn: Call, bare: Path) -> None:
    (bare / "app.py").write_text("1 / 0\n")

    answer = spawn("config")

    assert answer.code == 0
    assert "the app's own settings are missing" in answer.err
    assert ["poll", "1.0", "default"] in answer.lines


def test_a_wrong_setting_is_exit_2_for_every_command_that_needs_it(call: Call, bare: Path) -> None:
    (bare / "pgtask.toml").write_text("concurency = 2\n")

    for command in (("config",), ("ls",), ("migrate",)):
        answer = call(*command)
        assert (answer.code, answer.out) == (2, "")
        assert "did you mean 'concurrency'" in answer.err
    assert call("ls", "--config", "missing.toml").code == 2


def test_migrate_applies_lists_and_is_content_with_nothing_to_do(
    call: Call, bare: Path, fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGTASK_DSN", fresh_database)

    dry = call("migrate", "--dry-run")
    assert call("queues").code == 5
    first = call("migrate")
    second = call("migrate")
    listed = call("migrate", "--list")
    document = call("migrate", "--json")

    assert dry.out.startswith("would apply migrations/0001_")
    assert first.code == 0
    assert first.out == dry.out.replace("would apply", "applied")
    assert (second.code, second.out, second.err) == (0, "", "the schema is up to date\n")
    assert listed.lines[0] == ["FILE", "STATE", "APPLIED"]
    assert {line[1] for line in listed.lines[1:]} == {"applied"}
    done: dict[str, object] = {"migrations": [], "repeatables": [], "grants": [], "revokes": []}
    assert document.json == {"applied": True, **done}
    assert call("queues").code == 0


def test_migrate_tells_each_file_when_asked_to(call: Call, bare: Path, fresh_database: str) -> None:
    answer = call("migrate", "-v", "--dsn", fresh_database)

    with psycopg.connect(fresh_database) as connection:
        rows = connection.execute("select path from pgtask.repeatable").fetchall()
    for (path,) in rows:
        assert f"applied {path}\n" in answer.err


def test_migrate_sql_prints_the_script_and_needs_no_database(call: Call, bare: Path) -> None:
    (bare / "pgtask.toml").write_text("this is not toml")

    answer = call("migrate", "--sql")

    assert (answer.code, answer.err) == (0, "")
    assert answer.out == sql_script()
    assert call("migrate", "--sql", "--list").code == 2
