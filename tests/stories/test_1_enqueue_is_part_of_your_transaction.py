"""Contract, line 1: enqueue is part of your transaction, durable as your COMMIT."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import psycopg

from tests import shop
from tests.standing import Connection, end_of, lines, standing, unfinished
from tests.workers import ROOT, Start


def test_a_job_of_a_transaction_that_rolls_back_never_was(
    start_worker: Start, connection: Connection, dsn: str, tmp_path: Path
) -> None:
    # given a transaction with a job that rolls back, and one that commits
    log = tmp_path / "log"
    with psycopg.connect(dsn) as business:
        undone = shop.note.using(business).delay(str(log), "undone")
        business.rollback()
        done = shop.note.using(business).delay(str(log), "done")

    # when a worker has done what there is
    assert start_worker("--drain", wait=False).wait() == 0

    # then only the committed one is and was there
    assert standing(connection, undone.id) is None
    assert end_of(connection, done.id).state == "succeeded"
    assert lines(log) == ["done"]


def test_a_job_is_not_begun_before_its_transaction_commits(
    start_worker: Start, connection: Connection, dsn: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    start_worker("-c", "1")
    with psycopg.connect(dsn) as business:
        # given a job in an open transaction
        early = shop.note.using(business).delay(str(log), "early")

        # when a later one, from elsewhere, has already run
        shop.note.delay(str(log), "late").get(timeout=10)
        assert lines(log) == ["late"]

        # then the first runs with the commit
        business.commit()
        assert end_of(connection, early.id).state == "succeeded"
    assert lines(log) == ["late", "early"]


def test_ambient_using_joins_the_transaction_too(
    shop: ModuleType, connection: Connection, dsn: str
) -> None:
    with psycopg.connect(dsn) as business:
        with shop.app.using(business):
            shop.add.delay(1, 2)
            shop.noop.delay_many([(1,), (2,)])
        assert unfinished(connection) == 0
        business.commit()
    assert unfinished(connection) == 3


def test_what_was_committed_outlives_the_producer(
    shop: ModuleType, connection: Connection, dsn: str
) -> None:
    # when a producer is killed right after one COMMIT, within the next transaction
    script = (
        "import os, psycopg, signal\n"
        "from tests import shop\n"
        f"with psycopg.connect({dsn!r}) as business:\n"
        "    shop.add.using(business).delay(1, 2)\n"
        "    business.commit()\n"
        "    shop.add.using(business).delay(3, 4)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    producer = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={"PGTASK_DSN": dsn}, check=False
    )

    # then the first job is there and the second is not
    assert producer.returncode == -signal.SIGKILL
    assert [args for (args,) in connection.execute("select args from pgtask.jobs")] == [[1, 2]]
