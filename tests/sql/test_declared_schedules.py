"""Schedules that code declares: edits at run time win until reset, what is gone stops."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from tests.sql.engine import Engine
from tests.sql.schedules import due, plan, put, row, tick


def _said(name: str, **columns: object) -> dict[str, object]:
    return {"name": name, "task": "t", "spec": {"every": 3600}, **columns}


def _declare(engine: Engine, *said: object, app: str | None = "shop") -> dict[str, str]:
    rows = engine.all("select * from pgtask._declare_schedules(%s, %s)", app, json.dumps(said))
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def test_a_declaration_is_inserted_then_unchanged_then_updated(engine: Engine) -> None:
    assert _declare(engine, _said("b"), _said("a")) == {"a": "inserted", "b": "inserted"}
    found = row(engine, "a")
    assert (found.source, found.app, found.edited, found.gone) == ("code", "shop", False, False)
    assert found.declared == _said("a")
    plan(engine, "a")
    before = row(engine, "a")

    assert _declare(engine, _said("b"), _said("a")) == {"a": "unchanged", "b": "unchanged"}
    assert row(engine, "a") == before
    assert _declare(engine, _said("b"), _said("a", args=[1])) == {"a": "updated", "b": "unchanged"}
    found = row(engine, "a")
    assert (found.args, found.revision, found.edited) == ([1], 2, False)
    assert found.next_at == before.next_at


@pytest.mark.parametrize("how", ["put", "update", "enabled"])
def test_edits_at_run_time_win_over_the_code_until_reset(engine: Engine, how: str) -> None:
    _declare(engine, _said("a", queue="one"))
    if how == "put":
        put(engine, "a", "cli", queue="mine")
    elif how == "update":
        engine.connection.execute("update pgtask.schedule set queue = 'mine'")
    else:
        engine.connection.execute("update pgtask.schedule set queue = 'mine', enabled = false")
    assert (row(engine, "a").edited, row(engine, "a").source) == (True, "code")

    assert _declare(engine, _said("a", queue="two")) == {"a": "kept"}
    assert _declare(engine, _said("a", queue="two")) == {"a": "kept"}
    found = row(engine, "a")
    assert (found.queue, found.declared["queue"]) == ("mine", "two")

    assert engine.value("select pgtask.reset_schedule('a')") is True
    found = row(engine, "a")
    assert (found.queue, found.enabled, found.edited) == ("two", True, False)
    assert _declare(engine, _said("a", queue="two")) == {"a": "unchanged"}


def test_a_pause_is_no_edit_and_outlives_a_new_declaration(engine: Engine) -> None:
    _declare(engine, _said("a"))
    engine.all("select pgtask.pause_schedule('a', 'holidays')")
    assert _declare(engine, _said("a", args=[1])) == {"a": "updated"}
    found = row(engine, "a")
    assert (found.paused, found.paused_reason, found.edited) == (True, "holidays", False)


def test_putting_what_is_there_is_no_edit(engine: Engine) -> None:
    _declare(engine, _said("a"))
    put(engine, "a")
    assert (row(engine, "a").edited, row(engine, "a").revision) == (False, 1)


def test_what_is_gone_from_the_code_stops_and_comes_back_when_declared_again(
    engine: Engine,
) -> None:
    _declare(engine, _said("a"), _said("b"))
    put(engine, "edited-later")
    tick(engine, "a")
    assert _declare(engine, _said("b")) == {"a": "gone", "b": "unchanged"}
    found = row(engine, "a")
    assert (found.gone, found.next_at, found.last_job is not None) == (True, None, True)
    assert "a" not in [schedule.name for schedule in due(engine)]
    assert _declare(engine, _said("b")) == {"b": "unchanged"}

    assert _declare(engine, _said("a"), _said("b")) == {"a": "updated", "b": "unchanged"}
    assert "a" in [schedule.name for schedule in due(engine)]
    assert engine.count("tick") == 1


def test_one_that_was_edited_is_gone_and_comes_back_as_it_was_edited(engine: Engine) -> None:
    _declare(engine, _said("a"))
    put(engine, "a", queue="mine")
    assert _declare(engine) == {"a": "gone"}
    assert _declare(engine, _said("a", queue="code")) == {"a": "kept"}
    found = row(engine, "a")
    assert (found.gone, found.queue, found.edited) == (False, "mine", True)


def test_one_that_is_gone_and_put_by_a_person_is_theirs(engine: Engine) -> None:
    _declare(engine, _said("a"))
    _declare(engine)
    put(engine, "a", "cli")

    found = row(engine, "a")
    assert (found.gone, found.source, found.app) == (False, "cli", None)
    assert (found.declared, found.edited) == (None, False)
    assert _declare(engine, _said("a")) == {"a": "taken"}
    assert _declare(engine) == {}
    assert engine.value("select pgtask.reset_schedule('a')") is False


def test_the_names_of_others_are_taken_and_left_alone(engine: Engine) -> None:
    put(engine, "by-hand")
    _declare(engine, _said("theirs"), app="other")
    before = row(engine, "by-hand"), row(engine, "theirs")

    answer = _declare(engine, _said("by-hand", args=[1]), _said("theirs", args=[1]), _said("mine"))
    assert answer == {"by-hand": "taken", "theirs": "taken", "mine": "inserted"}
    assert (row(engine, "by-hand"), row(engine, "theirs")) == before
    assert _declare(engine) == {"mine": "gone"}


def test_a_bad_declaration_declares_nothing(engine: Engine) -> None:
    with pytest.raises(psycopg.Error, match="priority is -100 to 100") as refused:
        _declare(engine, _said("a"), _said("b", priority=1000), _said("c"))
    assert refused.value.sqlstate == "TQ002"
    assert engine.count("schedule") == 0


@pytest.mark.parametrize(("app", "said", "message"), [
    (None, [], "declared by an app with a name"), ("", [], "declared by an app with a name"),
    ("shop", None, "are a JSON array, got NULL"), ("shop", {}, "are a JSON array, got object"),
    ("shop", [1], "a schedule is a JSON object, got number"),
    ("shop", [None], "a schedule is a JSON object, got null"),
    ("shop", [{}], "a schedule name is"), ("shop", [{}, {}], "the schedule NULL is declared twice"),
    ("shop", [_said("a"), _said("a", args=[1])], "the schedule 'a' is declared twice"),
])  # fmt: skip
def test_nonsense_is_not_declared(
    engine: Engine, app: str | None, said: object, message: str
) -> None:
    text: Any = None if said is None else json.dumps(said)
    with pytest.raises(psycopg.Error, match=message) as refused:
        engine.all("select * from pgtask._declare_schedules(%s, %s::json)", app, text)
    assert refused.value.sqlstate == "TQ002"
