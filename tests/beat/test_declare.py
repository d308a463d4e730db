"""What the code says about schedules, and what becomes of it in the database."""

from __future__ import annotations

import signal
import textwrap
from pathlib import Path

import pytest

from tests.beats import StartBeat
from tests.clockwork import column, put, ticks
from tests.conditions import eventually
from tests.standing import Connection
from tests.workers import Start

SHOP = """
    from pgtask import App
    app = App({name!r})

    {schedules}
    @app.task(name={task!r})
    def look(n: int = 0) -> None: ...
"""


def write(directory: Path, schedules: str, *, name: str = "shop", task: str = "look") -> None:
    text = textwrap.dedent(SHOP).format(name=name, task=task, schedules=schedules)
    (directory / "shop.py").write_text(text)


def states(connection: Connection) -> dict[str, str]:
    return dict(connection.execute("select name, state from pgtask.schedules").fetchall())


def test_a_beat_declares_what_the_code_says_and_fires_it(
    start_beat: StartBeat, connection: Connection, tmp_path: Path
) -> None:
    write(
        tmp_path,
        '@app.periodic("* * * * * *", kwargs={"n": 7}, priority=9)\n'
        '@app.periodic("30 2 * * *", tz="Europe/Berlin", name="nightly", catchup="none")\n',
    )
    beat = start_beat(app="shop:app", directory=tmp_path)

    eventually(lambda: ticks(connection, "look"))

    assert column(connection, "look", "args::text") == "[7]"
    assert column(connection, "look", "(source, app, priority)::text") == "(code,shop,9)"
    assert column(connection, "nightly", "catchup") == "none"
    assert "schedules of app shop: 2 inserted" in beat.log
    row = connection.execute(
        "select args::text, headers ->> 'schedule', priority from pgtask.jobs limit 1"
    ).fetchone()
    assert row == ("[7]", "look", 9)


def test_a_schedule_that_leaves_the_code_stops_and_comes_back_with_it(
    start_beat: StartBeat, connection: Connection, tmp_path: Path
) -> None:
    # given a schedule that is renamed in the code
    write(tmp_path, '@app.periodic("@hourly", name="old")\n')
    beat = start_beat(app="shop:app", directory=tmp_path)
    eventually(lambda: states(connection) == {"old": "active"})
    write(tmp_path, '@app.periodic("@hourly", name="new_one")\n')

    # when the beat reads the code anew
    beat.signal(signal.SIGHUP)
    eventually(lambda: states(connection) == {"old": "gone", "new_one": "active"})

    # then it comes back with the code
    write(tmp_path, '@app.periodic("@hourly", name="older")\n@app.periodic("@daily", name="old")\n')
    beat.signal(signal.SIGHUP)
    eventually(
        lambda: states(connection) == {"old": "active", "older": "active", "new_one": "gone"}
    )
    assert "0 0 * * *" in column(connection, "old", "spec::text") or "@daily" in column(
        connection, "old", "spec::text"
    )


def test_an_edit_at_run_time_wins_over_the_code_until_it_is_reset(
    start_beat: StartBeat, connection: Connection, tmp_path: Path
) -> None:
    write(tmp_path, '@app.periodic("@hourly")\n')
    start_beat("--once", app="shop:app", directory=tmp_path, wait=False).wait()
    connection.execute("update pgtask.schedule set priority = 5 where name = 'look'")

    write(tmp_path, '@app.periodic("@daily")\n')
    beat = start_beat("--once", app="shop:app", directory=tmp_path, wait=False)
    assert beat.wait() == 0

    assert "1 kept" in beat.log
    spec = column(connection, "look", "spec::text")
    assert column(connection, "look", "priority") == 5
    connection.execute("select pgtask.reset_schedule('look')")
    assert column(connection, "look", "spec::text") != spec
    assert column(connection, "look", "priority") is None
    assert column(connection, "look", "edited") is False


def test_two_apps_in_one_database_leave_each_others_schedules_alone(
    start_beat: StartBeat, connection: Connection, tmp_path: Path
) -> None:
    shop, bank = tmp_path / "shop", tmp_path / "bank"
    for directory in (shop, bank):
        directory.mkdir()
    write(shop, '@app.periodic("@hourly", name="mine")\n')
    write(bank, '@app.periodic("@daily", name="mine")\n@app.periodic("@daily")\n', name="bank")
    first = start_beat("--once", app="shop:app", directory=shop, wait=False)
    assert first.wait() == 0

    second = start_beat("--once", app="shop:app", directory=bank, wait=False)
    assert second.wait() == 0

    assert "schedules of app bank that exist already and are not its own: mine" in second.log
    assert column(connection, "mine", "app") == "shop"
    assert states(connection) == {"mine": "active", "look": "active"}
    assert start_beat("--once", app="shop:app", directory=shop, wait=False).wait() == 0
    assert states(connection) == {"mine": "active", "look": "active"}


