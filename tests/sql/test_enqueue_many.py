"""enqueue_many: order, all or nothing, keys, one wake-up a queue."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import LiteralString

import psycopg
import pytest

from tests.sql.engine import Engine
from tests.sql.races import Another, Races
from tests.sql.specs import enqueue_many, enqueue_one


def test_ids_come_back_in_the_order_of_the_array(engine: Engine) -> None:
    ids = enqueue_many(engine, *({"task": "t", "args": [n]} for n in range(50)))

    assert ids == sorted(ids)
    assert [engine.job(job_id).args for job_id in ids] == [[n] for n in range(50)]


def test_nothing_in_common_is_needed(engine: Engine) -> None:
    plain, full, later, large = enqueue_many(
        engine,
        {"task": "t"},
        {
            "task": "shop.mail:send", "args": [1], "kwargs": {"a": 2}, "queue": "q", "priority": -9,
            "serial": "s", "max_attempts": 7, "backoff": [1, 2], "timeout": "90 s",
            "expires": "1 hour", "keep": "none", "tags": ["x"], "headers": {"h": 1}, "tenant": "a",
        },
        {"task": "t", "delay": "1 hour"},
        {"task": "t", "kwargs": {"text": "x" * 3000}},
    )  # fmt: skip

    job = engine.job(plain)
    assert (job.state, job.queue, job.priority, job.max_attempts) == ("ready", "default", 0, 3)
    assert (job.args, job.kwargs, job.policy, job.headers, job.tags) == ([], None, None, None, None)
    job = engine.job(full)
    assert (job.task, job.args, job.kwargs) == ("shop.mail:send", [1], {"a": 2})
    assert (job.queue, job.priority, job.serial, job.max_attempts) == ("q", -9, "s", 7)
    assert (job.policy, job.keep) == ({"backoff": [1, 2], "timeout": 90}, "none")
    assert (job.tags, job.headers, job.tenant) == (["x"], {"h": 1}, "a")
    assert abs((job.expires_at - job.created_at).total_seconds() - 3600) < 1
    job = engine.job(later)
    assert job.state == "scheduled"
    assert abs((job.run_at - job.created_at).total_seconds() - 3600) < 1
    (claimed,) = [job for job in engine.claim(engine.worker()) if job.id == large]
    assert json.loads(claimed.kwargs) == {"text": "x" * 3000}


@pytest.mark.parametrize("jobs", ["null", "'{}'"])
def test_nothing_to_enqueue_is_nothing(engine: Engine, jobs: LiteralString) -> None:
    assert engine.values(f"select pgtask.enqueue_many({jobs}::pgtask.job_spec[])") == []


def test_the_same_as_one_by_one(engine: Engine) -> None:
    spec = {
        "task": "t", "args": [1], "kwargs": {"a": 2}, "queue": "q", "priority": 4, "delay": "1 min",
        "key": "k", "serial": "s", "max_attempts": 2, "backoff": "const:5", "timeout": "1 min",
        "expires": "1 hour", "keep": "failures", "tags": ["x", "y"], "headers": {}, "tenant": "a",
    }  # fmt: skip
    columns = (
        "task, queue, priority, state, max_attempts, keep, key, serial, args::text, kwargs::text,"
        " policy::text, headers::text, tags, tenant, run_at - created_at as starts,"
        " expires_at - created_at as expires"
    )
    short = {name: spec[name] for name in ("task", "args", "kwargs", "queue", "priority")}
    for given in (spec, {**spec, "key": None}, short, {"task": "t"}):
        first = enqueue_one(engine, given)
        rows = engine.all(f"select {columns} from pgtask.jobs where id = {first}")
        engine.cancel(first)
        (second,) = enqueue_many(engine, given)
        again = engine.all(f"select {columns} from pgtask.jobs where id = {second}")
        engine.cancel(second)
        for row, other in zip(rows, again, strict=True):
            assert row[:-2] == other[:-2]
            for a, b in zip(row[-2:], other[-2:], strict=True):
                assert a is b is None or abs((a - b).total_seconds()) < 0.1


def test_jobs_with_keys_come_back_in_order_too_and_replace_each_other(engine: Engine) -> None:
    first, second, third, fourth = enqueue_many(
        engine,
        {"task": "t", "args": [0], "key": "b"},
        {"task": "t", "args": [1]},
        {"task": "t", "args": [2], "key": "a"},
        {"task": "t", "args": [3], "key": "b"},
    )

    assert first == fourth
    assert [engine.job(job_id).args for job_id in (first, second, third)] == [[3], [1], [2]]


def test_a_key_that_is_taken_keeps_or_raises_as_told(engine: Engine) -> None:
    owner = engine.enqueue(key="k")

    kept, other = enqueue_many(
        engine, {"task": "t", "key": "k", "on_conflict": "keep"}, {"task": "t", "args": [1]}
    )
    assert kept == owner
    with pytest.raises(psycopg.Error, match="job 2 of 2") as refused:
        enqueue_many(
            engine, {"task": "t", "args": [2]}, {"task": "t", "key": "k", "on_conflict": "raise"}
        )
    assert refused.value.sqlstate == "TQ003"
    assert refused.value.diag.message_detail == str(owner)
    assert set(engine.values("select id from pgtask.jobs")) == {owner, other}


@pytest.mark.parametrize("key", [None, "k"])
def test_one_bad_job_among_many_leaves_nothing_and_is_named(
    engine: Engine, key: str | None
) -> None:
    good = {"task": "t", "key": key}
    with pytest.raises(psycopg.Error, match=r"job 3 of 4: .*'a b'") as refused:
        enqueue_many(engine, good, good, {"task": "a b"}, good)

    assert refused.value.sqlstate == "TQ002"
    assert engine.count("jobs") == engine.count("job_key") == engine.count("payload") == 0


def test_each_queue_is_woken_once_and_only_for_what_is_due(engine: Engine) -> None:
    engine.claim(engine.worker(), queues=["other"])  # raises the flag
    engine.connection.execute("listen pgtask")
    for key in (None, "k"):
        enqueue_many(
            engine,
            *({"task": "t", "queue": f"q{n % 2}", "key": key and f"{key}{n}"} for n in range(9)),
            {"task": "t", "queue": "later", "delay": "1 hour"},
            {"task": "t", "run_at": "2001-01-01"},
        )
        woken = [n.payload for n in engine.connection.notifies(timeout=0)]
        assert sorted(woken) == ["default", "q0", "q1"]


def test_json_makes_specs(engine: Engine) -> None:
    specs = [{"task": "t", "kwargs": {"n": 1}, "delay": "1 hour"}, {"task": "t", "tags": ["x"]}]
    later, now = engine.values(
        "select pgtask.enqueue_many(array_agg(s)) from json_populate_recordset("
        "null::pgtask.job_spec, %s::json) s", json.dumps(specs),
    )  # fmt: skip

    assert (engine.job(later).state, engine.job(later).kwargs) == ("scheduled", {"n": 1})
    assert (engine.job(now).state, engine.job(now).tags) == ("ready", ["x"])


@pytest.mark.parametrize("key", [None, "k"])
def test_the_tenant_of_the_connection_is_the_default_and_empty_is_none(
    engine: Engine, key: str | None
) -> None:
    engine.connection.execute("select set_config('pgtask.tenant', 'acme', false)")
    keys = [key and f"{key}{n}" for n in range(3)]
    ids = enqueue_many(
        engine,
        {"task": "t", "key": keys[0]},
        {"task": "t", "key": keys[1], "tenant": "other"},
        {"task": "t", "key": keys[2], "tenant": ""},
    )

    assert [engine.job(job_id).tenant for job_id in ids] == ["acme", "other", None]
    one = engine.value("select pgtask.enqueue('t', tenant => '')")
    assert engine.job(one).tenant is None


def test_many_with_the_same_keys_in_opposite_orders_never_cross(
    engine: Engine, another: Another, aside: ThreadPoolExecutor
) -> None:
    def produce(step: int) -> None:
        session = another()
        for n in range(15):
            enqueue_many(
                session, *({"task": "t", "args": [n], "key": f"k{k}"} for k in keys[::step])
            )

    keys = range(40)
    for future in [aside.submit(produce, 1), aside.submit(produce, -1)]:
        future.result(60)
    assert engine.count("ready") == 40


def test_who_comes_second_to_a_key_waits_and_then_replaces(races: Races) -> None:
    with races.first.connection.transaction():
        (owner,) = enqueue_many(races.first, {"task": "t", "key": "k"})
        second = races.waiting(
            races.second, lambda: enqueue_many(races.second, {"task": "t", "args": [2], "key": "k"})
        )
    assert second.result(10) == [owner]
    assert races.engine.job(owner).args == [2]
