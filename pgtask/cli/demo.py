"""`pgtask demo`: real work through everything there is, and a verdict."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import psycopg

from pgtask.cli import failure
from pgtask.cli.session import Session, pass_session
from pgtask.cli.table import table
from pgtask.worker.zygote import die_with_parent

NAPS = 20
PINGS = 100
DELAY = 2.0  # s
TICKS = 3  # of the schedule, at least
PATIENCE = 120.0  # s without any progress: something is wrong

TABLES = """
create schema if not exists pgtask_demo;
-- No unique constraint: a file counted twice must show.
create table if not exists pgtask_demo.module (
  run text not null, name text not null, parsed boolean not null,
  lines int not null, functions int not null, classes int not null, imports int not null,
  written_at timestamptz not null default clock_timestamp());
create table if not exists pgtask_demo.ghost (
  run text not null, seen_at timestamptz not null default clock_timestamp());
"""


FIRED = "select count(*) from pgtask.ticks where schedule = %s and job is not null"
UNFINISHED = (
    "select count(*) from pgtask.ticks where schedule = %s and job is not null"
    " and outcome in ('ready', 'running', 'scheduled', 'blocked')"
)


@dataclass(frozen=True)
class Expectation:
    """One thing that must be true at the end."""

    what: str
    held: bool
    seen: str


@click.command()
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("-c", "--concurrency", type=click.IntRange(1), help="Children each (one a CPU).")
@click.option("--limit", type=click.IntRange(1), help="Read at most so many files (all).")
@click.option("--keep", is_flag=True, help="Leave the tables of the demo in the database.")
@pass_session
def demo(
    session: Session, /, *, workers: int, concurrency: int | None, limit: int | None, keep: bool
) -> int:
    """Read the standard library with jobs: one a file, its row written in the job's transaction.

    Uses a private PostgreSQL unless --dsn names another. Kill its processes while it runs: nothing
    is lost, and nothing counted twice.
    """
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if "dsn" not in session.flags:
        session.flags["embedded"] = "always"
    dsn = session.database_url()
    _migrate(session, dsn)
    files = _library(limit)
    with ExitStack() as stack:
        connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        connection.execute(TABLES.encode())
        app = _app(session, dsn)
        stack.callback(app.close)
        run = Run(session, connection, files)
        run.clear_up()
        log = stack.enter_context(_log())
        staff = stack.enter_context(_workers(dsn, run.queue, workers, concurrency, log))
        run.schedule(app)
        run.enqueue(dsn)
        run.wait(staff)
        run.measure_pickup()
        run.wait_for_ticks(staff)
        figures, expectations = run.figures(), run.expectations()
        if not keep:
            run.remove_rows()
    seconds = time.monotonic() - began
    held = sum(expectation.held for expectation in expectations)
    if session.json:
        session.document(
            {
                "verdict": "ok" if held == len(expectations) else "failed",
                "seconds": round(seconds, 2),
                "expectations": [vars(expectation) for expectation in expectations],
                **figures,
            }
        )
    else:
        _report(session, figures, expectations, seconds)
    return 0 if held == len(expectations) else failure.FAILED


class Run:
    """The jobs of one demo, and what the database says about them."""

    def __init__(
        self,
        session: Session,
        connection: psycopg.Connection[Any],
        files: Sequence[tuple[str, str]],
    ) -> None:
        self._session = session
        self._connection = connection
        self._files = files
        self._ids: list[int] = []
        self._seconds = 0.0
        # A queue of its own: what an interrupted demo left behind is no part of this one.
        self._token = secrets.token_hex(4)
        self.queue = f"demo-{self._token}"

    def clear_up(self) -> None:
        """Cancel what earlier demos left unfinished, and remove their schedules."""
        self._connection.execute(
            "select pgtask.drop_schedule(name) from pgtask.schedules where name like 'demo-%%'"
        )
        self._connection.execute(
            "select pgtask.cancel(array(select id from pgtask.jobs where queue like 'demo-%%'"
            " and state not in ('succeeded', 'failed', 'cancelled')))"
        )

    def schedule(self, app: Any) -> None:
        """Make a schedule of every second; the beats take note at once."""
        from pgtask.cli import demo_app as tasks
        from pgtask.schedule import Schedule

        # By the token, which is in the task's arguments: one demo does not see another's jobs.
        call = tasks.tick.options(queue=self.queue, priority=100).s(self._token)
        app.schedules.upsert(self.queue, call, Schedule(every=1), overlap="queue", catchup="all")

    def wait_for_ticks(self, staff: Staff) -> None:
        """Let the schedule fire often enough, then hold it, and let its jobs end."""
        until = time.monotonic() + PATIENCE
        while self._count(FIRED, self.queue) < TICKS and time.monotonic() < until:
            for note in staff.replace_the_dead():
                self._session.note(f"demo: {note}")
            time.sleep(0.1)
        self._connection.execute("select pgtask.pause_schedule(%s)", [self.queue])
        until = time.monotonic() + PATIENCE
        while self._count(UNFINISHED, self.queue) and time.monotonic() < until:
            for note in staff.replace_the_dead():
                self._session.note(f"demo: {note}")
            time.sleep(0.1)

    def remove_rows(self) -> None:
        """Leave the tables as they were found."""
        self._connection.execute("select pgtask.drop_schedule(%s)", [self.queue])
        for name in ("module", "ghost"):
            self._connection.execute(
                f"delete from pgtask_demo.{name} where run = %s".encode(), [self._token]
            )

    def enqueue(self, dsn: str) -> None:
        """Enqueue everything, each part as an application would."""
        from pgtask.cli import demo_app as tasks

        read = tasks.read_module.options(queue=self.queue)
        ghost = tasks.must_never_run.options(queue=self.queue)
        self._session.note(f"demo: {len(self._files)} files, one job each")
        self._began = time.monotonic()
        with psycopg.connect(dsn) as business:
            # In our transaction: at its COMMIT all these jobs exist, or none.
            results = read.using(business).delay_many(
                [(self._token, path, name) for path, name in self._files]
            )
            self._readers = [result.id for result in results]
            business.commit()
            # Rolled back: this job never existed.
            self._ghost = ghost.using(business).delay(self._token).id
            business.rollback()
        self._flaky = tasks.third_time_lucky.options(queue=self.queue).delay()
        self._naps = tasks.nap.options(queue=self.queue).delay_many([(0.3,)] * NAPS)
        self._later = tasks.later.options(queue=self.queue, countdown=DELAY).delay()
        self._ids = [
            *self._readers,
            self._flaky.id,
            self._later.id,
            *(result.id for result in self._naps),
        ]

    def wait(self, staff: Staff) -> None:
        """Show the progress until every job has ended."""
        total, done, moved = len(self._ids), -1, time.monotonic()
        with _bar(total, quiet=self._session.quiet) as show:
            while done < total:
                now = self._count("select count(*) from pgtask.done where id = any(%s)", self._ids)
                if now != done:
                    done, moved = now, time.monotonic()
                show(done)
                for note in staff.replace_the_dead():
                    self._session.note(f"demo: {note}")
                if time.monotonic() - moved > PATIENCE:
                    return
                time.sleep(0.1)
        self._seconds = time.monotonic() - self._began

    def measure_pickup(self) -> None:
        """One job at a time on an idle worker."""
        from pgtask.cli import demo_app as tasks

        self._pings = []
        for _ in range(PINGS):
            result = tasks.ping.options(queue=self.queue).delay()
            self._pings.append(result.id)
            with contextlib.suppress(TimeoutError):
                result.get(timeout=10)

    def figures(self) -> dict[str, Any]:
        """What there is to tell, from SQL."""
        pickup = self._row(
            "select percentile_cont(0.5) within group (order by wait), percentile_cont(0.99) within"
            " group (order by wait) from (select extract(epoch from claimed_at - created_at) * 1000"
            " as wait from pgtask.done where id = any(%s)) p",
            self._pings,
        )
        attempts = self._connection.execute(
            "select outcome, count(*) from pgtask.attempts where job = any(%s) group by outcome",
            [self._ids],
        ).fetchall()
        longest = self._connection.execute(
            "select name, lines, functions, classes, imports from pgtask_demo.module"
            " where run = %s order by lines desc, name limit 10",
            [self._token],
        ).fetchall()
        return {
            "jobs": len(self._ids),
            "jobs_per_second": round(len(self._ids) / max(self._seconds, 0.001), 1),
            "unsuccessful_attempts": dict(attempts),
            "pickup_ms": {"p50": _rounded(pickup[0]), "p99": _rounded(pickup[1])},
            "ticks": self._ticks(),
            "longest": [
                dict(zip(("name", "lines", "functions", "classes", "imports"), row, strict=True))
                for row in longest
            ],
        }

    def expectations(self) -> list[Expectation]:
        """What must be true now."""
        files = len(self._files)
        rows, names = self._row(
            "select count(*), count(distinct name) from pgtask_demo.module where run = %s",
            self._token,
        )
        succeeded = self._count(
            "select count(*) from pgtask.done where id = any(%s) and state = 'succeeded'", self._ids
        )
        left = self._count(
            "select count(*) from pgtask.jobs where id = any(%s)"
            " and state not in ('succeeded', 'failed', 'cancelled')",
            self._ids,
        )
        ghosts = self._count("select count(*) from pgtask_demo.ghost where run = %s", self._token)
        ghost_jobs = self._count("select count(*) from pgtask.jobs where id = %s", self._ghost)
        failures = self._count(
            "select count(*) from pgtask.attempts where job = %s and outcome = 'retried'",
            self._flaky.id,
        )
        attempt = self._flaky.get(timeout=5) if self._flaky.state == "succeeded" else None
        waited = self._row(
            "select extract(epoch from claimed_at - created_at)::float8"
            " from pgtask.done where id = %s",
            self._later.id,
        )[0]
        ticks = self._ticks()
        napped = sum(result.state == "succeeded" for result in self._naps)
        return [
            Expectation(
                "one row a file: nothing lost, nothing twice",
                rows == names == files,
                f"{rows} rows, {names} names, {files} files",
            ),
            Expectation(
                "every job succeeded",
                succeeded == len(self._ids),
                f"{succeeded} of {len(self._ids)}",
            ),
            Expectation("no job is left over", left == 0, f"{left} unfinished"),
            Expectation(
                "the rolled-back job never existed",
                ghosts == ghost_jobs == 0,
                f"{ghosts} runs, {ghost_jobs} rows",
            ),
            Expectation(
                "two failures, then success",
                failures >= 2 and attempt == 3,
                f"{failures} retries, succeeded at attempt {attempt}",
            ),
            Expectation("async tasks ran", napped == NAPS, f"{napped} of {NAPS}"),
            Expectation(
                f"the delayed job waited its {DELAY:g} s",
                waited is not None and waited >= DELAY,
                "never ran" if waited is None else f"{waited:.2f} s",
            ),
            Expectation(
                "every second of the schedule has its one job",
                ticks["fired"] == ticks["jobs"] == ticks["succeeded"] == ticks["seconds"] >= TICKS,
                f"{ticks['seconds']} seconds, {ticks['fired']} fired, {ticks['jobs']} jobs,"
                f" {ticks['succeeded']} succeeded",
            ),
        ]

    def _ticks(self) -> dict[str, Any]:
        """The fires of the schedule, and the jobs that carry its name."""
        row = self._row(
            "select count(job), count(*) filter (where outcome = 'succeeded'),"
            " coalesce(extract(epoch from max(tick_at) - min(tick_at))::int + 1, 0),"
            " (extract(epoch from max(lateness)) * 1000)::float8,"
            " (select count(*) from pgtask.jobs where headers ->> 'schedule' = %s)"
            " from pgtask.ticks where schedule = %s",
            self.queue,
            self.queue,
        )
        fired, succeeded, seconds, latest, jobs = row
        return {
            "seconds": seconds,
            "fired": fired,
            "jobs": jobs,
            "succeeded": succeeded,
            "latest_ms": _rounded(latest),
        }

    def _count(self, query: str, *params: object) -> int:
        return int(self._row(query, *params)[0])

    def _row(self, query: str, *params: object) -> tuple[Any, ...]:
        row = self._connection.execute(query.encode(), params).fetchone()
        return row if row is not None else (None,)


class Staff:
    """The worker processes and a beat; one that ends before its time is replaced, as by a service
    manager.
    """

    def __init__(self, dsn: str, queue: str, count: int, concurrency: int | None, log: int) -> None:
        children = [] if concurrency is None else ["-c", str(concurrency)]
        self._dsn = dsn
        self._log = log
        self._commands = [["worker", "-Q", queue, *children]] * count + [["beat"]]
        self._processes = [self._start(command) for command in self._commands]

    def replace_the_dead(self) -> Iterator[str]:
        """Start another for each that has ended, and say so."""
        for index, process in enumerate(self._processes):
            if (code := process.poll()) is not None:
                what = self._commands[index][0]
                self._processes[index] = self._start(self._commands[index])
                how = signal.Signals(-code).name if code < 0 else f"status {code}"
                yield f"{what} {process.pid} ended ({how}), another takes its place; " + (
                    "what it held comes back when its lease of 30 s is over"
                    if what == "worker"
                    else "what was due meanwhile is made up for"
                )

    def end(self) -> None:
        """Stop them, warmly."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "pgtask",
                "-A",
                "pgtask.cli.demo_app:app",
                *command,
            ],
            env={**os.environ, "PGTASK_DSN": self._dsn},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            # Ctrl-C is for the demo, which ends its workers in order; a killed demo leaves none.
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal.SIGTERM),
        )


