"""systemd and its like: what a worker tells them through NOTIFY_SOCKET."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest

from tests import shop
from tests.conditions import eventually
from tests.standing import Connection, end_of, lines
from tests.workers import Start


class Manager:
    """A service manager that only listens."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.heard: list[list[str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(0)

    def __enter__(self) -> Manager:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def listen(self) -> list[list[str]]:
        """Every message so far, as its lines."""
        while True:
            try:
                self.heard.append(self._socket.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return self.heard

    def has_heard(self, word: str, times: int = 1) -> bool:
        return sum(word in words for words in self.listen()) >= times

    def wait_for(self, word: str, times: int = 1) -> None:
        eventually(lambda: self.has_heard(word, times), 30)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    path = str(tmp_path / "notify")
    if request.param == "abstract":
        path = f"@pgtask-test-{os.getpid()}-{tmp_path.name}"
    with Manager(path) as manager:
        yield manager


def test_a_service_manager_hears_the_life_of_a_worker(
    manager: Manager, start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    worker = start_worker("-c", "1", NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="400000")

    # ready once it is registered, and alive again and again
    manager.wait_for("READY=1")
    assert manager.heard[0] == ["READY=1", "STATUS=0 jobs in hand, 0 finished"]
    manager.wait_for("WATCHDOG=1", 3)

    # it tells when it reloads, and when that is over
    worker.signal(signal.SIGHUP)
    manager.wait_for("RELOADING=1")
    (reloading,) = [words for words in manager.heard if "RELOADING=1" in words]
    assert reloading[1].startswith("MONOTONIC_USEC=")
    assert int(reloading[1].partition("=")[2]) > 0
    manager.wait_for("READY=1", 2)

    # and when it ends, until which it is alive
    job = shop.hold.delay(str(log))
    eventually(lambda: lines(log), 30)
    worker.signal(signal.SIGTERM)
    manager.wait_for("STOPPING=1")
    (stopping,) = [words for words in manager.heard if "STOPPING=1" in words]
    assert "STATUS=ending: 1 jobs in hand, 0 finished" in stopping
    assert "EXTEND_TIMEOUT_USEC=29900000" in stopping
    petted = sum("WATCHDOG=1" in words for words in manager.heard)
    manager.wait_for("WATCHDOG=1", petted + 2)
    log.with_name("log.go").touch()
    assert worker.wait() == 0
    assert end_of(connection, job.id, timeout=0.1).state == "succeeded"


def test_the_status_follows_what_the_worker_does(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    with Manager(str(tmp_path / "notify")) as manager:
        start_worker("-c", "1", NOTIFY_SOCKET=manager.address)
        for job in shop.add.delay_many([(1, 1)] * 3):
            end_of(connection, job.id)

        manager.wait_for("STATUS=0 jobs in hand, 3 finished")
        # nobody asked for signs of life
        assert not manager.has_heard("WATCHDOG=1")


def test_what_a_task_starts_cannot_speak_for_the_worker(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    (tmp_path / "curious.py").write_text(
        "import os\n"
        "from pgtask import task\n"
        "@task(name='words')\n"
        "def words() -> list[str]:\n"
        "    return [name for name in os.environ if name.startswith(('NOTIFY_', 'WATCHDOG_'))]\n"
    )
    with Manager(str(tmp_path / "notify")) as manager:
        start_worker(
            "-c",
            "1",
            app="curious",
            PYTHONPATH=str(tmp_path),
            NOTIFY_SOCKET=manager.address,
            WATCHDOG_USEC="60000000",
        )
        connection.execute("select pgtask.enqueue('words')")
        row = eventually(
            lambda: connection.execute("select result from pgtask.done").fetchone(), 30
        )

    assert row == ([],)


def test_a_manager_that_is_gone_does_not_matter(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    worker = start_worker("-c", "1", NOTIFY_SOCKET=str(tmp_path / "nobody"))

    assert end_of(connection, shop.add.delay(1, 1).id, 30).state == "succeeded"
    assert worker.log.count("the service manager cannot be told") == 1


def test_the_watchdog_of_another_process_is_not_ours(start_worker: Start, tmp_path: Path) -> None:
    with Manager(str(tmp_path / "notify")) as manager:
        worker = start_worker(
            "-c", "1", NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="200000", WATCHDOG_PID="1"
        )
        manager.wait_for("READY=1")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        assert not manager.has_heard("WATCHDOG=1")


def test_a_watchdog_that_is_no_number_is_refused(start_worker: Start) -> None:
    worker = start_worker(wait=False, WATCHDOG_USEC="soon")

    assert worker.wait() == 2
    assert "WATCHDOG_USEC = 'soon' is no number" in worker.log
