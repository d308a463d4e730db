"""enqueue: what becomes of a call, and which calls are refused."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from tests.sql.engine import Engine

LARGE = "x" * 3000


def test_a_job_that_is_due_is_ready_and_carries_the_defaults(engine: Engine) -> None:
    job = engine.job(engine.enqueue(1, "a"))

    assert (job.state, job.queue, job.priority, job.keep) == ("ready", "default", 0, "all")
    assert (job.attempt, job.epoch, job.crashes) == (0, 0, 0)
    assert (job.max_attempts, job.max_crashes) == (3, 3)
    assert (job.args, job.kwargs, job.policy, job.expires_at) == ([1, "a"], None, None, None)


def test_every_option_reaches_the_row(engine: Engine) -> None:
    job_id = engine.enqueue(
        task="shop.mail:send-it", queue="mail", priority=-100, max_attempts=7, max_crashes=1,
        keep="failures", policy={"backoff": "const:5", "timeout": 2.5}, headers='{"a": 1}',
        tags=["x", "y"], expires_in=60.0, key="k", serial="s",
    )  # fmt: skip
    job = engine.job(job_id)

    assert (job.task, job.queue, job.priority) == ("shop.mail:send-it", "mail", -100)
    assert (job.max_attempts, job.max_crashes, job.keep) == (7, 1, "failures")
    assert (job.policy, job.headers) == ({"backoff": "const:5", "timeout": 2.5}, {"a": 1})
    assert (job.tags, job.key, job.serial) == (["x", "y"], "k", "s")
    assert abs((job.expires_at - job.created_at).total_seconds() - 60) < 1


def test_a_job_for_later_waits(engine: Engine) -> None:
    soon = engine.job(engine.enqueue(delay=60.0))
    then = engine.job(engine.enqueue(run_at="2100-01-01 00:00+00"))

    assert soon.state == then.state == "scheduled"
    assert abs((soon.run_at - soon.created_at).total_seconds() - 60) < 1
    assert then.run_at.year == 2100


def test_a_time_in_the_past_means_now(engine: Engine) -> None:
    assert engine.job(engine.enqueue(run_at="2001-01-01 00:00+00")).state == "ready"
    assert engine.job(engine.enqueue(delay=-5.0)).state == "ready"
    assert engine.job(engine.enqueue(delay=-5.0, key="k")).state == "ready"


def test_ids_come_back_in_the_order_of_the_calls(engine: Engine) -> None:
    rows = engine.enqueue_many([[n] for n in range(50)])

    assert [engine.job(job_id).args for job_id, _ in rows] == [[n] for n in range(50)]
    assert all(created for _, created in rows)


def test_keyed_ids_come_back_in_the_order_of_the_calls_too(engine: Engine) -> None:
    keys = ["c", None, "a", "b"]
    rows = engine.enqueue_many([[n] for n in range(4)], keys=keys)

    assert [engine.job(job_id).args for job_id, _ in rows] == [[0], [1], [2], [3]]
    assert [engine.job(job_id).key for job_id, _ in rows] == keys


def test_nothing_to_enqueue_is_nothing(engine: Engine) -> None:
    assert engine.enqueue_many([]) == []
    assert engine.enqueue_many([], keys=[]) == []


def test_missing_arguments_are_no_arguments(engine: Engine) -> None:
    ((job_id, _),) = engine.enqueue_many([None], kwargs=[None])

    assert (engine.job(job_id).args, engine.job(job_id).kwargs) == ([], None)


@pytest.mark.parametrize("options", [{}, {"delay": 60.0}, {"keys": ["k"]}])
@pytest.mark.parametrize(
    ("args", "kwargs"), [([LARGE], None), ([], {"a": LARGE}), (None, {"a": LARGE})]
)
def test_large_arguments_stand_beside_the_row_and_come_back_at_claim(
    engine: Engine, options: dict[str, Any], args: list[str] | None, kwargs: dict[str, str] | None
) -> None:
    ((job_id, _),) = engine.enqueue_many([args], kwargs=[kwargs], **options)
    assert engine.job(job_id).args is None
    assert engine.job(job_id).kwargs is None
    assert engine.count("payload") == 1

    engine.promote(ahead=61)
    (job,) = engine.claim(engine.worker())
    assert json.loads(job.args) == (args or [])
    assert (job.kwargs and json.loads(job.kwargs)) == kwargs


def test_arguments_return_character_by_character(engine: Engine) -> None:
    text = '[1.0, {"b": 1, "a":  2, "a": 3}, "\\u00e9"]'
    engine.all("select pgtask.enqueue('t', %s::json)", text)

    assert engine.claim(engine.worker())[0].args == text


def test_a_job_exists_if_and_only_if_the_transaction_commits(engine: Engine) -> None:
    with engine.connection.transaction(force_rollback=True):
        engine.enqueue(LARGE, key="k")

    assert engine.count("jobs") == engine.count("job_key") == engine.count("payload") == 0


def test_a_wake_up_is_sent_only_while_somebody_is_idle(engine: Engine) -> None:
    engine.connection.execute("listen pgtask")
    engine.enqueue(queue="q")
    assert list(engine.connection.notifies(timeout=0)) == []

    assert engine.claim(engine.worker(), queues=["other"]) == []  # raises the flag
    engine.enqueue(queue="q")
    engine.enqueue(queue="later", delay=60.0)
    assert [n.payload for n in engine.connection.notifies(timeout=0)] == ["q"]


def test_the_shortest_way_of_sql_wakes_as_the_others_do(engine: Engine) -> None:
    engine.connection.execute("listen pgtask")
    engine.all("select pgtask.enqueue('t')")
    assert list(engine.connection.notifies(timeout=0)) == []

    assert engine.claim(engine.worker(), queues=["other"]) == []  # raises the flag
    engine.all("select pgtask.enqueue('t')")
    engine.all("select pgtask.enqueue('t', queue => 'q')")
    assert [n.payload for n in engine.connection.notifies(timeout=0)] == ["default", "q"]


REFUSED = [
    {"task": None}, {"task": ""}, {"task": "a b"}, {"task": "t" * 129}, {"task": "t\n"},
    {"queue": ""}, {"queue": "a/b"}, {"queue": "q" * 129}, {"queue": "q\n"},
    {"priority": 101}, {"priority": -101}, {"on_conflict": "ignore"}, {"keep": "some"},
    {"max_attempts": 0}, {"max_attempts": 32768}, {"max_crashes": 0}, {"max_crashes": 32768},
    {"key": ""}, {"key": "k" * 513}, {"serial": ""}, {"serial": "s" * 513},
    {"run_at": "infinity"}, {"run_at": "-infinity"}, {"expires_at": "infinity"},
    {"policy": []}, {"policy": 3}, {"policy": {"timeout": "soon"}}, {"policy": {"timeout": -1}},
    {"policy": {"jitter": "NaN"}}, {"policy": {"result_ttl": [1]}},
    {"policy": {"soft_timeout": {}}}, {"policy": {"timeout": 0}}, {"policy": {"soft_timeout": 0}},
    {"policy": {"soft_timeout": 5, "timeout": 5}}, {"policy": {"soft_timeout": 6, "timeout": 5.5}},
    {"policy": {"memory_limit": 0}}, {"policy": {"memory_limit": "300MB"}},
    {"policy": {"on_crash": "panic"}}, {"policy": {"backoff": "soon"}}, {"policy": {"backoff": []}},
    {"policy": {"backoff": "const:"}}, {"policy": {"backoff": "linear:x"}},
    {"policy": {"backoff": 5}},
    {"policy": {"backoff": [1, "x"]}}, {"policy": {"backoff": {"a": 1}}},
    # What would end the child that reads it, or a list that has it in.
    {"policy": {"backoff": ["1"]}}, {"policy": {"backoff": [None]}}, {"policy": {"timeout": "5"}},
    {"policy": {"memory_limit": 1.5}}, {"policy": {"memory_limit": "1"}},
    {"tags": "{NULL}"}, {"tags": "{{a},{b}}"}, {"tags": [""]}, {"headers": "[1]"},
    {"run_at": "20000-01-01"}, {"expires_at": "20000-01-01"}, {"expires_at": "0044-03-15 BC"},
]  # fmt: skip


@pytest.mark.parametrize("options", REFUSED, ids=lambda o: str(o)[:40])
def test_a_bad_call_is_refused_and_leaves_nothing(engine: Engine, options: dict[str, Any]) -> None:
    with pytest.raises(psycopg.Error) as refused:
        engine.enqueue(**options)

    assert refused.value.sqlstate == "TQ002"
    assert engine.count("jobs") == 0


def test_the_longest_names_and_keys_are_taken(engine: Engine) -> None:
    wide = "\U0001f600" * 512
    job_id = engine.enqueue(task="t" * 128, queue="q" * 128, key=wide, serial=wide, priority=100)

    assert engine.claim(engine.worker(), queues=["q" * 128], tasks=["t" * 128])[0].id == job_id


@pytest.mark.parametrize("policy", [
    {"backoff": "exp"}, {"backoff": "const:0"}, {"backoff": "linear:1.5"},
    {"backoff": [0, 1.5, 1e3]},
    {"jitter": 0}, {"jitter": 0.30000000000000004}, {"timeout": 1e-05}, {"on_crash": "retry"}, {},
    {"soft_timeout": 4.5, "timeout": 5}, {"memory_limit": 314572800},
])  # fmt: skip
def test_every_good_policy_is_taken(engine: Engine, policy: dict[str, Any]) -> None:
    assert engine.job(engine.enqueue(policy=policy)).policy == policy


@pytest.mark.parametrize("column", ["keys", "serials", "kwargs"])
def test_columns_of_different_lengths_are_refused(engine: Engine, column: str) -> None:
    values: list[Any] = [{}, {}] if column == "kwargs" else ["a", "b"]
    with pytest.raises(psycopg.Error, match="one length") as refused:
        engine.enqueue_many([[1]], **{column: values})  # type: ignore[arg-type]  # one of three
    assert refused.value.sqlstate == "TQ002"


def test_sql_enqueues_with_defaults_for_everything_but_the_task(engine: Engine) -> None:
    job = engine.job(engine.value("select pgtask.enqueue('t')"))

    assert (job.state, job.queue, job.args, job.kwargs, job.policy) == (
        "ready",
        "default",
        [],
        None,
        None,
    )


def test_sql_enqueues_with_every_option(engine: Engine) -> None:
    job_id = engine.value(
        "select pgtask.enqueue('t', '[1]', '{\"a\": 2}', queue => 'q', priority => 5,"
        " delay => interval '1 minute', key => 'k', on_conflict => 'keep', serial => 's',"
        " max_attempts => 2, backoff => '[1, 2]', timeout => interval '90 s',"
        " expires => interval '1 hour', keep => 'none', tags => '{x}')"
    )
    job = engine.job(job_id)

    assert (job.state, job.queue, job.priority) == ("scheduled", "q", 5)
    assert (job.args, job.kwargs, job.tags, job.keep) == ([1], {"a": 2}, ["x"], "none")
    assert (job.key, job.serial, job.max_attempts) == ("k", "s", 2)
    assert job.policy == {"backoff": [1, 2], "timeout": 90}
    assert abs((job.expires_at - job.created_at).total_seconds() - 3600) < 1


@pytest.mark.parametrize("call", [
    "pgtask.enqueue(null)",
    "pgtask.enqueue('t', '{}')",
    "pgtask.enqueue('t', '1')",
    "pgtask.enqueue('t', 'null')",
    "pgtask.enqueue('t', kwargs => '[]')",
    "pgtask.enqueue('t', kwargs => 'null')",
    "pgtask.enqueue('t', key => '')",
    "pgtask.enqueue('t', backoff => '\"const:soon\"')",
    "pgtask.enqueue('t', timeout => interval '-1 s')",
    "pgtask.enqueue('t', run_at => 'infinity')",
])  # fmt: skip
def test_sql_is_refused_what_python_would_be(engine: Engine, call: str) -> None:
    with pytest.raises(psycopg.Error) as refused:
        engine.connection.execute(f"select {call}".encode())

    assert refused.value.sqlstate == "TQ002"
    assert engine.count("jobs") == 0


def test_sql_raises_when_told_to_for_a_key_that_is_taken(engine: Engine) -> None:
    owner = engine.enqueue(key="k")
    with pytest.raises(psycopg.Error) as refused:
        engine.all("select pgtask.enqueue('t', key => 'k', on_conflict => 'raise')")

    assert refused.value.sqlstate == "TQ003"
    assert refused.value.diag.message_detail == str(owner)
