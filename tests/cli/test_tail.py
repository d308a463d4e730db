"""tail and queue events: what happens to jobs, as it happens."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.cli.conftest import Call, World
from tests.conditions import eventually
from tests.proxy import Proxy
from tests.workers import Worker


class Tail:
    """A `pgtask tail` that runs."""

    def __init__(self, directory: Path, *words: str) -> None:
        self._out, self._err = directory / "tail.out", directory / "tail.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pgtask", "tail", *words], stdout=out, stderr=err
            )
        eventually(lambda: "listening" in self.err or self._process.poll() is not None)

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def lines(self) -> list[list[str]]:
        # Date and time of each are two words.
        return [line.split()[2:] for line in self._out.read_text().splitlines()]

    @property
    def documents(self) -> list[Any]:
        return [json.loads(line) for line in self._out.read_text().splitlines()]

    def code(self) -> int:
        return self._process.wait(20)

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(20)


@pytest.fixture
def tail(world: World, bare: Path) -> Iterator[Callable[..., Tail]]:
    """Start `pgtask tail`; at the end nothing of it is left, and no queue has events."""
    tails: list[Tail] = []

    def start(*words: str) -> Tail:
        tails.append(Tail(bare, *words))
        return tails[-1]

    yield start
    for one in tails:
        one.end()
    world.connection.execute(
        "select pgtask.set_queue_events(name, false) from pgtask.queue where events"
    )


def test_tail_shows_the_life_of_a_job(tail: Callable[..., Tail], world: World) -> None:
    worker = world.worker()
    shown = tail("-Q", "default", "--enable", "-n", "3")
    job = world.job(tenant="a\x1b[31m\nb")
    world.finish(worker, world.claim(worker)[0])

    assert shown.code() == 0
    assert [line[:4] for line in shown.lines] == [
        ["enqueue", str(job), "mail.send", "default"],
        ["claim", str(job), "mail.send", "default"],
        ["succeeded", str(job), "mail.send", "default"],
    ]
    assert shown.lines[1][4:6] == ["attempt=1", f"worker={worker[:8]}"]
    assert "\x1b" not in str(shown.lines)
    assert "are on now, and stay so → pgtask queue events default off" in shown.err


def test_tail_tells_one_document_a_line_and_filters(
    tail: Callable[..., Tail], world: World, call: Call
) -> None:
    for queue in ("mail", "other"):
        assert call("queue", "events", queue, "on").err == f"queue {queue} has its events on\n"
    shown = tail("--json", "-Q", "mail", "-t", "mail.*", "-n", "1")
    world.job(queue="other")
    world.job(queue="mail", task="mailxsend")
    job = world.job(queue="mail")

    assert shown.code() == 0
    (event,) = shown.documents
    assert (event["event"], event["job"], event["queue"]) == ("enqueue", str(job), "mail")
    assert set(event) == {
        "event", "job", "task", "queue", "attempt", "at", "worker", "tenant", "reason",
    }  # fmt: skip


def test_tail_says_that_nothing_will_be_told_and_turns_nothing_on(
    tail: Callable[..., Tail], world: World
) -> None:
    assert "no queue has events → pgtask queue events NAME on" in tail().err
    one = tail("-Q", "mail")
    assert "queue mail has no events → pgtask queue events mail on" in one.err
    assert world.one("select count(*) from pgtask.queue where events") == 0


def test_a_worker_at_work_is_told_in_full_and_in_order(
    tail: Callable[..., Tail],
    world: World,
    call: Call,
    shop: ModuleType,
    start_worker: Callable[..., Worker],
) -> None:
    call("queue", "events", "default", "on")
    shown = tail("--json", "-n", "600")
    start_worker("-c", "2")
    jobs = [result.id for result in shop.add.delay_many([(n, n) for n in range(100)])]
    jobs += [result.id for result in shop.noop.delay_many([(n,) for n in range(100)])]

    assert shown.code() == 0
    told: dict[int, list[str]] = {}
    for event in shown.documents:
        told.setdefault(int(event["job"]), []).append(event["event"])
    # noop keeps nothing: its end is a finish where it was recorded beside other outcomes.
    assert {tuple(words[:2]) for words in told.values()} == {("enqueue", "claim")}
    assert {words[2] for words in told.values()} <= {"succeeded", "finish"}
    assert sorted(told) == sorted(jobs)


def test_what_others_send_on_the_channel_is_passed_by(
    tail: Callable[..., Tail], world: World, call: Call
) -> None:
    call("queue", "events", "default", "on")
    shown = tail("-n", "1")
    for payload in ("", "{}", "[1]", '{"event": 1}', "\x1b[2J"):
        world.connection.execute("select pg_notify('pgtask_events', %s)", [payload])
    job = world.job()

    assert shown.code() == 0
    assert [line[1] for line in shown.lines] == [str(job)]


def test_tail_survives_a_lost_connection(
    tail: Callable[..., Tail], world: World, call: Call, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("queue", "events", "default", "on")
    with Proxy.before(dsn) as proxy:
        monkeypatch.setenv("PGTASK_DSN", proxy.dsn(dsn))
        shown = tail("-n", "2")
        first = world.job()
        eventually(lambda: shown.lines)
        proxy.cut()
        eventually(lambda: "connected again" in shown.err)
        second = world.job()

        assert shown.code() == 0
    assert [line[1] for line in shown.lines] == [str(first), str(second)]
    assert "again in" in shown.err


def test_a_backend_that_is_terminated_is_a_lost_connection(
    tail: Callable[..., Tail], world: World, call: Call
) -> None:
    call("queue", "events", "default", "on")
    shown = tail("-n", "1")
    world.one(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where application_name = 'pgtask:tail' and datname = current_database()"
    )
    eventually(lambda: "connected again" in shown.err)
    job = world.job()

    assert shown.code() == 0
    assert [line[1] for line in shown.lines] == [str(job)]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--enable",), 2, "--enable switches on the events of which queue? → -Q NAME"),
        (("-Q", "bad name"), 2, "queue must be 1 to 128"),
        (("-n", "0"), 2, "0 is not in the range"),
        (("--dsn", "postgresql://ada@127.0.0.1:1/shop"), 4, "cannot be reached"),
    ],
)
def test_what_cannot_work_is_said_at_once(
    call: Call, world: World, words: tuple[str, ...], code: int, said: str
) -> None:
    answer = call("tail", *words)

    assert answer.code == code
    assert said in answer.err


def test_events_are_switched_and_shown(call: Call, world: World) -> None:
    on = call("queue", "events", "mail", "on", "--json")
    again = call("queue", "events", "mail", "on")
    shown = call("queues", "--json").json
    off = call("queue", "events", "mail", "off")

    assert on.json == {"queue": "mail", "changed": True}
    assert again.err == "queue mail had its events on already\n"
    assert [(line["queue"], line["events"]) for line in shown] == [("mail", True)]
    assert off.err == "queue mail has its events off\n"
    assert call("queue", "events", "mail", "maybe").code == 2
    assert call("queue", "events", "bad name", "on").code == 2
