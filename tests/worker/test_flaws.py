"""Rows that somebody brought in past pgtask's functions, and that no child can read."""

from __future__ import annotations

import pytest

from pgtask.task import Task
from tests import shop
from tests.conditions import eventually
from tests.standing import Connection, end_of, unfinished
from tests.workers import Start

FLAWS = {
    "tags": ("'{NULL,a}'", "tags [None, 'a']: not a list of text"),
    "nested tags": ("'{{a},{b}}'", "tags [['a'], ['b']]: not a list of text"),
    "policy": ("""'{"timeout": "soon"}'""", """policy '{"timeout": "soon"}': Expected `float"""),
    "null policy": ("'null'", "policy 'null': Expected `object`"),
    "deep policy": ("(repeat('[', 5000) || repeat(']', 5000))::json", "policy '[[[["),
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
