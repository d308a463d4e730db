"""Starting a worker: what can be wrong, and what it says; where user code runs and where not."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conditions import eventually
from tests.standing import Connection, end_of, lines
from tests.workers import Start, Worker, lives


@pytest.fixture
def start_app(start_worker: Start, tmp_path: Path) -> Callable[..., Worker]:
    """Start a worker on the app of this source text, which may use LOG, a path."""

    def start(source: str, *arguments: str, wait: bool = True) -> Worker:
        log = str(tmp_path / "log")
        (tmp_path / "written.py").write_text(f"LOG = {log!r}\n{source}")
        return start_worker(
            *arguments,
            app="written:app",
            wait=wait,
            PYTHONPATH=str(tmp_path),
            PYTHONDONTWRITEBYTECODE="1",
        )

    return start


def enqueue(connection: Connection, task: str) -> int:
    row = connection.execute("select pgtask.enqueue(%s)", [task]).fetchone()
    assert row is not None
    return int(row[0])


ONE_TASK = """
import os
from pgtask import App
app = App('written')
@app.task(name='pid')
def pid() -> int:
    return os.getpid()
"""


def test_user_code_is_never_imported_in_the_supervisor(
    start_app: Callable[..., Worker], connection: Connection, tmp_path: Path
) -> None:
    worker = start_app(
        f"open(LOG, 'a').write(f'{{__import__(\"os\").getpid()}}\\n')\n{ONE_TASK}", "-c", "2"
    )
    job_id = enqueue(connection, "pid")
    end_of(connection, job_id)

    # once, in the zygote; the children have it by the fork
    (importer,) = lines(tmp_path / "log")
    assert int(importer) != worker.pid
    assert int(importer) in worker.descendants()
    assert int(importer) not in worker.children()
    (result,) = connection.execute("select result from pgtask.done").fetchall()
    assert result[0] in worker.children()


def test_an_app_that_cannot_be_imported_is_exit_3_with_its_traceback(
    start_app: Callable[..., Worker],
) -> None:
    worker = start_app(
        "def broken() -> None:\n    raise ZeroDivisionError('in the app')\nbroken()\n", wait=False
    )

    assert worker.wait() == 3
    assert "ZeroDivisionError: in the app" in worker.log
    assert 'written.py", line 3, in broken' in worker.log
    assert "pgtask/worker" not in worker.log


def test_an_app_whose_import_ends_the_process_is_exit_3(start_app: Callable[..., Worker]) -> None:
    worker = start_app("import os\nos._exit(0)\n", wait=False)

    assert worker.wait() == 3
    assert "importing 'written:app' ended the process" in worker.log


def test_an_app_that_starts_a_thread_gets_spawned_children(
    start_app: Callable[..., Worker], connection: Connection
) -> None:
    thread = (
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    worker = start_app(thread + ONE_TASK, "-c", "2")

    jobs = [enqueue(connection, "pid") for _ in range(10)]
    for job_id in jobs:
        assert end_of(connection, job_id).state == "succeeded"

    assert "children are spawned, not forked" in worker.log
    assert len(worker.children()) == 2
    # and they are replaced, ended and counted as others are
    killed = worker.children()[0]
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: len(worker.children()) == 2 and killed not in worker.children())
    assert end_of(connection, enqueue(connection, "pid")).state == "succeeded"
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_children_that_always_die_at_their_start_end_the_worker(
    start_app: Callable[..., Worker],
) -> None:
    worker = start_app(
        "import os\nos.register_at_fork(after_in_child=lambda: os._exit(7))\n" + ONE_TASK,
        "-c",
        "2",
        wait=False,
    )

    assert worker.wait(30) == 1
    assert "children in a row ended at start-up; the last exited with status 7" in worker.log


def test_a_start_up_that_begins_to_fail_later_ends_the_worker_and_its_jobs_are_given_back(
    start_app: Callable[..., Worker], connection: Connection, tmp_path: Path
) -> None:
    # given a worker at work
    worker = start_app(
        "import os, pathlib, time\n"
        "def check() -> None:\n    if pathlib.Path(LOG + '.broken').exists(): os._exit(7)\n"
        "os.register_at_fork(after_in_child=check)\n"
        + ONE_TASK
        + "@app.task(name='wait')\ndef wait() -> None:\n"
        "    open(LOG, 'a').write(f'{os.getpid()}\\n'); time.sleep(600)\n",
        "-c",
        "2",
    )
    waits = enqueue(connection, "wait")
    eventually(lambda: lines(tmp_path / "log"), timeout=30)
    busy = int(lines(tmp_path / "log")[0])

    # when no more children can be started
    (tmp_path / "log.broken").touch()
    for child in set(worker.children()) - {busy}:
        os.kill(child, signal.SIGKILL)

    # then it says so and ends, and what it had is for others
    assert worker.wait(60) == 1
    assert "children in a row ended at start-up; the last exited with status 7" in worker.log
    row = connection.execute("select state, attempt from pgtask.jobs where id = %s", [waits])
    assert row.fetchone() == ("ready", 0)


def test_a_killed_zygote_ends_the_worker_and_its_jobs_are_given_back(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    from tests import shop

    # given a worker that runs jobs of both kinds
    log = tmp_path / "log"
    worker = start_worker("-c", "2")
    jobs = [shop.hold.delay(str(log)), shop.async_hold.delay(str(log))]
    eventually(lambda: len(lines(log)) == 2)
    family = worker.descendants()

    # when the process that starts the children is killed
    os.kill(family[0], signal.SIGKILL)

    # then the worker says so and ends, and nothing is counted against the jobs
    assert worker.wait(10) == 1
    assert "the zygote, which starts the children, ended" in worker.log
    assert not any(lives(pid) for pid in family)
    states = connection.execute("select id, state, attempt from pgtask.jobs order by id")
    assert states.fetchall() == [(job.id, "ready", 0) for job in jobs]


NOWHERE = "host=127.0.0.1 port=1 dbname=none password=secret"


def test_without_a_database_a_worker_waits_and_says_so(start_worker: Start) -> None:
    worker = start_worker(wait=False, PGTASK_DSN=NOWHERE)
    eventually(lambda: "cannot be reached" in worker.log, timeout=30)

    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0
    assert "secret" not in worker.log


def test_without_a_database_a_drain_is_exit_4(start_worker: Start) -> None:
    worker = start_worker("--drain", wait=False, PGTASK_DSN=NOWHERE)

    assert worker.wait() == 4
    assert "cannot be reached" in worker.log
    assert "secret" not in worker.log


def test_without_the_schema_the_exit_status_is_5(start_worker: Start, fresh_database: str) -> None:
    worker = start_worker(wait=False, PGTASK_DSN=fresh_database)

    assert worker.wait() == 5
    assert "pgtask migrate" in worker.log
