"""Who starts the server, and what ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from pgtask import embedded
from pgtask.embedded_place import server_account
from pgtask.errors import EmbeddedError
from tests.conditions import eventually
from tests.embedded.processes import Holding, holder, is_alive, launch


def test_four_processes_at_once_on_a_fresh_directory_get_one_server(home: Path) -> None:
    processes = [launch(home) for _ in range(4)]
    try:
        holdings = [Holding(process) for process in processes]
        for holding in holdings:
            with psycopg.connect(holding.dsn) as connection:
                row = connection.execute("SELECT current_user, current_database()").fetchone()
            assert row == ("pgtask", "pgtask")
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert len({holding.server_pid for holding in holdings}) == 1
    log = embedded.status(home, durable=False).log_path.read_text()
    assert log.count("database system is ready to accept connections") == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_that_ends_the_only_holder_ends_the_server(
    home: Path, number: signal.Signals
) -> None:
    with holder(home, linger=0.3) as holding:
        assert is_alive(holding.server_pid)
        holding.process.send_signal(number)
        holding.process.wait()
        eventually(lambda: not is_alive(holding.server_pid))
        eventually(lambda: not is_alive(holding.keeper_pid))
    assert not embedded.status(home, durable=False).running


def test_the_server_outlives_a_holder_while_another_has_a_lease(home: Path) -> None:
    with embedded.lease(home, durable=False, linger=0.1, quiet=True) as held:
        with holder(home) as holding:
            holding.process.kill()
            holding.process.wait()
        with psycopg.connect(held.dsn) as connection:
            # Far longer than the linger: the keeper has looked several times by then.
            connection.execute("SELECT pg_sleep(0.7)")
        assert is_alive(holding.server_pid)


def test_a_forked_child_keeps_the_lease_that_its_parent_closes(home: Path) -> None:
    held = embedded.lease(home, durable=False, linger=0.1, quiet=True)
    server_pid = embedded.status(home, durable=False).server_pid
    assert server_pid is not None
    wait_for_end, end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        os.read(wait_for_end, 1)
        os._exit(0)
    os.close(wait_for_end)
    held.close()
    with psycopg.connect(held.dsn) as connection:
        connection.execute("SELECT pg_sleep(0.7)")
    os.close(end)
    os.waitpid(child, 0)
    eventually(lambda: not is_alive(server_pid))


def test_after_the_postmaster_was_killed_the_next_client_starts_a_new_one(home: Path) -> None:
    with holder(home) as holding:
        os.kill(holding.server_pid, signal.SIGKILL)
        with (
            embedded.lease(home, durable=False, linger=0.3, quiet=True) as held,
            psycopg.connect(held.dsn),
        ):
            assert embedded.status(home, durable=False).server_pid != holding.server_pid


def test_hold_for_process_restarts_a_server_that_died(home: Path) -> None:
    first = embedded.hold_for_process(home, durable=False, quiet=True)
    server_pid = embedded.status(home, durable=False).server_pid
    assert server_pid is not None
    os.kill(server_pid, signal.SIGKILL)
    eventually(lambda: not is_alive(server_pid))
    again = embedded.hold_for_process(home, durable=False, quiet=True)
    assert again is first
    psycopg.connect(again.dsn).close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_killed_keeper_takes_its_postmaster_along_and_the_next_client_works(home: Path) -> None:
    with holder(home) as holding:
        os.kill(holding.keeper_pid, signal.SIGKILL)
        eventually(lambda: not is_alive(holding.server_pid))
        with (
            embedded.lease(home, durable=False, linger=0.3, quiet=True) as held,
            psycopg.connect(held.dsn),
        ):
            assert embedded.status(home, durable=False).running


def test_a_client_that_comes_at_the_moment_the_keeper_dies_gets_a_new_server(home: Path) -> None:
    with holder(home) as holding:
        os.kill(holding.keeper_pid, signal.SIGKILL)
        with (
            embedded.lease(home, durable=False, linger=0.3, quiet=True) as held,
            psycopg.connect(held.dsn),
        ):
            assert embedded.status(home, durable=False).server_pid != holding.server_pid


def test_a_stale_pid_file_that_names_a_living_stranger_is_dropped(home: Path) -> None:
    server = embedded.Server(home, durable=False, linger=0.3, quiet=True)
    with server:
        pass
    server.stop()
    account = server_account()
    with subprocess.Popen(
        ["sleep", "60"],
        user=account.uid if account else None,
        group=account.gid if account else None,
    ) as stranger:
        stale = f"{stranger.pid}\n{server.instance.data}\n"
        (server.instance.data / "postmaster.pid").write_text(stale)
        (server.instance.sockets / ".s.PGSQL.5432.lock").write_text(stale)
        try:
            with server as held:
                psycopg.connect(held.dsn).close()
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_what_a_killed_initdb_left_is_not_taken_for_a_cluster(home: Path) -> None:
    server = embedded.Server(home, durable=False, linger=0.3, quiet=True)
    server.instance.create()
    half = server.instance.directory / "data.init"
    half.mkdir()
    (half / "PG_VERSION").write_text(f"{server.binaries.major}\n")
    with server as held:
        psycopg.connect(held.dsn).close()
    assert not half.exists()


def test_two_failed_starts_end_in_an_error_that_shows_the_log(home: Path) -> None:
    server = embedded.Server(home, durable=False, linger=0.3, quiet=True)
    with server:
        pass
    server.stop()
    (server.instance.data / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(EmbeddedError, match="did not start") as raised:
        server.lease()
    assert str(raised.value).count('unrecognized configuration parameter "no_such_setting"') == 2
    assert not server.status().running
