"""A product in a measurement: its fresh database, its commands, its worker, its records."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench import job, processes
from bench.catalog import Product
from bench.postgres import Postgres
from bench.redis import Redis

ROOT = Path(__file__).parents[1]
PATIENCE = 30.0


class Failed(Exception):
    """A program of a product ended badly; the text has the end of what it said."""


class Worker:
    """The running worker processes of a product."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.pid = process.pid
        self._process = process
        self._log = log

    def cpu(self) -> float:
        """Seconds of CPU of all of its processes so far."""
        return processes.cpu(self.pid)

    def memory(self) -> float:
        return processes.memory(self.pid)

    def check(self) -> None:
        """Raise Failed when it has ended before its time."""
        if (code := self._process.poll()) is not None:
            raise Failed(f"the worker ended with status {code}: {self._log.read_text()[-800:]}")

    def end(self) -> None:
        """TERM, patience, then KILL to whatever is left of it."""
        family = list(processes.family(self.pid))
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        for pid in family:
            if pid == self.pid or os.path.exists(f"/proc/{pid}"):  # noqa: PTH110 - no Path a pid
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()


class Subject:
    """A product with a database of its own, from `fresh`."""

    def __init__(
        self,
        product: Product,
        command: list[str],
        home: Path,
        postgres: Postgres,
        redis: Redis | None,
        database: str,
        records: Path,
        variables: dict[str, str],
    ) -> None:
        self.product = product
        self.postgres = postgres
        self.redis = redis
        self.database = database
        self.records = records
        self._command = command
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PGTASK_")},
            **product.variables,
            **variables,
            "BENCH_DSN": postgres.dsn(database),
            "BENCH_REDIS": redis.url if redis else "",
            "BENCH_NODE": str(home),
            "PROBE_DIR": str(records),
            "PYTHONPATH": str(ROOT),
        }

    @property
    def dsn(self) -> str:
        return self.postgres.dsn(self.database)

    @property
    def environment(self) -> dict[str, str]:
        """What its programs are started with."""
        return {**self._environment, "PGTASK_DSN": self.dsn}

    def call(self, command: str, *numbers: float, timeout: float = 300.0) -> dict[str, Any]:
        """Run one command of its program and return the answer; raises Failed."""
        with self.starts(command, *numbers) as process:
            try:
                out, error = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise Failed(f"`{command}` took more than {timeout:g} s") from None
        if process.returncode != 0:
            raise Failed(f"`{command}` ended with {process.returncode}: {error[-800:]}")
        lines = [line for line in out.splitlines() if line.startswith("{")]
        answer: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return answer

    def starts(self, command: str, *numbers: float) -> subprocess.Popen[str]:
        """Start one command of its program; its answer comes on stdout."""
        return subprocess.Popen(
            [*self._command, command, *(f"{number:g}" for number in numbers)],
            env=self._environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @contextmanager
    def worker(
        self, processes: int | None = None, concurrency: int | None = None
    ) -> Iterator[Worker]:
        """Start its worker processes; they are ended on leaving."""
        product = self.product
        words = ["serve", str(processes or product.processes)]
        words.append(str(concurrency or product.concurrency))
        log = self.records / "worker.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*self._command, *words],
                env=self._environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        worker = Worker(process, log)
        try:
            yield worker
        finally:
            worker.end()

    @contextmanager
    def ready_worker(self) -> Iterator[Worker]:
        """As worker; it has run its first jobs, and they are forgotten."""
        with self.worker() as worker:
            self.call("rate", 50, 1)
            self.wait_for(1, worker, PATIENCE)
            time.sleep(0.7)
            self.forget()
            yield worker

    def wait_for(self, jobs: int, worker: Worker, limit: float) -> None:
        """Wait until so many bodies have begun, or the time is over; raises Failed if none has."""
        deadline = time.monotonic() + limit
        while self.count() < jobs:
            worker.check()
            if time.monotonic() > deadline:
                if not self.count():
                    raise Failed(f"no job began within {limit:g} s")
                return
            time.sleep(0.02)

    def count(self) -> int:
        return job.count(self.records)

    def bodies_cpu(self) -> float:
        """Seconds of CPU so far of the processes that run bodies."""
        return sum(processes.alone(pid) for pid in job.owners(self.records))

    def taken(self) -> list[tuple[int, int]]:
        """The records so far, which are forgotten."""
        records = job.read(self.records)
        self.forget()
        return records

    def forget(self) -> None:
        job.forget(self.records)

    def server_cpu(self) -> float:
        """Seconds of CPU of the server this product uses."""
        return self.redis.cpu() if self.redis else self.postgres.cpu()


class Stand:
    """The servers of a run, and the commands of the products that can be had."""

    def __init__(self, postgres: Postgres, redis: Redis | None) -> None:
        self.postgres = postgres
        self.redis = redis
        self._commands: dict[str, tuple[list[str], Path]] = {}

    def add(self, product: Product, command: list[str], home: Path) -> None:
        self._commands[product.name] = command, home

    @contextmanager
    def fresh(self, product: Product, **variables: str) -> Iterator[Subject]:
        """Yield the product on an empty database with its schema; all of it goes on leaving."""
        command, home = self._commands[product.name]
        database = "bench_" + product.name.replace("-", "_")
        redis = self.redis if product.broker == "redis" else None
        with (
            self.postgres.database(database),
            tempfile.TemporaryDirectory(prefix="records-") as records,
        ):
            subject = Subject(
                *(product, command, home, self.postgres, redis, database, Path(records), variables)
            )
            subject.call("setup")
            yield subject
