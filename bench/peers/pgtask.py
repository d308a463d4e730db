"""pgtask, through its public surface and its own command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bench.program import Sender, become, blocking, main, spawn

os.environ["PGTASK_DSN"] = os.environ["BENCH_DSN"]

from bench.app import app, kept, noop

KEEP = os.environ.get("BENCH_KEEP") == "all"


def setup() -> None:
    subprocess.run([sys.executable, "-m", "pgtask", "--quiet", "migrate"], check=True)


@contextmanager
def client() -> Iterator[Sender]:
    def many(sent: list[int]) -> None:
        if KEEP:
            kept.delay_many([(each,) for each in sent])
        else:
            noop.delay_many([(each,) for each in sent])

    one = kept.delay if KEEP else noop.delay
    yield blocking(one, many, lambda sent: kept.delay(sent).get(timeout=10))
    app.close()


def serve(processes: int, concurrency: int) -> None:
    command = [sys.executable, "-m", "pgtask", "-A", "bench.app:app", "worker"]
    command += ["--log-level", "WARNING", "-c", str(concurrency)]
    if processes == 1:
        become(*command)
    spawn([command] * processes)


if __name__ == "__main__":
    main(setup, client, serve=serve)
