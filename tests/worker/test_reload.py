"""Reload: new code for the children, while the worker, its lease and what runs stay."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.conditions import eventually
from tests.standing import Connection, end_of, lines, standing
from tests.workers import Start, Worker, lives

TASK = """
from pgtask import App
app = App("written")

@app.task(name="answer")
def answer() -> int:
    return {value}
"""
HOLD = """
import os, time
from pathlib import Path

@app.task(name="hold")
def hold(log: str, value: int = {value}) -> int:
    with open(log, "a") as file:
        file.write("begin\\n")
    while not Path(log + ".go").exists():
        time.sleep(0.01)
    return value
"""


class App:
    """A module that tests write anew, and a worker that runs it."""

    def __init__(self, directory: Path, start_worker: Start) -> None:
        self.directory = directory
        self._start = start_worker

    def write(self, source: str) -> None:
        # As editors do: nobody ever reads half a file.
        fresh = self.directory / "written.fresh"
        fresh.write_text(source)
        fresh.rename(self.directory / "written.py")

    def start(self, *arguments: str, wait: bool = True, **env: str) -> Worker:
        return self._start(
            *arguments,
            app="written:app",
            wait=wait,
            PYTHONPATH=str(self.directory),
            PYTHONDONTWRITEBYTECODE="1",
            **env,
        )


@pytest.fixture
def app(tmp_path: Path, start_worker: Start) -> App:
    directory = tmp_path / "code"
    directory.mkdir()
    return App(directory, start_worker)


def enqueue(connection: Connection, task: str, args: str = "[]") -> int:
    row = connection.execute("select pgtask.enqueue(%s, %s::json)", [task, args]).fetchone()
    assert row is not None
    return int(row[0])


def result_of(connection: Connection, job_id: int) -> object:
    assert end_of(connection, job_id, timeout=30).state == "succeeded"
    row = connection.execute("select result from pgtask.done where id = %s", [job_id]).fetchone()
    assert row is not None
    return row[0]


def worker_rows(connection: Connection) -> list[tuple[object, ...]]:
    return connection.execute("select id, pid, tasks from pgtask.worker where alive").fetchall()


def reloads(worker: Worker) -> int:
    return worker.log.count(" reloaded in ")


def reload(worker: Worker) -> None:
    before = reloads(worker)
    worker.signal(signal.SIGHUP)
    eventually(lambda: reloads(worker) > before, 30)


def test_hup_gives_the_children_new_code_and_the_worker_stays_who_it_is(
    app: App, connection: Connection
) -> None:
    app.write(TASK.format(value=1))
    worker = app.start("-c", "2")
    assert result_of(connection, enqueue(connection, "answer")) == 1
    ((me, _, _),) = worker_rows(connection)
    before = worker.descendants()
    unknown = enqueue(connection, "added")

    app.write(
        TASK.format(value=2) + '\n@app.task(name="added")\ndef added() -> int:\n    return 3\n'
    )
    reload(worker)

    # the job that waited for the new task runs now; the old processes are gone
    assert result_of(connection, unknown) == 3
    assert result_of(connection, enqueue(connection, "answer")) == 2
    eventually(lambda: worker_rows(connection) == [(me, worker.pid, ["added", "answer"])], 30)
    assert "2 tasks, new: added" in worker.log
    eventually(lambda: not any(lives(pid) for pid in before), 30)
    assert len(worker.children()) == 2


def test_what_runs_ends_with_the_old_code_and_what_waits_begins_with_the_new(
    app: App, connection: Connection, tmp_path: Path
) -> None:
    # given a child whose job is known to be quick, and is not this time, with others behind it
    log = tmp_path / "log"
    app.write(TASK.format(value=1) + HOLD.format(value=1))
    worker = app.start("-c", "1")
    for job in [enqueue(connection, "answer") for _ in range(60)]:
        end_of(connection, job)
    with connection.transaction():
        running = enqueue(connection, "hold", f'["{log}"]')
        behind = [enqueue(connection, "answer") for _ in range(10)]
    eventually(lambda: lines(log), 30)

    app.write(TASK.format(value=2) + HOLD.format(value=2))
    reload(worker)

    # the others need not wait for it: there is a new child
    assert {result_of(connection, job) for job in behind} == {2}
    now = standing(connection, running)
    assert now is not None
    assert now.state == "running"
    log.with_name("log.go").touch()
    assert result_of(connection, running) == 1
    for job in (running, *behind):
        assert end_of(connection, job, timeout=0.1).attempt == 1
    eventually(lambda: len(worker.children()) == 1, 30)


def test_jobs_of_a_task_that_is_gone_are_given_back(
    app: App, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    app.write(TASK.format(value=1) + HOLD.format(value=1))
    worker = app.start("-c", "1")
    running = enqueue(connection, "hold", f'["{log}"]')
    eventually(lambda: lines(log), 30)

    app.write(
        HOLD.format(value=2).replace("@app", TASK.format(value=2).partition("@app")[0] + "@app")
    )
    reload(worker)
    assert "1 tasks, gone: answer" in worker.log
    waiting = enqueue(connection, "answer")
    log.with_name("log.go").touch()

    assert result_of(connection, running) == 1
    now = standing(connection, waiting)
    assert now is not None
    assert (now.state, now.attempt) == ("ready", 0)


def test_a_task_may_become_async(app: App, connection: Connection) -> None:
    app.write(TASK.format(value=1))
    worker = app.start("-c", "1")
    assert result_of(connection, enqueue(connection, "answer")) == 1

    app.write(TASK.format(value=2).replace("def ", "async def "))
    reload(worker)

    assert result_of(connection, enqueue(connection, "answer")) == 2


def test_code_that_does_not_import_leaves_the_old_in_place(
    app: App, connection: Connection
) -> None:
    app.write(TASK.format(value=1))
    worker = app.start("-c", "1")
    before = worker.descendants()

    for source, said in (
        ("def broken(:\n", "SyntaxError"),
        ("def fail():\n    raise ZeroDivisionError('in the app')\nfail()\n", "in fail"),
        ("import os\nos._exit(0)\n", "ended the process"),
    ):
        app.write(source)
        worker.signal(signal.SIGHUP)
        eventually(lambda said=said: said in worker.log, 30)  # type: ignore[misc]
    assert worker.log.count("not reloaded, the code of before goes on") == 3
    assert 'written.py", line 2, in fail' in worker.log
    assert "pgtask/worker" not in worker.log
    assert result_of(connection, enqueue(connection, "answer")) == 1
    assert worker.descendants() == before

    app.write(TASK.format(value=2))
    reload(worker)
    assert result_of(connection, enqueue(connection, "answer")) == 2


def test_code_whose_children_do_not_come_up_leaves_the_old_in_place(
    app: App, connection: Connection
) -> None:
    app.write(TASK.format(value=1))
    worker = app.start("-c", "1")
    before = worker.descendants()

    app.write(
        "import os\nos.register_at_fork(after_in_child=lambda: os._exit(7))\n"
        + TASK.format(value=2)
    )
    worker.signal(signal.SIGHUP)
    eventually(lambda: "a child with the new code ended at its start-up" in worker.log, 30)

    assert result_of(connection, enqueue(connection, "answer")) == 1
    eventually(lambda: worker.descendants() == before, 30)


def test_a_reload_gives_the_same_number_of_children_however_often(
    app: App, connection: Connection
) -> None:
    app.write(TASK.format(value=1))
    worker = app.start("-c", "2")
    for value in range(3):
        os.kill(worker.children()[0], signal.SIGKILL)
        app.write(TASK.format(value=value))
        reload(worker)

        assert result_of(connection, enqueue(connection, "answer")) == value
    eventually(lambda: len(worker.descendants()) == 3, 30)


def test_hup_to_every_process_is_a_reload_too(app: App, connection: Connection) -> None:
    app.write(TASK.format(value=1))
    worker = app.start("-c", "1")

    app.write(TASK.format(value=2))
    for pid in [*worker.descendants(), worker.pid]:
        os.kill(pid, signal.SIGHUP)
    eventually(lambda: reloads(worker), 30)

    assert result_of(connection, enqueue(connection, "answer")) == 2


def test_a_saved_file_reloads_and_a_broken_one_does_not(app: App, connection: Connection) -> None:
    app.write(TASK.format(value=1))
    worker = app.start("-c", "1", "--reload")
    assert result_of(connection, enqueue(connection, "answer")) == 1

    app.write("def broken(:\n")
    eventually(lambda: "not reloaded, the code of before goes on" in worker.log, 30)
    assert "written.py changed" in worker.log
    assert result_of(connection, enqueue(connection, "answer")) == 1
    app.write(TASK.format(value=2))
    eventually(lambda: reloads(worker), 30)
    assert result_of(connection, enqueue(connection, "answer")) == 2

    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_other_directories_can_be_watched(app: App, connection: Connection, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    app.write(TASK.format(value=1))
    worker = app.start("-c", "1", "--reload", "--reload-dir", str(other))

    (other / "notes.txt").write_text("no code")
    (other / "settings.py").write_text("X = 1\n")

    eventually(lambda: reloads(worker) == 1, 30)
    assert "settings.py changed" in worker.log
    assert "notes.txt" not in worker.log


def test_what_cannot_be_watched_is_refused_at_the_start(app: App, tmp_path: Path) -> None:
    app.write(TASK.format(value=1))
    missing = app.start("--reload", "--reload-dir", "nowhere", wait=False)
    assert missing.wait() == 2
    assert "reload_dir = 'nowhere': there is no such directory" in missing.log


def test_without_watchfiles_reload_says_what_to_install(app: App) -> None:
    app.write(TASK.format(value=1))
    # a finder that hides the package, as if it was not installed
    (app.directory / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'watchfiles':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\n"
    )

    worker = app.start("--reload", wait=False)

    assert worker.wait() == 2
    assert "python -m pip install watchfiles" in worker.log
