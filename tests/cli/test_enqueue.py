"""pgtask enqueue: arguments from the shell, options, and what is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import pytest

from pgtask.cli.enqueue import call_of
from tests.cli.conftest import Call, World
from tests.conditions import eventually

SHOP = """\
from datetime import date
from pgtask import App

app = App("shop")

@app.task(name="mail.send", queue="mail")
def send(to: str, copies: int = 1, on: date | None = None) -> None: ...
"""


@pytest.fixture
def shop(bare: Path) -> Path:
    (bare / "app.py").write_text(SHOP)
    return bare


def row(world: World, job: str) -> tuple[Any, ...] | None:
    return world.connection.execute(
        "select task, queue, priority, args::text, kwargs::text, key, state from pgtask.jobs"
        " where id = %s",
        [int(job)],
    ).fetchone()


@pytest.mark.parametrize(
    ("words", "args", "kwargs"),
    [
        ((), [], {}),
        (("to=ada", "n=3"), [], {"to": "ada", "n": 3}),
        (("zip=01234", 'text="5"', "a=b=c"), [], {"zip": "01234", "text": "5", "a": "b=c"}),
        (("tags=[1, 2]", "none=null", "empty="), [], {"tags": [1, 2], "none": None, "empty": ""}),
        (('["ada", 3]',), ["ada", 3], {}),
        ((' {"to": "ada"}',), [], {"to": "ada"}),
    ],
)
def test_words_become_arguments(
    words: tuple[str, ...], args: list[Any], kwargs: dict[str, Any]
) -> None:
    assert call_of(words) == (args, kwargs)


@pytest.mark.parametrize(
    "words", [("ada",), ("2nd=x",), ("=x",), ("[1,",), ("{", "a=1"), ("a=1", "a=2")]
)
def test_words_that_mean_nothing_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError, match="→"):
        call_of(words)


def test_it_prints_the_id_and_the_job_is_there(spawn: Call, world: World, shop: Path) -> None:
    answer = spawn("enqueue", "mail.send", "to=ada", "copies=2", "on=2026-01-02", "--priority", 7)

    assert (answer.code, answer.err) == (0, "")
    found = row(world, answer.out)
    assert found is not None
    assert found[:3] == ("mail.send", "mail", 7)
    assert found[3] == '["ada",2,"2026-01-02"]'
    assert found[6] == "ready"


def test_every_option_reaches_the_job(spawn: Call, world: World, shop: Path) -> None:
    later = spawn(
        "enqueue", "mail.send", '["ada"]', "--in", "1h", "--queue", "slow", "--key", "k", "--json"
    )
    at = spawn("enqueue", "mail.send", '{"to": "ada"}', "--at", "2099-01-02T03:04:05+00:00")

    found = row(world, later.json["id"])
    assert found is not None
    assert (found[1], found[5], found[6]) == ("slow", "k", "scheduled")
    assert later.json["created"] is True
    due = world.one("select run_at - created_at from pgtask.jobs where id = %s", later.json["id"])
    assert 3590 < due.total_seconds() < 3610
    assert world.one(
        "select run_at = '2099-01-02T03:04:05Z' from pgtask.jobs where id = %s", at.out
    )


def test_arguments_that_do_not_fit_are_refused_before_any_sql(
    spawn: Call, world: World, shop: Path
) -> None:
    missing = spawn("enqueue", "mail.send")
    wrong = spawn("enqueue", "mail.send", "to=ada", "copies=many")

    assert (missing.code, wrong.code) == (2, 2)
    assert "'to'" in missing.err
    assert "copies" in wrong.err
    assert missing.err.count("\n") == wrong.err.count("\n") == 1
    assert world.one("select count(*) from pgtask.jobs") == 0


def test_an_unknown_task_is_refused_with_the_nearest_name(
    spawn: Call, world: World, shop: Path
) -> None:
    answer = spawn("enqueue", "mail.sent", "to=ada")

    assert (answer.code, answer.out) == (6, "")
    assert "no task 'mail.sent' in app 'shop', did you mean 'mail.send'?" in answer.err


def test_an_unknown_task_is_enqueued_when_that_is_meant(spawn: Call, world: World) -> None:
    refused = spawn("enqueue", "mail.other", "to=ada")
    answer = spawn("enqueue", "mail.other", "to=ada", "--unknown", "--in", "1h")

    assert refused.code == 3
    found = row(world, answer.out)
    assert found is not None
    assert found[0] == "mail.other"
    assert found[4] == '{"to":"ada"}'
    assert found[6] == "scheduled"


def test_in_and_at_exclude_each_other(call: Call) -> None:
    assert call("enqueue", "x", "--in", "1h", "--at", "2099-01-01").code == 2


def test_wait_prints_the_result_and_its_exit_code(spawn: Call, world: World, shop: Path) -> None:
    worker = world.worker()
    with ThreadPoolExecutor(1) as threads:
        for end, code, out in ((world.finish, 0, "42\n"), (world.fail, 1, "")):
            asking = threads.submit(spawn, "enqueue", "mail.send", "to=ada", "--wait")
            end(worker, eventually(lambda: world.claim(worker, queue="mail"), timeout=30)[0])
            answer = asking.result(timeout=60)

            assert (answer.code, answer.out) == (code, out)
            assert answer.err.startswith("job ")


def test_the_dsn_of_the_command_line_beats_the_apps(
    spawn: Call, world: World, bare: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bare / "app.py").write_text(SHOP.replace('"shop"', '"shop", dsn="host=/nowhere dbname=no"'))
    monkeypatch.delenv("PGTASK_DSN")

    of_app = spawn("enqueue", "mail.send", "to=ada")
    of_flag = spawn("enqueue", "mail.send", "to=ada", "--dsn", dsn)

    assert of_app.code == 4
    assert row(world, of_flag.out) is not None
