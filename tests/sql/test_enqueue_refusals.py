"""What SQL may not enqueue: as strict as Python, alone and among many."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from tests.sql.engine import Engine
from tests.sql.specs import enqueue_many, enqueue_one

DEEPEST = "[" * 65 + "]" * 65  # an argument of 64 levels; args itself is not counted

REFUSED = [
    ({"task": None}, "NULL"), ({"task": ""}, "''"), ({"task": "a b"}, "'a b'"),
    ({"task": "t" * 129}, "128"), ({"task": "'; drop table x; --"}, "drop"),
    ({"queue": ""}, "queue"), ({"queue": "ä"}, "'ä'"), ({"queue": "q" * 129}, "128"),
    ({"priority": 101}, "101"), ({"priority": -101}, "-101"),
    ({"max_attempts": 0}, "0"), ({"max_attempts": 32768}, "32768"),
    ({"on_conflict": "ignore"}, "'ignore'"), ({"keep": "some"}, "'some'"),
    ({"key": ""}, "512"), ({"key": "k" * 513}, "513"), ({"serial": "s" * 513}, "513"),
    ({"args": {}}, "object"), ({"args": "[]"}, "string"), ({"kwargs": []}, "array"),
    ({"args": ["a\0b"]}, "NUL"), ({"kwargs": {"a\0": 1}}, "NUL"), ({"args": ["\\\0"]}, "NUL"),
    ({"args": ["\ud83d"]}, "surrogate"), ({"args": ["\ude00\ud83d"]}, "surrogate"),
    ({"kwargs": {"a": "\ud83d\\\ude00"}}, "surrogate"),
    ({"args": json.loads(f"[{DEEPEST}]")}, "64 levels"),
    ({"kwargs": {"a": json.loads(DEEPEST)}}, "64 levels"),
    ({"args": ["x" * 1048576]}, "1048580 bytes"),
    ({"args": ["x" * 524288], "kwargs": {"a": "x" * 524288}}, "1048576"),
    ({"headers": []}, "headers"), ({"headers": {"h": "x" * 65536}}, "65536"),
    ({"headers": {"h": "\0"}}, "headers"),
    ({"run_at": "2030-01-01", "delay": "1 s"}, "give one"),
    ({"run_at": "infinity"}, "infinity"), ({"run_at": "-infinity"}, "infinity"),
    ({"run_at": "20000-01-01"}, "20000"),
    ({"delay": "-1 s"}, "-00:00:01"), ({"delay": "101 years"}, "101 years"),
    ({"expires": "0"}, "expires"), ({"expires": "-1 s"}, "expires"),
    ({"expires": "101 years"}, "expires"),
    ({"expires": "1 min", "delay": "1 min"}, "never run"),
    ({"expires": "1 day", "run_at": "9000-01-01"}, "never run"),
    ({"timeout": "0"}, "timeout"), ({"timeout": "-1 s"}, "timeout"),
    ({"backoff": "soon"}, "backoff"), ({"backoff": []}, "backoff"), ({"backoff": 5}, "backoff"),
    ({"backoff": "const:4000000000"}, "backoff"), ({"backoff": [1, 4000000000]}, "backoff"),
    ({"backoff": "linear:1:2"}, "backoff"),
    ({"timeout": "101 years"}, "timeout is at most 3155760000"),
    ({"tags": [""]}, "tags"), ({"tags": ["x" * 129]}, "tags"), ({"tags": [None]}, "NULL"),
    ({"tags": [["x"], ["y"]]}, "dimensions"),
    ({"tenant": "t" * 129}, "129"),
]  # fmt: skip
TAKEN: list[dict[str, Any]] = [
    {"args": ["\\u0000", "\\\\", "😀", "\u0001"]}, {"kwargs": {"ä": '"{[\\'}},
    {"args": json.loads(DEEPEST)}, {"args": [[[n]] for n in range(200)]},
    {"args": ["[" * 200, "\\\"" + "{" * 200]}, {"args": ["x" * 1048572]},
    {"run_at": "2001-01-01"}, {"delay": "0"}, {"delay": "1 month", "expires": "31 days 1 hour"},
    {"expires": "1 s", "run_at": "2001-01-01"}, {"headers": {}}, {"tags": []},
    {"tenant": "t" * 128}, {"key": "'; drop table x; --"}, {"serial": "\n%_\\"},
]  # fmt: skip


@pytest.mark.parametrize(("options", "said"), REFUSED, ids=lambda o: str(o)[:40])
def test_what_python_would_refuse_is_refused(
    engine: Engine, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(psycopg.Error, match=said) as refused:
        enqueue_one(engine, {"task": "t", **options})
    assert refused.value.sqlstate == "TQ002"

    with pytest.raises(psycopg.Error, match=said) as refused:
        enqueue_many(engine, {"task": "t"}, {"task": "t", **options})
    assert refused.value.sqlstate == "TQ002"
    assert "job 2 of 2" in str(refused.value)
    assert engine.count("jobs") == engine.count("job_key") == engine.count("payload") == 0


@pytest.mark.parametrize("options", TAKEN, ids=lambda o: str(o)[:40])
def test_what_looks_dangerous_and_is_not_is_taken(engine: Engine, options: dict[str, Any]) -> None:
    first = enqueue_one(engine, {"task": "t", **options})
    (second,) = enqueue_many(engine, {"task": "t", **options, "key": None})

    for job in engine.all(
        "select * from pgtask._claim(%s, 9, '{default}', '{t}')", engine.worker()
    ):
        assert job.id in (first, second)
        assert json.loads(job.args) == options.get("args", [])
        assert (job.kwargs and json.loads(job.kwargs)) == options.get("kwargs")


def test_a_setting_that_makes_backslashes_mean_less_changes_nothing(engine: Engine) -> None:
    engine.connection.execute("set standard_conforming_strings = off")
    engine.connection.execute("set escape_string_warning = off")
    for enqueue in (enqueue_one, enqueue_many):
        with pytest.raises(psycopg.Error, match="NUL"):
            enqueue(engine, {"task": "t", "args": ["\0"]})


def test_a_tenant_setting_that_is_too_long_is_refused(engine: Engine) -> None:
    engine.connection.execute("select set_config('pgtask.tenant', repeat('t', 129), false)")
    for call in ("enqueue('t')", "enqueue_many(array[row('t', %s)::pgtask.job_spec])"):
        with pytest.raises(psycopg.Error, match="tenant") as refused:
            engine.connection.execute(
                f"select pgtask.{call}".replace("%s", ", ".join(["null"] * 17)).encode()
            )
        assert refused.value.sqlstate == "TQ002"
