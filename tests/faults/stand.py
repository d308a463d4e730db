"""Stand: what one scenario works with: a database, workers, an effect log, the final count."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from pgtask import config
from pgtask.result import AsyncResult
from tests.conditions import eventually
from tests.faults import app, conservation
from tests.faults.conservation import Allowed, Count, Entry
from tests.faults.load import MIXED, Load, intend
from tests.faults.server import Address, Server
from tests.workers import Worker, lives

Connection = psycopg.Connection[Any]

APP = "tests.faults.app:app"
LONG = 20  # lines of one job's history that are shown
SPARE = 12  # files that a worker may have open more than at its start
QUIET = 120.0  # s that everything may take to come to an end after the faults

BUSINESS = """
create table public.intent (job bigint primary key, task text not null);
create table public.effect (job bigint not null, epoch integer not null);
create table public.counter (lane integer primary key, n bigint not null default 0);
insert into public.counter (lane) select generate_series(0, 7);
"""


class Stand:
    """One scenario's own database on a server, and all that it starts; leaving ends it all."""

    def __init__(self, address: Address, name: str, directory: Path, server: Server | None) -> None:
        self.address = address
        self.database = f"faults_{name.lower()}"
        self.directory = directory
        self._server = server
        self.log = directory / "effects"
        self.workers: list[Worker] = []
        self.acknowledged: list[int] = []
        self.errors: list[str] = []
        self._descriptors: dict[Worker, int] = {}
        self.beside = ExitStack()  # what must be there until the count is over
        self.dsn = address.create(self.database)
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(BUSINESS.encode())
        app.app.config = config.load({"dsn": self.dsn}, {}, {}, directory)

    @property
    def server(self) -> Server:
        """The server, where the scenario has one of its own and may do to it what it likes."""
        assert self._server is not None, "only a scenario with `own` has one to itself"
        return self._server

    # Workers -------------------------------------------------------------------------------------

    def worker(self, *arguments: str, wait: bool = True, dsn: str = "", **env: str) -> Worker:
        """Start `pgtask worker`, with three children unless told otherwise."""
        if "-c" not in arguments:
            arguments = ("-c", "3", *arguments)
        log = self.directory / f"worker{len(self.workers)}.log"
        known = {"FAULTS_LOG": str(self.log), **env}
        worker = Worker(dsn or self.dsn, APP, arguments, log, known)
        self.workers.append(worker)
        if wait:
            eventually(lambda: self.is_registered(worker), 30)
            self._descriptors[worker] = _open_files(worker.pid)
        return worker

    def is_registered(self, worker: Worker) -> bool:
        assert worker.process.poll() is None, f"the worker ended:\n{worker.log}"
        return bool(self.ask("select 1 from pgtask.worker where pid = %s and alive", worker.pid))

    def identity(self, worker: Worker) -> str:
        """The id under which the worker is alive."""
        rows = self.ask("select id::text from pgtask.worker where pid = %s and alive", worker.pid)
        assert rows, f"process {worker.pid} is no living worker"
        return str(rows[0][0])

    def kill(self, worker: Worker) -> float:
        """SIGKILL the supervisor; returns when."""
        at = time.monotonic()
        worker.signal(signal.SIGKILL)
        worker.wait()
        return at

    # Jobs ----------------------------------------------------------------------------------------

    @contextmanager
    def load(
        self,
        rate: float,
        *,
        dsn: str = "",
        seed: int = 1,
        tasks: Mapping[str, int] = MIXED,
        lanes: int = 4,
        batch: int = 1,
    ) -> Iterator[Load]:
        """Producers for the block; what they enqueued counts at the end."""
        load = Load(dsn or self.dsn, rate, seed=seed, tasks=tasks, lanes=lanes, batch=batch)
        try:
            with load:
                yield load
        finally:
            self.acknowledged += load.acknowledged
            self.errors += load.errors

    def enqueue(self, *calls: Callable[[Connection], AsyncResult[Any]]) -> list[int]:
        """Enqueue in one transaction, with the intent of each; returns the ids."""
        with psycopg.connect(self.dsn) as connection:
            ids = [call(connection).id for call in calls]
            for job_id in ids:
                intend(connection, job_id, "by hand")
        self.acknowledged += ids
        return ids

    def enqueue_many(self, task: str, number: int) -> None:
        """Enqueue so many calls of a task of one number, with their intents."""
        with psycopg.connect(self.dsn) as connection:
            jobs = getattr(app, task).using(connection).delay_many([(n,) for n in range(number)])
            ids = [job.id for job in jobs]
            connection.execute(
                "insert into public.intent select unnest(%s::bigint[]), %s", [ids, task]
            )
        self.acknowledged += ids

    def canary(self) -> float:
        """Enqueue an urgent job; returns the seconds until it has ended."""
        began = time.monotonic()
        (job,) = self.enqueue(lambda c: app.effect.using(c).options(priority=100).delay(0))
        eventually(lambda: self.is_over(job), 60)
        return time.monotonic() - began

    def is_over(self, *jobs: int) -> bool:
        found = self.ask(
            "select count(distinct id) from pgtask.done where id = any(%s)", list(jobs)
        )
        return bool(found and found[0][0] == len(jobs))

    def begun(self, *jobs: int, times: int = 1) -> list[Entry]:
        """The begins of these jobs in the effect log; empty until each has so many."""
        found = [entry for entry in self.effects if entry.event == "begin" and entry.job in jobs]
        per_job = [sum(entry.job == job for entry in found) for job in jobs]
        return found if min(per_job) >= times else []

    @property
    def effects(self) -> list[Entry]:
        return conservation.read_log(self.log)

    # The database --------------------------------------------------------------------------------

    def ask(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows, on a superuser's connection of its own; none while nobody can connect."""
        try:
            with self.address.connect(self.database) as connection:
                cursor = connection.execute(text.encode(), values)
                return cursor.fetchall() if cursor.description else []
        except psycopg.OperationalError:
            return []

    def number(self, text: str, *values: object) -> int:
        rows = self.ask(text, *values)
        return int(rows[0][0]) if rows else -1

    def finished(self) -> int:
        return self.number("select count(*) from pgtask.done")

    def nobody_was_given_up(self) -> None:
        """No observer took a living worker for dead."""
        lost = self.number("select count(*) from pgtask.attempts where outcome = 'lost'")
        assert lost == 0, f"{lost} attempts were taken for lost"

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Nobody can connect to this database, and those who are connected are thrown out."""
        self._admin(f'alter database "{self.database}" allow_connections false')
        try:
            self.address.throw_out(self.database)
            yield
        finally:
            self._admin(f'alter database "{self.database}" allow_connections true')

    def _admin(self, text: str) -> None:
        with self.address.connect() as connection:
            connection.execute(text.encode())

    # The end -------------------------------------------------------------------------------------

    def settle(self, allowed: Allowed) -> Count:
        """Wait until nothing is unfinished, end the workers, look for leaks, count."""
        if not any(worker.process.poll() is None for worker in self.workers):
            self.worker()
        unfinished = "select count(*) from pgtask.jobs where finished_at is null"
        with contextlib.suppress(AssertionError):  # the count says what is left
            eventually(lambda: self.number(unfinished) == 0, QUIET)
        app.app.close()
        leaks = [*self._leaks(), *self._end_workers()]
        with self.address.connect(self.database) as connection:
            # The next sweep of any worker, had one gone on: it finds a request to cancel that was
            # written while its job ended.
            connection.execute("select pgtask.rescue()")
            found = conservation.count(connection, self.log, self.acknowledged, allowed)
            for job in list(found.offenders)[: conservation.SHOWN]:
                lines = list(conservation.history(connection, self.log, job))
                if len(lines) > LONG:
                    lines[LONG // 2 : -LONG // 2] = ["..."]
                found.problems += [f"  {job}: {line}" for line in lines]
        found.problems += leaks
        found.problems += [f"I9: an application's transaction failed: {e}" for e in self.errors[:5]]
        found.problems += [
            f"I10: {worker.log_path.name} shows a password"
            for worker in self.workers
            if self.address.secret in worker.log
        ]
        return found

    def _leaks(self) -> Iterator[str]:
        for worker, before in self._descriptors.items():
            now = _open_files(worker.pid) if worker.process.poll() is None else 0
            if now > before + SPARE:
                yield f"I8: worker {worker.pid} had {before} files open, and has {now}"

    def _end_workers(self) -> Iterator[str]:
        families = {worker: worker.descendants() for worker in self.workers}
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.signal(signal.SIGCONT)
                worker.signal(signal.SIGTERM)
        for worker, family in families.items():
            try:
                worker.wait(40)
            except subprocess.TimeoutExpired:
                yield f"worker {worker.pid} does not end"
            try:
                eventually(lambda family=family: not any(map(lives, family)), 5)  # type: ignore[misc]
            except AssertionError:
                yield f"I8: processes left: {[pid for pid in family if lives(pid)]}"
        sessions = (
            "select count(*) from pg_stat_activity where datname = current_database()"
            " and application_name like 'pgtask%%'"
        )
        try:
            eventually(lambda: self.number(sessions) == 0, 10)
        except AssertionError:
            yield f"I8: {self.number(sessions)} sessions of pgtask are left"

    def clear(self) -> None:
        """Kill what a failed scenario has left."""
        for worker in self.workers:
            for pid in [*worker.descendants(), worker.pid]:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGCONT)
                    os.kill(pid, signal.SIGKILL)
            worker.process.wait()
        app.app.close()
        self.beside.close()


def _open_files(pid: int) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return 0
