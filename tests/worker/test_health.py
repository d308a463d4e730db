"""--health: what a worker answers to whoever asks whether it lives and is ready."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
from collections import Counter
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from pgtask.broker.link import Link
from pgtask.broker.session import Session
from pgtask.worker.children import Children
from pgtask.worker.claimer import Claimer
from pgtask.worker.completer import Completer
from pgtask.worker.health import LONGEST_TURN, SHORTEST, Health
from pgtask.worker.limits import Terms
from tests import shop
from tests.conditions import eventually
from tests.standing import lines
from tests.workers import Start, Worker


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)


def port_of(worker: Worker) -> int:
    found = eventually(lambda: re.search(r"health on http://127\.0\.0\.1:(\d+)/", worker.log), 30)
    assert found is not None
    return int(found[1])


def ask(port: int, path: str, method: str = "GET") -> Answer:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read().decode())
    finally:
        connection.close()


def say(port: int, data: bytes) -> bytes:
    """What comes back for these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while received := connection.recv(65_536):
            answer += received
        return answer


def failing(port: int) -> list[str]:
    return [each["condition"] for each in ask(port, "/readyz").body["failing"]]


def test_a_worker_that_claims_and_has_a_child_is_ready(start_worker: Start) -> None:
    worker = start_worker("-c", "1", "--health", "127.0.0.1:0")
    port = port_of(worker)

    eventually(lambda: ask(port, "/readyz").status == 200, 30)
    assert ask(port, "/readyz").body == {"ready": True, "failing": []}
    alive = ask(port, "/livez?verbose")
    assert (alive.status, alive.body) == (200, {"alive": True})
    assert alive.headers["Content-Type"] == "application/json"
    head = ask(port, "/livez", "HEAD")
    assert (head.status, head.text) == (200, "")
    assert int(head.headers["Content-Length"]) == len(alive.text)


def test_other_questions_are_refused(start_worker: Start) -> None:
    port = port_of(start_worker("-c", "1", "--health", "127.0.0.1:0"))

    assert ask(port, "/").status == 404
    assert ask(port, "/livez/more").status == 404
    assert ask(port, "/livez", "POST").status == 405
    for data in (
        b"hello\r\n\r\n",
        b"GET livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/2\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n",
        b"",
        b"GET /livez HTTP/1.1\r\nX: " + b"x" * 10_000 + b"\r\n\r\n",
    ):
        assert say(port, data).startswith(b"HTTP/1.1 400 Bad Request\r\n"), data
    # and it goes on
    assert ask(port, "/livez").status == 200


def test_a_worker_that_was_told_to_end_lives_but_is_not_ready(
    start_worker: Start, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    worker = start_worker("-c", "1", "--health", "127.0.0.1:0")
    port = port_of(worker)
    shop.hold.delay(str(log))
    eventually(lambda: lines(log), 30)

    worker.signal(signal.SIGTERM)
    eventually(lambda: ask(port, "/readyz").status == 503, 30)

    (reason,) = ask(port, "/readyz").body["failing"]
    assert (reason["condition"], reason["why"]) == ("running", "the worker was told to end")
    assert ask(port, "/livez").status == 200
    log.with_name("log.go").touch()
    assert worker.wait() == 0


def test_a_worker_that_imports_its_app_lives_but_is_not_ready(
    start_worker: Start, tmp_path: Path
) -> None:
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(600)\n")
    worker = start_worker(
        "--health", "127.0.0.1:0", app="endless", wait=False, PYTHONPATH=str(tmp_path)
    )
    port = port_of(worker)

    assert failing(port) == ["running"]
    assert ask(port, "/readyz").body["failing"][0]["why"] == "the worker has not registered yet"
    assert ask(port, "/livez").status == 200


def test_a_worker_whose_children_never_come_up_is_not_ready(
    start_worker: Start, tmp_path: Path
) -> None:
    (tmp_path / "stillborn.py").write_text(
        "import os, time\n"
        "os.register_at_fork(after_in_child=lambda: time.sleep(600))\n"
        "from pgtask import task\n"
        "@task\n"
        "def nothing() -> None: ...\n"
    )
    worker = start_worker("--health", "127.0.0.1:0", app="stillborn", PYTHONPATH=str(tmp_path))
    port = port_of(worker)

    eventually(lambda: failing(port) == ["children"], 30)
    (reason,) = ask(port, "/readyz").body["failing"]
    assert reason["why"] == "no child is up; none has ever shaken hands"
    assert ask(port, "/readyz").body["failing"][0]["since"] == reason["since"]
    assert ask(port, "/livez").status == 200


def test_a_port_in_use_is_said_at_the_start(start_worker: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        worker = start_worker("--health", where, wait=False)

        assert worker.wait() == 2
    assert f"health = '{where}': cannot listen there: " in worker.log
    assert "→ choose another address or port" in worker.log


@pytest.mark.asyncio
async def test_a_claim_loop_that_does_not_turn_is_neither_ready_nor_in_the_end_alive() -> None:
    # given a worker's parts, not started
    link, worker = Link(Session("", worker=True), "test"), uuid4()
    completer = Completer(link, worker, Counter())
    children = Children(
        spec="",
        worker=worker,
        installation="",
        dsn="",
        log=("INFO", "text"),
        concurrency=1,
        async_concurrency=1,
        terms=Terms(),
        finished=completer.add,
    )
    claimer = Claimer(link, link, worker, children, completer, patterns=["*"], poll=1.0)
    health = Health(poll=1.0)
    assert health.is_alive()

    with health.of(claimer, children):
        now = asyncio.get_running_loop().time()
        # a moment ago
        assert "claiming" not in health.look()
        # for a while: the database may be away
        claimer.turned = now - SHORTEST - 1
        assert health.look()["claiming"] == "no claim has succeeded for 11 s"
        assert health.answer("/livez")[0] == HTTPStatus.OK
        # the loop itself hangs
        claimer.came_round = now - LONGEST_TURN - 1
        assert health.answer("/livez")[0] == HTTPStatus.SERVICE_UNAVAILABLE
        # and a stop is under way
        health.is_stopping = True
        assert health.is_alive()
