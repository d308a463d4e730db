"""Rows that somebody brought in past pgtask's functions, and that no child can read."""

from __future__ import annotations

import psycopg
import pytest

from pgtask.task import Task
from tests import rough, shop
from tests.conditions import eventually
from tests.standing import Connection, end_of, outcomes, standing, unfinished
from tests.workers import Start

FLAWS = {
    "tags": ("'{NULL,a}'", "tags [None, 'a']: not a list of text"),
    "nested tags": ("'{{a},{b}}'", "tags [['a'], ['b']]: not a list of text"),
    "policy": ("""'{"timeout": "soon"}'""", """policy '{"timeout": "soon"}': Expected `float"""),
    "null policy": ("'null'", "policy 'null': Expected `object`"),
    "deep policy": ("(repeat('[', 5000) || repeat(']', 5000))::json", "nested too deeply"),
    "backoff policy": ("""'{"backoff": "nonsense"}'""", "backoff must be"),
    "jitter policy": ("""'{"jitter": 7}'""", "jitter is a fraction from 0 to 1, got 7"),
    "nested policy": (
        """('{"x":' || repeat('[', 600) || repeat(']', 600) || '}')::json""",
        "nested too deeply",
    ),
    "headers": ("'[1]'", "headers '[1]': Expected `object`"),
    "args": ("null", "its arguments are gone"),
}


@pytest.mark.parametrize("task", [shop.add, shop.async_add], ids=["sync", "async"])
def test_a_row_that_no_child_can_read_fails_alone_and_says_why(
    start_worker: Start, connection: Connection, task: Task[[int, int], int]
) -> None:
    # given such rows between good ones, in one frame
    good, bad = [], {}
    with connection.transaction():
        for name, (value, why) in FLAWS.items():
            good.append(task.delay(1, 2))
            columns = {"args": "'[1, 2]'", name.rpartition(" ")[2]: value}
            row = connection.execute(
                "insert into pgtask.ready (id, task, queue, max_attempts,"
                f" {', '.join(columns)}) values (nextval('pgtask.seq'), %s, 'default', 3,"
                f" {', '.join(columns.values())}) returning id".encode(),
                [task.name],
            ).fetchone()
            assert row is not None
            bad[int(row[0])] = why
    worker = start_worker("-c", "1")

    eventually(lambda: unfinished(connection) == 0, timeout=30)

    assert [result.get(timeout=1) for result in good] == [3] * len(good)
    for job, why in bad.items():
        end = end_of(connection, job)
        assert (end.state, end.attempt, end.crashes) == ("failed", 1, 0)
        assert str(end.error).startswith("UnreadableJob: "), end.error
        assert why in str(end.error)
        assert "enqueue it with pgtask.enqueue" in str(end.error)
    assert "Traceback" not in worker.log


def test_a_policy_that_no_claim_could_read_cannot_be_written(connection: Connection) -> None:
    for table in ("ready", "waiting"):
        with pytest.raises(psycopg.errors.CheckViolation, match=f"{table}_policy"):
            connection.execute(
                f"insert into pgtask.{table} (id, task, queue, max_attempts, args, policy) values"
                " (nextval('pgtask.seq'), 't', 'default', 3, '[]', %s)".encode(),
                [r'{"a": "\u0000"}'],
            )


@pytest.mark.parametrize("task", [rough.slow_to_say, rough.async_slow_to_say])
def test_an_attempt_whose_backoff_function_fails_ends_as_it_did_and_is_tried_again(
    start_worker: Start, connection: Connection, task: Task[[], None]
) -> None:
    worker = start_worker("-c", "1", app="tests.rough:app")

    job = task.delay().id

    eventually(lambda: outcomes(connection, job), timeout=20)
    assert "its backoff failed, the default holds" in worker.log
    now = standing(connection, job)
    assert now is not None
    assert (now.state, now.crashes) == ("scheduled", 0)
    assert connection.execute(
        "select outcome, error_type, error_message from pgtask.attempts where job = %s", [job]
    ).fetchall() == [("retried", "ValueError", "as ever")]
