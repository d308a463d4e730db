"""Faults of sessions and of the way to PostgreSQL: broken, silent, refused, pooled, hostile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgtask import embedded_place as place
from tests.conditions import eventually
from tests.faults.outages import BACK
from tests.faults.scenario import NotHere, Told, scenario
from tests.faults.server import free_port
from tests.faults.stand import Stand
from tests.proxy import Proxy


@scenario("T21", "a worker's connection is terminated twice a second", quick=True, seconds=30)
def terminated(stand: Stand) -> Told:
    stand.worker()
    one = (
        "select pg_terminate_backend(pid) from (select pid from pg_stat_activity"
        " where datname = current_database() and application_name like 'pgtask:%%'"
        " order by random() limit 1) s"
    )
    with stand.load(150) as load:
        stand.canary()
        before = stand.finished(), len(load.acknowledged)
        until = time.monotonic() + 15.0
        while time.monotonic() < until:
            stand.ask(one)
            time.sleep(0.5)
        done, asked = stand.finished() - before[0], len(load.acknowledged) - before[1]
        began = time.monotonic()
        ears = "select count(*) from pg_stat_activity where datname = current_database()"
        ears += " and application_name = 'pgtask:listen'"
        eventually(lambda: stand.number(ears) == 1, 60)
        recovery = time.monotonic() - began
    assert done >= 0.9 * asked, f"{done} of {asked} jobs were done meanwhile"
    return Told(recovery, 15.0, f"until it listens again; {done / asked:.0%} done meanwhile")


@scenario("connections", "the role may not connect any more (53300) for 12 s", seconds=30)
def no_connections(stand: Stand) -> Told:
    worker = stand.worker()
    with stand.load(100):
        stand.canary()
        stand.ask(f'alter role "{stand.database}" connection limit 0')
        stand.address.throw_out(stand.database)
        eventually(lambda: "too many connections" in worker.log, 30)
        time.sleep(12.0)
        stand.ask(f'alter role "{stand.database}" connection limit -1')
        recovery = stand.canary()
    assert worker.process.poll() is None
    stand.nobody_was_given_up()
    return Told(recovery, BACK, "until an urgent job is done")


@scenario("half-open", "the network falls silent for 15 s, then breaks", seconds=40)
def half_open(stand: Stand) -> Told:
    proxy = stand.beside.enter_context(Proxy.before(stand.dsn))
    worker = stand.worker(dsn=proxy.dsn(stand.dsn))
    former = stand.identity(worker)
    with stand.load(50):
        stand.canary()
        proxy.freeze()
        eventually(lambda: "no heartbeat" in worker.log, 30)
        time.sleep(10.0)
        proxy.cut()
        proxy.thaw()
        recovery = stand.canary()
    assert stand.identity(worker) == former
    stand.nobody_was_given_up()
    return Told(recovery, BACK, "until an urgent job is done")


@scenario("T32", "the role's defaults are hostile", seconds=15)
def hostile_role(stand: Stand) -> Told:
    for setting in (
        "default_transaction_isolation = serializable",
        "synchronous_commit = off",
        "statement_timeout = '100ms'",
        "lock_timeout = '1ms'",
        "idle_session_timeout = '2s'",
        "idle_in_transaction_session_timeout = '1ms'",
        "search_path = nowhere",
        "\"DateStyle\" = 'German, DMY'",
        "\"TimeZone\" = 'Pacific/Chatham'",
        "\"IntervalStyle\" = 'sql_standard'",
        "standard_conforming_strings = off",
        "row_security = off",
        "bytea_output = escape",
        "extra_float_digits = 0",
        "client_encoding = 'LATIN1'",
    ):
        stand.ask(f'alter role "{stand.database}" set {setting}')
    stand.worker()
    # Producers and transactional tasks run on the application's connections, whose settings stay.
    friendly = "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0 -c lock_timeout=0"
    friendly += " -c idle_session_timeout=0 -c default_transaction_isolation=read\\ committed"
    stand.dsn = make_conninfo(stand.dsn, options=friendly)
    tasks = {"effect": 10, "async_effect": 3, "in_lane": 1, "stumbling": 2}
    with stand.load(100, tasks=tasks):
        time.sleep(6.0)
    return Told(stand.canary(), BACK, "until an urgent job is done")


@scenario("T41", "PgBouncer lends out transactions, and is killed once", seconds=25)
def pooled(stand: Stand) -> Told:
    with _bouncer(stand) as (dsn, start):
        worker = stand.worker(dsn=dsn)
        former = stand.identity(worker)
        with stand.load(100):
            stand.canary()
            time.sleep(3.0)
            start()
            recovery = stand.canary()
        assert stand.identity(worker) == former
        worker.signal(signal.SIGTERM)
        assert worker.wait(40) == 0
    stand.nobody_was_given_up()
    return Told(recovery, BACK, "until an urgent job is done")


@contextmanager
def _bouncer(stand: Stand) -> Iterator[tuple[str, Callable[[], None]]]:
    """A DSN by way of a PgBouncer in transaction mode, and what kills it and starts it again."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise NotHere("PgBouncer is not installed (Debian, Ubuntu: apt-get install pgbouncer)")
    there = conninfo_to_dict(stand.dsn)
    directory = stand.directory / "bouncer"
    directory.mkdir()
    port = free_port()
    (directory / "users").write_text(f'"{there["user"]}" "{there["password"]}"\n')
    (directory / "pgbouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={there['port']}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {directory}/users\npool_mode = transaction\n"
        f"logfile = {directory}/log\n"
    )
    who: dict[str, Any] = {}
    if (account := place.server_account()) is not None:
        who = {"user": account.uid, "group": account.gid, "extra_groups": []}
        stand.directory.chmod(0o711)
        for path in (directory, *directory.iterdir()):
            os.chown(path, account.uid, account.gid)
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        end()
        command = [program, str(directory / "pgbouncer.ini")]
        output = subprocess.DEVNULL
        running.append(subprocess.Popen(command, cwd="/", stdout=output, stderr=output, **who))

    def end() -> None:
        for process in running:
            process.kill()
            process.wait()
        running.clear()

    start()
    try:
        yield make_conninfo(stand.dsn, port=port), start
    finally:
        end()
