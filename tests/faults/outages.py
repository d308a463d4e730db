"""Faults of PostgreSQL: crashes, restarts, failover, outages, no room, wrong clocks."""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from tests.conditions import eventually
from tests.faults import app, server
from tests.faults.conservation import Allowed
from tests.faults.scenario import NotHere, Told, scenario
from tests.faults.server import Server
from tests.faults.stand import Stand

BACK = 10.0  # s within which work resumes after PostgreSQL takes connections again

# A server that dies takes the claims along that it had not written yet; what ran goes on, and ends
# with an outcome that nobody takes.
CRASHED = Allowed(doubles=True, lost_claims=True)


@scenario(
    "T18",
    "PostgreSQL restarts in immediate mode five times under 500 jobs/s",
    quick=True,
    own=server.running,
    seconds=50,
)
def restarts(stand: Stand) -> Told:
    workers = [stand.worker("-c", "2"), stand.worker("-c", "2")]
    identities = [stand.identity(worker) for worker in workers]
    dice = random.Random(18)
    worst = 0.0
    with stand.load(500, batch=5):
        for _ in range(5):
            time.sleep(dice.uniform(1.5, 4.0))
            stand.server.crash()
            worst = max(worst, stand.canary())
        time.sleep(2.0)
    assert [stand.identity(worker) for worker in workers] == identities
    stand.nobody_was_given_up()
    return Told(worst, BACK, "until an urgent job is done, at worst", CRASHED)


@scenario("T19", "the database is away for longer than the lease", seconds=70)
def long_outage(stand: Stand) -> Told:
    workers = [stand.worker(), stand.worker()]
    identities = [stand.identity(worker) for worker in workers]
    gate = stand.directory / "gate"
    jobs = stand.enqueue(*[lambda c: app.hold.using(c).delay(str(gate))] * 4)
    with stand.load(50):
        eventually(lambda: stand.begun(*jobs), 30)
        with stand.outage():
            time.sleep(45.0)
            # What ends meanwhile is kept.
            gate.touch()
            time.sleep(1.0)
        recovery = stand.canary()
        eventually(lambda: stand.is_over(*jobs), 30)
        # Whoever is back first must not take the others for dead.
        time.sleep(8.0)
    assert [stand.identity(worker) for worker in workers] == identities
    epochs = stand.ask("select distinct epoch, attempt from pgtask.done where id = any(%s)", jobs)
    assert epochs == [(1, 1)], epochs
    stand.nobody_was_given_up()
    return Told(recovery, BACK, "until an urgent job is done")


@scenario("T20", "one backend is killed, and PostgreSQL recovers", own=server.running, seconds=25)
def backend_killed(stand: Stand) -> Told:
    stand.worker()
    with stand.load(200, batch=2):
        time.sleep(3.0)
        assert stand.server.kill_a_backend("pgtask:%")
        eventually(lambda: "reinitializing" in stand.server.log, 30)
        stand.server.wait_until_ready()
        recovery = stand.canary()
        time.sleep(2.0)
    stand.nobody_was_given_up()
    return Told(recovery, BACK, "until an urgent job is done", CRASHED)


@scenario("T28", "PostgreSQL turns read-only for 6 s", own=server.running, seconds=25)
def read_only(stand: Stand) -> Told:
    worker = stand.worker()
    with stand.load(100):
        stand.canary()
        stand.server.set("default_transaction_read_only", "on")
        eventually(lambda: "on the primary" in worker.log, 30)
        before = stand.finished()
        time.sleep(6.0)
        assert stand.finished() == before, "jobs ended on a read-only server"
        stand.server.set("default_transaction_read_only", None)
        recovery = stand.canary()
    stand.nobody_was_given_up()
    return Told(recovery, BACK, "until an urgent job is done")


@scenario(
    "T28b",
    "a standby is promoted, and the old primary stays, read-only",
    own=server.running,
    seconds=30,
)
def failover(stand: Stand) -> Told:
    old = stand.server
    new = stand.beside.enter_context(old.standby())
    ports = f"{old.address.port},{new.address.port}"
    both = make_conninfo(
        stand.dsn, host="127.0.0.1,127.0.0.1", port=ports, target_session_attrs="read-write"
    )
    worker = stand.worker(dsn=both)
    former = stand.identity(worker)
    behind = "select pg_last_wal_replay_lsn() >= %s::pg_lsn"
    with stand.load(100, dsn=both):
        time.sleep(3.0)
        old.set("default_transaction_read_only", "on")
        with old.address.connect() as connection:
            # Nobody writes any more once their transactions are over: nothing acknowledged is lost.
            eventually(
                lambda: (
                    not connection.execute(
                        "select from pg_stat_activity where backend_xid is not null"
                    ).fetchall()
                ),
                30,
            )
            (last,) = connection.execute("select pg_current_wal_lsn()::text").fetchone() or ("",)
        with new.address.connect() as connection:
            eventually(lambda: connection.execute(behind, [last]).fetchone() == (True,), 30)
        at = time.monotonic()
        new.promote()
        before = stand.finished()
        stand.address, stand.dsn = new.address, new.address.dsn(stand.database, stand.database)
        stand.canary()
        recovery = time.monotonic() - at
    assert stand.identity(worker) == former
    with old.address.connect(stand.database) as connection:
        left = connection.execute("select count(*) from pgtask.done").fetchone()
    assert left == (before,), "jobs ended on the old primary"
    stand.nobody_was_given_up()
    return Told(recovery, BACK, "until an urgent job is done", Allowed(lost_claims=True))