@contextmanager
def _workers(
    dsn: str, queue: str, count: int, concurrency: int | None, log: int
) -> Iterator[Staff]:
    staff = Staff(dsn, queue, count, concurrency, log)
    try:
        yield staff
    finally:
        staff.end()


@contextmanager
def _log() -> Iterator[int]:
    """The workers' log: shown only when the demo fails."""
    with tempfile.TemporaryFile() as file:
        try:
            yield file.fileno()
        except BaseException:
            file.seek(0)
            sys.stderr.buffer.write(file.read()[-8192:])
            raise


def _migrate(session: Session, dsn: str) -> None:
    from pgtask.broker import migrate

    with migrate.connection(dsn) as connection:
        applied = migrate.migrate(connection)
    if applied.migrations:
        session.note("demo: the schema pgtask was made")


def _app(session: Session, dsn: str) -> Any:
    from pgtask.cli.demo_app import app

    app.config = session.load({"dsn": dsn})
    return app


def _library(limit: int | None) -> list[tuple[str, str]]:
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(
        path
        for path in root.rglob("*.py")
        if not {"site-packages", "dist-packages"} & set(path.parts)
    )
    return [(str(path), str(path.relative_to(root))) for path in files[:limit]]


@contextmanager
def _bar(total: int, *, quiet: bool) -> Iterator[Any]:
    """A bar on a terminal; elsewhere a line now and then."""
    if quiet:
        yield lambda done: None
        return
    if not sys.stderr.isatty():
        last = time.monotonic()

        def say(done: int) -> None:
            nonlocal last
            if time.monotonic() - last >= 5.0:
                last = time.monotonic()
                click.echo(f"demo: {done} of {total} jobs", err=True)

        yield say
        return
    with click.progressbar(
        length=total, label="demo", file=sys.stderr, show_pos=True, width=30
    ) as bar:
        yield lambda done: bar.update(done - bar.pos)


