"""A beat whose database is away, silent, deaf behind a pooler, or back."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from psycopg.conninfo import make_conninfo

from tests.beats import StartBeat
from tests.clockwork import check_conserved, column, put, ticks
from tests.conditions import eventually
from tests.pooler import PgBouncer, needs_pgbouncer
from tests.proxy import Proxy
from tests.standing import Connection


@pytest.fixture
def proxy(dsn: str) -> Iterator[Proxy]:
    with Proxy.before(dsn) as proxy:
        yield proxy


def test_a_beat_that_starts_before_its_database_waits_for_it(
    start_beat: StartBeat, proxy: Proxy, dsn: str, connection: Connection
) -> None:
    put(connection, "s")
    proxy.refuse()
    beat = start_beat(wait=False, PGTASK_DSN=proxy.dsn(dsn))
    eventually(lambda: beat.log.count("waiting for the database") > 1, timeout=30)

    proxy.accept()

    eventually(lambda: ticks(connection, "s"))


@pytest.mark.parametrize("state", ["refused", "silent"])
def test_a_beat_that_waits_for_its_database_can_be_told_to_end(
    start_beat: StartBeat, proxy: Proxy, dsn: str, state: str
) -> None:
    (proxy.refuse if state == "refused" else proxy.freeze)()
    beat = start_beat(wait=False, PGTASK_DSN=proxy.dsn(dsn))
    if state == "silent":
        eventually(lambda: proxy.accepted, timeout=30)
    else:
        eventually(lambda: "waiting for the database" in beat.log, timeout=30)

    began = time.monotonic()
    beat.signal(signal.SIGTERM)

    assert beat.wait() == 0
    assert time.monotonic() - began < 2


def test_a_beat_that_waits_for_an_answer_can_be_told_to_end(
    start_beat: StartBeat, proxy: Proxy, dsn: str, connection: Connection
) -> None:
    put(connection, "s", overlap="queue")
    beat = start_beat(PGTASK_DSN=proxy.dsn(dsn))
    eventually(lambda: ticks(connection, "s"))
    proxy.freeze()
    time.sleep(1.5)  # the next tick is due, and what is asked stays without an answer

    began = time.monotonic()
    beat.signal(signal.SIGTERM)

    assert beat.wait() == 0
    assert time.monotonic() - began < 2


def test_a_wrong_password_is_not_waited_for(start_beat: StartBeat, dsn: str) -> None:
    beat = start_beat(wait=False, PGTASK_DSN=make_conninfo(dsn, password="wrong"))

    assert beat.wait() == 4
    assert "cannot be reached" in beat.log


@pytest.mark.parametrize("how", ["refused", "silent", "cut"])
def test_what_was_due_during_an_outage_is_made_up_for(
    start_beat: StartBeat, proxy: Proxy, dsn: str, connection: Connection, how: str
) -> None:
    # given schedules of every second, and a database that is away for some
    for catchup in ("last", "all"):
        put(connection, catchup, catchup=catchup, overlap="queue")
    beat = start_beat(PGTASK_DSN=proxy.dsn(dsn))
    eventually(lambda: ticks(connection, "last") and ticks(connection, "all"))
    if how == "refused":
        proxy.refuse()
    elif how == "silent":
        proxy.freeze()
    else:
        proxy.cut()
    time.sleep(3.2)  # the outage
    before = {name: len(ticks(connection, name)) for name in ("last", "all")}
    proxy.accept()
    proxy.thaw()
    proxy.cut()

    # then firing goes on, nothing is doubled, and what was missed has its row or is counted
    eventually(lambda: all(len(ticks(connection, n)) > before[n] + 1 for n in before), 20)
    check_conserved(connection, ["last", "all"])
    assert "firing failed" in beat.log
    for name in ("last", "all"):
        fired = ticks(connection, name)
        covered = len(fired) + sum(tick.missed for tick in fired)
        assert covered == (fired[-1].at - fired[0].at).total_seconds() + 1, name
    fired = ticks(connection, "all")
    assert {b.at - a.at for a, b in itertools.pairwise(fired)} == {timedelta(seconds=1)}


def test_a_beat_hears_again_after_its_ear_was_cut_off(
    start_beat: StartBeat, connection: Connection
) -> None:
    beat = start_beat()
    ear = "select pg_terminate_backend(pid) from pg_stat_activity where application_name ="
    eventually(lambda: connection.execute(f"{ear} 'pgtask:beat-ear'".encode()).fetchall())
    eventually(lambda: "listening failed" in beat.log)

    put(connection, "s")

    eventually(lambda: ticks(connection, "s"), timeout=4)


@needs_pgbouncer
def test_a_beat_behind_a_pooler_looks_by_itself(
    start_beat: StartBeat, dsn: str, connection: Connection
) -> None:
    with PgBouncer(dsn) as pooler:
        put(connection, "s", overlap="queue")
        beat = start_beat(PGTASK_DSN=pooler.dsn(dsn))
        eventually(lambda: len(ticks(connection, "s")) >= 2)
        assert "nobody can listen through a connection pooler" in beat.log

        connection.execute("update pgtask.schedule set enabled = false")
        eventually(lambda: column(connection, "s", "not enabled"))
        put(connection, "later")

        eventually(lambda: ticks(connection, "later"), timeout=8)
        check_conserved(connection, ["s", "later"])
        beat.signal(signal.SIGTERM)
        assert beat.wait() == 0
