"""`pgtask dev`: the schema, a worker and a beat in one terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.conditions import eventually
from tests.workers import ROOT, _descendants, lives

APP = """
from pgtask import App
app = App("shop")

@app.periodic("* * * * * *")
@app.task(name="tick")
def tick() -> None: print("it ticks", flush=True)
"""


@pytest.fixture
def dev(fresh_database: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start `pgtask dev` in an empty directory with an app, on an empty database."""
    (tmp_path / "app.py").write_text(APP)
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "pgtask", "dev", "-c", "1", *words],
                env={**os.environ, "PGTASK_DSN": fresh_database, "PYTHONPATH": str(ROOT)},
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        family = _descendants(process.pid)
        process.kill()
        process.wait(5)
        eventually(lambda family=family: not [pid for pid in family if lives(pid)], timeout=20)  # type: ignore[misc]


def said(directory: Path) -> str:
    return (directory / "log").read_text()


def test_dev_migrates_runs_a_worker_and_a_beat_and_ends_all_on_ctrl_c(
    dev: Callable[..., subprocess.Popen[bytes]], fresh_database: str, tmp_path: Path
) -> None:
    process = dev()

    # jobs that the beat fires are run, and every line says whose it is
    eventually(lambda: said(tmp_path).count("it ticks") >= 2, timeout=30)
    lines = said(tmp_path).splitlines()
    assert all(line.split()[0] in ("dev", "worker", "beat") for line in lines), lines
    assert any(line.startswith("worker │ it ticks") for line in lines)
    with psycopg.connect(fresh_database) as connection:
        row = connection.execute("select count(*) from pgtask.beats where live").fetchone()
        assert row == (1,)
    family = _descendants(process.pid)

    process.send_signal(signal.SIGINT)

    assert process.wait(20) == 0
    assert not [pid for pid in family if lives(pid)]


def test_when_one_ends_all_end(dev: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> None:
    process = dev("--no-reload")
    eventually(lambda: "it ticks" in said(tmp_path), timeout=30)
    family = _descendants(process.pid)
    beat = next(pid for pid in family if b"\0beat\0" in Path(f"/proc/{pid}/cmdline").read_bytes())

    os.kill(beat, signal.SIGKILL)

    assert process.wait(20) == 1
    assert "beat ended with SIGKILL: the others end, too" in said(tmp_path)
    assert not [pid for pid in family if lives(pid)]


def test_an_app_that_is_broken_ends_all_with_its_error(
    dev: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text("import nothing_of_that_name\n")

    assert dev().wait(30) == 3
    assert "nothing_of_that_name" in said(tmp_path)
