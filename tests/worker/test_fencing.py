"""Jobs that must not go on: fenced, or of claims that were lost. With real children."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from pgtask.broker.attempts import Claimed, Ended, WorkerRow
from pgtask.broker.link import Link
from pgtask.broker.session import Session
from pgtask.worker import pulse
from pgtask.worker.children import Children
from pgtask.worker.limits import Terms
from pgtask.worker.pulse import Pulse
from tests.standing import lines

pytestmark = pytest.mark.asyncio


class Hands:
    """Children, and what they reported."""

    def __init__(self) -> None:
        self.ended: dict[int, Ended] = {}
        self.children: Children
        self._ids = 0

    def finished(self, ended: list[Ended], tasks: list[str]) -> None:
        for outcome in ended:
            assert outcome.id not in self.ended
            self.ended[outcome.id] = outcome

    def give(self, task: str, *args: object, serial: bool = False, is_async: bool = False) -> int:
        self._ids += 1
        job = Claimed(
            self._ids, 1, 1, 3, f"tests.shop.{task}", "default", json.dumps(args),
            None, None, None, None, serial, 0, self._ids,
        )  # fmt: skip
        self.children.dispatch([job], is_async=is_async)
        return job.id

    def verdict(self, job: int) -> str | None:
        return self.ended[job].verdict if job in self.ended else None


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - files and processes are all there is to ask
            await asyncio.sleep(0.01)


@asynccontextmanager
async def children(concurrency: int) -> AsyncIterator[Hands]:
    hands = Hands()
    async with Children.open(
        spec="tests.shop:app",
        worker=uuid4(),
        installation="",
        dsn="host=127.0.0.1 port=1",
        log=("INFO", "text"),
        concurrency=concurrency,
        async_concurrency=10,
        terms=Terms(),
        finished=hands.finished,
    ) as hands.children:
        await until(lambda: sum(room.free for room in hands.children.rooms()) >= concurrency + 10)
        yield hands


def release(log: Path) -> None:
    log.with_name(f"{log.name}.go").touch()


async def test_a_fence_stops_what_has_a_serial_key_and_nothing_else(tmp_path: Path) -> None:
    logs = [tmp_path / name for name in ("serial", "other", "async_serial", "async_other")]
    async with children(2) as hands:
        # given jobs of both kinds, with a serial key and without
        serial, other, async_serial, async_other = (
            hands.give("hold", str(logs[0]), serial=True),
            hands.give("hold", str(logs[1])),
            hands.give("async_hold", str(logs[2]), serial=True, is_async=True),
            hands.give("async_hold", str(logs[3]), is_async=True),
        )
        await until(lambda: all(lines(log) for log in logs))

        # when the fence is up
        hands.children.fence()

        # then those with a key are given back, and nothing more is claimed
        await until(lambda: hands.verdict(serial) and hands.verdict(async_serial))
        assert hands.verdict(serial) == hands.verdict(async_serial) == "released"
        assert lines(logs[2])[-1] == "cancelled"
        assert hands.children.rooms() == []
        # and the others end as they would have
        for log in logs:
            release(log)
        await until(lambda: hands.verdict(other) and hands.verdict(async_other))
        assert hands.verdict(other) == hands.verdict(async_other) == "succeeded"

        # until it is lifted
        hands.children.lift_fence()
        await until(lambda: len(hands.children.rooms()) == 2)
        again = hands.give("hold", str(logs[0]), serial=True)
        await until(lambda: hands.verdict(again))
        assert hands.verdict(again) == "succeeded"


async def test_the_fence_is_up_from_a_long_silence_to_the_next_heartbeat(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "FENCE", 0.5)
    log, worker = tmp_path / "log", uuid4()
    async with Link.open(Session(dsn, worker=True), "test") as link, children(1) as hands:
        watcher = Pulse(link, link, worker, 3600.0, Counter())
        fencing = asyncio.create_task(watcher._fence(hands.children))
        held = hands.give("hold", str(log), serial=True)

        # given no heartbeat since the beginning
        await until(lambda: hands.verdict(held) == "released")
        assert hands.children.rooms() == []

        # when one succeeds, and the next is not due for long
        monkeypatch.setattr(pulse, "FENCE", 60.0)
        await watcher.register(WorkerRow(worker, "host", 1, "0", ["*"], [], 1))
        await watcher._hand_in(deadline=30.0)

        await until(lambda: len(hands.children.rooms()) == 2)
        fencing.cancel()


async def test_behind_a_fence_what_has_not_begun_does_not_begin(tmp_path: Path) -> None:
    log, behind = tmp_path / "log", tmp_path / "behind"
    async with children(1) as hands:
        # given a job that runs, and others of which one has a serial key
        first = hands.give("hold", str(log))
        await until(lambda: lines(log))
        serial = hands.give("note", str(behind), "serial", serial=True)
        plain = hands.give("note", str(behind), "plain")

        hands.children.fence()
        await until(lambda: hands.verdict(serial))
        release(log)
        await until(lambda: hands.verdict(first) and hands.verdict(plain))

        assert hands.verdict(serial) == "released"
        assert "serial" not in lines(behind)


async def test_a_coroutine_that_does_not_stop_for_the_fence_is_killed_with_its_child(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    async with children(1) as hands:
        stubborn = hands.give("async_stop_the_loop", 60.0, str(log), serial=True, is_async=True)
        await until(lambda: lines(log))

        hands.children.fence()

        await until(lambda: hands.verdict(stubborn))
        assert hands.verdict(stubborn) == "released"


async def test_of_lost_claims_nothing_begins_and_nothing_counts(tmp_path: Path) -> None:
    log, behind = tmp_path / "log", tmp_path / "behind"
    async with children(1) as hands:
        # given a job that runs, one behind it, and a coroutine, whose claims were all lost
        first = hands.give("hold", str(log))
        await until(lambda: lines(log))
        second = hands.give("note", str(behind), "second")
        third = hands.give("async_hold", str(behind), is_async=True)
        await until(lambda: lines(behind))

        assert hands.children.disown({(first, 1), (second, 1), (third, 1), (99, 1)}) == 3
        assert hands.children.holds() == set()
        assert hands.children.disown({(first, 1)}) == 0

        # then what runs may end, unheard, and room is there again
        release(log)
        release(behind)
        await until(lambda: not hands.children.in_flight)
        after = hands.give("add", 1, 2)
        await until(lambda: hands.verdict(after))
        assert hands.ended.keys() == {after}
        assert len(lines(log)) == 2
        assert "second" not in lines(behind)


async def test_of_lost_claims_what_runs_under_a_serial_key_is_stopped(tmp_path: Path) -> None:
    logs = [tmp_path / "sync", tmp_path / "async"]
    async with children(1) as hands:
        sync = hands.give("hold", str(logs[0]), serial=True)
        other = hands.give("async_hold", str(logs[1]), serial=True, is_async=True)
        await until(lambda: all(lines(log) for log in logs))

        assert hands.children.disown({(sync, 1), (other, 1)}) == 2

        await until(lambda: not hands.children.in_flight)
        assert lines(logs[1])[-1] == "cancelled"
        assert hands.ended == {}