@scenario("T34", "a snapshot and an idle writer pin the horizon", own=server.running, seconds=45)
def pinned(stand: Stand) -> Told:
    stand.worker()
    with (
        stand.load(300, batch=5) as load,
        stand.address.connect(stand.database) as reader,
        stand.address.connect(stand.database) as writer,
        psycopg.connect(stand.dsn) as late,
    ):
        eventually(lambda: len(load.acknowledged) > 100, 30)
        reader.execute("begin isolation level repeatable read")
        reader.execute("select count(*) from pgtask.jobs")
        writer.execute("begin")
        writer.execute("insert into public.effect values (-1, 0)")
        # T35: somebody enqueues and commits long after.
        job = app.effect.using(late).delay(1)
        late.execute("insert into public.intent values (%s, 'late')", [job.id])
        first = _waits(stand, 5.0)
        time.sleep(18.0)
        last = _waits(stand, 5.0)
        at = time.monotonic()
        late.commit()
        eventually(lambda: stand.is_over(job.id), 60)
        recovery = time.monotonic() - at
        writer.execute("rollback")
    says = f"T35: until a late committer's job is done; others wait {first:.0f} → {last:.0f} ms"
    return Told(recovery, 5.0, says)


@contextmanager
def _on_a_small_disk() -> Iterator[Server]:
    """A server on a file system of 200 MB."""
    place = Path(tempfile.mkdtemp(prefix="pgtask-disk-"))
    place.chmod(0o755)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200m,mode=0755", "none", place],
        capture_output=True,
        check=False,
    )
    try:
        if mounted.returncode != 0:
            raise NotHere("only root may mount a small file system")
        with server.running(inside=place) as running:
            yield running
    finally:
        subprocess.run(["umount", "-l", place], capture_output=True, check=False)
        shutil.rmtree(place, ignore_errors=True)


@scenario("disk", "the disk is full", own=_on_a_small_disk, seconds=60)
def disk_full(stand: Stand) -> Told:
    worker = stand.worker()
    former = stand.identity(worker)
    filler = stand.server.directory.parent / "filler"
    with stand.load(200, batch=5):
        stand.canary()
        with filler.open("wb") as file, suppress(OSError):
            while True:
                file.write(b"x" * 65536)
        eventually(lambda: "No space left" in stand.server.log, 60)
        time.sleep(5.0)
        filler.unlink()
        died = "PANIC" in stand.server.log
        if stand.server.has_ended:
            stand.server.start()
        stand.server.wait_until_ready()
        recovery = stand.canary()
        time.sleep(1.0)
    assert worker.process.poll() is None
    assert stand.identity(worker) == former
    stand.nobody_was_given_up()
    says = (
        f"until an urgent job is done, once there is room; PostgreSQL {'died' if died else 'lived'}"
    )
    return Told(recovery, BACK, says, CRASHED)


FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


@contextmanager
def _with_a_clock_to_set() -> Iterator[Server]:
    """A server whose wall clock can be moved."""
    if FAKETIME is None:
        raise NotHere("libfaketime is not installed (Debian, Ubuntu: apt-get install libfaketime)")
    with tempfile.TemporaryDirectory(prefix="pgtask-clock-") as directory:
        Path(directory).chmod(0o755)
        clock = Path(directory) / "shift"
        _set_clock(clock, 0)
        environ = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        with server.running(environ=environ) as running:
            yield running


def _set_clock(path: Path, seconds: int) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(f"{seconds:+d}\n")
    draft.chmod(0o644)
    draft.rename(path)


@scenario(
    "T45",
    "clocks: one worker 1 h ahead, one behind; PostgreSQL's jumps 1 h ahead, then back",
    own=_with_a_clock_to_set,
    seconds=40,
)
def clocks(stand: Stand) -> Told:
    clock = Path(stand.server.environ["FAKETIME_TIMESTAMP_FILE"])
    workers = [
        stand.worker(LD_PRELOAD=str(FAKETIME), FAKETIME=shift, FAKETIME_DONT_FAKE_MONOTONIC="1")
        for shift in ("+3600", "-3600")
    ]
    identities = [stand.identity(worker) for worker in workers]
    worst = stand.canary()
    # Without what sleeps, which libfaketime breaks, and without what is due later: when the clock
    # of the database goes back by an hour, that waits for an hour.
    with stand.load(50, tasks={"effect": 3, "async_effect": 1, "transfer": 2}):
        for seconds in (3600, 0, -3600):
            _set_clock(clock, seconds)
            worst = max(worst, stand.canary())
            (job,) = stand.enqueue(lambda c: app.effect.using(c).options(countdown=2).delay(1))
            began = time.monotonic()
            eventually(lambda job=job: stand.is_over(job), 30)  # type: ignore[misc]
            waited = time.monotonic() - began
            assert 1.5 < waited < 12.0, f"a job due in 2 s ran after {waited:.1f} s"
            time.sleep(6.0)
        _set_clock(clock, 7200)
    assert [stand.identity(worker) for worker in workers] == identities
    stand.nobody_was_given_up()
    # libfaketime can take a process of PostgreSQL down when the clock jumps.
    died = "all server processes terminated; reinitializing" in stand.server.log
    says = f"until an urgent job is done, at worst; PostgreSQL {'crashed' if died else 'lived'}"
    return Told(worst, BACK, says, CRASHED if died else Allowed())


def _waits(stand: Stand, seconds: float) -> float:
    """The 99th percentile of the wait between enqueue and claim, ms, over some seconds."""
    time.sleep(seconds)
    return stand.number(
        "select coalesce(1000 * percentile_cont(0.99) within group"
        " (order by extract(epoch from claimed_at - created_at)), 0) from pgtask.done"
        " where finished_at > clock_timestamp() - %s * interval '1 s' and attempt = 1",
        seconds,
    )
