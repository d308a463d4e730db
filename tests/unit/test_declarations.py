"""Schedules in code: what `periodic` and `schedule=` make of what they are told."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from pgtask import App
from pgtask.config import Config
from pgtask.definition import Definition
from pgtask.errors import (
    ArgumentInvalid,
    ArgumentMismatch,
    BadOption,
    DefinitionError,
    ScheduleInvalid,
)
from pgtask.schedule import Schedule


@pytest.fixture
def app() -> App:
    app = App("shop", task_defaults={"priority": 5})
    app.config = Config(dsn="host=nowhere")
    return app


def look(n: int = 0) -> None: ...


def names(app: App) -> list[str]:
    return [made.name for made in app.definitions() if made.name.startswith("look")]


def only(app: App) -> Definition:
    (made,) = [made for made in app.definitions() if made.name.startswith("look")]
    return made


def test_a_task_can_have_a_schedule(app: App) -> None:
    app.task(name="look", schedule="*/5 * * * *")(look)

    made = only(app)

    assert (made.name, made.signature.task, made.signature.args) == ("look", "look", "[]")
    assert made.schedule == Schedule(cron="*/5 * * * *")
    assert (made.catchup, made.overlap, made.grace, made.enabled) == ("last", "skip", None, True)
    assert made.signature.options.priority == 5


def test_periodic_takes_arguments_options_and_policies(app: App) -> None:
    task = app.task(name="look")(look)
    declared = app.periodic(
        "15 4 * * *",
        tz="Europe/Vienna",
        exceptions=[date(2026, 12, 25)],
        jitter=60,
        kwargs={"n": 7},
        name="look-early",
        catchup="all",
        overlap="queue",
        grace=timedelta(minutes=5),
        queue="night",
        max_attempts=1,
    )(task)

    assert declared is task
    made = only(app)
    assert made.schedule == Schedule(
        cron="15 4 * * *", tz="Europe/Vienna", exceptions=[date(2026, 12, 25)], jitter=60
    )
    row = made.row()
    assert (row["queue"], row["max_attempts"], row["grace"]) == ("night", 1, 300.0)
    assert bytes(row["args"]) == b"[7]"
    assert (row["catchup"], row["overlap"]) == ("all", "queue")


def test_periodic_may_stand_over_a_task_several_times_under_several_names(app: App) -> None:
    task = app.task(name="look")(look)

    app.periodic("@daily", name="look-daily")(app.periodic(Schedule(every=60))(task))

    assert names(app) == ["look", "look-daily"]
    with pytest.raises(ScheduleInvalid, match=r"name 'look': two schedules .*periodic"):
        app.periodic("@hourly")(task)


def test_a_module_that_is_loaded_anew_declares_its_schedules_again(app: App) -> None:
    def load() -> None:
        scope: dict[str, Any] = {"app": app, "__name__": "loaded"}
        code = '@app.periodic("@daily")\n@app.task(name="look")\ndef look(): ...\n'
        exec(compile(code, "loaded.py", "exec"), scope)

    load()
    load()

    assert names(app) == ["look"]


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"args": ("x",)}, ArgumentInvalid, "n"),
        ({"args": (1, 2)}, ArgumentMismatch, "look"),
        ({"name": "a b"}, BadOption, "a b"),
        ({"catchup": "some"}, ScheduleInvalid, "last, none, all"),
        ({"overlap": "some"}, ScheduleInvalid, "skip, queue, replace"),
        ({"grace": 0.5}, ScheduleInvalid, "grace"),
        ({"countdown": 5}, ScheduleInvalid, "countdown"),
        ({"eta": datetime(2027, 1, 1, tzinfo=UTC)}, ScheduleInvalid, "eta"),
        ({"expires": datetime(2027, 1, 1, tzinfo=UTC)}, ScheduleInvalid, "expires"),
        ({"on_conflict": "raise", "key": "k"}, ScheduleInvalid, "on_conflict"),
        ({"quee": "x"}, BadOption, "did you mean queue"),
        ({"tz": "Europe/Wien"}, ScheduleInvalid, "tz"),
        ({"end": datetime(2027, 1, 1)}, ScheduleInvalid, "end"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_written(
    app: App, how: dict[str, Any], error: type[Exception], said: str
) -> None:
    task = app.task(name="look")(look)

    with pytest.raises(error, match=said):
        app.periodic("@daily", **how)(task)

    assert names(app) == []


def test_what_belongs_to_cron_text_is_refused_beside_a_schedule(app: App) -> None:
    with pytest.raises(ScheduleInvalid, match="tz"):
        app.periodic(Schedule(every=60), tz="Europe/Vienna")


def test_periodic_stands_over_tasks_only(app: App) -> None:
    with pytest.raises(DefinitionError, match=r"@app\.task below"):
        app.periodic("@daily")(look)  # type: ignore[type-var]


def test_a_task_with_a_schedule_must_be_callable_without_arguments(app: App) -> None:
    def needs(n: int) -> None: ...

    with pytest.raises(ArgumentMismatch):
        app.task(name="look.needs", schedule="@daily")(needs)


def test_declaring_reads_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGTASK_QUEUS", "a typing error")
    app = App("shop")

    app.periodic("@daily")(app.task(name="look")(look))


def test_s_makes_a_signature_that_is_checked_as_by_delay(app: App) -> None:
    task = app.task(name="look", queue="q", key="k{n}")(look)

    made = task.options(max_attempts=2).s(n=7)

    assert (made.task, made.args, made.kwargs, made.key) == ("look", "[7]", None, "k7")
    assert (made.options.queue, made.options.max_attempts, made.options.priority) == ("q", 2, 5)
    with pytest.raises(ArgumentInvalid):
        task.s("x")  # type: ignore[arg-type]


def test_a_schedule_that_names_no_zone_is_in_the_zone_of_its_app() -> None:
    app = App("vienna", tz="Europe/Vienna")

    @app.periodic("0 8 * * *", name="there", tz="America/Chicago")
    @app.periodic("0 8 * * *", name="here")
    @app.task(name="shop.open")
    def opening() -> None: ...

    zones = {made.name: made.schedule.tz for made in app.definitions()}

    assert zones == {"here": "Europe/Vienna", "there": "America/Chicago"}


def test_an_app_in_no_zone_is_refused() -> None:
    with pytest.raises(ScheduleInvalid, match=r"tz 'Europe/Wien'.*did you mean 'Europe/Vienna'"):
        App("vienna", tz="Europe/Wien")