def test_a_schedule_that_people_made_is_not_taken_by_the_code(
    start_beat: StartBeat, connection: Connection, tmp_path: Path
) -> None:
    put(connection, "look", {"every": 3600})
    write(tmp_path, '@app.periodic("@hourly")\n')

    beat = start_beat("--once", app="shop:app", directory=tmp_path, wait=False)

    assert beat.wait() == 0
    assert "pgtask schedule rm" in beat.log
    assert column(connection, "look", "source") == "sql"


# Broken code -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ('@app.periodic("99 * * * *")\n', "minute"),
        ('@app.periodic("@hourly", args=("x",))\n', "n"),
        ('@app.periodic("@hourly")\n@app.periodic("@daily")\n', "two schedules"),
        ("raise SystemExit(7)\n", "shop"),
        ("import os; os._exit(9)\n", "status 9"),
    ],
)
def test_a_beat_whose_app_is_broken_does_not_start(
    start_beat: StartBeat, connection: Connection, tmp_path: Path, code: str, said: str
) -> None:
    write(tmp_path, code)

    beat = start_beat(app="shop:app", directory=tmp_path, wait=False)

    assert beat.wait() == 3
    assert said in beat.log


def test_code_that_breaks_while_a_beat_runs_changes_nothing(
    start_beat: StartBeat, connection: Connection, tmp_path: Path
) -> None:
    write(tmp_path, '@app.periodic("* * * * * *", overlap="queue")\n')
    beat = start_beat(app="shop:app", directory=tmp_path)
    eventually(lambda: ticks(connection, "look"))

    write(tmp_path, "syntax error here\n")
    beat.signal(signal.SIGHUP)

    eventually(lambda: "not declared, the schedules of before go on" in beat.log)
    seen = len(ticks(connection, "look"))
    eventually(lambda: len(ticks(connection, "look")) >= seen + 2)


def test_a_beat_can_be_told_to_end_while_the_app_is_imported(
    start_beat: StartBeat, tmp_path: Path
) -> None:
    write(tmp_path, "import pathlib, time; pathlib.Path('began').touch(); time.sleep(60)\n")
    beat = start_beat(app="shop:app", directory=tmp_path, wait=False)
    eventually((tmp_path / "began").exists, timeout=30)

    beat.signal(signal.SIGTERM)

    assert beat.wait(5) == 0


def test_a_beat_with_reload_declares_what_a_changed_file_says(
    start_beat: StartBeat, connection: Connection, tmp_path: Path
) -> None:
    pytest.importorskip("watchfiles")
    code = tmp_path / "code"
    code.mkdir()
    write(code, '@app.periodic("@hourly", name="old")\n')
    beat = start_beat("--reload", app="shop:app", directory=code)
    eventually(lambda: "inserted" in beat.log)

    write(code, '@app.periodic("@hourly", name="newer")\n')

    eventually(lambda: states(connection) == {"old": "gone", "newer": "active"}, timeout=20)


# Beside a worker ---------------------------------------------------------------------------------


def test_a_worker_with_a_beat_fires_and_runs_what_it_fires(
    start_worker: Start, connection: Connection
) -> None:
    worker = start_worker("-c", "1", "--beat")
    put(connection, "s", task="tests.shop.noop", keep="all")

    eventually(
        lambda: connection.execute(
            "select from pgtask.done where headers ->> 'schedule' = 's' and state = 'succeeded'"
        ).fetchall(),
        timeout=20,
    )

    worker.signal(signal.SIGTERM)
    assert worker.wait(10) == 0
    assert "beat" in worker.log


def test_a_worker_with_a_beat_declares_anew_when_it_reloads(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    write(tmp_path, '@app.periodic("@hourly", name="old")\n')
    worker = start_worker("-c", "1", "--beat", app="shop:app", PYTHONPATH=str(tmp_path))
    eventually(lambda: states(connection) == {"old": "active"})
    write(tmp_path, '@app.periodic("@hourly", name="newer")\n')

    worker.signal(signal.SIGHUP)

    eventually(lambda: states(connection) == {"old": "gone", "newer": "active"}, timeout=20)