def _report(
    session: Session, figures: dict[str, Any], expectations: Sequence[Expectation], seconds: float
) -> None:
    session.data("The ten longest modules of the standard library")
    session.data(
        table(
            ("module", "lines", "functions", "classes", "imports"),
            [tuple(row.values()) for row in figures["longest"]],
            right="lines functions classes imports",
        )
    )
    attempts = ", ".join(
        f"{n} {outcome}" for outcome, n in figures["unsuccessful_attempts"].items()
    )
    pickup = figures["pickup_ms"]
    session.data(
        f"\n{figures['jobs']} jobs, {figures['jobs_per_second']:g} jobs/s;"
        f" attempts that did not succeed: {attempts or 'none'};"
        f" pickup by an idle worker: p50 {pickup['p50']} ms, p99 {pickup['p99']} ms"
    )
    ticks = figures["ticks"]
    session.data(
        f"a schedule of every second: {ticks['fired']} fires in {ticks['seconds']} s, the latest"
        f" {ticks['latest_ms']} ms after its time\n"
    )
    for expectation in expectations:
        mark = "ok  " if expectation.held else "FAIL"
        session.data(f"{mark}  {expectation.what}: {expectation.seen}")
    held = sum(expectation.held for expectation in expectations)
    verdict = "OK" if held == len(expectations) else "FAILED"
    session.data(
        f"\ndemo: {verdict}, {held} of {len(expectations)} expectations held, {seconds:.1f} s"
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 2)
